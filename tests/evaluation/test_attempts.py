from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest

from selfimprove.evaluation import attempts
from selfimprove.evaluation.intervals import Measurement
from selfimprove.rollout.decode import Sampling
from tests.training import tiny

PARAMS = tiny.POLICY.init(jax.random.key(0))
KEY = jax.random.key(1)


def _collect(*, batch_size, group_size=2, rows=10, reward=None, **axes):
  collect = attempts.make_collect(
    tiny.POLICY,
    rollout=dataclasses.replace(
      tiny.revise(group_size=group_size), sampling=Sampling()
    ),
    reward=reward or tiny.Evenness(),
    judge=lambda reward, rollout: reward.judge(rollout, None),
    table=tiny.table(rows),
    batch_size=batch_size,
    mesh=tiny.mesh(**axes),
  )
  return collect({'policy': PARAMS}, KEY)


@pytest.fixture(scope='module')
def whole():
  """Attempts at all ten problems at once."""
  return _collect(batch_size=10)


def test_every_problem_is_tried_as_often_as_asked(whole):
  assert whole.correct.shape == (10, 2, 2)
  assert len(whole.answers) == 10
  assert all(len(samples) == 2 for samples in whole.answers)


def test_right_is_what_the_reward_says_of_these_very_tokens(whole):
  first = [[turns[0][0] for turns in group] for group in whole.answers]
  np.testing.assert_array_equal(
    whole.correct[:, :, 0], np.asarray(first) % 2 == 0
  )
  assert 0 < whole.correct.mean() < 1


@pytest.mark.parametrize(
  ('batch_size', 'axes'),
  # 4 leaves two rows to fill up; 3 is rounded up to 4 over four devices.
  [
    (4, {}),
    pytest.param(99, {}, marks=pytest.mark.slow),
    pytest.param(3, {'data': 2, 'fsdp': 2}, marks=pytest.mark.slow),
  ],
)
def test_batches_and_devices_change_nothing(batch_size, axes, whole):
  found = _collect(batch_size=batch_size, **axes)
  np.testing.assert_array_equal(found.correct, whole.correct)
  assert found.answers == whole.answers


def test_a_reward_on_the_host_judges_the_same_samples(whole):
  class OnHost:
    def judge(self, rollout, references):
      first = [rollout.tokens[:, start] for start, _ in rollout.spans]
      return (np.stack(first, axis=1) % 2 == 0).astype(np.float32)

  found = _collect(batch_size=4, reward=OnHost())
  np.testing.assert_array_equal(found.correct, whole.correct)


def test_two_attempts_are_measured_with_how_often_they_differ(whole):
  measured = attempts.measure(whole)
  assert {'acc_t1', 'acc_t2', 'delta', 'changed'} <= measured.keys()
  differ = [turns[0] != turns[1] for group in whole.answers for turns in group]
  assert measured['changed'].value == pytest.approx(np.mean(differ))


def test_one_attempt_is_measured_without_comparisons(whole):
  one = attempts.Attempts(correct=whole.correct[:, :, :1], answers=[])
  assert set(attempts.measure(one)) == {'acc_t1'}


def test_what_is_logged_ends_with_the_last_attempt():
  def found(value: float | None):
    return Measurement(value=value, low=value, high=value, count=4)

  logged = attempts.logged(
    {'acc_t1': found(0.25), 'acc_t2': found(0.5), 'critique': found(None)}
  )
  assert logged == {
    'eval/acc_t1': 0.25,
    'eval/acc_t2': 0.5,
    'eval/acc_last': 0.5,
  }
