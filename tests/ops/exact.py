"""Expectations over all 27 sequences: what estimators are held to."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from selfimprove.ops import (
  losses,
)
from tests.ops import enumerable

POLICY = np.asarray(enumerable.table(0), np.float64)
OTHER = np.asarray(enumerable.table(1), np.float64)
REWARDS = np.asarray(enumerable.rewards(0), np.float64)
LENGTH = enumerable.LENGTH
UNBOUNDED = {'clip_low': 1e9, 'clip_high': 1e9}


def hinted_policy():
  """The policy behind a hint: logits of the best sequence raised by 2."""
  best = np.argmax(REWARDS)
  table = POLICY.copy()
  table[enumerable.PREFIXES[best], enumerable.SEQUENCES[best]] += 2
  return table


HINTED = hinted_policy()


def expected_reward(table, rewards=REWARDS):
  return jnp.sum(enumerable.probabilities(table) * rewards)


def exact_gradient(rewards=REWARDS):
  """The gradient that the estimators are after."""
  return jax.grad(expected_reward)(jnp.asarray(POLICY), jnp.asarray(rewards))


def on_tokens(values):
  return jnp.repeat(jnp.asarray(values)[:, None], LENGTH, axis=1)


def stale_policy(distance):
  """A policy on the line from the current one to an unrelated one."""
  return POLICY + distance * (OTHER - POLICY)


def expected_ascent(loss, *, drawn_from=POLICY):
  """Expected step of one sample, `loss` giving [27] or [27, 3] losses."""

  def total(table):
    return -jnp.sum(loss(table).reshape(27, -1), axis=1)

  return enumerable.expected_gradient(
    total, jnp.asarray(POLICY), jnp.asarray(drawn_from)
  )


def reinforce_loss(logprobs, credit, groups):
  del groups
  return losses.reinforce(logprobs, credit)


def group_ascent(credit_fn, *, size, drawn_from=POLICY, loss=reinforce_loss):
  """Expected step of a group; see `enumerable.expected_group_gradient`."""
  return -enumerable.expected_group_gradient(
    credit_fn,
    loss,
    size=size,
    at=jnp.asarray(POLICY),
    drawn_from=jnp.asarray(drawn_from),
  )


def credit_of_rewards(advantage_fn, rewards=REWARDS):
  """Credit of a group from the rewards of its members alone."""

  def credit(group):
    ours = jnp.asarray(rewards)[group][:, None]
    return jnp.repeat(advantage_fn(ours), LENGTH, axis=1)

  return credit


def assert_equal(actual, expected):
  assert np.max(np.abs(expected)) > 0.01
  np.testing.assert_allclose(actual, expected, rtol=1e-9, atol=1e-12)


def relative_error(actual, expected):
  return float(jnp.linalg.norm(actual - expected) / jnp.linalg.norm(expected))
