"""Losses of pairs: the best and the worst sample of each group."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from selfimprove import types
from selfimprove.ops import masks, preferences
from selfimprove.rewards.labels import best_and_worst
from selfimprove.types import Experience, Rollout, Scores


@types.record
class DirectPreference:
  """DPO (`ops.preferences.dpo`) on self-made pairs; needs `ref_logprobs`.

  The pair of a group is its best and its worst sample by the last reward; with
  `labels.KeepBestAndWorst` and `SequenceMean` the term is the mean over pairs.

  Attributes:
    beta: β above 0.
  """

  beta: float | Array = 0.1

  def __call__(
    self, experience: Experience, scores: Scores
  ) -> Float[Array, 'b t']:
    """Returns the loss of its pair on the first token of each row of one."""
    rollout = experience.rollout
    reference = jax.lax.stop_gradient(experience.stream('ref_logprobs'))
    log_ratio = jnp.sum(
      jnp.where(rollout.loss_mask, scores.logprobs - reference, 0), axis=1
    )
    chosen, rejected = _of_pairs(log_ratio, experience)
    values = preferences.dpo(chosen, rejected, beta=self.beta)
    return on_first_token(jnp.repeat(values, rollout.group_size), rollout)


@types.record
class RankPairs:
  """Bradley–Terry loss of a reward model (`ops.preferences.bradley_terry`).

  Needs `values`: the score of a row is what the critic says where its last
  token, the EOS, is still to be written.
  """

  def __call__(
    self, experience: Experience, scores: Scores
  ) -> Float[Array, 'b t']:
    """Returns the loss of its pair on the first token of each row of one."""
    rollout = experience.rollout
    score = at_last_token(scores.stream('values'), rollout)
    chosen, rejected = _of_pairs(score, experience)
    values = preferences.bradley_terry(chosen, rejected)
    return on_first_token(jnp.repeat(values, rollout.group_size), rollout)


def on_first_token(
  values: Float[Array, 'b'], rollout: Rollout
) -> Float[Array, 'b t']:
  """Values of rows, each on the first token that the policy wrote.

  Args:
    values: one per row.
    rollout: the rows.

  Returns:
    Per-token values whose sum over a row is that of the row.
  """
  rank = jnp.cumsum(rollout.loss_mask, axis=1)
  first = rollout.loss_mask & (rank == 1)
  return jnp.where(first, values[:, None], 0)


def at_last_token(
  values: Float[Array, 'b t'], rollout: Rollout
) -> Float[Array, 'b']:
  """Of each row the value on the last token that the policy wrote.

  Args:
    values: one per token.
    rollout: the rows.

  Returns:
    One value per row; 0 for a row without such a token.
  """
  turn = jnp.where(rollout.loss_mask, 0, -1)
  return masks.take_at_ends(values, turn, turns=1)[:, 0]


def _of_pairs(
  values: Float[Array, 'b'], experience: Experience
) -> tuple[Float[Array, 'p'], Float[Array, 'p']]:
  """The values of the best and of the worst row of each group."""
  group = experience.rollout.group_size
  best, worst = best_and_worst(experience.rewards, group_size=group)
  grouped = values.reshape(-1, group)
  take = lambda index: jnp.take_along_axis(grouped, index[:, None], axis=1)  # noqa: E731
  return take(best)[:, 0], take(worst)[:, 0]
