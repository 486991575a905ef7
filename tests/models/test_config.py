from __future__ import annotations

import pytest

from selfimprove.models.config import TransformerConfig
from selfimprove.models.rope import RopeScaling

SHAPE = {
  'vocab_size': 11,
  'num_layers': 6,
  'embed_dim': 8,
  'num_heads': 4,
  'num_kv_heads': 2,
  'head_dim': 4,
  'mlp_dim': 8,
}


@pytest.mark.parametrize(
  ('change', 'sentence'),
  [
    ({'num_layers': 0}, r'num_layers=0 is not positive; give one above 0\.'),
    ({'num_kv_heads': 0}, r'num_kv_heads=0 is not positive'),
    ({'sliding_window': 0}, r'sliding_window=0 is not positive'),
    ({'final_soft_cap': -30.0}, r'final_soft_cap=-30\.0 is not positive'),
    ({'query_scale': 0.0}, r'query_scale=0\.0 is not positive'),
    ({'num_kv_heads': 3}, r'num_heads=4 is not a multiple of num_kv_heads=3;'),
    ({'head_dim': 5}, r'head_dim=5 is odd; .* choose an even head size\.'),
    (
      {'activation': 'gelu'},
      r"activation='gelu' is not supported; use silu or gelu_tanh\.",
    ),
    ({'dtype': 'float16'}, r"'float16' .* use float32 or bfloat16\."),
    ({'param_dtype': 'int8'}, r"param_dtype='int8' is not supported"),
    ({'global_every': 2}, r'global_every=2 has no effect without a sliding'),
    (
      {'sliding_window': 4, 'global_every': -1},
      r'global_every=-1 is negative; give n for every n-th layer',
    ),
  ],
)
def test_a_shape_that_cannot_be_is_refused_in_a_sentence(change, sentence):
  with pytest.raises(ValueError, match=sentence):
    TransformerConfig(**{**SHAPE, **change})


def test_bounds_of_rope_scaling_in_the_wrong_order_are_refused():
  with pytest.raises(ValueError, match='give 0 < low < high'):
    RopeScaling(
      factor=8.0,
      low_frequency_factor=4.0,
      high_frequency_factor=1.0,
      original_context=8192,
    )


@pytest.mark.parametrize(
  ('change', 'windows'),
  [
    ({}, (None,) * 6),
    ({'sliding_window': 9}, (9,) * 6),
    ({'sliding_window': 9, 'global_every': 1}, (None,) * 6),
    # Gemma 2 begins with a local layer, and Gemma 3 with five of them.
    ({'sliding_window': 9, 'global_every': 2}, (9, None) * 3),
    ({'sliding_window': 9, 'global_every': 6}, (9,) * 5 + (None,)),
  ],
)
def test_every_nth_layer_sees_everything(change, windows):
  assert TransformerConfig(**{**SHAPE, **change}).windows() == windows
