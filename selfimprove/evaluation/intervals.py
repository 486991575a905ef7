"""How sure a rate, a difference or a mean over seeds is.

Problems are the units that are drawn at random; several samples of one problem
are not independent. Every interval therefore works with an effective number of
observations: the number of independent ones that would vary as much as the
problems do. With one sample per problem it is the number of problems, and the
intervals are the textbook ones.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

_Z95 = 1.959963984540054  # 97.5 % quantile of the normal distribution.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measurement:
  """A measured fraction with its 95 % interval.

  Attributes:
    value: the fraction; None where nothing was there to be counted.
    low: lower end of the interval; None with `value`.
    high: upper end of the interval; None with `value`.
    count: samples that the fraction is a fraction of.
  """

  value: float | None
  low: float | None
  high: float | None
  count: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class SeedMean:
  """A mean over seeds.

  Attributes:
    mean: the mean.
    standard_error: of the mean; None for a single seed.
    count: number of seeds.
  """

  mean: float
  standard_error: float | None
  count: int


def rate(
  hits: Float[np.ndarray, 'n'],
  trials: Float[np.ndarray, 'n'],
  *,
  samples: int | None = None,
) -> Measurement:
  """The share of trials that are hits, with a Wilson interval.

  p = Σ hits / Σ trials,
  m = p(1−p) / Σ((hitsᵢ − p·trialsᵢ) / Σ trials)²,
  (p + z²/2m ± z·√(p(1−p)/m + z²/4m²)) / (1 + z²/m)

  m is the effective number of observations. Where p is 0 or 1, or with a single
  problem, there is no variation to estimate it from; it is then the number of
  problems with trials.

  Args:
    hits: per problem, in [0, trials]; fractions are welcome.
    trials: per problem, >= 0.
    samples: the largest number of independent observations that there can be;
      the number of trials where it is None.

  Returns:
    The measurement; without value where there is no trial.

  Source: Wilson, J. Am. Stat. Assoc. 22 (1927); m from the linearised variance
  of a ratio.
  Differs: Wilson's has m = Σ trials; so has this for one trial per problem.

  >>> found = rate(np.array([1.0, 0.0]), np.array([1.0, 1.0]))
  >>> f'{found.value:.2f} in [{found.low:.3f}, {found.high:.3f}]'
  '0.50 in [0.095, 0.905]'
  """
  total = float(trials.sum())
  if total == 0:
    return Measurement(value=None, low=None, high=None, count=0)
  p = float(hits.sum()) / total
  m = _effective(
    p * (1 - p),
    float(np.square((hits - p * trials) / total).sum()),
    units=int((trials > 0).sum()),
    samples=total if samples is None else samples,
  )
  center = (p + _Z95**2 / (2 * m)) / (1 + _Z95**2 / m)
  spread = math.sqrt(p * (1 - p) / m + _Z95**2 / (4 * m**2))
  return _around(
    p,
    center,
    _Z95 * spread / (1 + _Z95**2 / m),
    least=0.0,
    count=round(total),
  )


def paired_difference(
  gains: Float[np.ndarray, 'n'],
  losses: Float[np.ndarray, 'n'],
  *,
  samples: int,
) -> Measurement:
  """The mean of gains minus losses, with an adjusted Wald interval.

  d = mean(gains − losses),
  g = (m·mean(gains) + 1)/(m + 2),  l = (m·mean(losses) + 1)/(m + 2),
  g − l ± z·√((g + l − (g − l)²)/(m + 2))

  m is the effective number of observations; where no problem changed it is the
  number of problems. It is the difference of two rates *on the same problems*,
  which is known better than the two rates are.

  Args:
    gains: per problem, share of samples that got better, in [0, 1].
    losses: per problem, share of samples that got worse, in [0, 1].
    samples: number of samples of all problems.

  Returns:
    The measurement, in [-1, 1].

  Source: Bonett and Price, J. Educ. Behav. Stat. 37 (2012).
  Differs: theirs has m = number of problems; so has this for one sample each.

  >>> found = paired_difference(np.zeros(2), np.zeros(2), samples=2)
  >>> f'{found.value:.2f} in [{found.low:.2f}, {found.high:.2f}]'
  '0.00 in [-0.69, 0.69]'
  """
  n = len(gains)
  gain, loss = float(gains.mean()), float(losses.mean())
  m = _effective(
    gain + loss - (gain - loss) ** 2,
    float(np.var(gains - losses)) / n,
    units=n,
    samples=samples,
  )
  up, down = ((m * share + 1) / (m + 2) for share in (gain, loss))
  half = _Z95 * math.sqrt((up + down - (up - down) ** 2) / (m + 2))
  return _around(gain - loss, up - down, half, least=-1.0, count=samples)


def mean_and_standard_error(values: Sequence[float]) -> SeedMean:
  """The mean over seeds and its standard error, s/√n with s over n − 1.

  Args:
    values: one finite number per seed, at least one.

  Returns:
    Mean and standard error.

  Raises:
    ValueError: there is no value, or one that is not finite.

  >>> mean_and_standard_error([1.0, 3.0])
  SeedMean(mean=2.0, standard_error=1.0, count=2)
  """
  if not len(values) or not all(math.isfinite(value) for value in values):
    raise ValueError(
      f'The values over seeds are {list(values)}; give at least one, all '
      'finite.'
    )
  count = len(values)
  error = (
    float(np.std(values, ddof=1)) / math.sqrt(count) if count > 1 else None
  )
  return SeedMean(
    mean=float(np.mean(values)), standard_error=error, count=count
  )


def _effective(
  single: float, variance: float, *, units: int, samples: float
) -> float:
  """Observations of variance `single` whose mean has variance `variance`."""
  if single <= 0 or units < 2:
    return float(units)
  return single / max(variance, single / samples)


def _around(
  value: float, center: float, half: float, *, least: float, count: int
) -> Measurement:
  # The bounds contain the value by definition, rounding aside.
  return Measurement(
    value=value,
    low=min(value, max(least, center - half)),
    high=max(value, min(1.0, center + half)),
    count=count,
  )
