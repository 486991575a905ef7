"""What fits, and the advice where it does not."""

from __future__ import annotations

import pytest

from selfimprove.scale import hlo, memory
from selfimprove.scale.chips import CHIPS, GIB
from selfimprove.scale.memory import Memory


def taken(**gib):
  names = ('arguments', 'outputs', 'temporaries', 'code', 'resident')
  return Memory(**{name: gib.get(name, 0.0) * GIB for name in names})


def test_what_fits_needs_no_advice():
  assert not memory.advice(taken(arguments=8, temporaries=7), CHIPS['v5e'])


def test_a_state_that_is_too_large_asks_for_more_shards():
  said = memory.advice(taken(arguments=20, temporaries=1), CHIPS['v5e'])
  assert '5.2 GiB too much' in said
  assert 'fsdp by 4' in said


def test_temporaries_that_are_too_large_ask_for_micro_batches():
  said = memory.advice(taken(arguments=4, temporaries=20), CHIPS['v5e'])
  assert '8.2 GiB too much' in said
  assert 'set microbatches to 2 (1 now).' in said


def test_advice_names_what_is_set_and_what_to_set():
  knobs = memory.Knobs(microbatches=3, remat='dots')
  said = memory.advice(
    taken(arguments=4, temporaries=20), CHIPS['v5e'], knobs=knobs
  )
  assert said.endswith('to 6 (3 now), or remat (dots) to full.')


def test_samples_that_are_too_many_are_drawn_in_parts():
  knobs = memory.Knobs(at_once=16)
  said = memory.advice(
    taken(arguments=4, temporaries=40), CHIPS['v5e'], knobs=knobs
  )
  assert 'set prompts_at_once to 4 (16 now)' in said


def test_state_that_a_program_does_not_read_takes_room_all_the_same():
  assert taken(temporaries=10, resident=8).peak > CHIPS['v5e'].hbm_bytes


def test_the_refusal_of_the_compiler_says_how_much_it_used():
  said = (
    'RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 20.50G '
    'of 15.75G hbm. Exceeded hbm capacity by 4.75G.'
  )
  used = memory.of_refusal(said, arguments=GIB)
  assert used == pytest.approx(20.5 * GIB)
  assert memory.of_refusal('something else', arguments=GIB) is None


def test_a_refusal_of_temporaries_leaves_out_the_arguments():
  said = (
    'RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required '
    'for HLO temporaries (18.79G) exceeds available HBM (15.75G).'
  )
  used = memory.of_refusal(said, arguments=2 * GIB)
  assert used == pytest.approx(20.79 * GIB)


def test_tiles_pad_the_two_minor_axes():
  (shape,) = hlo._shapes('bf16[3,9,130]{2,1,0:T(8,128)(2,1)}')
  assert shape.bytes == 2 * 3 * 9 * 130
  assert shape.padded_bytes == 2 * 3 * 16 * 256


def test_memory_in_between_lies_on_a_line():
  near, far = taken(temporaries=1), taken(temporaries=2)
  assert near.line_to(far, share=5.0).temporaries == 6 * GIB
