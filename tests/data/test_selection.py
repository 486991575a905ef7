from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from selfimprove.data.pipeline import Table
from selfimprove.data.selection import Having, SelectedStream
from selfimprove.data.shares import Share

ROWS = 10
HARD = Having(field='level', values=(2, 3))


def table():
  ids = np.arange(ROWS, dtype=np.int32)[:, None]
  mask = np.ones((ROWS, 1), bool)
  return Table(
    fields=tuple({'prompt': f'p{i}', 'level': i % 4} for i in range(ROWS)),
    prompt_ids=ids,
    prompt_mask=mask,
    answer_ids=ids,
    answer_mask=mask,
    dropped={},
  )


def test_only_the_selected_are_drawn_each_once_an_epoch():
  stream = SelectedStream(table(), keep=HARD, prompts_per_step=2, seed=1)
  drawn = [stream.batch(2 * step).example_id for step in range(4)]
  # Rows 2, 3, 6 and 7: two batches an epoch.
  for epoch in (0, 1):
    ids = np.concatenate(drawn[2 * epoch : 2 * epoch + 2])
    assert sorted(ids.tolist()) == [i + epoch * ROWS for i in (2, 3, 6, 7)]


def test_identities_are_those_of_the_whole_table():
  whole = table()
  stream = SelectedStream(whole, keep=HARD, prompts_per_step=3)
  batch = stream.batch(5)
  names = [row['prompt'] for row in whole.references(batch.example_id)]
  assert names == [f'p{i}' for i in batch.tokens[:, 0]]
  assert {row['level'] for row in whole.references(batch.example_id)} <= {2, 3}


def test_a_selection_of_nothing_is_refused():
  nothing = Having(field='level', values=(9,))
  with pytest.raises(ValueError, match='keeps none of the 10 problems'):
    SelectedStream(table(), keep=nothing, prompts_per_step=1)
  with pytest.raises(ValueError, match='has no values'):
    Having(field='level', values=())


def test_a_selection_that_leaves_out_a_source_of_a_mixture_is_refused():
  # Rows 0 to 1 of one source, all too easy, and 2 to 9 of another.
  mixed = dataclasses.replace(
    table(), shares=(Share('easy', 0, 2, 1), Share('other', 2, 8, 1))
  )
  with pytest.raises(ValueError, match="no problem of 'easy'"):
    SelectedStream(mixed, keep=HARD, prompts_per_step=1)


def test_a_field_that_is_not_there_is_refused():
  with pytest.raises(ValueError, match="no 'difficulty'"):
    SelectedStream(
      table(), keep=Having(field='difficulty', values=(1,)), prompts_per_step=1
    )
