"""From token ids of a rollout to the texts that host rewards read."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from selfimprove.types import Rollout


def attempt_texts(
  rollout: Rollout, decode: Callable[[np.ndarray], str]
) -> list[list[str]]:
  """The text of every attempt.

  Args:
    rollout: samples, as host arrays.
    decode: ids of one attempt -> text, without EOS.

  Returns:
    Texts by row and turn.
  """
  return [
    [decode(np.asarray(ids, np.int32)) for ids in row]
    for row in attempt_ids(rollout)
  ]


def attempt_ids(rollout: Rollout) -> list[list[tuple[int, ...]]]:
  """The ids of every attempt, EOS included.

  Args:
    rollout: samples, as host arrays.

  Returns:
    Ids by row and turn.
  """
  tokens, turn = np.asarray(rollout.tokens), np.asarray(rollout.turn)
  turns = range(len(rollout.spans))
  return [
    [tuple(int(i) for i in tokens[row][turn[row] == n]) for n in turns]
    for row in range(tokens.shape[0])
  ]
