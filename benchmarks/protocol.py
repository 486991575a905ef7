"""What the two sides of the speed check share: shape, work and stopwatch.

Imported by scripts that run in two different virtual environments, so it needs
the standard library and JAX, and nothing of either framework.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import itertools
import json
import os
import random
import resource
import time
from collections.abc import Callable, Sequence
from typing import Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class Workload:
  """The model and the batch: Qwen2 with 5.0 M parameters, 32 samples.

  Attributes:
    layers: decoder blocks.
    embed: width of the residual stream.
    ffn: width of the gated feed-forward layer.
    heads: query heads.
    kv_heads: key and value heads.
    head_size: width of a head.
    vocab: vocabulary; input and output embeddings are tied.
    rope_theta: base of the rotary frequencies.
    norm_eps: RMSNorm constant.
    prompts: problems of a batch.
    group_size: samples of one problem.
    prompt_length: tokens of every prompt, none of them padding.
    completion_length: tokens of every sample; no token ends one early.
    kl_weight: coefficient of the k3 term against the frozen reference.
    clip: half-width of the clipped surrogate.
    learning_rate: of AdamW, with optax's defaults otherwise.
    pad_id: token that neither prompts nor tokenizers use.
  """

  layers: int = 4
  embed: int = 256
  ffn: int = 1024
  heads: int = 8
  kv_heads: int = 4
  head_size: int = 32
  vocab: int = 4096
  rope_theta: int = 10_000
  norm_eps: float = 1e-6
  prompts: int = 4
  group_size: int = 8
  prompt_length: int = 64
  completion_length: int = 128
  kl_weight: float = 0.04
  clip: float = 0.2
  learning_rate: float = 1e-5
  pad_id: int = 0

  @property
  def rows(self) -> int:
    """Samples of a batch."""
    return self.prompts * self.group_size

  @property
  def tokens(self) -> int:
    """Tokens that one rollout samples."""
    return self.rows * self.completion_length

  @property
  def parameters(self) -> int:
    """Parameters of Qwen2 in this shape, counted by hand.

    q, k, v carry a bias, the output projection does not; two norms a block
    and one at the end.
    """
    q_width = self.heads * self.head_size
    kv_width = self.kv_heads * self.head_size
    attention = (self.embed + 1) * (q_width + 2 * kv_width)
    attention += q_width * self.embed
    block = attention + 3 * self.embed * self.ffn + 2 * self.embed
    return self.vocab * self.embed + self.layers * block + self.embed

  def prompt_ids(self, *, seed: int) -> list[list[int]]:
    """Random prompts, the same in both environments.

    Args:
      seed: which draw; batches of different steps use different seeds.

    Returns:
      `prompts` lists of `prompt_length` ids from [3, vocab): the ids below
      are left to padding, beginning and end of a text.
    """
    draw = random.Random(seed)
    return [
      [draw.randrange(3, self.vocab) for _ in range(self.prompt_length)]
      for _ in range(self.prompts)
    ]


WORKLOAD = Workload()

WARM_UP_STEPS = 2
"""Steps that are run and not counted: they compile and fill caches."""

Stamp = tuple[float, float]
"""CPU seconds of the process (all threads), and wall seconds."""


def stamp() -> Stamp:
  """Returns the two clocks now."""
  return time.process_time(), time.perf_counter()


def laps(stamps: Sequence[Stamp], *, drop: int) -> tuple[list[float], ...]:
  """Differences of consecutive stamps.

  Args:
    stamps: readings in order.
    drop: first differences that are not counted, >= 0.

  Returns:
    CPU seconds and wall seconds of each lap that counts.
  """
  pairs = list(itertools.pairwise(stamps))[drop:]
  cpu = [after[0] - before[0] for before, after in pairs]
  wall = [after[1] - before[1] for before, after in pairs]
  return cpu, wall


def repeat(call: Callable[[], Any], *, times: int) -> list[Stamp]:
  """Runs `call` again and again with the clock read in between.

  Args:
    call: the work; it must not return before the work is done.
    times: how often, >= 1.

  Returns:
    `times + 1` stamps.
  """
  stamps = [stamp()]
  for _ in range(times):
    call()
    stamps.append(stamp())
  return stamps


def core_gflops(*, size: int = 512, calls: int = 40) -> float:
  """Speed of this core on a plain f32 matrix product, in GFLOP/s.

  Measured beside each side, so that a side that ran while the core was slow
  (shared caches, lower clock) is seen.

  Args:
    size: side of the square matrices.
    calls: products that are timed.

  Returns:
    2·size³·calls / CPU seconds / 10⁹.
  """
  import jax  # Only the timed sides have JAX; the driver reads the constants.
  import jax.numpy as jnp

  product = jax.jit(lambda a: a @ a)
  matrix = jnp.eye(size, dtype=jnp.float32)
  stamps = repeat(lambda: product(matrix).block_until_ready(), times=calls + 1)
  seconds = stamps[-1][0] - stamps[1][0]
  return 2 * size**3 * calls / seconds / 1e9


def check_lengths(lengths: Sequence[int]) -> None:
  """Stops a measurement in which a sample ended early.

  Args:
    lengths: sampled tokens of each row.

  Raises:
    RuntimeError: not every row has the full length.
  """
  expected = [WORKLOAD.completion_length] * WORKLOAD.rows
  if list(lengths) != expected:
    raise RuntimeError(
      f'The samples have lengths {sorted(set(lengths))} in {len(lengths)} '
      f'rows; the check times {WORKLOAD.rows} rows of '
      f'{WORKLOAD.completion_length}: switch off every end token.'
    )


def report(
  *,
  side: str,
  packages: Sequence[str],
  parameters: int,
  rollout_stamps: Sequence[Stamp],
  step_stamps: Sequence[Stamp],
) -> None:
  """Prints the measurements of one side as one JSON line.

  Args:
    side: which framework.
    packages: distributions whose versions are reported.
    parameters: how many numbers the optimizer updates.
    rollout_stamps: around each rollout; the first one compiles.
    step_stamps: around each step; the first `WARM_UP_STEPS` are dropped.
  """
  rollout_cpu, rollout_wall = laps(rollout_stamps, drop=1)
  step_cpu, step_wall = laps(step_stamps, drop=WARM_UP_STEPS)
  row = {
    'side': side,
    'versions': {name: importlib.metadata.version(name) for name in packages},
    'cores': sorted(os.sched_getaffinity(0)),
    'xla_flags': os.environ.get('XLA_FLAGS', ''),
    'parameters': parameters,
    'tokens': WORKLOAD.tokens,
    'first_rollout_seconds': laps(rollout_stamps, drop=0)[0][0],
    'rollout_seconds': rollout_cpu,
    'rollout_wall_seconds': rollout_wall,
    'step_seconds': step_cpu,
    'step_wall_seconds': step_wall,
    'core_gflops': core_gflops(),
    'peak_rss_mib': resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
  }
  print(json.dumps(row), flush=True)
