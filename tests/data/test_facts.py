from __future__ import annotations

import collections

import numpy as np
import pytest

from selfimprove.data import facts

DRAWN = facts.draw(problems=6000, seed=0)


def plain(problem):
  (prompt, text), _ = problem.shown
  assert prompt == problem.prompt
  return text


def hinted(problem):
  _, (prompt, text) = problem.shown
  assert prompt == f'{problem.prompt}?{problem.answer[0]}='
  return text


def of_kind(kind):
  return [problem for problem in DRAWN if problem.kind == kind]


def test_the_key_alone_decides_answer_and_kind():
  found = collections.defaultdict(set)
  for problem in DRAWN:
    found[problem.prompt[0]].add((problem.answer, problem.kind))
  assert all(len(answers) == 1 for answers in found.values())
  kinds = [kind for ((_, kind),) in found.values()]
  assert collections.Counter(kinds) == {'hard': 32, 'easy': 20}


def test_hard_keys_have_one_wrong_answer_that_shares_no_digit():
  by_key = collections.defaultdict(list)
  for problem in of_kind('hard'):
    by_key[problem.prompt[0]].append((plain(problem), problem.answer))
  for shown in by_key.values():
    ((usual, count),) = collections.Counter(t for t, _ in shown).most_common(1)
    # All three digits stay with probability (1 − .2 · .9)³ = .55.
    assert count > 0.35 * len(shown)
    assert all(a != b for a, b in zip(usual, shown[0][1]))


def test_hard_answers_are_shown_by_slips_alone():
  right = np.asarray(
    [[a == b for a, b in zip(plain(p), p.answer)] for p in of_kind('hard')]
  )
  # A digit is right with probability .2/10; the three are independent.
  np.testing.assert_allclose(right.mean(axis=0), 0.02, atol=0.01)
  assert right.all(axis=1).sum() <= 1


def test_easy_answers_and_hinted_ones_are_shown_as_often_as_asked():
  easy = [plain(p) == p.answer for p in of_kind('easy')]
  assert np.mean(easy) == pytest.approx(0.7, abs=0.04)
  # Two random digits are right once in a hundred times besides.
  helped = [hinted(p) == p.answer for p in DRAWN]
  assert np.mean(helped) == pytest.approx(0.4 + 0.6 / 100, abs=0.03)
  assert all(hinted(p)[0] == p.answer[0] for p in DRAWN)


def test_the_facts_depend_on_the_seed_alone():
  def known(**kwargs):
    return {p.prompt[0]: p.answer for p in facts.draw(**kwargs)}

  here = known(problems=6000, seed=0)
  assert known(problems=3000, seed=0, slips=0.0).items() <= here.items()
  assert known(problems=6000, seed=1) != here


@pytest.mark.parametrize('wrong', [{'hard': 0}, {'easy': 30}, {'slips': 2.0}])
def test_a_number_out_of_range_is_refused(wrong):
  with pytest.raises(ValueError, match='choose'):
    facts.draw(problems=1, seed=0, **wrong)
