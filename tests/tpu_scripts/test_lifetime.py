"""A TPU comes, waits, is taken back, and is given back."""

from __future__ import annotations

import os
import pty
import subprocess

import pytest

from tests.tpu_scripts.cloud import SCRIPTS

GIN = '--gin_file=experiments/score_math/run.gin'
CREATE = ('create', '--type=v5litepod-16', '--poll_seconds=1')


def ran(cloud, verb: str) -> bool:
  """Whether a verb of queued-resources was run."""
  return any(call[4:5] == [verb] for call in cloud.calls())


def test_create_waits_and_says_what_for(cloud):
  cloud.be(slices=[4], states=['', 'WAITING_FOR_RESOURCES', 'ACTIVE'])
  printed = cloud.ok(*CREATE)
  assert 'score is WAITING_FOR_RESOURCES, 0 of 60 minutes' in printed
  assert 'score is ACTIVE with 4 workers; next: setup.sh' in printed


def test_create_gives_up_in_time_and_leaves_the_request(cloud):
  cloud.be(states=['', *['PROVISIONING'] * 9])
  sentence = cloud.refusal(*CREATE, '--wait_minutes=0')
  assert 'still PROVISIONING after 0 minutes' in sentence
  assert 'run create.sh again' in sentence
  assert not ran(cloud, 'delete')


def test_create_again_goes_on_waiting(cloud):
  cloud.be(states=['PROVISIONING', 'ACTIVE'])
  assert 'already in the queue' in cloud.ok(*CREATE)
  assert not ran(cloud, 'create')


def test_create_again_with_another_type_is_refused(cloud):
  sentence = cloud.refusal('create', '--type=v6e-8')
  assert "TPU_TYPE is 'v6e-8', but score is there already" in sentence


@pytest.mark.parametrize('state', ['FAILED', 'SUSPENDED', 'SUSPENDING'])
@pytest.mark.parametrize('script', ['create', 'run', 'status', 'logs', 'setup'])
def test_a_lost_tpu_is_said_with_what_to_do(script, state, cloud):
  cloud.be(states=[state] * 9)
  arguments = {
    'create': CREATE[1:],
    'run': ['--', GIN, '--workdir=gs://bucket/run'],
  }
  sentence = cloud.refusal(script, *arguments.get(script, ()))
  assert f'score is {state}' in sentence
  assert 'run delete.sh, create.sh, setup.sh and the same run.sh' in sentence


def test_a_tpu_that_is_not_there_yet_is_said(cloud):
  cloud.be(states=['PROVISIONING'])
  sentence = cloud.refusal('status')
  assert 'score is PROVISIONING and not yet ACTIVE' in sentence


def test_another_number_of_slices_is_said(cloud):
  cloud.be(slices=[1, 1])
  sentence = cloud.refusal('status')
  assert 'score has 2 slices and TPU_SLICES is 1; give --slices=2' in sentence


@pytest.mark.parametrize(
  ('said', 'sentence'),
  [
    ('You do not currently have an active account selected.', 'not logged in'),
    ('Reauthentication failed. cannot prompt', 'run gcloud auth login'),
    ('RESOURCE_EXHAUSTED: Quota limit TPUV5 exceeded', 'the quota of'),
    ('API tpu has not been used in project x', 'gcloud services enable'),
    ("PERMISSION_DENIED: 'tpu.nodes.create'", 'the role TPU Admin'),
    ('Something else\n\n', 'gcloud failed: Something else'),
  ],
)
def test_a_failure_of_gcloud_is_one_sentence(said, sentence, cloud):
  cloud.be(states=[''], failures={'create': said})
  refused = cloud.refusal(*CREATE)
  assert refused.startswith('Error: Asking for score: ')
  assert sentence in refused


def test_a_login_that_ended_is_said_by_every_script(cloud):
  cloud.be(failures={'describe': 'There was a problem: gcloud auth login'})
  assert 'gcloud is not logged in' in cloud.refusal('status')


def test_a_missing_gcloud_is_said(cloud):
  (cloud.folder / 'here' / 'gcloud').unlink()
  assert 'gcloud is not on the PATH' in cloud.refusal(*CREATE)


def test_delete_does_not_go_on_without_an_answer(cloud):
  assert 'give --yes' in cloud.refusal('delete')
  assert not ran(cloud, 'delete')


def test_delete_with_yes_does_not_ask(cloud):
  assert 'score is deleted' in cloud.ok('delete', '--yes')
  assert ran(cloud, 'delete')


@pytest.mark.parametrize(('answer', 'deleted'), [('y', True), ('', False)])
def test_delete_asks_on_a_terminal(answer, deleted, cloud):
  ours, theirs = pty.openpty()
  os.write(ours, f'{answer}\n'.encode())
  done = subprocess.run(
    [SCRIPTS / 'delete.sh'],
    env=cloud.environment(),
    stdin=theirs,
    capture_output=True,
    text=True,
    timeout=30,
  )
  os.close(ours)
  os.close(theirs)
  assert 'Delete score (ACTIVE, 1 slices)' in done.stderr
  assert ran(cloud, 'delete') is deleted
  assert done.returncode == (0 if deleted else 1)


def test_deleting_what_is_not_there_is_an_error(cloud):
  cloud.be(states=[''])
  assert 'so nothing was deleted' in cloud.refusal('delete', '--yes')
