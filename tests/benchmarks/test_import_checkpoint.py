from __future__ import annotations

import json
import pathlib
import sys

import numpy as np
import pytest

from benchmarks import import_checkpoint
from selfimprove.models import presets

FIELDS = {
  **presets.fields(name='qwen2.5-1.5b'),
  'vocab_size': 64,
  'num_hidden_layers': 2,
  'hidden_size': 32,
  'num_attention_heads': 4,
  'intermediate_size': 48,
}
pytestmark = pytest.mark.skipif(
  sys.platform != 'linux', reason='The peak is read from /proc.'
)


def test_what_is_written_is_imported_and_measured(tmp_path):
  stored = import_checkpoint.write(tmp_path, FIELDS, max_bytes=10_000)
  assert len(list(tmp_path.glob('*.safetensors'))) > 1
  row = import_checkpoint.measure(tmp_path, 'float32')
  assert row['weight_bytes'] == 2 * stored  # bf16 in the files.
  assert row['peak_bytes'] >= row['before_bytes'] > 0
  assert row['seconds'] > 0


def test_a_checkpoint_has_the_tensors_of_the_published_one():
  shapes = dict(import_checkpoint.theirs(presets.fields(name='qwen2.5-1.5b')))
  assert len(shapes) == 338  # As many as its index file names.
  assert shapes['model.layers.27.self_attn.o_proj.weight'] == (1536, 1536)
  assert shapes['model.layers.0.self_attn.k_proj.weight'] == (256, 1536)
  assert shapes['model.layers.0.mlp.down_proj.weight'] == (1536, 8960)
  assert sum(map(np.prod, shapes.values())) == 1_543_714_304


def test_the_peak_is_compared_with_what_was_there_before():
  row = import_checkpoint.summarize(
    {
      'param_dtype': 'float32',
      'before_bytes': 1_000,
      'peak_bytes': 3_700,
      'weight_bytes': 2_000,
      'seconds': 2.0,
      'cpu_seconds': 1.0,
    },
    1_000,
  )
  assert row['ratio'] == pytest.approx(1.35)
  assert row['ratio_to_stored'] == pytest.approx(2.7)
  assert not row['met']
  assert 'MISSED' in import_checkpoint.table([row])


def test_the_measured_import_meets_the_bar():
  file = pathlib.Path(import_checkpoint.__file__).parent / 'results'
  content = json.loads((file / 'import_checkpoint.json').read_text())
  assert content['size'] == 'qwen2.5-1.5b'
  assert [row['met'] for row in content['rows']] == [True, True]
