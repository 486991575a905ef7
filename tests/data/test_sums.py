from __future__ import annotations

import hashlib
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from selfimprove.data import sums

# Of the first 1000 problems of seed 0.
GOLDEN = '73c31a24b5dc6cff7971105c2da5246a54752a18cc6e658a3b211ad4cf5204ca'
DIGEST = (
  'import hashlib\n'
  'from selfimprove.data import splits, sums\n'
  'drawn = sums.draw(operands=6, problems=5000, seed=3)\n'
  "text = ''.join(p + splits.split_of(p, held_out=0.1) for p in drawn)\n"
  'print(hashlib.sha256(text.encode()).hexdigest())\n'
)


@pytest.mark.parametrize(
  ('prompt', 'answer'),
  [
    # u = 1+2+0 = 3, v = 3+4+0 = 7, s = 10 mod 10; without `mod`: '1037'.
    ('120340=', '037'),
    # u = v = 27 mod 10 = 7, s = 14 mod 10.
    ('999999=', '477'),
    # Halves, not alternating operands, which would give u = 1+3, v = 2+4.
    ('1234=', '037'),
    ('00=', '000'),
  ],
)
def test_the_answer_is_the_sum_then_its_two_halves(prompt, answer):
  assert sums.answer_to(prompt) == answer


def test_problems_are_unique_and_as_many_as_asked_for():
  drawn = sums.draw(operands=4, problems=3000, seed=0)
  assert len(drawn) == len(set(drawn)) == 3000
  assert all(len(p) == 5 and p[:4].isdigit() and p[4] == '=' for p in drawn)


def test_half_of_the_operands_are_zero_and_the_others_are_uniform():
  # Twelve operands, so that hardly a problem is drawn twice.
  drawn = sums.draw(operands=12, problems=20000, seed=1)
  digits = np.asarray([[int(c) for c in p[:-1]] for p in drawn])
  share = np.bincount(digits.ravel(), minlength=10) / digits.size
  # 240,000 digits: standard error .001. Uniform digits would give .1 each.
  assert share[0] == pytest.approx(1 / 2, abs=0.006)
  np.testing.assert_allclose(share[1:], 1 / 18, atol=0.004)
  # No operand differs from the others.
  np.testing.assert_allclose((digits == 0).mean(axis=0), 1 / 2, atol=0.02)


def test_a_longer_draw_continues_a_shorter_one():
  short = sums.draw(operands=6, problems=10, seed=0)
  assert sums.draw(operands=6, problems=5000, seed=0)[:10] == short


def test_another_seed_draws_other_problems():
  drawn = [set(sums.draw(operands=6, problems=2000, seed=s)) for s in (0, 1)]
  # Some small problems are in both, as draws are.
  assert len(drawn[0] & drawn[1]) < 1000


def test_the_draw_is_the_same_in_another_process_with_another_hash_seed():
  found = {
    subprocess.run(
      [sys.executable, '-c', DIGEST],
      env=os.environ | {'PYTHONHASHSEED': seed},
      cwd=pathlib.Path(__file__).parents[2],
      capture_output=True,
      text=True,
      check=True,
    ).stdout
    for seed in ('1', '2')
  }
  assert len(found) == 1
  drawn = sums.draw(operands=6, problems=1000, seed=0)
  # On every platform and in every NumPy.
  digest = hashlib.sha256(''.join(drawn).encode()).hexdigest()
  assert digest == GOLDEN


@pytest.mark.parametrize('operands', [0, 1, 3, -2])
def test_operands_without_two_halves_are_refused(operands):
  with pytest.raises(ValueError, match='choose an even number'):
    sums.draw(operands=operands, problems=1, seed=0)


def test_more_problems_than_there_are_is_refused_and_does_not_hang():
  with pytest.raises(
    ValueError, match='gave 100 different ones; ask for fewer'
  ):
    sums.draw(operands=2, problems=101, seed=0)


def test_no_problem_is_refused():
  with pytest.raises(ValueError, match='choose at least 1'):
    sums.draw(operands=2, problems=0, seed=0)


@pytest.mark.parametrize('seed', [-1, 2**64])
def test_a_seed_that_is_no_64_bit_word_is_refused(seed):
  with pytest.raises(ValueError, match='is outside'):
    sums.draw(operands=2, problems=1, seed=seed)
