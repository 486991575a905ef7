"""Published models have the published number of parameters."""

from __future__ import annotations

import math
import pathlib

import gin
import jax
import pytest

from selfimprove.models.transformer import make_policy

FOLDER = pathlib.Path(__file__).parents[2] / 'gin_configs' / 'models'
# Of the released weights, tied matrices counted once.
PUBLISHED = {
  'gemma2_2b': 2_614_341_888,
  'gemma3_1b': 999_885_952,
  'llama3_2_1b': 1_235_814_400,
  'qwen2_0_5b': 494_032_768,
  'qwen3_0_6b': 596_049_920,
}


@pytest.fixture(autouse=True)
def fresh_gin():
  gin.clear_config()
  yield
  gin.clear_config()


def consumer(*, model):
  """Stands for an entry point."""
  return model


def configured(name):
  gin.parse_config(
    'from __gin__ import dynamic_registration\n'
    'from tests.models import test_presets\n'
    f"include '{FOLDER / name}.gin'\n"
    'test_presets.consumer.model = %MODEL\n'
  )
  gin.finalize()
  return gin.get_configurable(consumer)()


def test_every_preset_is_tested():
  """All but the demo's model, and what a checkpoint says about itself."""
  others = {'tiny', 'hugging_face'}
  assert {p.stem for p in FOLDER.glob('*.gin')} - others == set(PUBLISHED)


@pytest.mark.parametrize('name', PUBLISHED)
def test_a_preset_has_the_published_number_of_parameters(name):
  shapes = jax.eval_shape(make_policy(configured(name)).init, jax.random.key(0))
  count = sum(math.prod(x.shape) for x in jax.tree.leaves(shapes))
  assert count == PUBLISHED[name]


@pytest.mark.parametrize('name', PUBLISHED)
def test_gemma_alone_scales_its_embeddings_by_the_root_of_their_size(name):
  config = configured(name)
  gemma = name.startswith('gemma')
  scale = math.sqrt(config.embed_dim) if gemma else 1.0
  assert config.embed_scale == pytest.approx(scale)
  assert (config.norm_offset, config.post_norms) == (float(gemma), gemma)
