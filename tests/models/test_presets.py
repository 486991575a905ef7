"""Published models have the published number of parameters."""

from __future__ import annotations

import math
import pathlib

import gin
import jax
import pytest

from selfimprove.models import presets
from selfimprove.models.transformer import make_policy

FILE = (
  pathlib.Path(__file__).parents[2] / 'gin_configs' / 'models' / 'published.gin'
)
# Of the released weights, tied matrices counted once: the sizes that the index
# files of the checkpoints state. Of Gemma 3 from 4B on the report gives
# millions, vision apart (arXiv 2503.19786, table 1).
EXACT = {
  'llama-3.2-1b': 1_235_814_400,
  'llama-3.2-3b': 3_212_749_824,
  'llama-3.1-8b': 8_030_261_248,
  'llama-3.1-70b': 70_553_706_496,
  'llama-3.3-70b': 70_553_706_496,
  'qwen2.5-0.5b': 494_032_768,
  'qwen2.5-1.5b': 1_543_714_304,
  'qwen2.5-3b': 3_085_938_688,
  'qwen2.5-7b': 7_615_616_512,
  'qwen2.5-14b': 14_770_033_664,
  'qwen2.5-32b': 32_763_876_352,
  'qwen2.5-72b': 72_706_203_648,
  'qwen3-0.6b': 596_049_920,
  'qwen3-1.7b': 1_720_574_976,
  'qwen3-4b': 4_022_468_096,
  'qwen3-8b': 8_190_735_360,
  'qwen3-14b': 14_768_307_200,
  'qwen3-32b': 32_762_123_264,
  'gemma-2-2b': 2_614_341_888,
  'gemma-2-9b': 9_241_705_984,
  'gemma-2-27b': 27_227_128_320,
  'gemma-3-1b': 999_885_952,
}
MILLIONS_BESIDE_THE_TABLE = {
  'gemma-3-1b': 698,
  'gemma-3-4b': 3_209,
  'gemma-3-12b': 10_759,
  'gemma-3-27b': 25_600,
}


def _shapes(name):
  policy = make_policy(presets.published(name=name))
  return jax.eval_shape(policy.init, jax.random.key(0))


def _count(tree):
  return sum(math.prod(x.shape) for x in jax.tree.leaves(tree))


def test_every_preset_is_counted():
  assert {*presets.NAMES} == {*EXACT, *MILLIONS_BESIDE_THE_TABLE}


@pytest.mark.parametrize('name', EXACT)
def test_a_preset_has_the_published_number_of_parameters(name):
  assert _count(_shapes(name)) == EXACT[name]


@pytest.mark.parametrize('name', MILLIONS_BESIDE_THE_TABLE)
def test_a_gemma_3_has_the_published_number_beside_its_table(name):
  shapes = _shapes(name)
  beside = _count(shapes) - _count(shapes['embedder'])
  assert round(beside / 1e6) == MILLIONS_BESIDE_THE_TABLE[name]


@pytest.mark.parametrize('name', presets.NAMES)
def test_gemma_alone_scales_its_embeddings_by_the_root_of_their_size(name):
  config = presets.published(name=name)
  gemma = name.startswith('gemma')
  scale = math.sqrt(config.embed_dim) if gemma else 1.0
  assert config.embed_scale == pytest.approx(scale)
  assert (config.norm_offset, config.post_norms) == (float(gemma), gemma)


def test_what_does_not_show_in_counts_is_as_published():
  # From the config.json of each, beside what its family has.
  large, small = (
    presets.published(name=name) for name in ('llama-3.1-8b', 'llama-3.2-1b')
  )
  assert (large.rope_scaling.factor, small.rope_scaling.factor) == (8.0, 32.0)
  assert (large.tied_embeddings, small.tied_embeddings) == (False, True)
  queries = {
    name: presets.published(name=name).query_scale ** -2
    for name in presets.NAMES
    if name.startswith('gemma')
  }
  # 4608 / 32 and 5376 / 32 in the largest, the head size in the others.
  others = dict.fromkeys(queries, 256)
  assert queries == pytest.approx(
    {**others, 'gemma-2-27b': 144, 'gemma-3-27b': 168}
  )
  windows = presets.published(name='gemma-3-4b').windows()
  assert windows[:7] == (1024,) * 5 + (None, 1024)


def test_a_size_that_is_not_known_is_refused():
  with pytest.raises(ValueError, match=r"'gpt-5' is no published size; use"):
    presets.published(name='gpt-5')


def consumer(*, model):
  """Stands for an entry point."""
  return model


def test_a_gin_file_chooses_the_size():
  gin.clear_config()
  try:
    gin.parse_config(
      'from __gin__ import dynamic_registration\n'
      'from tests.models import test_presets\n'
      f"include '{FILE}'\n"
      "SIZE = 'qwen3-4b'\n"
      'test_presets.consumer.model = %MODEL\n'
    )
    gin.finalize()
    found = gin.get_configurable(consumer)()
  finally:
    gin.clear_config()
  assert found == presets.published(name='qwen3-4b')
