"""Runs that learn nothing say so: named symptoms, each with a cause and a fix.

A detector looks at one metric. It reports once when the metric has been bad for
`patience` observations in a row, and again only after it has been good.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from selfimprove.training.finite import START_AGAIN


@dataclasses.dataclass(frozen=True, kw_only=True)
class Detector:
  """A rule for one metric.

  Attributes:
    name: of the symptom; unique in a monitor.
    metric: whose value is judged.
    comparison: whether values from the threshold upwards or downwards are bad.
    threshold: the first bad value.
    patience: bad observations in a row before it reports, at least 1.
    action: what a report asks of the loop.
    advice: likely cause, and what to change.
    optional: whether some runs rightly never log the metric.
  """

  name: str
  metric: str
  comparison: Literal['at_least', 'at_most']
  threshold: float
  patience: int
  action: Literal['warn', 'stop']
  advice: str
  optional: bool = False

  def __post_init__(self) -> None:
    if self.comparison not in ('at_least', 'at_most'):
      raise ValueError(
        f'Detector {self.name!r}: comparison {self.comparison!r} is not '
        "'at_least' or 'at_most'."
      )
    if self.action not in ('warn', 'stop'):
      raise ValueError(
        f"Detector {self.name!r}: action {self.action!r} is not 'warn' or "
        "'stop'."
      )
    if self.patience < 1:
      raise ValueError(
        f'Detector {self.name!r}: patience {self.patience} is below 1; give '
        'the number of bad observations in a row.'
      )

  def is_bad(self, value: float) -> bool:
    """Returns whether one value is on the bad side."""
    if self.comparison == 'at_least':
      return value >= self.threshold
    return value <= self.threshold


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finding:
  """What a detector reports.

  Attributes:
    name: of the detector.
    step: at which it reports.
    action: what it asks of the loop.
    sentence: step, metric, value, rule, likely cause and fix.
  """

  name: str
  step: int
  action: Literal['warn', 'stop']
  sentence: str


class Monitor:
  """Detectors and what they have seen."""

  def __init__(self, detectors: Sequence[Detector]) -> None:
    """Starts with nothing seen.

    Args:
      detectors: with unique names.

    Raises:
      ValueError: two have the same name.
    """
    names = [detector.name for detector in detectors]
    doubled = sorted({name for name in names if names.count(name) > 1})
    if doubled:
      raise ValueError(f'Detectors share the names {doubled}; rename one each.')
    self._detectors = tuple(detectors)
    # Per detector: bad observations in a row; no entry before its metric came.
    self._streaks: dict[str, int] = {}

  def observe(self, step: int, metrics: Mapping[str, float]) -> list[Finding]:
    """Judges one step.

    Args:
      step: updates done.
      metrics: name -> number; absent and NaN values are not judged.

    Returns:
      What is to be reported now.
    """
    findings = []
    for detector in self._detectors:
      if detector.metric not in metrics:
        continue
      value = float(metrics[detector.metric])
      streak = self._streaks.setdefault(detector.name, 0) + 1
      if math.isnan(value):
        continue
      streak = streak if detector.is_bad(value) else 0
      self._streaks[detector.name] = streak
      if streak == detector.patience:
        findings.append(_finding(detector, step, value))
    return findings

  def unobserved(self) -> list[str]:
    """Returns the metrics that detectors wait for: none of them optional."""
    return [
      detector.metric
      for detector in self._detectors
      if detector.name not in self._streaks and not detector.optional
    ]

  def state(self) -> dict[str, Any]:
    """Returns what has been seen, as JSON."""
    return {'streaks': dict(self._streaks)}

  def load(self, state: Mapping[str, Any]) -> None:
    """Goes on from what another monitor had seen.

    Args:
      state: what `state` returned; detectors that are gone are forgotten.
    """
    names = {detector.name for detector in self._detectors}
    self._streaks = {
      name: int(streak)
      for name, streak in state['streaks'].items()
      if name in names
    }


def _finding(detector: Detector, step: int, value: float) -> Finding:
  side = 'at least' if detector.comparison == 'at_least' else 'at most'
  rule = f'{side} {detector.threshold:g} for {detector.patience} observations'
  return Finding(
    name=detector.name,
    step=step,
    action=detector.action,
    sentence=(
      f'Step {step}: `{detector.metric}` is {value:.4g}, {rule} '
      f'({detector.name}): {detector.advice}.'
    ),
  )


def default_detectors() -> tuple[Detector, ...]:
  """The detectors that a run has unless it names others.

  Returns:
    Detectors of tied groups, missing EOS, blow-up, collapse and copying.
  """
  return (*_of_samples(), *_of_policy())


def _of_samples() -> tuple[Detector, ...]:
  """Symptoms in what was sampled and how it was judged."""
  return (
    Detector(
      name='tied_groups',
      metric='rollout/tied_groups',
      comparison='at_least',
      threshold=1.0,
      patience=10,
      action='warn',
      advice=(
        'all samples of every group have the same reward, so the policy '
        'gradient is zero; the problems are too hard or too easy, or the '
        'verifier never matches: look at samples, change the problems, or '
        'raise the group size or the temperature'
      ),
      optional=True,
    ),
    Detector(
      name='no_eos',
      metric='rollout/truncated',
      comparison='at_least',
      threshold=1.0,
      patience=3,
      action='warn',
      advice=(
        'no attempt ends with EOS; the prompt template or the EOS ids do not '
        'belong to this model, or `max_new_tokens` is too small'
      ),
    ),
    *(_truncated(turn) for turn in (1, 2)),
    Detector(
      name='copied',
      metric='rollout/copied',
      comparison='at_least',
      threshold=0.99,
      patience=20,
      action='warn',
      advice=(
        'second attempts repeat the first; strengthen stage I, raise the '
        'progress bonus, or start from a base model that corrects itself '
        'more often'
      ),
      optional=True,
    ),
  )


def _of_policy() -> tuple[Detector, ...]:
  """Symptoms in what the policy makes of it."""
  return (
    *(_kl_blow_up(turn) for turn in (1, 2)),
    Detector(
      name='sampler_mismatch',
      metric='policy/sampler_gap',
      comparison='at_least',
      threshold=0.5,
      patience=3,
      action='warn',
      advice=(
        'trainer and sampler give the same tokens very different '
        'probabilities, so ratios blow up; check truncation (top-k, top-p), '
        'precision, and how many updates a batch is used for'
      ),
    ),
    Detector(
      name='entropy_collapse',
      metric='policy/entropy',
      comparison='at_most',
      threshold=1e-3,
      patience=20,
      action='warn',
      advice=(
        'samples hardly differ any more, so there is nothing left to learn '
        'from; raise the KL or entropy weight, lower the learning rate, or '
        'stop here if the reward is as high as it can be'
      ),
    ),
  )


def _truncated(turn: int) -> Detector:
  return Detector(
    name=f'truncated_t{turn}',
    metric=f'rollout/truncated_t{turn}',
    comparison='at_least',
    threshold=0.5,
    patience=10,
    action='warn',
    advice=(
      f'half of attempts {turn} are cut off before they end and are judged '
      'unfinished; raise `max_new_tokens` or penalise length'
    ),
    optional=True,
  )


def _kl_blow_up(turn: int) -> Detector:
  return Detector(
    name=f'kl_blow_up_t{turn}',
    # Per turn it is the divergence itself: `loss/kl` is weighted.
    metric=f'loss/kl_t{turn}',
    comparison='at_least',
    threshold=100.0,
    patience=5,
    action='stop',
    advice=(
      'the policy has left the reference for good; lower the learning rate, '
      f'clip gradients or raise the KL weight and {START_AGAIN}'
    ),
    optional=True,
  )
