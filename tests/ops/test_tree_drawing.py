from __future__ import annotations

import numpy as np

from selfimprove.ops import tree_drawing
from tests.ops.test_prefix_tree import MASK, REWARDS, STEPS, TOKENS

GAINS = np.array([0.5, -0.5, 0.5, -0.5])[:, None]


def _lines(tokens, mask, rewards, advantages, **options):
  text = tree_drawing.drawn_tree(
    np.asarray(tokens),
    np.asarray(mask),
    np.asarray(rewards),
    np.asarray(advantages),
    **options,
  )
  return text.split('\n')


def test_a_tree_is_drawn_branch_by_branch():
  # The advantage of a branch is the mean over its samples at its first token:
  # (V(branch) − V(root)) + (V(branch) − V(parent)).
  assert _lines(TOKENS, MASK, REWARDS, GAINS + STEPS) == [
    '(root)       n=4  value  0.500',
    '├─ 5         n=3  value  0.667  advantage +0.333',
    '│  ├─ 6      n=2  value  0.500  advantage -0.167',
    '│  │  ├─ 7   n=1  value  1.000  advantage +1.000',
    '│  │  └─ 8   n=1  value  0.000  advantage -1.000',
    '│  └─ 9      n=1  value  1.000  advantage +0.833',
    '└─ 4         n=1  value  0.000  advantage -1.000',
  ]


def test_runs_of_tokens_are_one_branch_and_ends_are_named():
  # A prompt column before, and a sample that ended where the others go on.
  tokens = [[9, 1, 2, 3, 4], [9, 1, 2, 3, 5], [9, 1, 2, 0, 0]]
  mask = [[False, True, True, True, True]] * 2
  mask += [[False, True, True, False, False]]
  lines = _lines(tokens, mask, [1, 0, 0], np.zeros((3, 5)), decode=str)
  labels = [line[: line.index('n=')].rstrip() for line in lines]
  assert labels == [
    '(root)',
    '└─ [1, 2]',
    '   ├─ [3]',
    '   │  ├─ [4]',
    '   │  └─ [5]',
    '   └─ (end)',
  ]


def test_identical_samples_are_one_branch():
  lines = _lines([[1, 2]] * 3, [[True, True]] * 3, [1, 1, 0], np.zeros((3, 2)))
  assert lines == [
    '(root)   n=3  value  0.667',
    '└─ 1 2   n=3  value  0.667  advantage +0.000',
  ]


def test_an_empty_group_has_no_drawing():
  empty = np.zeros((0, 3))
  assert tree_drawing.drawn_tree(empty, empty, np.zeros(0), empty) == ''
