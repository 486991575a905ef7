"""Rotary frequencies, and how they are stretched for longer contexts."""

from __future__ import annotations

import dataclasses
import math

import jax.numpy as jnp
from jaxtyping import Array, Float


@dataclasses.dataclass(frozen=True, kw_only=True)
class RopeScaling:
  """Slow frequencies divided, by the turns that they make (Llama 3.1).

  A frequency that makes at least `high_frequency_factor` turns within the
  original context is kept, one that makes at most `low_frequency_factor` is
  divided by `factor`, and between them the two are mixed linearly in turns.

  Attributes:
    factor: by how much the context grew, >= 1.
    low_frequency_factor: turns below which a frequency is divided.
    high_frequency_factor: turns above which it is kept; the greater one.
    original_context: tokens of the context of pre-training.
  """

  factor: float
  low_frequency_factor: float
  high_frequency_factor: float
  original_context: int

  def __post_init__(self) -> None:
    low, high = self.low_frequency_factor, self.high_frequency_factor
    if not 0 < low < high:
      raise ValueError(
        f'low_frequency_factor={low} and high_frequency_factor={high} bound '
        'the mixed frequencies from below and above; give 0 < low < high.'
      )

  def stretch(
    self, frequencies: Float[Array, 'half'], *, theta: float
  ) -> Float[Array, 'half']:
    """Returns frequencies of which the slow ones are divided.

    Args:
      frequencies: angle per position of each pair, in radians.
      theta: their base.
    """
    del theta  # Turns say it all.
    turns = self.original_context / (2 * math.pi) * frequencies
    low, high = self.low_frequency_factor, self.high_frequency_factor
    kept = jnp.clip((turns - low) / (high - low), 0.0, 1.0)
    return frequencies * (kept + (1.0 - kept) / self.factor)


def evenly_scaled(factor: float) -> RopeScaling:
  """Every rotary frequency divided by `factor`: linear scaling.

  Args:
    factor: by how much the context grew, >= 1.

  Returns:
    A scaling whose bounds no frequency reaches.
  """
  return RopeScaling(
    factor=factor,
    low_frequency_factor=1e29,
    high_frequency_factor=1e30,
    original_context=1,
  )


@dataclasses.dataclass(frozen=True, kw_only=True)
class YarnScaling:
  """Slow frequencies divided, by their place among the pairs (YaRN).

  The pair of which `fast_turns` fit into the original context and all before
  it are kept, the one of `slow_turns` and all behind it are divided by
  `factor`, and between them the two are mixed linearly in the pair's number.

  Source: arXiv 2309.00071, equations 19 to 23.
  Differs: the bounds are rounded to whole pairs, as published decoders do.

  Attributes:
    factor: by how much the context grew, >= 1.
    original_context: tokens of the context of pre-training.
    fast_turns: turns above which a frequency is kept (beta).
    slow_turns: turns below which it is divided (alpha).
    attention_factor: on queries and on keys.
    whole_pairs: whether the bounds are rounded.
  """

  factor: float
  original_context: int
  fast_turns: float = 32.0
  slow_turns: float = 1.0
  attention_factor: float = 1.0
  whole_pairs: bool = True

  def __post_init__(self) -> None:
    if not 0 < self.slow_turns < self.fast_turns:
      raise ValueError(
        f'slow_turns={self.slow_turns} and fast_turns={self.fast_turns} bound '
        'the mixed frequencies; give 0 < slow_turns < fast_turns.'
      )

  def stretch(
    self, frequencies: Float[Array, 'half'], *, theta: float
  ) -> Float[Array, 'half']:
    """Returns frequencies of which the slow ones are divided.

    Args:
      frequencies: angle per position of each pair, in radians.
      theta: their base.
    """
    pairs = len(frequencies)
    low, high = (
      pairs
      * math.log(self.original_context / (n * 2 * math.pi))
      / math.log(theta)
      for n in (self.fast_turns, self.slow_turns)
    )
    if self.whole_pairs:
      low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, 2 * pairs - 1)
    span = high - low or 1e-3
    divided = jnp.clip((jnp.arange(pairs) - low) / span, 0.0, 1.0)
    return frequencies * (1.0 - divided + divided / self.factor)


def yarn_attention_factor(factor: float) -> float:
  """What a longer context is worth in sharper attention, 0.1 ln(s) + 1.

  Args:
    factor: s, by how much the context grew.

  Returns:
    The factor on queries and on keys; 1 where nothing grew.

  Source: arXiv 2309.00071, equation 22.
  Differs: no.
  """
  return 0.1 * math.log(factor) + 1.0 if factor > 1 else 1.0
