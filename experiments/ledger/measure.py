"""What a model does on held-out prompts, sampled as it was trained."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from selfimprove import partitioning
from selfimprove.data import pipeline
from selfimprove.evaluation.metrics import pass_at_k
from selfimprove.ops.keys import named_key
from selfimprove.rollout.demonstrations import Demonstrate
from selfimprove.trained import Trained
from selfimprove.training.score import score
from selfimprove.types import Prompts

SAMPLES = 16
PROBLEMS = 256


def held_out(trained: Trained, *, split: str) -> dict[str, Any]:
  """Accuracies and entropy of samples at temperature 1.

  Args:
    trained: the model.
    split: of its task.

  Returns:
    `accuracy` (of single samples), `pass_at_8`, `pass_at_16`, `entropy` (mean
    of −log π over sampled tokens, nats), `by_kind`, the accuracy on each
    kind of problem, and `chance_by_kind`, the mean probability of the reference
    answer and EOS, which samples need not find.
  """
  table = pipeline.load(trained.experiment.task, split).head(PROBLEMS)
  correct, entropy = _sampled(trained, table)
  chance = _chance(trained, table)
  kinds = np.asarray([fields['kind'] for fields in table.fields])
  return {
    'accuracy': float(correct.mean()),
    'pass_at_8': pass_at_k(correct, k=8).value,
    'pass_at_16': pass_at_k(correct, k=16).value,
    'entropy': entropy,
    'by_kind': _by_kind(correct, kinds),
    'chance_by_kind': _by_kind(chance, kinds),
  }


def _by_kind(values: np.ndarray, kinds: np.ndarray) -> dict[str, float]:
  return {
    kind: float(values[kinds == kind].mean()) for kind in sorted(set(kinds))
  }


def _chance(trained: Trained, table: pipeline.Table) -> np.ndarray:
  """π(answer, EOS | prompt) of each problem."""
  how: Any = trained.experiment.evaluation.rollout
  show = Demonstrate(eos_ids=how.eos_ids)

  @jax.jit
  def chance(params: Any, prompts: Prompts) -> jax.Array:
    shown = show(trained.policy, params, prompts, jax.random.key(0))
    logprobs = score(trained.policy, params, shown).logprobs
    return jnp.exp(jnp.sum(jnp.where(shown.loss_mask, logprobs, 0), axis=1))

  (batch,) = pipeline.in_order(table, batch_size=len(table))
  placed = jax.device_put(batch.prompts, partitioning.rows(trained.mesh))
  with jax.set_mesh(trained.mesh):
    return np.asarray(chance(trained.params, placed))


def _sampled(
  trained: Trained, table: pipeline.Table
) -> tuple[np.ndarray, float]:
  """Which of the samples of each problem are right; their entropy."""
  how = trained.experiment.evaluation
  rollout = how.sampled(samples=SAMPLES, temperature=1.0)

  @jax.jit
  def attempt(params: Any, prompts: Prompts, key: jax.Array) -> Any:
    samples = rollout(trained.policy, params, prompts, key)
    surprise = -jnp.sum(
      jnp.where(samples.loss_mask, samples.sampler_logprobs, 0)
    )
    rewards: Any = how.reward(samples, prompts)
    return rewards[:, -1] > 0.5, surprise, jnp.sum(samples.loss_mask)

  (batch,) = pipeline.in_order(table, batch_size=len(table))
  placed = jax.device_put(batch.prompts, partitioning.rows(trained.mesh))
  key = named_key(jax.random.key(trained.experiment.seed), 'ledger')
  with jax.set_mesh(trained.mesh):
    right, surprise, tokens = attempt(trained.params, placed, key)
  correct = np.asarray(right).reshape(len(table), SAMPLES)
  return correct, float(surprise / tokens)
