"""Our rollout and whole GRPO step, timed as `tunix_side.py` times Tunix's.

Prints one JSON line (see `protocol.report`). Started by `compare_tunix.py`,
which pins the core and sets XLA to one thread; by hand:

    PYTHONPATH=. taskset -c 1 python benchmarks/our_side.py
"""

from __future__ import annotations

import argparse

import jax
import jax.numpy as jnp
import numpy as np
import protocol
from protocol import WORKLOAD

from selfimprove.models import config as model_config
from selfimprove.models import transformer
from selfimprove.rollout import decode, single
from selfimprove.types import Prompts

NO_EOS = [2**30]
"""An end token that is outside the vocabulary: no sample stops early."""


def model() -> model_config.TransformerConfig:
  """Returns Qwen2 in the shape under test, f32, no remat."""
  return model_config.TransformerConfig(
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
  )


def sampler() -> single.Single:
  """Returns one attempt of full length at temperature 1."""
  return single.Single(
    eos_ids=jnp.array(NO_EOS, jnp.int32),
    sampling=decode.Sampling(temperature=1.0),
    group_size=WORKLOAD.group_size,
    max_new_tokens=WORKLOAD.completion_length,
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
  )


def time_rollouts(times: int) -> list[protocol.Stamp]:
  """Stamps around `times` rollouts, after one that compiles."""
  policy = transformer.make_policy(model())
  params = policy.init(jax.random.key(0))
  sample = sampler()
  program = jax.jit(lambda p, b, k: sample(policy, p, b, k))
  batch = prompts(0)

  def rollout() -> None:
    result = jax.device_get(program(params, batch, jax.random.key(0)))
    protocol.check_lengths(result.loss_mask.sum(axis=1).tolist())

  return protocol.repeat(rollout, times=times + 1)


if __name__ == '__main__':
  stamps = time_rollouts(5)
  print(protocol.laps(stamps, drop=0))
