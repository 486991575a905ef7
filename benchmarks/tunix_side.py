"""Tunix's rollout and whole GRPO step, timed inside Tunix's environment.

Prints one JSON line (see `protocol.report`). Started by `compare_tunix.py`,
which pins the core and sets XLA to one thread; by hand:

    taskset -c 1 <environment with google-tunix==0.1.7>/bin/python \
        benchmarks/tunix_side.py --rollouts=5 --steps=5
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
import optax
import protocol
from flax import nnx
from protocol import WORKLOAD
from tunix.generate import sampler
from tunix.models.qwen2 import model as qwen2
from tunix.rl import rl_cluster as cluster_lib
from tunix.rl.grpo import grpo_learner
from tunix.rl.rollout import base_rollout

NO_EOS = [2**30]
"""An end token that is outside the vocabulary: no sample stops early."""

CACHE_SLOTS = WORKLOAD.prompt_length + WORKLOAD.completion_length + 1


class NumberTokenizer:
  """Texts that are numbers with spaces between; costs next to nothing."""

  def encode(self, text: str) -> list[int]:
    """Returns the ids in `text`."""
    return [int(word) for word in text.split()]

  def decode(self, ids: Sequence[int]) -> str:
    """Returns the ids as text."""
    return ' '.join(map(str, ids))

  def bos_id(self) -> int:
    """Returns 0: Tunix then puts no token before the prompt."""
    return 0

  def eos_id(self) -> int:
    """Returns the id of the end of a text."""
    return 2

  def pad_id(self) -> int:
    """Returns the id of padding."""
    return WORKLOAD.pad_id


class StampedReward:
  """Share of even tokens, and a clock reading at each call.

  Tunix calls it once a step, so that the time between two calls is that of
  one whole step, wherever in the step the call happens.

  Attributes:
    stamps: one reading per call.
  """

  __name__ = 'even_share'

  def __init__(self) -> None:
    self.stamps: list[protocol.Stamp] = []

  def __call__(
    self, prompts: Sequence[str], completions: Sequence[str], **_: Any
  ) -> list[float]:
    """Returns one reward per completion, and notes the time."""
    del prompts
    rows = [np.array(text.split(), dtype=np.int32) for text in completions]
    protocol.check_lengths([len(row) for row in rows])
    self.stamps.append(protocol.stamp())
    return [float(np.mean(row % 2 == 0)) for row in rows]


def build_model(seed: int) -> qwen2.Qwen2:
  """Returns a random Qwen2 of the shape under test, f32, no remat."""
  config = qwen2.ModelConfig(
    num_layers=WORKLOAD.layers,
    vocab_size=WORKLOAD.vocab,
    embed_dim=WORKLOAD.embed,
    hidden_dim=WORKLOAD.ffn,
    num_heads=WORKLOAD.heads,
    head_dim=WORKLOAD.head_size,
    num_kv_heads=WORKLOAD.kv_heads,
    rope_theta=WORKLOAD.rope_theta,
    norm_eps=WORKLOAD.norm_eps,
    use_tied_embedding=True,
  )
  return qwen2.Qwen2(config, rngs=nnx.Rngs(seed))


def prompt_texts(seed: int) -> list[str]:
  """Returns the prompts of one batch as text."""
  decode = NumberTokenizer().decode
  return [decode(ids) for ids in WORKLOAD.prompt_ids(seed=seed)]


def time_rollouts(model: qwen2.Qwen2, times: int) -> list[protocol.Stamp]:
  """Stamps around `times` rollouts, after one that compiles."""
  cache = sampler.CacheConfig(
    cache_size=CACHE_SLOTS,
    num_layers=WORKLOAD.layers,
    num_kv_heads=WORKLOAD.kv_heads,
    head_dim=WORKLOAD.head_size,
  )
  sample = sampler.Sampler(model, NumberTokenizer(), cache)
  texts = np.repeat(prompt_texts(0), WORKLOAD.group_size).tolist()

  def rollout() -> None:
    output = sample(
      input_strings=texts,
      max_generation_steps=WORKLOAD.completion_length,
      max_prompt_length=WORKLOAD.prompt_length,
      temperature=1.0,
      top_p=1.0,
      return_logprobs=True,
      eos_tokens=NO_EOS,
    )
    protocol.check_lengths([len(tokens) for tokens in output.tokens])

  return protocol.repeat(rollout, times=times + 1)


def build_cluster(
  model: qwen2.Qwen2,
  reference: qwen2.Qwen2,
  mesh: jax.sharding.Mesh,
  steps: int,
) -> cluster_lib.RLCluster:
  """Tunix's engine with actor, reference and sampler on one device."""
  training = cluster_lib.RLTrainingConfig(
    actor_optimizer=optax.adamw(WORKLOAD.learning_rate),
    eval_every_n_steps=10**6,
    max_steps=steps,
    mini_batch_size=WORKLOAD.prompts,
    train_micro_batch_size=WORKLOAD.prompts,
  )
  rollout = base_rollout.RolloutConfig(
    max_tokens_to_generate=WORKLOAD.completion_length,
    max_prompt_length=WORKLOAD.prompt_length,
    kv_cache_size=CACHE_SLOTS,
    temperature=1.0,
    top_p=1.0,
    eos_tokens=NO_EOS,
    return_logprobs=True,
  )
  roles = cluster_lib.Role
  return cluster_lib.RLCluster(
    actor=model,
    reference=reference,
    tokenizer=NumberTokenizer(),
    cluster_config=cluster_lib.ClusterConfig(
      role_to_mesh=dict.fromkeys(
        (roles.ACTOR, roles.REFERENCE, roles.ROLLOUT), mesh
      ),
      rollout_engine='vanilla',
      offload_to_cpu=False,
      training_config=training,
      rollout_config=rollout,
    ),
  )


def time_steps(
  model: qwen2.Qwen2, mesh: jax.sharding.Mesh, times: int
) -> list[protocol.Stamp]:
  """Stamps around `times` GRPO steps, after the warm-up steps."""
  # One call more than steps that are timed: a lap needs two calls.
  calls = protocol.WARM_UP_STEPS + times + 1
  reward = StampedReward()
  learner = grpo_learner.GRPOLearner(
    rl_cluster=build_cluster(model, build_model(0), mesh, calls),
    reward_fns=reward,
    algo_config=grpo_learner.GRPOConfig(
      num_generations=WORKLOAD.group_size,
      num_iterations=1,
      beta=WORKLOAD.kl_weight,
      epsilon=WORKLOAD.clip,
      # k3, what our side minimises; the default has no pull towards the
      # reference. The cost is the same.
      kl_loss_mode='low_var_kl',
    ),
  )

  def batches() -> Iterator[dict[str, np.ndarray]]:
    for step in range(calls):
      yield {'prompts': np.array(prompt_texts(step))}

  learner.train(batches())
  return reward.stamps


def main() -> None:
  """Measures and prints."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--rollouts', type=int, default=5)
  parser.add_argument('--steps', type=int, default=5)
  flags = parser.parse_args()
  mesh = jax.make_mesh(
    (1, 1), ('fsdp', 'tp'), axis_types=(jax.sharding.AxisType.Auto,) * 2
  )
  # Tunix reads the mesh from the context.
  with mesh:
    model = build_model(0)
    parameters = sum(
      leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param))
    )
    protocol.report(
      side='tunix',
      packages=['google-tunix', 'jax', 'jaxlib', 'flax', 'optax'],
      parameters=parameters,
      rollout_stamps=time_rollouts(model, flags.rollouts),
      step_stamps=time_steps(model, mesh, flags.steps),
    )


if __name__ == '__main__':
  main()
