"""When a stage may end before its last step.

A condition is data; what it has seen is a JSON dictionary that travels through
`update`, so that a checkpoint can hold it. It starts as `{}`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Protocol


class Condition(Protocol):
  """Decides from metrics whether a stage is done."""

  def update(
    self, state: Mapping[str, Any], metrics: Mapping[str, float]
  ) -> tuple[bool, dict[str, Any]]:
    """Returns whether the stage is done, and the state after this step."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class MetricAtLeast:
  """Done when a metric has been at least `threshold` `patience` times in a row.

  Attributes:
    metric: name; steps without it do not count.
    threshold: first value that counts.
    patience: observations in a row, at least 1.
  """

  metric: str
  threshold: float
  patience: int = 1

  def __post_init__(self) -> None:
    _check_patience(self.metric, self.patience)

  def update(
    self, state: Mapping[str, Any], metrics: Mapping[str, float]
  ) -> tuple[bool, dict[str, Any]]:
    """Judges one step.

    Args:
      state: after the step before; `{}` at first.
      metrics: name -> number; NaN does not reach the threshold.

    Returns:
      Whether the stage is done, and the state after this step.
    """
    value = metrics.get(self.metric)
    reached = None if value is None else value >= self.threshold
    return _count(state, reached, self.patience)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MetricAtMost:
  """Done when a metric has been at most `threshold` `patience` times in a row.

  Attributes:
    metric: name; steps without it do not count.
    threshold: last value that counts.
    patience: observations in a row, at least 1.
  """

  metric: str
  threshold: float
  patience: int = 1

  def __post_init__(self) -> None:
    _check_patience(self.metric, self.patience)

  def update(
    self, state: Mapping[str, Any], metrics: Mapping[str, float]
  ) -> tuple[bool, dict[str, Any]]:
    """Judges one step.

    Args:
      state: after the step before; `{}` at first.
      metrics: name -> number; NaN does not reach the threshold.

    Returns:
      Whether the stage is done, and the state after this step.
    """
    value = metrics.get(self.metric)
    reached = None if value is None else value <= self.threshold
    return _count(state, reached, self.patience)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TotalAtLeast:
  """Done when the values of a metric add up to a budget, such as of tokens.

  Attributes:
    metric: name; steps without it add nothing.
    total: the budget, above 0.
  """

  metric: str
  total: float

  def __post_init__(self) -> None:
    if not self.total > 0:
      raise ValueError(
        f'The budget of {self.metric!r} is {self.total}, so a stage would end '
        'at its first step; give a number above 0.'
      )

  def update(
    self, state: Mapping[str, Any], metrics: Mapping[str, float]
  ) -> tuple[bool, dict[str, Any]]:
    """Adds up one step.

    Args:
      state: after the step before; `{}` at first.
      metrics: name -> number.

    Returns:
      Whether the budget is used up, and the state after this step.
    """
    spent = float(state.get('spent', 0.0)) + metrics.get(self.metric, 0.0)
    return spent >= self.total, {'spent': spent}


@dataclasses.dataclass(frozen=True, kw_only=True)
class AllOf:
  """Done when all conditions are, at the same step.

  Attributes:
    conditions: at least one.
  """

  conditions: tuple[Condition, ...]

  def __post_init__(self) -> None:
    if not self.conditions:
      raise ValueError(
        'AllOf has no conditions, so a stage would end before it began; name '
        'one, or give the stage no condition.'
      )

  def update(
    self, state: Mapping[str, Any], metrics: Mapping[str, float]
  ) -> tuple[bool, dict[str, Any]]:
    """Judges one step.

    Args:
      state: after the step before; `{}` at first.
      metrics: name -> number.

    Returns:
      Whether the stage is done, and the state after this step.
    """
    after, done = {}, True
    for index, condition in enumerate(self.conditions):
      one, after[str(index)] = condition.update(
        state.get(str(index), {}), metrics
      )
      done = done and one
    return done, after


def metric_names(condition: Condition | None) -> frozenset[str]:
  """The metrics that a condition reads, as far as it says so.

  Args:
    condition: one of this module, or with their field names; None for none.

  Returns:
    Names.
  """
  parts = [metric_names(one) for one in getattr(condition, 'conditions', ())]
  own = getattr(condition, 'metric', None)
  return frozenset[str]().union(*parts, () if own is None else (own,))


def _count(
  state: Mapping[str, Any], reached: bool | None, patience: int
) -> tuple[bool, dict[str, Any]]:
  """Observations in a row; None leaves the count as it was."""
  streak = int(state.get('streak', 0))
  if reached is not None:
    streak = streak + 1 if reached else 0
  return streak >= patience, {'streak': streak}


def _check_patience(metric: str, patience: int) -> None:
  if patience < 1:
    raise ValueError(
      f'The condition on {metric!r} has patience {patience}, below 1; give the '
      'number of observations in a row.'
    )
