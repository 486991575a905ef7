"""Attempts side by side against attempts one after the other."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from jaxtyping import Shaped
from numpy import ndarray

from selfimprove.evaluation.intervals import Measurement
from selfimprove.evaluation.metrics import majority_at_k


def by_budget(
  answers: Sequence[Sequence[Sequence[Hashable]]],
  correct: Shaped[ndarray, 'n k turns'],
) -> dict[str, Measurement]:
  """Majority votes at equal numbers of attempts.

  `parallel@B` is the majority of the first attempts of B samples;
  `sequential@B` that of the last attempts of B / turns samples, each of which
  took as many attempts as it has turns.

  Args:
    answers: of each attempt, in a form in which equal answers are equal, by
      problem, sample and attempt.
    correct: whether each attempt is right; at least two turns.

  Returns:
    Measurements for the budgets turns, 2·turns, 4·turns, … up to the number of
    samples.

  Raises:
    ValueError: there is one attempt only.

  Source: arXiv 2409.12917, inference-compute scaling (its figure 1, right).
  Differs: no.
  """
  _, samples, turns = correct.shape
  if turns < 2:
    raise ValueError(
      'Samples have one attempt; give some with two or more to compare both '
      'ways of spending a budget.'
    )
  first = [[tries[0] for tries in problem] for problem in answers]
  last = [[tries[-1] for tries in problem] for problem in answers]
  found, budget = {}, turns
  while budget <= samples:
    found[f'parallel@{budget}'] = majority_at_k(
      first, correct[:, :, 0], k=budget
    )
    found[f'sequential@{budget}'] = majority_at_k(
      last, correct[:, :, -1], k=budget // turns
    )
    budget *= 2
  return found
