from __future__ import annotations

import dataclasses
import json

import jax
import pytest

from selfimprove.training.conditions import MetricAtLeast
from selfimprove.training.stages import (
  Cursor,
  current_policy,
  needs_reference,
  unroll,
)
from tests.training import tiny


def _stage(**changes):
  return dataclasses.replace(tiny.stages()[0], **changes)


def test_a_cursor_survives_json():
  cursor = Cursor(stage=1, stage_step=4, condition={'0': {'streak': 2}})
  back = json.loads(json.dumps(dataclasses.asdict(cursor)))
  assert Cursor(**back) == cursor


def test_a_stage_ends_after_its_steps():
  cursor, stage = Cursor(), _stage(steps=2)
  cursor = cursor.after_step(stage, {})
  assert cursor == Cursor(stage=0, stage_step=1)
  assert cursor.after_step(stage, {}) == Cursor(stage=1)


def test_a_condition_ends_a_stage_early_and_is_remembered_until_then():
  reached = MetricAtLeast(metric='m', threshold=1.0, patience=2)
  stage, cursor = _stage(steps=9, advance=reached), Cursor()
  for value in (1.0, 0.0, 1.0):
    cursor = cursor.after_step(stage, {'m': value})
  assert cursor == Cursor(stage=0, stage_step=3, condition={'streak': 1})
  # The next stage begins with a condition that has seen nothing.
  assert cursor.after_step(stage, {'m': 1.0}) == Cursor(stage=1)


def test_rounds_repeat_the_list_and_number_the_names():
  names = [s.name for s in unroll([_stage(name='a'), _stage(name='b')], 2)]
  assert names == ['a_1', 'b_1', 'a_2', 'b_2']
  assert [s.name for s in unroll([_stage(name='a')], 1)] == ['a']


@pytest.mark.parametrize(('count', 'rounds'), [(0, 1), (1, 0)])
def test_nothing_to_train_is_refused(count, rounds):
  with pytest.raises(ValueError, match='train nothing'):
    unroll([_stage()] * count, rounds)


@pytest.mark.parametrize('name', ['steps', 'prompts_per_step', 'microbatches'])
def test_a_stage_without_work_is_refused(name):
  with pytest.raises(ValueError, match=f"Stage 'one': {name}=0"):
    _stage(**{name: 0})


def test_micro_batches_that_do_not_divide_the_prompts_are_refused():
  with pytest.raises(ValueError, match='choose divisors'):
    _stage(prompts_per_step=4, microbatches=3)


def test_a_reference_is_kept_only_for_those_who_compare_with_it():
  without = dataclasses.replace(tiny.algorithm(), needs=('old_logprobs',))
  assert not needs_reference([_stage(algorithm=without)])
  assert needs_reference([_stage(algorithm=without), _stage()])


def test_the_current_policy_is_a_copy_in_its_own_memory():
  params = tiny.POLICY.init(jax.random.key(0))
  state = type('State', (), {'params': params})
  copy = current_policy(state)
  pointers = [
    {leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(tree)}
    for tree in (params, copy)
  ]
  assert not pointers[0] & pointers[1]
