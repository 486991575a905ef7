"""Verifiers as rewards: in graph on token ids, on the host on texts."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32, Int

from selfimprove import types
from selfimprove.rewards import pool as pools
from selfimprove.rewards.attempts import attempt_ids, reference_ids
from selfimprove.types import Prompts, Rollout

_log = logging.getLogger(__name__)


@types.record
class ExactMatch:
  """1.0 where an attempt is the reference answer, token by token, else 0.0.

  An attempt is right iff it is finished (it ended with an EOS token) and the
  tokens that the policy wrote, without that EOS, are the ids of
  `Prompts.answer`. A truncated attempt is therefore wrong even where its
  tokens agree, and a row without a token-exact answer is never right: its
  problems need a `HostVerifier`.

  Attributes:
    eos_ids: ids that end an attempt; None for whatever the rollout stopped at:
      the last token of a finished attempt.
  """

  eos_ids: Int[Array, 'e'] | tuple[int, ...] | None = None

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
    answer, answer_mask = reference_ids(rollout, prompts)
    verdicts = []
    for turn in range(len(rollout.spans)):
      tokens, written, _ = attempt_ids(rollout, turn)
      content = written & ~_final_eos(tokens, written, self.eos_ids)
      verdicts.append(_same_ids(tokens, content, answer, answer_mask))
    right = jnp.stack(verdicts, axis=1) & rollout.finished
    return right.astype(jnp.float32)


@types.record
class HostVerifier:
  """Verdicts of a function of text, called in killable processes.

  Fills the reward slot of an algorithm through `judge`. A call that raises,
  exceeds its time, ends its process or returns something else than a finite
  number has no verdict: by default that raises, and with a `fallback` the
  attempt gets that reward, a warning is logged and `metrics` counts it.

  Attributes:
    fn: pure function (attempt, reference) -> float at the top level of an
      importable module, or an object of such a class (`answers.exact_text`,
      `answers.Numeric()`).
    timeout_seconds: wall-clock time of one call, > 0.
    workers: processes, >= 1.
    fallback: reward of an attempt without a verdict; None raises instead.
    memory_bytes: address space of a worker, in which a call that needs more
      fails; None sets no limit.
    pool: the processes; made from the fields above, started at first use.
  """

  fn: pools.Verifier = types.static()
  timeout_seconds: float = types.static(default=10.0)
  workers: int = types.static(default=4)
  fallback: float | None = types.static(default=None)
  memory_bytes: int | None = types.static(default=8 << 30)
  pool: pools.VerifierPool = types.static(default=None)

  def __post_init__(self) -> None:
    if self.fallback is not None and not math.isfinite(self.fallback):
      raise ValueError(
        f'fallback is {self.fallback}; use a finite reward, or None to raise.'
      )
    # JAX rebuilds records through their constructor: the pool is passed on.
    if self.pool is None:
      made = pools.VerifierPool(
        self.fn,
        timeout_seconds=self.timeout_seconds,
        workers=self.workers,
        memory_bytes=self.memory_bytes,
      )
      object.__setattr__(self, 'pool', made)

  def judge(
    self,
    attempts: Sequence[Sequence[str]],
    references: Sequence[Mapping[str, Any]],
  ) -> Float32[np.ndarray, 'b turns']:
    """Rewards of attempts, in their order.

    Args:
      attempts: texts of each row, as many per row.
      references: data row of each row.

    Returns:
      One reward per attempt.

    Raises:
      VerifierError: an attempt got no verdict and there is no `fallback`.
      ValueError: rows and references do not match.
      RuntimeError: a worker cannot load `fn`.
    """
    turns = _turns(attempts, references)
    calls = [
      (attempt, reference)
      for row, reference in zip(attempts, references)
      for attempt in row
    ]
    outcomes = self.pool.run(calls, stop_at_failure=self.fallback is None)
    rewards = np.zeros(len(calls), np.float32)
    for index, outcome in enumerate(outcomes):
      if isinstance(outcome, pools.Failure):
        error = VerifierError(
          pools.verifier_name(self.fn), outcome.reason, *calls[index]
        )
        if self.fallback is None:
          raise error
        _log.warning('%s Its reward is %g.', error, self.fallback)
        outcome = self.fallback
      rewards[index] = outcome
    return rewards.reshape(len(attempts), turns)

  def metrics(self) -> types.Metrics:
    """What became of the calls of the last `judge`.

    Returns:
      `reward/verifier_calls`, `reward/verifier_failures` and, among these,
      `reward/verifier_timeouts`.
    """
    return {
      f'reward/verifier_{name}': float(count)
      for name, count in self.pool.counts.items()
    }

  def close(self) -> None:
    """Ends the processes; a later `judge` starts new ones."""
    self.pool.close()


class VerifierError(RuntimeError):
  """An attempt that got no verdict.

  Attributes:
    reason: what happened.
    attempt: the text that was judged, whole.
    reference: the data row it was judged against, whole.
  """

  def __init__(
    self,
    name: str,
    reason: str,
    attempt: str,
    reference: Mapping[str, Any],
  ) -> None:
    super().__init__(
      f'Verifier {name!r} {reason.rstrip(".")} (attempt {attempt!r:.200}, '
      f'reference {dict(reference)!r:.200}); correct the verifier or the row, '
      'or give `HostVerifier` a `fallback` reward.'
    )
    self.reason = reason
    self.attempt = attempt
    self.reference = reference


def _final_eos(
  tokens: Int[Array, 'b n'],
  written: Bool[Array, 'b n'],
  eos_ids: Int[Array, 'e'] | tuple[int, ...] | None,
) -> Bool[Array, 'b n']:
  """True on the last written token of a row where it is an EOS."""
  rank = jnp.cumsum(written, axis=1)
  last = written & (rank == rank[:, -1:])
  if eos_ids is None:
    return last
  ends = jnp.asarray(eos_ids, jnp.int32)[None, None, :]
  return last & (tokens[:, :, None] == ends).any(axis=2)


def _same_ids(
  tokens: Int[Array, 'b n'],
  content: Bool[Array, 'b n'],
  answer: Int[Array, 'b a'],
  answer_mask: Bool[Array, 'b a'],
) -> Bool[Array, 'b']:
  """True where the content tokens are the answer, and there is an answer."""
  slot = jnp.clip(jnp.cumsum(content, axis=1) - 1, 0, answer.shape[1] - 1)
  agree = tokens == jnp.take_along_axis(answer, slot, axis=1)
  length = answer_mask.sum(axis=1)
  as_long = content.sum(axis=1) == length
  return (agree | ~content).all(axis=1) & as_long & (length > 0)


def _turns(
  attempts: Sequence[Sequence[str]], references: Sequence[Mapping[str, Any]]
) -> int:
  if len(attempts) != len(references):
    raise ValueError(
      f'There are {len(attempts)} rows of attempts and {len(references)} '
      'references; give one reference per row.'
    )
  lengths = {len(row) for row in attempts}
  if len(lengths) > 1:
    raise ValueError(
      f'Rows have {sorted(lengths)} attempts; give as many in every row.'
    )
  return lengths.pop() if lengths else 0
