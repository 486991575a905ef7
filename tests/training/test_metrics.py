from __future__ import annotations

import json
import math

import jax.numpy as jnp
import numpy as np
import pytest
from tensorboardX.proto import event_pb2
from tensorboardX.record_writer import masked_crc32c

from selfimprove.training import metrics
from selfimprove.training.metrics import MetricsWriter, read_rows
from selfimprove.types import Estimate


def _write(workdir, steps, *, resume=None):
  writer = MetricsWriter(workdir)
  if resume is not None:
    writer.resume(resume)
  for step in steps:
    writer.write(step, {'loss/kl': jnp.sin(jnp.float32(step)), 'a/b': step})
    writer.write_timing(step, {'time/total': 0.5})
  writer.close()
  return (workdir / metrics.METRICS_FILE).read_bytes()


def test_floats_are_read_back_bit_for_bit(tmp_path):
  values = np.random.default_rng(0).standard_normal(100).astype(np.float32)
  values[:2] = [np.float32(0.1), np.finfo(np.float32).tiny]
  writer = MetricsWriter(tmp_path)
  for step, value in enumerate(values):
    writer.write(step, {'x': jnp.asarray(value)})
  rows = read_rows(tmp_path / metrics.METRICS_FILE)
  back = np.asarray([row['x'] for row in rows], np.float32)
  np.testing.assert_array_equal(back.view(np.int32), values.view(np.int32))
  writer.close()


def test_a_killed_and_resumed_run_writes_the_same_bytes(tmp_path):
  straight = _write(tmp_path / 'straight', range(1, 9))
  _write(tmp_path / 'killed', range(1, 7))
  # Killed after step 6 and in the middle of writing 7; the checkpoint is of 4.
  with (tmp_path / 'killed' / metrics.METRICS_FILE).open('a') as file:
    file.write('{"step": 7, "a/')
  assert _write(tmp_path / 'killed', range(5, 9), resume=4) == straight


def test_resuming_drops_timing_rows_as_well(tmp_path):
  _write(tmp_path, range(1, 5))
  _write(tmp_path, range(3, 4), resume=2)
  rows = read_rows(tmp_path / metrics.TIMING_FILE)
  assert [row['step'] for row in rows] == [1, 2, 3]


def test_resuming_at_minus_one_starts_afresh(tmp_path):
  _write(tmp_path, range(4))
  assert _write(tmp_path, (), resume=-1) == b''


def test_resuming_without_files_makes_none(tmp_path):
  MetricsWriter(tmp_path).resume(3)
  assert not list(tmp_path.iterdir())


def test_a_row_is_on_disk_when_write_returns(tmp_path):
  writer = MetricsWriter(tmp_path)
  writer.write(1, {'x': 1.0}, labels={'stage': 'II'})
  line = (tmp_path / metrics.METRICS_FILE).read_text()
  assert line == '{"step": 1, "stage": "II", "x": 1.0}\n'
  writer.close()


def test_rows_do_not_depend_on_the_order_of_metrics(tmp_path):
  writer = MetricsWriter(tmp_path)
  writer.write(1, {'b': 1.0, 'a': 2.0})
  writer.write(1, {'a': 2.0, 'b': 1.0})
  first, second = (tmp_path / metrics.METRICS_FILE).read_text().splitlines()
  assert first == second
  writer.close()


def test_nan_and_infinities_are_legal_json_and_come_back(tmp_path):
  def forbid(constant):
    raise AssertionError(constant)

  writer = MetricsWriter(tmp_path)
  writer.write(1, {'a': math.nan, 'b': math.inf, 'c': -math.inf})
  writer.close()
  path = tmp_path / metrics.METRICS_FILE
  json.loads(path.read_text(), parse_constant=forbid)
  (row,) = read_rows(path)
  assert math.isnan(row['a'])
  assert (row['b'], row['c']) == (math.inf, -math.inf)


def test_a_half_written_last_line_is_not_read(tmp_path):
  _write(tmp_path, [1, 2])
  path = tmp_path / metrics.METRICS_FILE
  path.write_bytes(path.read_bytes()[:-3])
  assert [row['step'] for row in read_rows(path)] == [1]


@pytest.mark.parametrize('line', ['oops', '{"x": 1}', '[1]'])
def test_a_damaged_line_in_the_middle_is_named(tmp_path, line):
  _write(tmp_path, [1])
  with (tmp_path / metrics.METRICS_FILE).open('a') as file:
    file.write(line + '\n{"step": 2}\n')
  with pytest.raises(ValueError, match=r'metrics.jsonl:2 is not a row'):
    MetricsWriter(tmp_path).resume(1)


def test_an_estimate_is_written_as_its_mean():
  estimate = Estimate(total=jnp.float32(3), count=jnp.float32(4))
  assert metrics.to_scalars({'x': estimate, 'y': 2}) == {'x': 0.75, 'y': 2.0}


def test_tensorboard_gets_the_same_values(tmp_path):
  _write(tmp_path, [1, 2])
  (path,) = (tmp_path / 'tensorboard').iterdir()
  found = {
    (value.tag, event.step): value.simple_value
    for event in _events(path.read_bytes())
    for value in event.summary.value
  }
  assert found[('loss/kl', 2)] == np.sin(np.float32(2))
  assert found[('time/total', 1)] == 0.5


def _events(data):
  """Records: length u64, its checksum u32, the event, its checksum u32."""
  while data:
    length = int.from_bytes(data[:8], 'little')
    assert int.from_bytes(data[8:12], 'little') == masked_crc32c(data[:8])
    event = event_pb2.Event()
    event.ParseFromString(data[12 : 12 + length])
    yield event
    data = data[16 + length :]
