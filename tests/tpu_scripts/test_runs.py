"""Runs on workers: real processes of bash, with a Python that pretends."""

from __future__ import annotations

import fcntl
import os
import pathlib
import shutil
import signal
import subprocess
import time

import pytest

from tests.tpu_scripts.cloud import ROOT, SCRIPTS

GIN = '--gin_file=experiments/score_math/run.gin'
WORKDIR = '--workdir=gs://bucket/run'
TRAIN = ('--', GIN, WORKDIR)

AWKWARD = (
  '--gin_bindings=INSTRUCTION = \'there may be "an" error\'',
  "--gin_bindings=A = 'it\\'s  two  spaces'",
  '--gin_bindings=B = $HOME `id` $(id) ; & | > < * ? ~ ! # \\ \\n',
  '--gin_bindings=C = "line\nline"',
  '--gin_bindings=D = äöü λ',
  '--gin_bindings=',
)


@pytest.fixture
def pod(cloud):
  """Two slices of one worker each, set up."""
  cloud.be(slices=[1, 1])
  cloud.set_up()
  return cloud


@pytest.fixture
def host(cloud):
  """One worker, set up."""
  cloud.set_up()
  return cloud


def pid(home: pathlib.Path, run: str = 'train') -> int:
  """The process of a run."""
  return int((home / 'selfimprove_runs' / run / 'pid').read_text())


def behave(home: pathlib.Path, text: str) -> None:
  """Lets the Python of a worker do something first."""
  (home / 'behaviour').write_text(text)


def until(condition) -> None:
  """Waits for what happens soon."""
  for _ in range(200):
    if condition():
      return
    time.sleep(0.02)
  pytest.fail('it did not happen')


def ended(home: pathlib.Path) -> bool:
  """Whether the exit status of the run was written."""
  return (home / 'selfimprove_runs/train/exit_status').exists()


def test_every_argument_arrives_as_it_was_given(pod):
  pod.ok('run', '--slices=2', *TRAIN, *AWKWARD)
  given = ['-m', 'selfimprove.train', '--distributed=auto', GIN, WORKDIR]
  for home in pod.homes():
    assert pod.argv(home) == [*given, *AWKWARD]


@pytest.mark.slow
def test_a_run_goes_on_ends_politely_and_leaves_its_status(cloud):
  pod = cloud
  pod.be(slices=[2, 2])
  pod.set_up()
  printed = pod.ok('run', '--slices=2', *TRAIN)
  for worker in ('0.0', '0.1', '1.0', '1.1'):
    assert f"[{worker}] started 'train'" in printed
  printed = pod.ok('status', '--slices=2')
  assert 'score is ACTIVE: 2 slices, 4 workers' in printed
  assert printed.count("'train' is running since 20") == 4
  printed = pod.ok('stop', '--slices=2')
  assert printed.count("stopped 'train'") == 4
  printed = pod.ok('status', '--slices=2')
  assert printed.count("'train' ended with status 0") == 4
  assert 'checkpoint written' in pod.ok('logs', '--slices=2', '--worker=all')


def test_a_run_lives_in_a_session_of_its_own(host):
  host.ok('run', *TRAIN)
  process = pid(host.homes()[0])
  assert os.getsid(process) != os.getsid(0)
  # Nor does it hold a pipe of the connection open.
  held = {os.readlink(f'/proc/{process}/fd/{n}') for n in (0, 1, 2)}
  log = host.homes()[0] / 'selfimprove_runs' / 'train' / 'log'
  assert held == {'/dev/null', str(log)}


@pytest.mark.slow
@pytest.mark.parametrize('run', ['train', 'another'])
def test_a_second_run_is_refused_while_one_is_alive(run, pod):
  pod.ok('run', '--slices=2', *TRAIN)
  before = [pid(home) for home in pod.homes()]
  done = pod.run('run', '--slices=2', f'--run={run}', *TRAIN)
  assert done.returncode == 1
  assert "The run 'train' is alive" in done.stdout
  assert 'stop.sh --run=train' in done.stdout
  assert 'Error: Nothing was started: failed on' in done.stderr
  assert [pid(home) for home in pod.homes()] == before
  pod.ok('stop', '--slices=2')
  pod.ok('run', '--slices=2', f'--run={run}', *TRAIN)


@pytest.mark.slow
def test_nothing_starts_when_one_worker_is_busy(pod):
  pod.ok('run', '--slices=2', *TRAIN)
  busy, other = pod.homes()
  os.kill(pid(other), signal.SIGTERM)
  until(lambda: ended(other))
  done = pod.run('run', '--slices=2', *TRAIN)
  assert 'Nothing was started: failed on [0.0]' in done.stderr
  assert ended(other)
  assert not ended(busy)


@pytest.mark.slow
def test_the_status_of_a_run_that_failed_is_told(pod):
  bad = pod.homes()[1]
  behave(bad, 'echo "Error: out of memory"; exit 3')
  pod.ok('run', '--slices=2', *TRAIN)
  until(lambda: ended(bad))
  done = pod.run('status', '--slices=2')
  assert done.returncode == 1
  assert "[1.0] 'train' ended with status 3" in done.stdout
  assert 'last line: Error: out of memory' in done.stdout
  assert 'failed on [1.0], [slice.worker]' in done.stderr


@pytest.mark.slow
def test_a_run_that_was_swept_away_is_told_and_can_be_run_again(host):
  host.ok('run', *TRAIN)
  home = host.homes()[0]
  run = pid(home)
  # All at once, as when the machine goes down.
  os.killpg(os.getsid(run), signal.SIGKILL)
  until(lambda: 'gone without an exit status' in host.run('status').stdout)
  assert host.run('status').returncode == 1
  host.ok('run', *TRAIN)
  assert 'is running' in host.ok('status')


@pytest.mark.slow
def test_a_run_has_ended_when_its_exit_status_is_written(host):
  behave(host.homes()[0], 'exit 0')
  host.ok('run', *TRAIN)
  until(lambda: ended(host.homes()[0]))
  # As the supervisor does for another moment.
  lock = host.homes()[0] / 'selfimprove_runs/lock'
  with lock.open() as held:
    fcntl.flock(held, fcntl.LOCK_EX)
    assert 'ended with status 0' in host.ok('status')


@pytest.mark.slow
def test_a_run_that_was_killed_leaves_the_signal(host):
  host.ok('run', *TRAIN)
  home = host.homes()[0]
  os.kill(pid(home), signal.SIGKILL)
  until(lambda: ended(home))
  assert 'ended with status 137' in host.run('status').stdout


@pytest.mark.slow
def test_a_machine_that_goes_down_politely_ends_the_run_politely(host):
  host.ok('run', *TRAIN)
  home = host.homes()[0]
  os.killpg(os.getsid(pid(home)), signal.SIGTERM)
  until(lambda: ended(home))
  assert 'ended with status 0' in host.ok('status')
  assert 'checkpoint written' in host.ok('logs')


@pytest.mark.slow
def test_ctrl_c_while_looking_does_not_end_the_run(host):
  host.ok('run', *TRAIN)
  looking = subprocess.Popen(
    [SCRIPTS / 'logs.sh'],
    env=host.environment(),
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
    start_new_session=True,
  )
  for line in looking.stdout:
    if 'step 1' in line:
      break
  os.killpg(looking.pid, signal.SIGINT)  # As a terminal does.
  _, errors = looking.communicate(timeout=10)
  assert looking.returncode == 130
  assert 'The run goes on; end it with stop.sh --run=train' in errors
  assert 'is running' in host.ok('status')


@pytest.mark.slow
def test_looking_ends_with_the_run(host):
  behave(host.homes()[0], 'sleep 0.5; echo the end; exit 0')
  host.ok('run', *TRAIN)
  # The supervisor dates its last line; here it takes longer than `tail` does.
  date = host.homes()[0] / 'selfimprove_venv/bin/date'
  date.write_text('#!/bin/sh\nsleep 1.5; PATH=/usr/bin:/bin exec date "$@"\n')
  date.chmod(0o755)
  printed = host.ok('logs')
  assert '[0.0] the end' in printed
  assert "'train' ended with status 0" in printed


@pytest.mark.slow
def test_a_run_that_does_not_end_is_killed_only_by_force(host):
  behave(host.homes()[0], "trap '' TERM")
  host.ok('run', *TRAIN)
  done = host.run('stop', '--seconds=0')
  assert "'train' still runs after 0 s" in done.stdout
  assert done.returncode == 1
  host.ok('stop', '--seconds=0', '--force')
  assert 'ended with status 137' in host.run('status').stdout


def test_a_run_that_never_was_is_told(host):
  done = host.run('status', '--run=nothing')
  assert done.returncode == 1
  assert "'nothing' was never started here" in done.stdout
  assert host.run('logs', '--run=nothing').returncode == 1


def test_a_slice_that_does_not_answer_is_no_success(pod):
  pod.be(unreachable=['1.0'])
  sentence = pod.refusal('run', '--slices=2', *TRAIN)
  assert 'Nothing was started: only 1 of 2 workers answered' in sentence
  assert not list(pod.folder.glob('worker*/argv'))


@pytest.mark.slow
def test_a_start_on_some_workers_only_is_taken_back(pod):
  first, last = pod.homes()
  # It is ready, and then has no room for the files of the run.
  (last / 'selfimprove_runs').mkdir()
  (last / 'selfimprove_runs' / 'train').write_text('in the way')
  done = pod.run('run', '--slices=2', *TRAIN)
  assert done.returncode == 1
  assert "'train' did not start on all workers and was stopped" in done.stderr
  assert ended(first)


def test_workers_of_another_multislice_are_refused(pod):
  pod.be(metadata_slices=4)
  done = pod.run('run', '--slices=2', *TRAIN)
  assert 'This worker belongs to 4 slices and the run to 2' in done.stdout
  assert done.returncode == 1


def test_workers_that_were_not_set_up_are_told(cloud):
  for script, more in (('run', TRAIN), ('status', ())):
    sentence = cloud.refusal(script, *more)
    assert 'the workers have not been set up; run setup.sh' in sentence


@pytest.mark.parametrize(
  ('arguments', 'said'),
  [
    ((), 'Nothing to run'),
    (('--', WORKDIR), 'No --gin_file='),
    (('--', GIN), "--workdir is '', which must be gs://"),
    (('--', GIN, '--workdir=runs/a'), "--workdir is 'runs/a', which must be"),
    (('--', '--gin_file=no.gin', WORKDIR), "--gin_file is 'no.gin', which is"),
    ((*TRAIN, '--distributed=off'), "'--distributed=off' is set by run.sh"),
  ],
)
def test_a_bad_run_is_one_sentence(arguments, said, cloud):
  assert said in cloud.refusal('run', *arguments)
  assert not cloud.calls()


@pytest.mark.parametrize(
  'path',
  [
    str(ROOT / 'experiments/score_math/run.gin'),
    '/nowhere/run.gin',
    f'../{ROOT.name}/experiments/score_math/run.gin',
    'experiments/../../run.gin',
    'experiments',
    '',
  ],
)
def test_a_gin_file_that_workers_do_not_have_is_refused(path, cloud):
  arguments = ('--', f'--gin_file={path}', WORKDIR)
  sentence = cloud.refusal('run', '--dry_run', *arguments)
  assert f"--gin_file is '{path}', which is no file of this" in sentence
  assert 'paths begin at the top of the repository' in sentence


def test_a_gin_file_that_git_does_not_track_is_refused(cloud, tmp_path):
  copy = tmp_path / 'repository'
  shutil.copytree(SCRIPTS, copy / 'tpu_scripts')
  (copy / 'there').mkdir()
  (copy / 'link').symlink_to('there')
  sent = ('known.gin', ':x.gin', '-k.gin', 'there/a b.gin')
  for name in (*sent, 'mine.gin', 'k*.gin', '-x.gin', 'there/mine.gin'):
    (copy / name).write_text('')
  for words in (('init', '--quiet'), ('add', '--', 'link', *sent)):
    command = ['git', '--literal-pathspecs', *words]
    subprocess.run(command, cwd=copy, check=True)
  run = (str(copy / 'tpu_scripts/run'), '--dry_run', '--')
  for name in ('mine.gin', 'k*.gin', '-x.gin', 'there/mine.gin'):
    sentence = cloud.refusal(*run, f'--gin_file={name}', WORKDIR)
    assert f"--gin_file is '{name}', which git does not track" in sentence
    assert 'run git add -f -- ' in sentence
  for name in (*sent, 'link/a b.gin'):
    cloud.ok(*run, f'--gin_file={name}', WORKDIR)


@pytest.mark.parametrize(
  ('words', 'said'),
  [
    (('--gin_fil=a.gin', WORKDIR), "'--gin_fil=a.gin' names no gin file"),
    (('--gin_file', 'a.gin', WORKDIR), "'--gin_file' names no gin file"),
    (('-gin_file=a.gin', WORKDIR), "'-gin_file=a.gin' names no gin file"),
    (('--gin-file=a.gin', WORKDIR), "'--gin-file=a.gin' names no gin file"),
    ((GIN, '--workdir', 'gs://bucket/run'), "'--workdir' names no folder"),
    ((GIN, '--work_dir=x'), "'--work_dir=x' names no folder"),
  ],
)
def test_a_flag_that_is_nearly_right_is_shown_as_it_should_be(
  words, said, cloud
):
  sentence = cloud.refusal('run', '--dry_run', '--', *words)
  assert said in sentence
  flag = '--gin_file=<path>' if 'gin file' in said else '--workdir=gs://'
  assert f'the flag is {flag}' in sentence
  assert sentence.endswith(', with =.')


def test_bindings_may_be_a_word_of_their_own(cloud):
  bindings = ('--gin_bindings', 'workdir_gin_file = 1')
  assert 'workdir_gin_file = 1' in cloud.ok(
    'run', '--dry_run', *TRAIN, *bindings
  )


def said_of(cloud, workdir: str) -> list[str]:
  """What run.sh and copy_results.sh say of a folder in a bucket."""
  flag = f'--workdir={workdir}'
  run = cloud.run('run', '--dry_run', '--', GIN, flag)
  copy = cloud.run('copy_results', '--dry_run', flag, '--to=x')
  return [run.stderr, copy.stderr]


BUCKETS = {
  'refused': ('b', 'bb', 'b' * 64, 'Bucket', '-bucket', 'bucket.', 'a b c'),
  'taken': ('abc', 'b' * 63, 'my_bucket-1.example'),
}


@pytest.mark.parametrize('bucket', BUCKETS['refused'])
def test_the_rule_of_the_names_of_buckets_is_said_by_all(bucket, cloud):
  for said in said_of(cloud, f'gs://{bucket}/x'):
    assert f"'gs://{bucket}/x', whose bucket is '{bucket}', but" in said
    assert 'names of buckets have 3 to 63 characters' in said
    assert 'small letters, digits, -, _ and .' in said
    assert said.endswith('correct --workdir=.\n')


@pytest.mark.parametrize('bucket', BUCKETS['taken'])
def test_a_bucket_with_a_good_name_is_taken_by_all(bucket, cloud):
  assert said_of(cloud, f'gs://{bucket}/x') == ['', '']


@pytest.mark.parametrize('workdir', ['gs://bucket', 'gs://bucket/', 'runs/a'])
def test_a_folder_in_no_bucket_is_refused_by_all(workdir, cloud):
  for said in said_of(cloud, workdir):
    assert f"--workdir is '{workdir}', which must be gs://<bucket>/" in said
    assert said.endswith('correct --workdir=.\n')


def test_a_secret_on_a_command_line_is_refused_and_not_repeated(cloud):
  token = 'hf_' + 'AbCdEfGhIjKlMnOpQrStUv'
  sentence = cloud.refusal('run', *TRAIN, f'--gin_bindings=T = "{token}"')
  assert 'looks like a secret' in sentence
  assert token not in sentence
  assert not cloud.calls()


def test_a_command_runs_on_all_workers_as_it_is(pod):
  printed = pod.ok('on_all', '--slices=2', '--', 'printf', '%s|', *AWKWARD[:3])
  said = '|'.join(AWKWARD[:3])
  assert printed.count(f'] {said}|') == 2


@pytest.mark.slow
def test_logs_of_all_workers_are_saved_to_the_bucket(pod):
  pod.ok('run', '--slices=2', *TRAIN)
  target = pod.folder / 'results'
  pod.ok('copy_results', '--slices=2', WORKDIR, f'--to={target}')
  saved = {call[-1] for call in pod.calls() if call[1:3] == ['storage', 'cp']}
  logs = 'gs://bucket/run/logs/train'
  assert saved == {f'{logs}/0_0.log', f'{logs}/1_0.log'}
  assert target.is_dir()


def test_a_bucket_that_refuses_is_told(pod):
  pod.ok('run', '--slices=2', *TRAIN)
  pod.be(failures={'storage cp': 'AccessDenied: 403'})
  done = pod.run('copy_results', '--slices=2', WORKDIR, '--to=x')
  assert done.returncode == 1
  assert 'needs the role Storage Object User' in done.stdout
