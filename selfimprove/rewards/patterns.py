"""In-graph verdicts on attempts of which many are right."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from selfimprove import types
from selfimprove.rewards.attempts import attempt_ids, reference_ids
from selfimprove.types import Prompts, Rollout


@types.record
class PrefixMatch:
  """1.0 where an attempt begins with the reference answer, else 0.0.

  What follows does not matter, nor whether the attempt ended. A row without a
  token-exact answer is never right.
  """

  def __call__(
    self, rollout: Rollout, prompts: Prompts
  ) -> Float[Array, 'b turns']:
    """Returns the verdicts.

    Args:
      rollout: samples; prompt i has the rows i*g .. i*g + g-1.
      prompts: the problems they were sampled for.

    Returns:
      1.0 or 0.0 per attempt, f32.

    Raises:
      ValueError: the rollout does not have `group_size` rows per prompt.
    """
    answer, mask = reference_ids(rollout, prompts)
    length = mask.sum(axis=1)[:, None]
    verdicts = []
    for turn in range(len(rollout.spans)):
      tokens, written, place = attempt_ids(rollout, turn)
      first = written & (place < length)
      at = jnp.clip(place, 0, answer.shape[1] - 1)
      agree = tokens == jnp.take_along_axis(answer, at, axis=1)
      whole = first.sum(axis=1) == length[:, 0]
      found = whole & (length[:, 0] > 0)
      verdicts.append((agree | ~first).all(axis=1) & found)
    return jnp.stack(verdicts, axis=1).astype(jnp.float32)


@types.record
class SameSum:
  """1.0 where an attempt has the reference's length and sum, else 0.0.

    Σ value(yₜ) ≡ Σ value(aₜ)  mod k

  Both are written in `symbols` alone, whose values are 0 … k−1; the attempt
  has ended behind as many of them as the reference has.

  Attributes:
    symbols: k ids, in the order of their values.
  """

  symbols: Int[Array, 'k']

  def __call__(
    self, rollout: Rollout, prompts: Prompts
  ) -> Float[Array, 'b turns']:
    """Returns the verdicts; arguments and errors as for `PrefixMatch`."""
    answer, mask = reference_ids(rollout, prompts)
    count = self.symbols.shape[0]
    length = mask.sum(axis=1)
    value, known = self._values(answer)
    sound = (known | ~mask).all(axis=1) & (length > 0)
    total = jnp.where(mask, value, 0).sum(axis=1)
    verdicts = []
    for turn in range(len(rollout.spans)):
      tokens, written, place = attempt_ids(rollout, turn)
      value, known = self._values(tokens)
      content = written & (place < length[:, None])
      # With its EOS it is one token longer.
      right = (written.sum(axis=1) == length + 1) & sound
      right &= (known | ~content).all(axis=1)
      difference = jnp.where(content, value, 0).sum(axis=1) - total
      verdicts.append(right & (difference % count == 0))
    ended = jnp.stack(verdicts, axis=1) & rollout.finished
    return ended.astype(jnp.float32)

  def _values(
    self, tokens: Int[Array, 'b n']
  ) -> tuple[Int[Array, 'b n'], Bool[Array, 'b n']]:
    """Values of tokens, and whether they have one."""
    same = tokens[:, :, None] == self.symbols[None, None, :]
    return jnp.argmax(same, axis=2), same.any(axis=2)
