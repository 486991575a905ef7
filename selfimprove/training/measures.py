"""What is logged about samples and rewards, computed in graph."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from selfimprove.types import Metrics, Rollout


def of_rollout(rollout: Rollout) -> Metrics:
  """Length, truncation and copying of the attempts.

  Args:
    rollout: the samples.

  Returns:
    `rollout/length_t<n>` mean tokens of attempt n, EOS included;
    `rollout/truncated_t<n>` and `rollout/truncated` fraction without EOS;
    `rollout/copied` fraction of last attempts equal to the one before;
    `rollout/tokens` tokens written.
  """
  metrics: Metrics = {}
  written = jnp.sum(rollout.loss_mask, dtype=jnp.float32)
  for turn in range(len(rollout.spans)):
    ours = rollout.turn == turn
    lengths = jnp.sum(ours, axis=-1, dtype=jnp.float32)
    metrics[f'rollout/length_t{turn + 1}'] = jnp.mean(lengths)
    cut = ~rollout.finished[:, turn]
    metrics[f'rollout/truncated_t{turn + 1}'] = jnp.mean(cut, dtype=jnp.float32)
  metrics['rollout/truncated'] = jnp.mean(~rollout.finished, dtype=jnp.float32)
  metrics['rollout/tokens'] = written
  if len(rollout.spans) > 1:
    metrics['rollout/copied'] = jnp.mean(copied(rollout), dtype=jnp.float32)
  return metrics


def copied(rollout: Rollout) -> Bool[Array, 'b']:
  """Whether the last attempt has the same tokens as the one before it.

  Args:
    rollout: samples with at least two turns.

  Returns:
    One truth value per row; EOS counts as a token.
  """
  (a, b), (c, d) = rollout.spans[-2:]
  width = max(b - a, d - c)

  def attempt(start: int, stop: int) -> Array:
    # Not `loss_mask`: attempts may be shown without being taught.
    written = rollout.positions[:, start:stop] >= 0
    ids = jnp.where(written, rollout.tokens[:, start:stop], -1)
    pad = ((0, 0), (0, width - (stop - start)))
    return jnp.pad(ids, pad, constant_values=-1)

  return jnp.all(attempt(a, b) == attempt(c, d), axis=-1)


def of_rewards(
  rollout: Rollout,
  rewards: Float[Array, 'b turns'],
  shaped: Float[Array, 'b turns'],
  weight: Float[Array, 'b'],
) -> Metrics:
  """Mean rewards, and how many groups and samples teach nothing.

  Args:
    rollout: the samples.
    rewards: as the verifier gave them.
    shaped: as they are credited.
    weight: sample weights.

  Returns:
    `reward/verifier_t<n>`, `reward/shaped_t<n>`; `rollout/tied_groups`
    fraction of groups of two and more whose credited rewards are all equal;
    `rollout/kept` fraction of samples with a positive weight.
  """
  metrics: Metrics = {}
  for turn in range(rewards.shape[1]):
    metrics[f'reward/verifier_t{turn + 1}'] = jnp.mean(rewards[:, turn])
    metrics[f'reward/shaped_t{turn + 1}'] = jnp.mean(shaped[:, turn])
  if rollout.group_size > 1:
    groups = shaped.reshape(-1, rollout.group_size, shaped.shape[1])
    spread = jnp.max(groups, axis=1) - jnp.min(groups, axis=1)
    tied = jnp.all(spread == 0, axis=-1)
    metrics['rollout/tied_groups'] = jnp.mean(tied, dtype=jnp.float32)
  metrics['rollout/kept'] = jnp.mean(weight > 0, dtype=jnp.float32)
  return metrics
