"""Setting up: what is sent, what is installed, and secrets."""

from __future__ import annotations

import subprocess

import pytest

from tests.tpu_scripts.cloud import ROOT, SCRIPTS

TRAIN = (
  '--',
  '--gin_file=experiments/score_math/run.gin',
  '--workdir=gs://bucket/run',
)


@pytest.fixture
def secrets(tmp_path):
  """A file of secrets that only its owner can read."""
  path = tmp_path / 'secrets.env'
  path.write_text("# mine\nHF_TOKEN=hf_S3cr3t's $(id)\n")
  path.chmod(0o600)
  return path


def tracked() -> set[str]:
  """The files that git tracks and that are there."""
  command = ['git', 'ls-files', '-z']
  listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
  if listed.returncode:
    pytest.skip('not a git checkout')
  names = listed.stdout.split('\0')[:-1]
  return {name for name in names if (ROOT / name).exists()}


@pytest.mark.slow
def test_a_pod_is_set_up_and_can_run(cloud, secrets):
  names = tracked()
  if 'tpu_scripts/worker.sh' not in names:
    pytest.skip('the scripts are not tracked yet')
  cloud.be(slices=[1, 1])
  printed = cloud.ok('setup', '--slices=2', f'--secrets={secrets}')
  assert 'All 2 workers are set up; next: run.sh' in printed
  for home in cloud.homes():
    code = home / 'selfimprove'
    there = {str(p.relative_to(code)) for p in code.rglob('*') if p.is_file()}
    assert there == names | {'VERSION'}
    install = ['-m', 'pip', 'install', '--quiet', '--upgrade']
    assert cloud.argv(home)[:5] == install
    assert cloud.argv(home)[-1] == './selfimprove[tpu,hub]'
  cloud.ok('run', '--slices=2', *TRAIN)
  for home in cloud.homes():
    lines = (home / 'environment').read_text().splitlines()
    assert "HF_TOKEN=hf_S3cr3t's $(id)" in lines
    assert (home / '.selfimprove_secrets').stat().st_mode & 0o77 == 0
  assert not [c for call in cloud.calls() for c in call if 'S3cr3t' in c]


def test_setting_up_again_is_refused_while_a_run_is_alive(cloud):
  cloud.set_up()
  cloud.ok('run', *TRAIN)
  home = cloud.homes()[0]
  (home / 'selfimprove.new').mkdir()
  done = subprocess.run(
    ['bash', SCRIPTS / 'worker.sh', 'install'],
    env={'HOME': str(home), 'PATH': f'{cloud.folder / "tools"}'},
    capture_output=True,
    text=True,
  )
  assert done.returncode == 1
  assert "The run 'train' is alive" in done.stdout
  assert (home / 'selfimprove' / 'tpu_scripts').is_symlink()


def test_a_failed_installation_is_told_with_its_worker(cloud):
  assert tracked()
  cloud.set_up()
  home = cloud.homes()[0]
  python = home / 'selfimprove_venv' / 'bin' / 'python'
  python.write_text('#!/bin/sh\necho no space left; exit 1\n')
  done = cloud.run('setup')
  assert '[0.0] no space left' in done.stdout
  assert 'Setting up: failed on [0.0]' in done.stderr
  assert done.returncode == 1


def test_a_worker_with_an_old_python_fetches_a_newer_one(cloud):
  assert tracked()
  there = cloud.folder / 'there'
  (there / 'python3.12').unlink()
  uv = (
    '#!/usr/bin/env bash\n'
    '[[ $1 != -c ]] || exit 1\n'
    'echo "$*" >>"$HOME/uv"\n'
    '[[ $2 == uv ]] || exit 0\n'
    'mkdir -p "${!#}/bin"\n'
    'printf "#!/bin/sh\\n" >"${!#}/bin/python"\n'
    'chmod +x "${!#}/bin/python"\n'
  )
  (there / 'python3').write_text(uv)
  (there / 'python3').chmod(0o755)
  assert 'Fetching Python 3.12 with uv' in cloud.ok('setup')
  ran = (cloud.homes()[0] / 'uv').read_text().splitlines()
  assert ran == [
    '-m pip install --user --quiet uv',
    '-m uv venv --quiet --seed --python 3.12 selfimprove_venv',
  ]


def test_secrets_that_others_can_read_are_refused(cloud, secrets):
  secrets.chmod(0o644)
  sentence = cloud.refusal('setup', f'--secrets={secrets}')
  assert f"Others can read '{secrets}'" in sentence
  assert 'chmod 600' in sentence
  assert not cloud.calls()


def test_a_bad_line_of_secrets_is_not_repeated(cloud, secrets):
  secrets.write_text('A=1\nS3cr3t\n')
  sentence = cloud.refusal('setup', f'--secrets={secrets}')
  assert f"Line 2 of '{secrets}' is not KEY=value" in sentence
  assert 'S3cr3t' not in sentence


@pytest.mark.parametrize('line', [b'A=1\r\n', b'\r\n'])
def test_line_ends_of_windows_do_not_become_secrets(line, cloud, secrets):
  secrets.write_bytes(b'# mine\n' + line)
  sentence = cloud.refusal('setup', f'--secrets={secrets}')
  assert f"Line 2 of '{secrets}' ends with a carriage return" in sentence
  assert "tr -d '\\r'" in sentence


def test_missing_secrets_are_told(cloud):
  assert "no file 'nowhere'" in cloud.refusal('setup', '--secrets=nowhere')
