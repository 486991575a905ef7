"""What is known about samples before the update: data, not loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
from jaxtyping import Array, Float

from selfimprove.algorithms.base import Algorithm
from selfimprove.training import microbatches
from selfimprove.training.score import score, values
from selfimprove.training.state import Models
from selfimprove.types import Params, Rollout

FROZEN = ('old_logprobs', 'ref_logprobs', 'values')
"""The streams without gradient."""


def before_update(
  models: Models,
  params: dict[str, Params],
  ref_params: Params,
  rollout: Rollout,
  *,
  names: Sequence[str],
  parts: int,
  packed_rows: int = 0,
) -> dict[str, Float[Array, 'b t']]:
  """Streams without gradient, part by part, so that memory stays bounded.

  Args:
    models: the networks.
    params: of `policy` and `critic`.
    ref_params: of the reference policy.
    rollout: the samples.
    names: of `FROZEN`, those to compute.
    parts: in which the batch is read.
    packed_rows: rows into which the samples of a group are packed while the
      networks read them; 0 for a row each.

  Returns:
    One array per name.
  """

  def read(part: Rollout) -> dict[str, Array]:
    def said_by(weights: Params) -> Array:
      return score(
        models.policy, weights, part, packed_rows=packed_rows
      ).logprobs

    made = {
      'old_logprobs': lambda: said_by(params['policy']),
      'ref_logprobs': lambda: said_by(ref_params),
      'values': lambda: values(
        models.critic, params['critic'], part, packed_rows=packed_rows
      ),
    }
    found = {}
    for name in names:
      with jax.named_scope(f'phase.{name}'):
        found[name] = made[name]()
    return found

  if not names:
    return {}
  if parts == 1:
    found: Any = read(rollout)
  else:
    group = rollout.group_size
    dealt = microbatches.split(rollout, parts=parts, group_size=group)
    found = microbatches.join(jax.lax.map(read, dealt), group_size=group)
  return jax.lax.stop_gradient(found)


def with_derived(
  algorithm: Algorithm,
  rollout: Rollout,
  rewards: Float[Array, 'b turns'],
  found: Mapping[str, Float[Array, 'b t']],
) -> dict[str, Float[Array, 'b t']]:
  """Streams and what an algorithm derives from them, without gradient.

  Args:
    algorithm: its `token_reward` and `derived`.
    rollout: the samples.
    rewards: shaped ones.
    found: streams that are there.

  Returns:
    All streams; `dense_rewards` are the sum of both kinds of token rewards.
  """
  streams, given = dict(found), algorithm.token_reward
  if given is not None:
    made = given(rollout, rewards, streams)
    streams['dense_rewards'] = jax.lax.stop_gradient(made)
  # Inside jit a mapping has lost its order: one that does not depend on it.
  for name in sorted(
    algorithm.derived, key=lambda name: (name != 'dense_rewards', name)
  ):
    derive = algorithm.derived[name]
    made = jax.lax.stop_gradient(derive(rollout, rewards, streams))
    if name == 'dense_rewards' and given is not None:
      made = made + streams[name]
    streams = {**streams, name: made}
  return streams
