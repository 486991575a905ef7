"""Verifiers as rewards: in graph on token ids, on the host on texts."""

from __future__ import annotations

import logging
import math
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32, Int

from selfimprove import types
from selfimprove.rewards import pool as pools
from selfimprove.rewards.attempts import attempt_ids, reference_ids
from selfimprove.rewards.failures import FailureFile, VerifierError
from selfimprove.rewards.verdict_cache import (
  CachedPool,
  Outcome,
  counted,
  timed,
)
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
  number has no verdict: by default that raises. With a `fallback`, or for what
  exceeds its time with a `timeout_reward`, the attempt gets that reward
  instead, a warning is logged and `metrics` counts it. Either way the sample
  is saved, if `save_failures` has said where. What a model writes can make a
  verifier of mathematics or code run for ever, so that a long run wants a
  `timeout_reward`.

  An attempt that the length limit cut off is not judged: whatever it seems to
  say, it is wrong, as for `ExactMatch`.

  Attributes:
    fn: pure function (attempt, reference) -> float at the top level of an
      importable module, or an object of such a class (`answers.exact_text`,
      `mathematics.MathAnswer()`). With `names` and `name(reference)`, as
      `by_source.BySource` has them, calls are counted by name as well.
    timeout_seconds: wall-clock time of one call, > 0.
    workers: processes, >= 1.
    fallback: reward of an attempt without a verdict; None raises instead.
    timeout_reward: of an attempt whose call exceeds its time; None treats it
      as any other without a verdict.
    unfinished: reward of an attempt that was cut off; None judges it.
    cache_size: verdicts that are remembered, >= 0; 0 makes every call.
    memory_bytes: address space of a worker, in which a call that needs more
      fails; None sets no limit.
    calls: the processes and what they said; made from the fields above,
      started at first use.
    failures: where samples without a verdict go.
    last: what became of the calls of the last `judge`.
  """

  fn: pools.Verifier = types.static()
  timeout_seconds: float = types.static(default=10.0)
  workers: int = types.static(default=4)
  fallback: float | None = types.static(default=None)
  timeout_reward: float | None = types.static(default=None)
  unfinished: float | None = types.static(default=0.0)
  cache_size: int = types.static(default=1 << 16)
  memory_bytes: int | None = types.static(default=8 << 30)
  calls: CachedPool = types.static(default=None)
  failures: FailureFile = types.static(default=None)
  last: list[tuple[str, Outcome]] = types.static(default=None)

  def __post_init__(self) -> None:
    for name in ('fallback', 'timeout_reward', 'unfinished'):
      value = getattr(self, name)
      if value is not None and not math.isfinite(value):
        raise ValueError(f'{name} is {value}; use a finite reward, or None.')
    # JAX rebuilds records through their constructor: the pool is passed on.
    if self.calls is None:
      pool = pools.VerifierPool(
        self.fn,
        timeout_seconds=self.timeout_seconds,
        workers=self.workers,
        memory_bytes=self.memory_bytes,
      )
      made = CachedPool(pool, size=self.cache_size)
      object.__setattr__(self, 'calls', made)
      object.__setattr__(self, 'failures', FailureFile())
      object.__setattr__(self, 'last', [])

  def judge(
    self,
    attempts: Sequence[Sequence[str]],
    references: Sequence[Mapping[str, Any]],
    *,
    finished: Bool[np.ndarray, 'b turns'] | None = None,
  ) -> Float32[np.ndarray, 'b turns']:
    """Rewards of attempts, in their order.

    Args:
      attempts: texts of each row, as many per row.
      references: data row of each row.
      finished: whether each attempt ended by itself; None for all of them.

    Returns:
      One reward per attempt.

    Raises:
      VerifierError: an attempt got no verdict, and no reward stands for it.
      ValueError: rows and references do not match.
      RuntimeError: a worker cannot load `fn`.
    """
    shape = len(attempts), _turns(attempts, references)
    calls = [
      (attempt, reference)
      for row, reference in zip(attempts, references)
      for attempt in row
    ]
    rewards = np.zeros(len(calls), np.float32)
    asked = np.ones(len(calls), bool)
    if finished is not None and self.unfinished is not None:
      asked = finished.reshape(-1)
      rewards[~asked] = self.unfinished
    asked_calls = [calls[index] for index in np.flatnonzero(asked)]
    name = getattr(self.fn, 'name', lambda _: '')
    names = [name(reference) for _, reference in asked_calls]
    outcomes = self.calls.run(
      asked_calls,
      stop_at_failure=self.fallback is None,
      stop_at_timeout=self.timeout_reward is None,
    )
    self.last[:] = zip(names, outcomes)
    rewards[asked] = self._rewards(asked_calls, outcomes)
    return rewards.reshape(shape)

  def check(self, references: Sequence[Mapping[str, Any]]) -> None:
    """Checks rows before any attempt, where `fn` has a `check(reference)`.

    Args:
      references: data rows.

    Raises:
      ValueError: `fn` cannot judge by one; names the first.
    """
    check = getattr(self.fn, 'check', lambda _: None)
    for index, reference in enumerate(references):
      try:
        check(reference)
      except ValueError as error:
        raise ValueError(
          f'Row {index} of {len(references)} cannot be judged by '
          f'{pools.verifier_name(self.fn)!r}: {error}'
        ) from error

  def metrics(self) -> types.Metrics:
    """What became of the calls of the last `judge`.

    Returns:
      `reward/verifier_calls`, `reward/verifier_failures` and, among these,
      `reward/verifier_timeouts`; of a verifier with names these for each,
      `reward/verifier_calls_<name>`.
    """
    return self._by_name('reward/verifier_', counted)

  def timing(self) -> dict[str, float]:
    """What a clock and the cache say of the calls of the last `judge`.

    Returns:
      `verifier/cached`, `verifier/seconds` of all workers together and
      `verifier/seconds_max` of the longest call; with names as for `metrics`.
    """
    return self._by_name('verifier/', timed)

  def save_failures(self, path: str | pathlib.Path) -> None:
    """Appends samples without a verdict to a file from now on.

    Args:
      path: of JSON lines; made when there is something to save.
    """
    self.failures.path = pathlib.Path(path)

  def close(self) -> None:
    """Ends the processes; a later `judge` starts new ones."""
    self.calls.pool.close()

  def _rewards(
    self,
    calls: Sequence[tuple[str, Mapping[str, Any]]],
    outcomes: Sequence[Outcome],
  ) -> list[float]:
    """Verdicts, and what stands for those that are missing."""
    rewards, errors = [], []
    for call, outcome in zip(calls, outcomes):
      reward = outcome.verdict
      if isinstance(reward, pools.Failure):
        try:
          reward = self._instead(call, reward, known=outcome.cached)
        except VerifierError as error:  # The others are to be saved as well.
          errors.append(error)
          continue
      # Behind a failure that raises no call was made.
      rewards.append(0.0 if reward is None else reward)
    if errors:
      raise errors[0]
    return rewards

  def _instead(
    self,
    call: tuple[str, Mapping[str, Any]],
    failure: pools.Failure,
    *,
    known: bool,
  ) -> float:
    """The reward without a verdict; equal samples are saved once."""
    verifier = pools.verifier_name(self.fn)
    error = VerifierError(
      verifier, failure.reason, *call, path=self.failures.path
    )
    if not known:
      self.failures.save(
        verifier=verifier,
        reason=failure.reason,
        timed_out=failure.timed_out,
        attempt=call[0],
        reference=call[1],
      )
    reward = self.fallback
    if failure.timed_out and self.timeout_reward is not None:
      reward = self.timeout_reward
    if reward is None:
      raise error
    _log.warning('%s Its reward is %g.', error, reward)
    return reward

  def _by_name(
    self, prefix: str, count: Callable[[Iterable[Outcome]], dict[str, float]]
  ) -> dict[str, float]:
    found = count(outcome for _, outcome in self.last)
    for name in getattr(self.fn, 'names', ()):
      of_name = count(
        outcome for called, outcome in self.last if called == name
      )
      found |= {f'{key}_{name}': value for key, value in of_name.items()}
    return {f'{prefix}{key}': value for key, value in found.items()}


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
