"""The exact commands, and that a dry run prints what a run runs."""

from __future__ import annotations

import pytest

from tests.tpu_scripts.cloud import dry

QR = ['gcloud', 'compute', 'tpus', 'queued-resources']
WHERE = ['--zone=us-east5-a', '--project=my-project']
ALL = ['--node=all', '--worker=all', '--quiet']
WORKER = 'bash selfimprove/tpu_scripts/worker.sh'
GIN = '--gin_file=experiments/score_math/run.gin'
FIELDS = (
  '(state.state,tpu.nodeSpec[].nodeId,tpu.nodeSpec[0].node.acceleratorType)'
)
DESCRIBE = [*QR, 'describe', 'score', *WHERE]
DESCRIBE.append(f"--format=value[separator='|']{FIELDS}")


def count(node: str) -> list[str]:
  """The command that counts the workers of a slice."""
  describe = ['gcloud', 'compute', 'tpus', 'tpu-vm', 'describe', node, *WHERE]
  return [*describe, '--format=value(networkEndpoints.len())']


def test_one_host_is_created(cloud):
  cloud.be(states=[''])
  cloud.ok('create', '--type=v5litepod-8')
  assert cloud.calls() == [
    DESCRIBE,
    [
      *[*QR, 'create', 'score', *WHERE, '--accelerator-type=v5litepod-8'],
      *['--runtime-version=v2-alpha-tpuv5-lite', '--node-id=score'],
      *['--async', '--quiet'],
    ],
    DESCRIBE,
    count('score'),
  ]


def test_a_spot_slice_without_external_addresses_is_created(cloud):
  printed = cloud.ok(
    'create',
    '--type=v5p-128',
    '--capacity=spot',
    '--connect=iap',
    '--network=mine',
    '--subnetwork=sub',
    '--service_account=a@b.iam.gserviceaccount.com',
    '--valid_until=6h',
    '--dry_run',
    '--',
    '--labels=team=rl',
  )
  assert dry(printed)[1][8:] == [
    '--accelerator-type=v5p-128',
    '--runtime-version=v2-alpha-tpuv5',
    '--node-id=score',
    '--spot',
    '--internal-ips',
    '--network=mine',
    '--subnetwork=sub',
    '--service-account=a@b.iam.gserviceaccount.com',
    '--valid-until-duration=6h',
    '--async',
    '--quiet',
    '--labels=team=rl',
  ]


def test_reserved_slices_are_created_as_one_multislice(cloud):
  printed = cloud.ok(
    'create', '--type=v5p-128', '--slices=4', '--capacity=reserved', '--dry_run'
  )
  create = dry(printed)[1]
  assert create[8:] == [
    '--accelerator-type=v5p-128',
    '--runtime-version=v2-alpha-tpuv5',
    '--node-count=4',
    '--node-prefix=score',
    '--reserved',
    '--async',
    '--quiet',
  ]
  counted = [count(f'score-{node}') for node in range(4)]
  assert dry(printed)[3:] == counted


@pytest.mark.parametrize(
  ('connect', 'flags'),
  [
    ('external', []),
    ('internal', ['--internal-ip']),
    ('iap', ['--tunnel-through-iap']),
  ],
)
def test_workers_are_reached_as_the_settings_say(connect, flags, cloud):
  printed = cloud.ok('status', f'--connect={connect}', '--dry_run')
  command = f'--command={WORKER} state train'
  assert dry(printed)[2] == [*QR, 'ssh', 'score', *WHERE, *flags, *ALL, command]


CASES = {
  'create': ['--type=v5litepod-16'],
  'setup': [],
  'run': ['--run=mine', '--', GIN, '--workdir=gs://bucket/run'],
  'status': ['--run=mine'],
  'logs': ['--run=mine', '--lines=7', '--no_follow'],
  'stop': ['--run=mine', '--seconds=5'],
  'on_all': ['--', 'python', '-c', 'print("a  b")'],
  'copy_results': ['--run=mine', '--workdir=gs://bucket/run', '--to=results'],
  'delete': ['--yes'],
}

TAKES_MORE = {'create', 'run', 'on_all'}


@pytest.mark.slow
@pytest.mark.parametrize('slices', [[1], [1, 1]], ids=['one', 'multislice'])
def test_a_dry_run_prints_what_a_run_runs(slices, cloud, monkeypatch, tmp_path):
  monkeypatch.chdir(tmp_path)
  cloud.be(slices=slices, states=[''])
  cloud.set_up()
  done = 0
  for script, arguments in CASES.items():
    how = [f'--slices={len(slices)}', *arguments]
    printed = cloud.ok(script, '--dry_run', *how)
    assert len(cloud.calls()) == done  # Nothing was run.
    if script == 'setup':  # `set_up` has done it, in less time.
      continue
    cloud.ok(script, *how)
    # What a worker itself runs to save its log is not of this machine.
    real = [
      call for call in cloud.calls()[done:] if call[1:3] != ['storage', 'cp']
    ]
    assert dry(printed) == real, script
    done = len(cloud.calls())


def test_a_dry_run_needs_no_gcloud(cloud):
  (cloud.folder / 'here' / 'gcloud').unlink()
  for script, arguments in CASES.items():
    assert cloud.ok(script, '--dry_run', *arguments).startswith('gcloud ')


@pytest.mark.parametrize('script', sorted({*CASES} - TAKES_MORE))
def test_what_follows_a_lone_dash_is_never_passed_over(script, cloud):
  sentence = cloud.refusal(script, *CASES[script], '--', 'extra', '--yes')
  assert f"'extra' follows a lone --, after which {script}.sh takes" in sentence
  assert 'leave it out' in sentence
  assert not cloud.calls()


@pytest.mark.parametrize('script', sorted({*CASES} - TAKES_MORE))
def test_a_lone_dash_with_nothing_after_it_is_nothing(script, cloud):
  cloud.ok(script, '--dry_run', *CASES[script], '--')


def test_the_run_command_is_the_trainer_of_many_processes(cloud):
  printed = cloud.ok('run', '--dry_run', *CASES['run'])
  assert dry(printed)[-1][-1] == (
    f'--command={WORKER} start mine python -m selfimprove.train '
    f'--distributed=auto {GIN} --workdir=gs://bucket/run'
  )


def test_results_come_without_checkpoints_unless_asked_for(cloud):
  how = ['--workdir=gs://bucket/run/', '--to=here', '--no_logs', '--dry_run']
  rsync = ['gcloud', 'storage', 'rsync', 'gs://bucket/run', 'here']
  rsync += ['--project=my-project', '--recursive']
  printed = cloud.ok('copy_results', *how)
  assert dry(printed) == [[*rsync, '--exclude=^checkpoints/.*']]
  assert dry(cloud.ok('copy_results', *how, '--checkpoints')) == [rsync]
