from __future__ import annotations

import pathlib
import subprocess
import sys
import types

import jax.numpy as jnp
import numpy as np
import pytest

from selfimprove.data import pipeline
from selfimprove.data.rows import Row

GOLDEN = [6, 7, 4, 0, 1, 5, 3, 2]


class Numbers:
  """A task whose row `i` has prompt `1 ... i+1` cut to 4, and answer `i`."""

  max_prompt_tokens = 4
  max_answer_tokens = 2
  extra_tokens = types.MappingProxyType({})

  def __init__(self, rows):
    self.rows = rows

  def read(self, split):
    rows = [
      Row(
        fields={'prompt': f'p{i}', 'answer': str(i), 'level': split},
        prompt_ids=np.arange(1, 2 + i % 4, dtype=np.int32),
        answer_ids=np.full(1 + i % 2, 3 + i, np.int32),
      )
      for i in range(self.rows)
    ]
    return rows, {'prompt: empty': 2}


def table(rows):
  return pipeline.load(Numbers(rows), 'train')


def stream(rows=10, prompts_per_step=4, seed=0):
  return pipeline.PromptStream(
    table(rows), prompts_per_step=prompts_per_step, seed=seed
  )


def ids(batch):
  return batch.example_id.tolist()


def test_prompts_are_padded_on_the_left_and_answers_on_the_right():
  loaded = table(4)
  np.testing.assert_array_equal(
    loaded.prompt_ids, [[0, 0, 0, 1], [0, 0, 1, 2], [0, 1, 2, 3], [1, 2, 3, 4]]
  )
  np.testing.assert_array_equal(loaded.prompt_mask, loaded.prompt_ids > 0)
  np.testing.assert_array_equal(
    loaded.answer_ids, [[3, 0], [4, 4], [5, 0], [6, 6]]
  )
  np.testing.assert_array_equal(loaded.answer_mask, loaded.answer_ids > 0)


def test_a_table_has_the_types_that_devices_take():
  batch = stream().batch(0)
  for ids_of in (batch.tokens, batch.example_id, batch.answer):
    assert isinstance(ids_of, np.ndarray)
    assert ids_of.dtype == np.int32
  assert batch.mask.dtype == batch.answer_mask.dtype == np.bool_


def test_a_table_keeps_fields_and_counts_of_dropped_rows():
  loaded = pipeline.load(Numbers(3), 'test')
  assert len(loaded) == 3
  assert loaded.fields[2] == {'prompt': 'p2', 'answer': '2', 'level': 'test'}
  assert loaded.dropped == {'prompt: empty': 2}


def test_the_head_of_a_table_is_its_first_rows():
  whole = table(6)
  head = whole.head(4)
  assert len(head) == 4
  np.testing.assert_array_equal(
    head.prompts(np.arange(4)).answer, whole.prompts(np.arange(4)).answer
  )
  assert head.references(np.asarray([3])) == [whole.fields[3]]
  assert len(whole.head(99)) == 6


def test_every_problem_is_seen_once_in_each_epoch():
  # 10 rows in steps of 4: 20 prompts are 5 batches, and the third straddles.
  batches = stream(rows=10, prompts_per_step=4)
  seen = np.concatenate([batches.batch(p).example_id for p in range(0, 20, 4)])
  assert sorted(seen[:10]) == list(range(10))
  assert sorted(seen[10:]) == list(range(10, 20))


def test_each_epoch_has_an_order_of_its_own():
  batches = stream(rows=10, prompts_per_step=10)
  orders = [
    tuple(np.asarray(ids(batches.batch(10 * e))) % 10) for e in range(5)
  ]
  assert len(set(orders)) == 5


def test_the_columns_of_a_batch_belong_to_the_same_row():
  batch = stream(rows=10, prompts_per_step=10).batch(25)
  row = batch.example_id % 10
  np.testing.assert_array_equal(batch.answer[:, 0], 3 + row)
  np.testing.assert_array_equal(batch.mask.sum(axis=1), 1 + row % 4)


def test_a_restored_stream_continues_where_the_old_one_stopped():
  straight = [ids(stream().batch(p)) for p in range(0, 60, 4)]
  restored = stream()
  for step in (11, 2, 14, 0):  # In any order: there is no state to rebuild.
    assert ids(restored.batch(4 * step)) == straight[step]


def test_a_position_between_batches_overlaps_both():
  batches = stream()
  joined = ids(batches.batch(8)) + ids(batches.batch(12))
  assert ids(batches.batch(10)) == joined[2:6]


@pytest.mark.parametrize('kind', [np.int64, np.asarray, jnp.asarray])
def test_a_position_may_come_from_a_checkpoint_as_an_array(kind):
  assert ids(stream().batch(kind(12))) == ids(stream().batch(12))


def test_seeds_give_different_orders():
  orders = {tuple(ids(stream(seed=s).batch(0))) for s in range(6)}
  assert len(orders) > 3


def test_the_order_is_part_of_the_format():
  # Written down once: a run must resume on another machine and NumPy.
  assert pipeline.permutation(8, seed=7, epoch=2).tolist() == GOLDEN


def test_an_order_is_computed_once_in_an_epoch(monkeypatch):
  computed = []
  whole = pipeline.permutation

  def counted(rows, *, seed, epoch):
    computed.append(epoch)
    return whole(rows, seed=seed, epoch=epoch)

  monkeypatch.setattr(pipeline, 'permutation', counted)
  batches = stream(rows=10, prompts_per_step=4)
  for position in range(0, 40, 4):
    batches.batch(position)
  assert computed == [0, 1, 2, 3]


def test_references_are_the_rows_of_a_batch_in_any_epoch():
  batches = stream(rows=10, prompts_per_step=10)
  batch = batches.batch(25)
  found = batches.references(jnp.asarray(batch.example_id))
  assert [f['answer'] for f in found] == [str(i % 10) for i in batch.example_id]


@pytest.mark.parametrize('batch_size', [1, 3, 5, 10, 16])
def test_in_order_every_row_is_valid_once(batch_size):
  batches = list(pipeline.in_order(table(10), batch_size=batch_size))
  assert all(b.prompts.tokens.shape == (batch_size, 4) for b in batches)
  valid = [i for b in batches for i in b.prompts.example_id[b.valid].tolist()]
  assert valid == list(range(10))
  assert len(batches) == -(-10 // batch_size)


def test_the_filling_of_the_last_batch_is_a_real_row():
  *_, last = pipeline.in_order(table(10), batch_size=4)
  assert last.valid.tolist() == [True, True, False, False]
  assert ids(last.prompts) == [8, 9, 9, 9]


@pytest.mark.parametrize('size', [0, -1, 11])
def test_a_batch_that_is_empty_or_larger_than_the_table_is_refused(size):
  with pytest.raises(
    ValueError, match=r'of a table of 10 rows.*choose 1 to 10'
  ):
    stream(rows=10, prompts_per_step=size)


def test_a_negative_position_is_refused():
  with pytest.raises(ValueError, match='position=-4 is negative'):
    stream().batch(-4)


def test_a_position_that_is_no_integer_is_refused():
  with pytest.raises(TypeError):
    stream().batch(4.0)


def test_an_identity_beyond_32_bits_is_refused_instead_of_wrapping():
  last = 2**31 // 10 * 10 - 10
  assert max(ids(stream(prompts_per_step=10).batch(last))) == last + 9
  with pytest.raises(ValueError, match='does not fit 32 bits'):
    stream(prompts_per_step=10).batch(last + 10)


def test_a_seed_that_is_no_64_bit_word_is_refused():
  with pytest.raises(ValueError, match='is outside'):
    stream(seed=-1)


def test_an_evaluation_batch_without_rows_is_refused():
  with pytest.raises(ValueError, match='batch_size=0 holds no row'):
    next(pipeline.in_order(table(4), batch_size=0))


def test_streams_and_tables_do_not_import_tensorflow():
  code = (
    'import sys, selfimprove.data.pipeline\n'
    "assert not {'tensorflow', 'seqio'} & set(sys.modules)\n"
  )
  root = pathlib.Path(__file__).parents[2]
  subprocess.run([sys.executable, '-c', code], check=True, cwd=root)
