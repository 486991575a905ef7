from __future__ import annotations

import collections

import pytest

from selfimprove.data.splits import SPLITS, split_of

TEXTS = [f'problem {i}' for i in range(20000)]
GOLDEN = [
  'train',
  'train',
  'validation',
  'train',
  'test',
  'train',
  'train',
  'train',
]


def test_each_held_out_split_gets_its_share():
  counts = collections.Counter(split_of(t, held_out=0.1) for t in TEXTS)
  # Binomial: 2000 ± 42 each; 200 is nearly five standard errors.
  assert counts['validation'] == pytest.approx(2000, abs=200)
  assert counts['test'] == pytest.approx(2000, abs=200)
  assert sum(counts.values()) == len(TEXTS)
  assert set(counts) == set(SPLITS)


def test_the_split_of_a_text_is_part_of_the_format():
  # Written down once: another hash or key would move problems that existing
  # checkpoints were trained on into the splits that they are tested on.
  assert [split_of(t, held_out=0.25) for t in TEXTS[:8]] == GOLDEN


def test_a_larger_held_out_share_never_moves_a_held_out_problem_to_training():
  for text in TEXTS[:2000]:
    if split_of(text, held_out=0.1) == 'validation':
      assert split_of(text, held_out=0.2) == 'validation'
    if split_of(text, held_out=0.1) == 'test':
      assert split_of(text, held_out=0.2) != 'train'


def test_text_that_is_not_utf8_has_a_split_too():
  assert split_of('\ud800', held_out=0.1) in SPLITS


@pytest.mark.parametrize('share', [0.0, 0.5, -0.1, 1.0, float('nan')])
def test_a_share_that_empties_a_split_is_refused(share):
  with pytest.raises(ValueError, match=r'choose a value between 0 and 0\.5'):
    split_of('a', held_out=share)
