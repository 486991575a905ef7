from __future__ import annotations

import numpy as np
import pytest

from selfimprove.data import decisions

DRAWN = decisions.draw(problems=4000, seed=0)


def shown(problem):
  ((prompt, text),) = problem.shown
  assert prompt == problem.prompt
  return text


def test_the_class_alone_decides_the_answer():
  answers = {}
  for problem in DRAWN:
    assert problem.kind == problem.prompt[0]
    answers.setdefault(problem.kind, set()).add(problem.answer)
  assert sorted(answers) == list('ABCD')
  assert all(len(found) == 1 for found in answers.values())


def test_prompts_differ_by_digits_that_do_not_matter():
  # 4000 of 40,000 texts: about 4000²/80,000 = 200 meet another.
  assert len({problem.prompt for problem in DRAWN}) > 3700
  assert all(len(p.prompt) == 6 and p.prompt[5] == '=' for p in DRAWN)


def test_a_decision_is_shown_to_be_right_as_often_as_asked():
  right = np.asarray(
    [[a == b for a, b in zip(shown(p), p.answer)] for p in DRAWN]
  )
  assert right.shape == (4000, 3)
  # Standard error .0076. Wrong letters drawn from all six would give .475.
  np.testing.assert_allclose(right.mean(axis=0), 0.37, atol=0.03)
  # The decisions are independent: .37³ = .051.
  assert right.all(axis=1).mean() == pytest.approx(0.051, abs=0.012)


def test_wrong_letters_are_all_as_likely():
  wrong = [shown(p)[0] for p in DRAWN if p.kind == 'A']
  counts = {letter: wrong.count(letter) for letter in decisions.LETTERS}
  truth = next(p.answer[0] for p in DRAWN if p.kind == 'A')
  assert counts.pop(truth) / len(wrong) == pytest.approx(0.37, abs=0.06)
  shares = np.asarray(list(counts.values())) / len(wrong)
  np.testing.assert_allclose(shares, 0.63 / 5, atol=0.05)


def test_digits_follow_the_decisions():
  assert {len(shown(p)) for p in DRAWN} == {27}
  assert all(shown(p)[3:].isdigit() for p in DRAWN)
  assert len({shown(p)[3:] for p in DRAWN}) == 4000


def test_the_hidden_table_depends_on_the_seed_alone():
  def table(**kwargs):
    return {p.kind: p.answer for p in decisions.draw(**kwargs)}

  here = table(problems=4000, seed=0)
  assert table(problems=100, seed=0, filler=0, right=1.0) == here
  assert table(problems=4000, seed=1) != here


@pytest.mark.parametrize('wrong', [{'classes': 9}, {'right': 1.5}])
def test_a_number_out_of_range_is_refused(wrong):
  with pytest.raises(ValueError, match='choose'):
    decisions.draw(problems=1, seed=0, **wrong)
