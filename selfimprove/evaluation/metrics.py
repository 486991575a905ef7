"""What two attempts at held-out problems say about self-correction."""

from __future__ import annotations

import collections
from collections.abc import Hashable, Sequence

import numpy as np
from jaxtyping import Bool, Float, Shaped

from selfimprove.evaluation import intervals
from selfimprove.evaluation.intervals import Measurement


def attempt_metrics(
  correct: Shaped[np.ndarray, 'n k turns'],
) -> dict[str, Measurement]:
  """How right the attempts are, and what the second does to the first.

  With r₁, r₂ whether the first two attempts of a sample are right:

  | name         | what                    | a fraction of          |
  |--------------|-------------------------|------------------------|
  | `acc_t1`     | r₁                      | all samples            |
  | `acc_t2`     | r₂ (`acc_t3`, … follow) | all samples            |
  | `delta`      | r₂ − r₁                 | all samples            |
  | `i_to_c`     | ¬r₁ ∧ r₂                | all samples            |
  | `c_to_i`     | r₁ ∧ ¬r₂                | all samples            |
  | `confidence` | r₂                      | those with r₁          |
  | `critique`   | r₂                      | those without r₁       |

  so that delta = i_to_c − c_to_i. All problems have the same number of
  samples, so a fraction of samples is the mean over problems.

  Args:
    correct: 1 or True where attempt `turns` of sample `k` of problem `n` is
      right, else 0 or False.

  Returns:
    Measurements by name; with one attempt only `acc_t1`. Rates have Wilson
    intervals and `delta` one for paired differences, both over problems (see
    `intervals`). A rate of nothing, as `critique` where all was right, has the
    value None.

  Raises:
    ValueError: an entry is neither 0 nor 1, or there is none.

  Source: arXiv 2409.12917, the metrics of its experiments.
  Differs: `confidence` and `critique` are added.
  """
  right = _zeros_and_ones(correct)
  n, k, turns = right.shape
  every = np.full(n, float(k))
  result = {
    f'acc_t{turn + 1}': intervals.rate(right[:, :, turn].sum(axis=1), every)
    for turn in range(turns)
  }
  if turns < 2:
    return result
  first, second = right[:, :, 0], right[:, :, 1]
  gains = ((1 - first) * second).sum(axis=1)
  losses = (first * (1 - second)).sum(axis=1)
  was_right = first.sum(axis=1)
  return {
    **result,
    'delta': intervals.paired_difference(gains / k, losses / k, samples=n * k),
    'i_to_c': intervals.rate(gains, every),
    'c_to_i': intervals.rate(losses, every),
    'confidence': intervals.rate(was_right - losses, was_right),
    'critique': intervals.rate(gains, every - was_right),
  }


def changed(
  answers: Sequence[Sequence[Sequence[Hashable]]],
) -> Measurement:
  """The share of samples whose second attempt differs from the first.

  Near 0 the second attempt is a copy: the collapse that self-correction
  training is prone to.

  Args:
    answers: text or token ids (as a tuple) of each attempt, by problem, sample
      and attempt; as many samples for each problem.

  Returns:
    The share of all samples.

  Raises:
    ValueError: problems or samples of unequal size, or fewer than two attempts.

  Source: arXiv 2409.12917, the share of problems whose answer changes.
  Differs: no.
  """
  samples = _rectangle(answers)
  if any(len(attempts) < 2 for sample in answers for attempts in sample):
    raise ValueError('A sample has fewer than 2 attempts; give two of each.')
  counts = [
    sum(attempts[0] != attempts[1] for attempts in problem)
    for problem in answers
  ]
  return intervals.rate(
    np.asarray(counts, np.float64), np.full(len(answers), float(samples))
  )


def pass_at_k(
  correct: Shaped[np.ndarray, 'n samples'], *, k: int
) -> Measurement:
  """The share of problems that at least one of k samples solves.

  mean over problems of 1 − C(n−c, k)/C(n, k), with c of n samples right: the
  unbiased estimate from n >= k samples, for which 1 − (1 − c/n)ᵏ is too low.

  Args:
    correct: 1 or True where a sample is right, else 0 or False.
    k: samples allowed, in [1, samples].

  Returns:
    The share of problems.

  Raises:
    ValueError: k is out of range, or an entry is neither 0 nor 1.

  Source: arXiv 2107.03374, equation 1.
  Differs: no.

  >>> pass_at_k(np.array([[1, 0, 0, 0]]), k=2).value
  0.5
  """
  right = _zeros_and_ones(correct)
  n, samples = right.shape
  _check_k(k, samples)
  wrong = samples - right.sum(axis=1)
  # C(w, k)/C(n, k) = Π_{i<k} (w − i)/(n − i), whose factor at i = w is 0.
  index = np.arange(k)
  factors = np.maximum(wrong[:, None] - index[None, :], 0) / (samples - index)
  solved = 1 - factors.prod(axis=1)
  return intervals.rate(solved, np.ones(n), samples=n * samples)


def majority_at_k(
  answers: Sequence[Sequence[Hashable]],
  correct: Shaped[np.ndarray, 'n samples'],
  *,
  k: int,
) -> Measurement:
  """The share of problems whose most frequent answer among k is right.

  The first k samples of a problem vote. Of answers with equally many votes the
  one that was given first wins. None is an abstention; where nobody votes the
  problem is not solved.

  Args:
    answers: final answer of each sample (text or ids as a tuple, in a form in
      which equal answers are equal), or None.
    correct: 1 or True where the sample is right, else 0 or False; the majority
      is as right as the first sample that gave its answer.
    k: samples that vote, in [1, samples].

  Returns:
    The share of problems.

  Raises:
    ValueError: k is out of range, shapes disagree, or an entry is neither 0
      nor 1.

  Source: arXiv 2203.11171, section 2 (majority vote).
  Differs: ties are not random.
  """
  right = _zeros_and_ones(correct)
  n, samples = right.shape
  _check_k(k, samples)
  if (len(answers), _rectangle(answers)) != (n, samples):
    raise ValueError(
      f'There are {len(answers)} x {_rectangle(answers)} answers and '
      f'{n} x {samples} verdicts; give one verdict per answer.'
    )
  solved = [
    _majority_is_right(problem[:k], verdicts)
    for problem, verdicts in zip(answers, right)
  ]
  return intervals.rate(np.asarray(solved, np.float64), np.ones(n))


def _majority_is_right(
  answers: Sequence[Hashable], right: Float[np.ndarray, 'samples']
) -> float:
  # A Counter lists equal counts in the order of first encounter.
  votes = collections.Counter(a for a in answers if a is not None)
  if not votes:
    return 0.0
  winner = votes.most_common(1)[0][0]
  return float(right[list(answers).index(winner)])


def _zeros_and_ones(
  correct: Bool[np.ndarray, '...'] | Shaped[np.ndarray, '...'],
) -> Float[np.ndarray, '...']:
  right = np.asarray(correct, np.float64)
  if right.size == 0:
    raise ValueError('There are no verdicts; evaluate at least one problem.')
  odd = right[(right != 0) & (right != 1)]
  if odd.size:
    rule = 'give 1 (right) or 0 (wrong) for each attempt'
    raise ValueError(f'A verdict is {odd.flat[0]}; {rule}.')
  return right


def _rectangle(answers: Sequence[Sequence[object]]) -> int:
  sizes = {len(problem) for problem in answers}
  if len(sizes) != 1:
    raise ValueError(
      f'Problems have {sorted(sizes)} samples; give as many for every problem.'
    )
  return sizes.pop()


def _check_k(k: int, samples: int) -> None:
  if not 1 <= k <= samples:
    raise ValueError(
      f'k is {k} and there are {samples} samples of each problem; choose k '
      f'between 1 and {samples}.'
    )
