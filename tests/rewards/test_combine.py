from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from selfimprove.rewards.combine import (
  Identity,
  ProgressBonus,
  progress_bonus,
)

_OUTCOMES = jnp.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
_STAGE_1 = ProgressBonus(alpha=0.0, turn_weights=(0.0, 1.0))
_STAGE_2 = ProgressBonus(alpha=10.0, turn_weights=(1.0, 1.0))


def _random_rewards(seed=0, rows=32):
  return jax.random.bernoulli(jax.random.key(seed), 0.5, (rows, 2)).astype(
    jnp.float32
  )


def test_stage_two_gives_the_reward_table_of_the_paper():
  # R2 = r2 + 10 (r2 - r1): 0 | 1 + 10 = 11 | 0 - 10 = -10 | 1.
  # With the bonus on both attempts R1 would be -9 in the second row.
  expected = [[0, 0], [0, 11], [1, -10], [1, 1]]
  np.testing.assert_array_equal(_STAGE_2(_OUTCOMES), expected)


def test_stage_one_credits_the_second_attempt_alone():
  np.testing.assert_array_equal(
    _STAGE_1(_OUTCOMES), [[0, 0], [0, 1], [0, 0], [0, 1]]
  )


def test_alpha_zero_and_weights_one_change_nothing():
  rewards = _random_rewards()
  combine = ProgressBonus(alpha=0.0, turn_weights=(1.0, 1.0))
  np.testing.assert_array_equal(combine(rewards), rewards)
  np.testing.assert_array_equal(Identity()(rewards), rewards)


@pytest.mark.parametrize('alpha', [0.0, 1.0, 10.0])
def test_the_mean_of_r2_is_acc_t2_plus_alpha_delta(alpha):
  rewards = _random_rewards()
  acc_t1, acc_t2 = rewards.mean(axis=0)
  shaped = ProgressBonus(alpha=alpha, turn_weights=(1.0, 1.0))(rewards)
  np.testing.assert_allclose(
    shaped[:, 1].mean(), acc_t2 + alpha * (acc_t2 - acc_t1), rtol=1e-6
  )


def test_alpha_does_not_touch_the_first_attempt():
  rewards = _random_rewards()
  for alpha in (0.0, 3.0, 10.0):
    shaped = ProgressBonus(alpha=alpha, turn_weights=(1.0, 1.0))(rewards)
    np.testing.assert_array_equal(shaped[:, 0], rewards[:, 0])


def test_alpha_touches_only_rows_whose_attempts_differ():
  rewards = _random_rewards()
  bonus = progress_bonus(rewards, alpha=10.0)
  changed = np.asarray(rewards[:, 0] != rewards[:, 1])
  np.testing.assert_array_equal(np.asarray(bonus[:, 1] != 0), changed)


def test_turn_weights_scale_the_reward_and_not_the_bonus():
  # R = (2*1, 3*0 + 10*(0 - 1)); a weight on the whole would give 3 * -10.
  combine = ProgressBonus(alpha=10.0, turn_weights=(2.0, 3.0))
  np.testing.assert_array_equal(combine(jnp.array([[1.0, 0.0]])), [[2, -10]])


def test_later_attempts_are_compared_with_the_one_before():
  bonus = progress_bonus(jnp.array([[0.0, 1.0, 0.5]]), alpha=2.0)
  np.testing.assert_array_equal(bonus, [[0.0, 2.0, -1.0]])


def test_a_single_attempt_gets_no_bonus():
  combine = ProgressBonus(alpha=10.0, turn_weights=(1.0,))
  np.testing.assert_array_equal(combine(jnp.array([[1.0], [0.0]])), [[1], [0]])


def test_both_stages_share_one_compiled_program():
  traced = []

  @jax.jit
  def shaped(combine):
    traced.append(combine)
    return combine(_OUTCOMES)

  for stage in (_STAGE_1, _STAGE_2):
    np.testing.assert_array_equal(shaped(stage), stage(_OUTCOMES))
  assert len(traced) == 1


def test_a_missing_weight_is_named():
  combine = ProgressBonus(alpha=0.0, turn_weights=(1.0,))
  with pytest.raises(ValueError, match='1 entries for 2 attempts'):
    combine(_OUTCOMES)
