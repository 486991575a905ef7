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
GOLDEN = '72d9adb8e05bc0b91113209c08f074b72c359425fd687f059d4b1939c681127d'
DIGEST = (
  'import hashlib\n'
  'from selfimprove.data import splits, sums\n'
  'drawn = sums.draw(operands=6, problems=5000, zeros=0.6, seed=3)\n'
  "text = ''.join(p + splits.split_of(p, held_out=0.1) for p in drawn)\n"
  'print(hashlib.sha256(text.encode()).hexdigest())\n'
)


@pytest.mark.parametrize(
  ('prompt', 'answer'),
  [
    # Running sums 1 3 3 6 10 10; without `mod`: '103361010'.
    ('120340=', '033600'),
    # 9 18 27 36 45 54: every running sum is reduced, not the total alone.
    ('999999=', '487654'),
    # c1 is an operand and no working: '06136' would repeat it.
    ('1234=', '0360'),
    ('00=', '00'),
  ],
)
def test_the_answer_is_the_sum_then_the_running_sums(prompt, answer):
  assert sums.answer_to(prompt) == answer


def test_the_last_running_sum_is_the_answer():
  for prompt in sums.draw(operands=5, problems=200, zeros=0.3, seed=0):
    answer = sums.answer_to(prompt)
    assert len(answer) == 5
    assert answer[0] == answer[-1] == str(sum(map(int, prompt[:-1])) % 10)


def test_operands_are_zero_as_often_as_asked_and_else_uniform():
  drawn = sums.draw(operands=12, problems=20000, zeros=0.6, seed=1)
  assert all(len(p) == 13 and p[:12].isdigit() and p[12] == '=' for p in drawn)
  digits = np.asarray([[int(c) for c in p[:-1]] for p in drawn])
  share = np.bincount(digits.ravel(), minlength=10) / digits.size
  # 240,000 digits: standard error .001. Uniform digits would give .1 each.
  assert share[0] == pytest.approx(0.6, abs=0.006)
  np.testing.assert_allclose(share[1:], 0.4 / 9, atol=0.004)
  # No operand differs from the others.
  np.testing.assert_allclose((digits == 0).mean(axis=0), 0.6, atol=0.02)


def test_a_longer_draw_continues_a_shorter_one():
  short = sums.draw(operands=6, problems=10, zeros=0.6, seed=0)
  assert sums.draw(operands=6, problems=5000, zeros=0.6, seed=0)[:10] == short


def test_another_seed_draws_other_problems():
  drawn = [
    set(sums.draw(operands=6, problems=2000, zeros=0.6, seed=s)) for s in (0, 1)
  ]
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
  drawn = sums.draw(operands=6, problems=1000, zeros=0.6, seed=0)
  # On every platform and in every NumPy.
  digest = hashlib.sha256(''.join(drawn).encode()).hexdigest()
  assert digest == GOLDEN


@pytest.mark.parametrize(
  ('setting', 'rule'),
  [
    ({'operands': 1}, 'choose at least 2'),
    ({'problems': 0}, 'choose at least 1'),
    ({'zeros': 1.5}, 'is no probability'),
  ],
)
def test_a_number_out_of_range_is_refused(setting, rule):
  usual = {'operands': 2, 'problems': 1, 'zeros': 0.5, 'seed': 0}
  with pytest.raises(ValueError, match=rule):
    sums.draw(**{**usual, **setting})


@pytest.mark.parametrize('seed', [-1, 2**64])
def test_a_seed_that_is_no_64_bit_word_is_refused(seed):
  with pytest.raises(ValueError, match='is outside'):
    sums.draw(operands=2, problems=1, zeros=0.5, seed=seed)
