import pytest

from benchmarks import protocol
from benchmarks.protocol import WORKLOAD


def test_parameters_are_counted_as_in_the_published_shape():
  # Embedding 4096·256 = 1048576; a block: q 257·256, k and v 2·257·128,
  # output 256·256, feed-forward 3·256·1024, norms 512, together 984064; the
  # last norm 256. Without the qkv bias it would be 4983040, untied 6033664.
  assert WORKLOAD.parameters == 1_048_576 + 4 * 984_064 + 256 == 4_985_088


def test_a_rollout_samples_4096_tokens():
  assert (WORKLOAD.rows, WORKLOAD.tokens) == (32, 4096)


def test_prompts_are_full_repeatable_and_free_of_special_ids():
  prompts = WORKLOAD.prompt_ids(seed=1)
  assert [len(ids) for ids in prompts] == [WORKLOAD.prompt_length] * 4
  assert all(3 <= i < WORKLOAD.vocab for ids in prompts for i in ids)
  assert prompts == WORKLOAD.prompt_ids(seed=1)
  assert prompts != WORKLOAD.prompt_ids(seed=2)


def test_laps_are_differences_without_the_dropped_ones():
  stamps = [(0.0, 0.0), (5.0, 50.0), (6.0, 52.0), (8.0, 56.0)]
  assert protocol.laps(stamps, drop=1) == ([1.0, 2.0], [2.0, 4.0])
  assert protocol.laps(stamps, drop=0)[0] == [5.0, 1.0, 2.0]


def test_repeat_stamps_before_between_and_after():
  calls = []
  stamps = protocol.repeat(lambda: calls.append(None), times=3)
  assert (len(calls), len(stamps)) == (3, 4)
  assert stamps == sorted(stamps)


def test_a_sample_that_ended_early_stops_the_measurement():
  full = [WORKLOAD.completion_length] * WORKLOAD.rows
  protocol.check_lengths(full)
  with pytest.raises(RuntimeError, match='lengths'):
    protocol.check_lengths([*full[:-1], 127])
  with pytest.raises(RuntimeError, match='31 rows'):
    protocol.check_lengths(full[:-1])


def test_the_core_has_a_speed():
  assert protocol.core_gflops(size=64, calls=2) > 0
