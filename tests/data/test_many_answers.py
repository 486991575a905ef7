from __future__ import annotations

import numpy as np
import pytest

from selfimprove.data import many_answers

DRAWN = many_answers.draw(problems=8000, seed=0)


def digits(text):
  return [int(c) for c in text]


def is_right(problem, text):
  return (sum(digits(text)) - int(problem.kind)) % 10 == 0


def test_the_answer_has_the_sum_of_the_operands():
  for problem in DRAWN[:500]:
    assert sum(digits(problem.prompt[:2])) % 10 == int(problem.kind)
    assert is_right(problem, problem.answer)
    assert len(problem.prompt) == 5
    assert problem.prompt[4] == '='


def test_all_operands_count_and_nothing_else_does():
  problem = many_answers.draw(operands=3, noise=1, problems=1, seed=3)[0]
  assert sum(digits(problem.prompt[:3])) % 10 == int(problem.kind)


def test_right_pairs_are_shown_as_often_as_asked():
  shown = [(p, p.shown[0][1]) for p in DRAWN]
  # .15 by intention, and a tenth of the others by chance: standard error .005.
  share = np.mean([is_right(p, text) for p, text in shown])
  assert share == pytest.approx(0.15 + 0.085, abs=0.02)
  first = [int(text[0]) for p, text in shown if is_right(p, text)]
  counts = np.bincount(first, minlength=10) / len(first)
  # No right pair is preferred to another.
  np.testing.assert_allclose(counts, 0.1, atol=0.03)


@pytest.mark.parametrize('wrong', [{'operands': 0}, {'right': -0.1}])
def test_a_number_out_of_range_is_refused(wrong):
  with pytest.raises(ValueError, match='choose'):
    many_answers.draw(problems=1, seed=0, **wrong)
