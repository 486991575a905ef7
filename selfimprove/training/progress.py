"""How far a run is: a bar for people who watch, a few lines for log files."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TextIO

from tqdm import tqdm


class Progress:
  """Shows step, rate, time left, the stage and a few metrics.

  On a terminal this is one line that is drawn over; elsewhere a line is printed
  at most every `every_seconds`, and at the end.
  """

  def __init__(
    self,
    total: int,
    *,
    start: int = 0,
    shown: Sequence[str] = (),
    every_seconds: float = 30.0,
    stream: TextIO | None = None,
    visible: bool = True,
    clock: Callable[[], float] = time.monotonic,
  ) -> None:
    """Starts the clock.

    Args:
      total: steps of the whole run.
      start: steps done before this process.
      shown: names of the metrics to show.
      every_seconds: least time between two lines where there is no terminal.
      stream: where to write; standard error by default.
      visible: False shows nothing, as all processes of a run but one do.
      clock: seconds that only grow.
    """
    self._total, self._start, self._step = total, start, start
    self._shown = tuple(shown)
    self._every = every_seconds
    self._stream = sys.stderr if stream is None else stream
    self._clock = clock
    self._began = clock()
    self._printed = -math.inf
    self._line = ''
    self._bar: Any = None
    self._visible = visible
    if visible and self._stream.isatty():
      self._bar = tqdm(
        total=total, initial=start, file=self._stream, dynamic_ncols=True
      )

  def update(
    self, step: int, metrics: Mapping[str, float], *, stage: str = ''
  ) -> None:
    """Shows the state after a step.

    Args:
      step: steps done.
      metrics: name -> number; of these the `shown` ones that are there appear.
      stage: name of the current stage.
    """
    values = {name: metrics[name] for name in self._shown if name in metrics}
    if self._bar is not None:
      self._bar.set_description(stage, refresh=False)
      self._bar.set_postfix(
        {name: f'{value:.4g}' for name, value in values.items()}, refresh=False
      )
      self._bar.update(step - self._step)
    self._step = step
    self._line = self._describe(step, values, stage)
    if self._bar is None and self._clock() - self._printed >= self._every:
      self._print()

  def say(self, text: str) -> None:
    """Prints a line of its own, without tearing the bar.

    Args:
      text: one line.
    """
    if self._bar is not None:
      self._bar.write(text, file=self._stream)
    elif self._visible:
      print(text, file=self._stream, flush=True)

  def close(self) -> None:
    """Shows the last state and leaves the cursor on a fresh line."""
    if self._bar is not None:
      self._bar.close()
    elif self._line:
      self._print()

  def _print(self) -> None:
    self.say(self._line)
    self._printed = self._clock()
    self._line = ''

  def _describe(
    self, step: int, values: Mapping[str, float], stage: str
  ) -> str:
    seconds = self._clock() - self._began
    rate = (step - self._start) / seconds if seconds > 0 else 0.0
    left = (self._total - step) / rate if rate > 0 else math.inf
    parts = [
      f'{stage}: step {step}/{self._total}'
      if stage
      else f'step {step}/{self._total}',
      f'{rate:.3g} steps/s',
      f'{_clock_time(left)} left',
    ]
    parts += [f'{name}={value:.4g}' for name, value in values.items()]
    return ', '.join(parts)


def _clock_time(seconds: float) -> str:
  """Hours, minutes and seconds; a dash where nothing is known yet."""
  if not math.isfinite(seconds):
    return '-'
  minutes, rest = divmod(round(max(seconds, 0.0)), 60)
  hours, minutes = divmod(minutes, 60)
  return f'{hours}:{minutes:02}:{rest:02}'
