"""Sweeps on SLURM and through XManager, without a cluster and a cloud."""

from __future__ import annotations

import contextlib
import os
import pathlib
import pwd
import signal
import stat
import sys
import threading
import time
import types

import pytest

from experiments.sweeps import local, plan, slurm, space, xm_launch
from experiments.sweeps.plan import Sweep
from selfimprove.configuration import ROOT, ConfigError

RUNS = plan.runs(
  Sweep(
    files=('experiments/score_math/run.gin',),
    bindings=("CHECKPOINT = '/gcs/bucket/a model'",),
    points=space.axis('SEED', (1, 2)),
  )
)


def without(monkeypatch, *names):
  for name in names:
    monkeypatch.setitem(sys.modules, name, None)


# SLURM.

# Writes down what it was called with, as the real ones answer.
SBATCH = """#!/bin/sh
count=$(ls "$RECORD" | wc -l)
cp "$1" "$RECORD/batch_$count"
sed -n 's/^#SBATCH --job-name=//p' "$1" >> "$RECORD/../queue"
echo "Submitted batch job $((count + 17))"
"""
SQUEUE = """#!/bin/sh
cat "$RECORD/../queue"
"""


@pytest.fixture
def cluster(tmp_path, monkeypatch):
  """The commands of SLURM, and the folder where they leave their record."""
  commands, record = tmp_path / 'bin', tmp_path / 'record'
  commands.mkdir()
  record.mkdir()
  (tmp_path / 'queue').touch()
  for name, text in (('sbatch', SBATCH), ('squeue', SQUEUE), ('srun', '')):
    (commands / name).write_text(text, encoding='utf-8')
    (commands / name).chmod(stat.S_IRWXU)
  monkeypatch.setenv('PATH', f'{commands}:{os.environ["PATH"]}')
  monkeypatch.setenv('RECORD', str(record))
  monkeypatch.setenv('USER', pwd.getpwuid(os.getuid()).pw_name)
  return record


OPTIONS = ('timeout_min=90', 'gpus_per_node=8', 'slurm_partition=long')


def test_runs_become_jobs_and_those_in_the_queue_are_left_there(
  cluster, tmp_path, capsys
):
  submitit = pytest.importorskip('submitit')
  workdir = str(tmp_path / 'sweep')
  assert slurm.submit(RUNS[:1], workdir, options=OPTIONS) == ['17']
  assert slurm.submit(RUNS, workdir, options=OPTIONS) == ['18']
  assert f'In the queue already: {RUNS[0].name}' in capsys.readouterr().out
  for count, run in enumerate(RUNS):
    text = (cluster / f'batch_{count}').read_text(encoding='utf-8')
    for line in (
      f'#SBATCH --job-name={run.name}-',
      '#SBATCH --time=90\n',
      '#SBATCH --gpus-per-node=8\n',
      '#SBATCH --partition=long\n',
      f'export PYTHONPATH={ROOT}:',
      '\nsrun ',
    ):
      assert line in text
    (pickled,) = pathlib.Path(workdir).glob(f'slurm/{17 + count}/*submitted*')
    sent = submitit.core.utils.DelayedSubmission.load(pickled)
    assert sent.function.command == local.command(run, workdir)
  # The same run in another sweep is another job.
  other = str(tmp_path / 'other')
  assert len(slurm.submit(RUNS, other, options=OPTIONS)) == 2


@pytest.mark.parametrize(
  ('options', 'sentence'),
  [
    (['partition'], '--option=partition cannot be used; write'),
    (['nodes=1', 'nodes=2'], '--option=nodes=2 cannot be used; write'),
    (['slurm_partitoin=x'], "Unknown argument 'partitoin' for executor"),
    (['nodes=many'], 'Parameter "nodes" expected type'),
  ],
)
def test_an_option_that_submitit_does_not_know_is_refused(
  options, sentence, cluster, tmp_path
):
  pytest.importorskip('submitit')
  with pytest.raises(ConfigError, match=sentence):
    slurm.submit(RUNS, str(tmp_path), options=options)
  assert not [*cluster.iterdir()]


def test_without_submitit_or_slurm_it_says_so(tmp_path, monkeypatch):
  with monkeypatch.context() as patch:
    without(patch, 'submitit')
    with pytest.raises(ConfigError, match=r'pip install selfimprove\[slurm\]'):
      slurm.submit(RUNS, str(tmp_path), options=())
  monkeypatch.setenv('PATH', '')
  with pytest.raises(ConfigError, match=r'`squeue .*` did not work'):
    slurm._queued()


CHILD = """
import signal, sys, time
def stop(*_):
  open(sys.argv[1] + '/checkpoint', 'w').close()
  sys.exit(1)
signal.signal(signal.SIGTERM, stop)
open(sys.argv[1] + '/begun', 'w').close()
assert sys.argv[2] == '--stop_with_parent'
time.sleep(float({seconds}))
"""


def _work(folder, seconds):
  program = CHILD.format(seconds=seconds)
  return slurm.Work([sys.executable, '-c', program, str(folder)])


def test_a_job_that_makes_way_leaves_a_checkpoint_and_is_queued_again(tmp_path):
  pytest.importorskip('submitit')
  work, again = _work(tmp_path, 99), []

  def warn(*_):
    assert not (tmp_path / 'checkpoint').exists()
    again.append(work.checkpoint())
    assert (tmp_path / 'checkpoint').exists()

  # As submitit does: in the main thread, in the middle of the wait.
  before = signal.signal(signal.SIGUSR2, warn)

  def send():
    while not (tmp_path / 'begun').exists():
      time.sleep(0.01)
    time.sleep(0.1)
    os.kill(os.getpid(), signal.SIGUSR2)

  thread = threading.Thread(target=send)
  thread.start()
  try:
    with pytest.raises(RuntimeError, match='The run ended with status 1'):
      work()
  finally:
    thread.join()
    signal.signal(signal.SIGUSR2, before)
    work._process.stdin.close()
  (delayed,) = again
  assert delayed.function.command == work.command
  assert delayed.function._process is None  # So that it can be pickled.


@pytest.mark.slow  # A process that imports what a job needs.
def test_submitit_does_a_run_in_a_process_of_its_own(tmp_path, monkeypatch):
  pytest.importorskip('submitit')
  monkeypatch.setenv('PYTHONPATH', ROOT)
  executor = slurm.make_executor(
    str(tmp_path), options=('timeout_min=5',), cluster='local'
  )
  for seconds, error in ((0.1, None), ('"no number"', 'Failed')):
    job = executor.submit(_work(tmp_path, seconds))
    expected = pytest.raises(Exception, match='The run ended with status 1')
    with expected if error else contextlib.nullcontext():
      job.result()
  assert (tmp_path / 'begun').exists()


# XManager.

OPTION = ('tpu_v3=8',)
WORKDIR = '/gcs/bucket/sweep'


class FakeExperiment:
  """What a launch asks of an experiment of XManager."""

  def __init__(self):
    self.launched_jobs, self.packaged, self.identities = [], [], []

  def __enter__(self):
    return self

  def __exit__(self, *_):
    pass

  def package(self, packageables):
    self.packaged += packageables
    return ['image'] * len(packageables)

  def add(self, job, *, identity):
    self.launched_jobs.append(job)
    self.identities.append(identity)


def _fake(monkeypatch):
  """XManager as far as a launch touches it, with its names and arguments."""

  class JobRequirements:
    def __init__(self, **resources):
      known = {'tpu_v3': 'TPU_V3', 'tpu_v5e': 'TPU_V5E', 'cpu': 'CPU'}
      names = [known[name] for name in resources]
      tpus = [name for name in names if name.startswith('TPU')]
      self.accelerator = types.SimpleNamespace(name=tpus[0]) if tpus else None
      self.task_requirements = resources

  class Anything:
    def __contains__(self, resource):
      return resource is not None

  record = lambda **_: None  # noqa: E731
  xm = types.SimpleNamespace(
    JobRequirements=JobRequirements,
    TpuType=Anything(),
    ModuleName=lambda module_name: types.SimpleNamespace(name=module_name),
    PythonContainer=lambda *, path, base_image, entrypoint, docker_instructions, use_deep_module: (  # noqa: E501
      types.SimpleNamespace(path=path, docker_instructions=docker_instructions)
    ),
    Packageable=lambda executable_spec, executor_spec: types.SimpleNamespace(
      executable_spec=executable_spec
    ),
    Job=lambda executable, executor, args: types.SimpleNamespace(
      executable=executable, executor=executor, args=args
    ),
  )
  vertex = lambda requirements: types.SimpleNamespace(  # noqa: E731
    requirements=requirements
  )
  vertex.Spec = record
  module = types.ModuleType('xmanager')
  module.xm, module.xm_local = xm, types.SimpleNamespace(Vertex=vertex)
  monkeypatch.setitem(sys.modules, 'xmanager', module)
  return FakeExperiment()


@pytest.fixture(params=['fake', 'real'])
def experiment(request, monkeypatch):
  """An experiment that launches nothing: ours, or XManager's own mock."""
  if request.param == 'fake':
    yield _fake(monkeypatch)
    return
  with _mock() as mock:
    yield mock


@contextlib.contextmanager
def _mock():
  """XManager's mock, which leaves its event loop open."""
  pytest.importorskip('xmanager')
  from xmanager import xm_mock

  mock = xm_mock.MockExperiment()
  yield mock
  if loop := getattr(mock, '_event_loop', None):
    loop.close()


def _args(job):
  if isinstance(job.args, list):
    return job.args
  from xmanager.xm import utils

  return job.args.to_list(utils.ARGV_ESCAPER)


def test_every_run_is_a_job_on_the_tpu_that_was_asked_for(experiment):
  titles = []

  def create(title):
    titles.append(title)
    return experiment

  xm_launch.submit(RUNS, WORKDIR, options=OPTION, create=create)
  assert titles == ['sweep']
  jobs = experiment.launched_jobs
  assert [_args(job) for job in jobs] == [r.flags_in(WORKDIR) for r in RUNS]
  for job in jobs:
    found = job.executor.requirements
    assert found.accelerator.name == 'TPU_V3'
    assert [*found.task_requirements.values()] == [8]
  # Nothing splits what has blanks and quotes in it.
  assert "--gin_bindings=CHECKPOINT = '/gcs/bucket/a model'" in _args(jobs[0])


@pytest.mark.parametrize(
  ('workdir', 'options', 'sentence'),
  [
    (
      'gs://bucket/sweep',
      OPTION,
      '--workdir=gs://.* is not seen by jobs; give',
    ),
    (WORKDIR, ('tpu_v5e=16',), 'tpu_v2 and tpu_v3, and not TPU_V5E; write'),
    (WORKDIR, (), 'and not a job without an accelerator; write'),
    (WORKDIR, ('tpu_v99=8',), r"cannot ask for \{'tpu_v99': 8\}: "),
  ],
)
def test_what_cannot_be_launched_is_refused(
  workdir, options, sentence, experiment
):
  with pytest.raises(ConfigError, match=sentence):
    xm_launch.submit(
      RUNS, workdir, options=options, create=lambda _: experiment
    )
  assert not experiment.launched_jobs


def test_without_xmanager_it_says_so(monkeypatch):
  without(monkeypatch, 'xmanager')
  with pytest.raises(ConfigError, match=r'pip install selfimprove\[xmanager\]'):
    xm_launch.submit(RUNS, WORKDIR, options=OPTION)


def test_vertex_is_sent_the_image_the_machine_and_the_flags(monkeypatch):
  """Everything of XManager's is real but the last call to the cloud."""
  pytest.importorskip('xmanager')
  from xmanager import xm, xm_local
  from xmanager.cloud import vertex
  from xmanager.xm_local import executables

  with _mock() as mock:
    xm_launch.submit(RUNS, WORKDIR, options=OPTION, create=lambda _: mock)
  sent = []

  class CustomJob:
    resource_name = 'job'

    def __init__(self, **fields):
      sent.append(fields)

    def submit(self, **_):
      pass

    def _dashboard_uri(self):
      return ''

  monkeypatch.setattr(vertex.aiplatform, 'CustomJob', CustomJob)
  monkeypatch.setattr(vertex.aiplatform, 'init', lambda **_: None)
  monkeypatch.setattr(vertex.auth, 'get_bucket', lambda: 'bucket')
  monkeypatch.setattr(vertex.auth, 'get_service_account', lambda: 'me')
  image = executables.GoogleContainerRegistryImage(
    name='image', image_path='gcr.io/project/image', args=xm.SequentialArgs()
  )
  client = vertex.Client('project', 'location')
  for run, job in zip(RUNS, mock.launched_jobs, strict=True):
    client.launch(run.name, [xm.Job(image, job.executor, args=job.args)])
  for run, fields in zip(RUNS, sent, strict=True):
    (pool,) = fields['worker_pool_specs']
    assert list(pool.container_spec.args) == run.flags_in(WORKDIR)
    assert pool.machine_spec.machine_type == 'cloud-tpu'
    assert pool.machine_spec.accelerator_type.name == 'TPU_V3'
    assert pool.machine_spec.accelerator_count == 8
  assert isinstance(job.executor, xm_local.Vertex)


def test_the_image_holds_the_project_and_begins_with_a_run(monkeypatch):
  pytest.importorskip('xmanager')
  from xmanager import xm
  from xmanager.cloud import build_image

  container = xm_launch._container(xm, xm_launch.BASE_IMAGE)
  dockerfile = pathlib.Path(
    build_image._create_dockerfile(container, xm.SequentialArgs(), {})
  ).read_text(encoding='utf-8')
  assert 'FROM python:3.11\n' in dockerfile
  assert f'COPY {pathlib.Path(ROOT).name}/ /project\n' in dockerfile
  assert 'ENTRYPOINT ["./entrypoint.sh"]' in dockerfile
  entrypoint = pathlib.Path(build_image._create_entrypoint(container))
  text = entrypoint.read_text(encoding='utf-8')
  assert 'python -m experiments.sweeps.work "$@"' in text
