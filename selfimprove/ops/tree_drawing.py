"""A group's prefix tree as text, for reports and documentation; on the host."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import numpy as np


def join_ids(ids: Sequence[int]) -> str:
  """Token ids with spaces between them, for those who read ids.

  Args:
    ids: token ids.

  Returns:
    The text.

  Source: none; a convention of this project.
  Differs: no.

  >>> join_ids([7, 1])
  '7 1'
  """
  return ' '.join(str(token) for token in ids)


def drawn_tree(
  tokens: np.ndarray,
  mask: np.ndarray,
  rewards: np.ndarray,
  advantages: np.ndarray,
  *,
  decode: Callable[[Sequence[int]], str] = join_ids,
) -> str:
  """A drawing of the prefix tree of one group, one line per branch.

  A branch is a run of tokens that the same samples wrote. Its line has the
  tokens, the number of samples, their mean reward (the value after the branch)
  and their mean advantage at its first token, where the tree branched. A
  sample that ended where others go on is a branch without tokens.

  Args:
    tokens: i32[g t], ids; ignored where `mask` is False.
    mask: bool[g t], True on the tokens that the policy wrote.
    rewards: f32[g], one per sample.
    advantages: f32[g t], those of `prefix_tree.tree_centered`, for instance.
    decode: text of some token ids.

  Returns:
    Lines of equal make, the root first; '' for a group without samples.

  Source: none; a convention of this project.
  Differs: no.

  >>> ids = np.array([[7, 1], [7, 2]])
  >>> print(drawn_tree(ids, ids > 0, np.array([1, 0]), 0.0 * ids))
  (root)    n=2  value  0.500
  └─ 7      n=2  value  0.500  advantage +0.000
     ├─ 1   n=1  value  1.000  advantage +0.000
     └─ 2   n=1  value  0.000  advantage +0.000
  """
  group = _Group(
    tokens=np.asarray(tokens),
    mask=np.asarray(mask),
    rewards=np.asarray(rewards, np.float64),
    advantages=np.asarray(advantages, np.float64),
    decode=decode,
  )
  everyone = np.arange(len(group.rewards))
  if not everyone.size:
    return ''
  root = ('(root)', f'n={len(everyone)}  value {group.value(everyone):6.3f}')
  lines = [root, *_branches(group, everyone, 0, '')]
  width = max(len(label) for label, _ in lines)
  return '\n'.join(f'{label:<{width}}   {numbers}' for label, numbers in lines)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Group:
  tokens: np.ndarray
  mask: np.ndarray
  rewards: np.ndarray
  advantages: np.ndarray
  decode: Callable[[Sequence[int]], str]

  def value(self, rows: np.ndarray) -> float:
    return float(np.mean(self.rewards[rows]))

  def run(self, rows: np.ndarray, start: int) -> int:
    """Returns the first column from `start` on at which `rows` differ."""
    for column in range(start, self.tokens.shape[1]):
      if len(self.split(rows, column)) > 1:
        return column
    return self.tokens.shape[1]

  def split(self, rows: np.ndarray, column: int) -> list[np.ndarray]:
    """Returns the rows by what they wrote in a column, in order of rows."""
    children: dict[object, list[int]] = {}
    for row in rows:
      wrote = self.mask[row, column]
      key = int(self.tokens[row, column]) if wrote else None
      children.setdefault(key, []).append(row)
    return [np.array(child) for child in children.values()]


def _branches(
  group: _Group, rows: np.ndarray, start: int, indent: str
) -> Iterator[tuple[str, str]]:
  """Yields label and numbers of each branch below a node, depth first."""
  if start == group.tokens.shape[1]:
    return
  children = group.split(rows, start)
  for child in children:
    end = group.run(child, start)
    wrote = np.arange(start, end)[group.mask[child[0], start:end]]
    below = indent
    if wrote.size or len(children) > 1:
      last = child is children[-1]
      below = indent + ('   ' if last else '│  ')
      ids = group.tokens[child[0], wrote].tolist()
      text = group.decode(ids) if ids else '(end)'
      label = f'{indent}{"└─" if last else "├─"} {text}'
      yield label, _numbers(group, child, wrote)
    yield from _branches(group, child, end, below)


def _numbers(group: _Group, rows: np.ndarray, wrote: np.ndarray) -> str:
  numbers = f'n={len(rows)}  value {group.value(rows):6.3f}'
  if not wrote.size:
    return numbers
  first = float(np.mean(group.advantages[rows, wrote[0]]))
  return f'{numbers}  advantage {first:+.3f}'
