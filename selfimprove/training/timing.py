"""Where the seconds go: phases of a step, first calls kept apart.

The first call of a phase compiles; its seconds say nothing about the steps that
follow, so they are reported under another name and left out of the rates.
"""

from __future__ import annotations

import contextlib
import operator
import time
from collections.abc import Callable, Iterator, Mapping


class PhaseTimers:
  """Wall-clock seconds per phase and in total, step by step.

  JAX returns before it has computed: block on a phase's result inside it.
  """

  def __init__(self, *, clock: Callable[[], float] = time.perf_counter) -> None:
    """Starts the clock.

    Args:
      clock: seconds that only grow.
    """
    self._clock = clock
    self._step_began = clock()
    self._known: set[tuple[str, str]] = set()
    self._step: dict[str, float] = {}
    self._compiled = False

  @contextlib.contextmanager
  def phase(self, name: str, *, variant: str = '') -> Iterator[None]:
    """Times the enclosed block.

    Args:
      name: of the phase, as 'rollout'.
      variant: what it was compiled for, as the stage: the first call of each
        variant counts as a compilation.

    Yields:
      Nothing.

    Raises:
      ValueError: the name is 'total'.
    """
    if name == 'total':
      raise ValueError("A phase cannot be named 'total', which is their sum.")
    key = f'time/{name}'
    if (name, variant) not in self._known:
      self._known.add((name, variant))
      self._compiled = True
      key = f'time/compile_{name}'
    began = self._clock()
    try:
      yield
    finally:
      self._step[key] = self._step.get(key, 0.0) + self._clock() - began

  def note(self, values: Mapping[str, float]) -> None:
    """Adds quantities that others measured to those of the step.

    Args:
      values: by name; they are summed over the step, and of a name that ends
        in `_max`, or in `_max_` and more, the largest is kept.
    """
    for name, value in values.items():
      join = max if '_max' in name else operator.add
      self._step[name] = join(self._step.get(name, 0.0), value)

  def end_step(self, *, tokens: float = 0.0) -> dict[str, float]:
    """The seconds of the step that ends now.

    Args:
      tokens: written by the policy in this step.

    Returns:
      `time/<phase>` or `time/compile_<phase>` for each phase, what was noted,
      `time/total` for all since the last step, and, in steps without a
      compilation that had tokens, `speed/tokens_per_second`.
    """
    now = self._clock()
    seconds = now - self._step_began
    row = {**self._step, 'time/total': seconds}
    if tokens and seconds > 0 and not self._compiled:
      row['speed/tokens_per_second'] = tokens / seconds
    self._step_began, self._step, self._compiled = now, {}, False
    return row
