"""Our rollout and whole GRPO step, timed as `tunix_side.py` times Tunix's.

Prints one JSON line (see `protocol.report`). Started by `compare_tunix.py`,
which pins the core and sets XLA to one thread; by hand:

    PYTHONPATH=. taskset -c 1 python benchmarks/our_side.py
"""

from __future__ import annotations

import argparse
import functools
import itertools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import protocol
from jaxtyping import Array, Float
from protocol import WORKLOAD

from selfimprove import types
from selfimprove.algorithms import aggregates, credit, terms
from selfimprove.algorithms.base import Algorithm, Term
from selfimprove.models.config import TransformerConfig
from selfimprove.models.transformer import make_policy
from selfimprove.rewards import combine, labels
from selfimprove.rollout.decode import Sampling
from selfimprove.rollout.single import Single
from selfimprove.training import state as train_state
from selfimprove.training import step as train_step
from selfimprove.types import Prompts, Rollout

NO_EOS = [2**30]
"""An end token that is outside the vocabulary: no sample stops early."""


class Side(NamedTuple):
  """What is timed.

  Attributes:
    parameters: how many numbers the optimizer updates.
    rollout: samples one batch and brings it to the host.
    step: does one whole GRPO step and brings its metrics to the host.
  """

  parameters: int
  rollout: Callable[[], None]
  step: Callable[[], None]


@types.record
class EvenShare:
  """The share of even tokens in each attempt."""

  def __call__(
    self, rollout: Rollout, prompts: Prompts
  ) -> Float[Array, 'b turns']:
    """Returns one reward per row, in one turn."""
    del prompts
    even = (rollout.tokens % 2 == 0) & rollout.loss_mask
    share = jnp.sum(even, axis=1) / jnp.sum(rollout.loss_mask, axis=1)
    return share[:, None].astype(jnp.float32)


def model() -> TransformerConfig:
  """Returns Qwen2 in the shape under test, f32, no remat, layers unrolled."""
  return TransformerConfig(
    vocab_size=WORKLOAD.vocab,
    num_layers=WORKLOAD.layers,
    embed_dim=WORKLOAD.embed,
    num_heads=WORKLOAD.heads,
    num_kv_heads=WORKLOAD.kv_heads,
    head_dim=WORKLOAD.head_size,
    mlp_dim=WORKLOAD.ffn,
    rope_theta=WORKLOAD.rope_theta,
    norm_eps=WORKLOAD.norm_eps,
    qkv_bias=True,
    tied_embeddings=True,
    scan_layers=False,
  )


def grpo() -> Algorithm:
  """Returns GRPO (arXiv 2402.03300) with full-length samples."""
  mean = aggregates.SequenceMeanTokenMean()
  surrogate = terms.ClippedSurrogate(
    clip_low=WORKLOAD.clip, clip_high=WORKLOAD.clip
  )
  return Algorithm(
    rollout=Single(
      eos_ids=jnp.array(NO_EOS, jnp.int32),
      sampling=Sampling(temperature=1.0),
      group_size=WORKLOAD.group_size,
      max_new_tokens=WORKLOAD.completion_length,
    ),
    reward=EvenShare(),
    combine=combine.Identity(),
    label=labels.KeepAll(),
    credit=credit.TurnLocal(baseline=credit.GroupNormalized()),
    terms={
      'policy': Term(fn=surrogate, aggregate=mean),
      'kl': Term(
        fn=terms.ReferenceKL(), aggregate=mean, weight=WORKLOAD.kl_weight
      ),
    },
    needs=('old_logprobs', 'ref_logprobs'),
  )


def prompts(seed: int) -> Prompts:
  """Returns the prompts of one batch; they have no reference answer."""
  tokens = np.array(WORKLOAD.prompt_ids(seed=seed), np.int32)
  count = WORKLOAD.prompts
  return Prompts(
    tokens=tokens,
    mask=np.ones(tokens.shape, bool),
    example_id=np.arange(count, dtype=np.int32) + seed * count,
    answer=np.zeros((count, 1), np.int32),
    answer_mask=np.zeros((count, 1), bool),
    extra={},
  )


def build() -> Side:
  """The framework's programs on the workload."""
  policy, algorithm = make_policy(model()), grpo()
  models = train_state.Models(policy)
  optimizers = train_state.Optimizers(optax.adamw(WORKLOAD.learning_rate))
  state = train_state.init_state(
    models, optimizers, seed=0, with_reference=True
  )
  leaves = jax.tree.leaves(state.params)
  sample_program = jax.jit(functools.partial(train_step.sample, models))
  step_program = jax.jit(
    functools.partial(
      train_step.step, models, optimizers, algorithm, plan=train_step.Plan()
    ),
    donate_argnums=0,
  )
  seeds = itertools.count()

  def rollout() -> None:
    result = jax.device_get(sample_program(algorithm, state, prompts(0)))
    protocol.check_lengths(result.loss_mask.sum(axis=1).tolist())

  def step() -> None:
    nonlocal state
    state, metrics, _ = step_program(state, prompts(next(seeds)))
    length = jax.device_get(metrics)['rollout/length_t1']
    protocol.check_lengths([int(length)] * WORKLOAD.rows)

  return Side(sum(leaf.size for leaf in leaves), rollout, step)


def main() -> None:
  """Measures and prints."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--rollouts', type=int, default=5)
  parser.add_argument('--steps', type=int, default=5)
  flags = parser.parse_args()
  side = build()
  warm_up = protocol.WARM_UP_STEPS
  protocol.report(
    side='ours',
    packages=['jax', 'jaxlib', 'flax', 'optax'],
    parameters=side.parameters,
    rollout_stamps=protocol.repeat(side.rollout, times=flags.rollouts + 1),
    step_stamps=protocol.repeat(side.step, times=flags.steps + warm_up),
  )


if __name__ == '__main__':
  main()
