from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from selfimprove.rollout.demonstrations import Demonstrate
from selfimprove.rollout.judged import Compare, Steps
from selfimprove.types import Text
from tests.rollout import tiny

END, STEP = 1, 5


def _text(rows, width):
  lengths = [len(row) for row in rows]
  filled = [row + [0] * (width - len(row)) for row in rows]
  return Text(
    tokens=jnp.asarray(filled, jnp.int32),
    mask=jnp.asarray(np.arange(width)[None, :] < np.array(lengths)[:, None]),
  )


def _prompts(answers, *, width=6, **extra):
  given = tiny.prompts((3, 1, 2)[: len(answers)])
  text = _text(answers, width)
  return dataclasses.replace(
    given,
    answer=text.tokens,
    answer_mask=text.mask,
    extra={name: _text(rows, wide) for name, (rows, wide) in extra.items()},
  )


def _run(how, prompts):
  return jax.tree.map(np.asarray, tiny.run(how, prompts))


def _written(rollout, row):
  return rollout.tokens[row][rollout.loss_mask[row]].tolist()


def test_a_pair_is_the_answer_and_then_the_worse_one():
  prompts = _prompts([[3, 4], [6]], rejected=([[8], [9, 9, 9, 9]], 4))
  rollout = _run(Compare(eos_ids=(END, 7)), prompts)
  assert [_written(rollout, row) for row in range(4)] == [
    [3, 4, END],
    [8, END],
    [6, END],
    [9, 9, 9, 9, END],
  ]
  assert rollout.group_size == 2
  assert rollout.group_id.tolist() == [0, 0, 1, 1]
  assert rollout.finished.all()


def test_the_preferred_rows_are_those_of_a_demonstration():
  prompts = _prompts([[3, 4], [6]], rejected=([[8], [9, 9]], 2))
  pairs = _run(Compare(eos_ids=(END,)), prompts)
  shown = _run(Demonstrate(eos_ids=(END,)), prompts)
  for name in ('tokens', 'positions', 'loss_mask', 'turn'):
    ours, theirs = getattr(pairs, name)[::2], getattr(shown, name)
    np.testing.assert_array_equal(ours, theirs)


def test_a_task_without_rejected_answers_is_told_what_to_add():
  with pytest.raises(KeyError, match='extra_tokens'):
    _run(Compare(eos_ids=(END,)), _prompts([[3]]))


def _turns(answer, labels, *, wide=3):
  prompts = _prompts([answer], labels=([[4] * labels], wide))
  rollout = _run(Steps(eos_ids=(END,), step_ends=(STEP,)), prompts)
  start, stop = rollout.spans[0]
  assert rollout.spans == ((start, stop),) * wide
  assert rollout.finished.shape == (1, wide)
  np.testing.assert_array_equal(rollout.loss_mask, rollout.turn >= 0)
  # EOS is read whether or not it is judged.
  assert rollout.tokens[0][start + len(answer)] == END
  return rollout.turn[0, start:stop].tolist()


def test_each_step_is_a_turn_with_the_token_that_ends_it():
  assert _turns([8, STEP, 9, 9, STEP, 8], 3) == [0, 0, 1, 1, 1, 2, -1]


def test_an_end_behind_the_last_step_begins_no_other():
  assert _turns([8, STEP, 9, STEP], 2) == [0, 0, 1, 1, -1, -1, -1]


def test_steps_behind_the_last_label_belong_to_no_turn():
  assert _turns([8, STEP, 9, STEP, 8], 1) == [0, 0, -1, -1, -1, -1, -1]
