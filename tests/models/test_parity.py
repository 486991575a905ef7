"""The decoder gives the logits of independent implementations.

All families are in this one file, so that one worker imports torch.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from selfimprove.models.config import TransformerConfig
from selfimprove.models.rope import (
  RopeScaling,
  YarnScaling,
  evenly_scaled,
)
from selfimprove.models.transformer import make_policy
from selfimprove.rollout.decode import Sampling
from selfimprove.rollout.single import Single
from selfimprove.types import Prompts
from tests.models import hugging_face

VOCAB, SLOTS, ANSWER = 37, 24, 64
SLOW = pytest.mark.slow
PADDING = (0, 5, 13)  # Empty slots on the left of each row.
SHAPE = {
  'vocab_size': VOCAB,
  'num_layers': 2,
  'embed_dim': 32,
  'num_heads': 4,
  'num_kv_heads': 2,
  'head_dim': 8,
  'mlp_dim': 48,
}
THEIR_SHAPE = {
  'vocab_size': VOCAB,
  'num_hidden_layers': 2,
  'hidden_size': 32,
  'num_attention_heads': 4,
  'num_key_value_heads': 2,
  'head_dim': 8,
  'intermediate_size': 48,
  'max_position_embeddings': 200,  # Four times that of YaRN's example.
  'attn_implementation': 'eager',
  # Ten times the usual weights: logits of order ten, and attention that is
  # far from uniform, so that a wrong mask or angle shows.
  'initializer_range': 0.2,
  'pad_token_id': 0,
}


def rope(theta, **rest):
  return {'rope_type': 'default', 'rope_theta': theta, **rest}


# The frequencies of head size 8 at base 100 are 1, .32, .1 and .03: within 50
# tokens they make 8, 2.5, .8 and .25 turns: kept, mixed, and two divided.
LLAMA3_SCALING = {
  'rope_type': 'llama3',
  'rope_theta': 100.0,
  'factor': 8.0,
  'low_freq_factor': 1.0,
  'high_freq_factor': 4.0,
  'original_max_position_embeddings': 50,
}
# Here the second and third pair are mixed, a third and two thirds.
YARN_SCALING = {
  'rope_type': 'yarn',
  'rope_theta': 100.0,
  'factor': 4.0,
  'beta_fast': 4.0,
  'beta_slow': 0.5,
  'original_max_position_embeddings': 50,
}
GEMMA = {
  'activation': 'gelu_tanh',
  'norm_offset': 1.0,
  'post_norms': True,
  'embed_scale': math.sqrt(32),
  'query_scale': 24**-0.5,
  'sliding_window': 4,
}
# Name -> (their class, their options, our options).
FAMILIES = {
  'llama': (
    'Llama',
    {'tie_word_embeddings': False, 'rope_parameters': rope(500.0)},
    {'tied_embeddings': False, 'rope_theta': 500.0},
  ),
  'llama 3.2': (
    'Llama',
    {
      'tie_word_embeddings': True,
      'rms_norm_eps': 1e-5,
      'rope_parameters': LLAMA3_SCALING,
    },
    {
      'norm_eps': 1e-5,
      'rope_theta': 100.0,
      'rope_scaling': RopeScaling(
        factor=8.0,
        low_frequency_factor=1.0,
        high_frequency_factor=4.0,
        original_context=50,
      ),
    },
  ),
  'qwen2': (
    'Qwen2',
    {'tie_word_embeddings': True, 'rope_parameters': rope(1e6)},
    {'qkv_bias': True, 'rope_theta': 1e6},
  ),
  'llama, linear': (
    'Llama',
    {
      'tie_word_embeddings': False,
      'rope_parameters': rope(100.0) | {'rope_type': 'linear', 'factor': 4.0},
    },
    {
      'tied_embeddings': False,
      'rope_theta': 100.0,
      'rope_scaling': evenly_scaled(4.0),
    },
  ),
  # Heads of a size that does not divide the width.
  'llama with biases': (
    'Llama',
    {
      'tie_word_embeddings': True,
      'attention_bias': True,
      'num_attention_heads': 8,
      'head_dim': 10,
      'rope_parameters': rope(500.0),
    },
    {
      'num_heads': 8,
      'head_dim': 10,
      'qkv_bias': True,
      'out_bias': True,
      'rope_theta': 500.0,
    },
  ),
  'qwen2.5 for long texts': (
    'Qwen2',
    {'tie_word_embeddings': False, 'rope_parameters': YARN_SCALING},
    {
      'tied_embeddings': False,
      'qkv_bias': True,
      'rope_theta': 100.0,
      'rope_scaling': YarnScaling(
        factor=4.0,
        original_context=50,
        fast_turns=4.0,
        slow_turns=0.5,
        attention_factor=1.1386294361119891,
      ),
    },
  ),
  'qwen2 with windows': (
    'Qwen2',
    {
      'num_hidden_layers': 3,
      'tie_word_embeddings': True,
      'use_sliding_window': True,
      'sliding_window': 4,
      'max_window_layers': 2,
      'rope_parameters': rope(1e6),
    },
    {
      'num_layers': 3,
      'qkv_bias': True,
      'rope_theta': 1e6,
      'sliding_window': 4,
      'global_first': 2,
    },
  ),
  # The head size is twice embed_dim / num_heads, as in the 0.6B model.
  'qwen3': (
    'Qwen3',
    {
      'tie_word_embeddings': True,
      'head_dim': 16,
      'rope_parameters': rope(1e6),
    },
    {'qk_norm': True, 'head_dim': 16, 'rope_theta': 1e6},
  ),
  'gemma2': (
    'Gemma2',
    {
      'sliding_window': 4,
      'query_pre_attn_scalar': 24,
      'attn_logit_softcapping': 2.0,
      'final_logit_softcapping': 5.0,
      'rope_parameters': rope(10_000.0),
    },
    {
      **GEMMA,
      'attention_soft_cap': 2.0,
      'final_soft_cap': 5.0,
      'global_every': 2,
    },
  ),
  'gemma3': (
    'Gemma3',
    {
      'num_hidden_layers': 3,
      'sliding_window': 4,
      'sliding_window_pattern': 3,
      'query_pre_attn_scalar': 24,
      'rope_parameters': {
        'sliding_attention': rope(100.0),
        'full_attention': rope(1e4) | {'rope_type': 'linear', 'factor': 8.0},
      },
    },
    {
      **GEMMA,
      'num_layers': 3,
      'qk_norm': True,
      'rope_theta': 1e4,
      'local_rope_theta': 100.0,
      'rope_scaling': evenly_scaled(8.0),
      'global_every': 3,
    },
  ),
}


@pytest.fixture(scope='module')
def torch():
  return pytest.importorskip('torch')


@pytest.fixture(scope='module')
def transformers(torch):
  return pytest.importorskip('transformers')


def make_theirs(torch, transformers, name, options):
  text = 'Text' if name == 'Gemma3' else ''
  config = getattr(transformers, f'{name}{text}Config')(
    **{**THEIR_SHAPE, **options}
  )
  torch.manual_seed(0)
  model = getattr(transformers, f'{name}ForCausalLM')(config).float().eval()
  with torch.no_grad():
    for key, weight in model.named_parameters():
      # Norms start at 1 (or 0) and biases at 0, which would hide them.
      if 'norm' in key or 'bias' in key:
        weight.add_(0.3 * torch.randn_like(weight))
  return model


@pytest.mark.parametrize('family', FAMILIES)
def test_logits_equal_those_of_hugging_face_on_left_padded_rows(
  family, torch, transformers
):
  name, their_options, our_options = FAMILIES[family]
  theirs = make_theirs(torch, transformers, name, their_options)
  config = TransformerConfig(**{**SHAPE, **our_options})
  weights = {k: v.numpy() for k, v in theirs.state_dict().items()}
  params = hugging_face.to_params(config, weights)

  tokens = np.random.default_rng(0).integers(1, VOCAB, (3, SLOTS))
  mask = np.arange(SLOTS)[None, :] >= np.array(PADDING)[:, None]
  positions = np.where(mask, np.cumsum(mask, axis=1) - 1, -1)
  with torch.no_grad():
    expected = theirs(
      input_ids=torch.tensor(tokens),
      attention_mask=torch.tensor(mask.astype(np.int64)),
      position_ids=torch.tensor(np.maximum(positions, 0)),
    ).logits.numpy()

  policy = make_policy(config)
  hidden, _ = jax.jit(policy.apply)(
    params,
    jnp.asarray(tokens, jnp.int32),
    jnp.asarray(positions, jnp.int32),
  )
  logits = np.asarray(policy.unembed(params, hidden))
  assert np.std(expected[mask]) > 0.5
  np.testing.assert_allclose(logits[mask], expected[mask], atol=1e-4, rtol=0)


def _talkative(torch, transformers, family):
  """A model that neither repeats itself nor wavers, and how it is prompted."""
  name, options, _ = FAMILIES[family]
  wide = {**options, 'initializer_range': 0.4}
  theirs = make_theirs(torch, transformers, name, wide)
  theirs.generation_config.eos_token_id = None
  if not family.startswith('gemma'):
    return theirs, 2
  with torch.no_grad():
    for key, weight in theirs.named_parameters():
      if 'post_' in key:
        # Else the scaled embedding of a token outweighs what is added to it,
        # and a token is followed by itself.
        weight.add_(20.0)
  return theirs, 0


# Of the others, the default suite compares logits alone.
@pytest.mark.parametrize(
  'family',
  [
    family if family == 'gemma3' else pytest.param(family, marks=SLOW)
    for family in FAMILIES
  ],
)
def test_greedy_answers_equal_those_of_hugging_face(
  family, torch, transformers
):
  theirs, seed = _talkative(torch, transformers, family)
  tokens = np.random.default_rng(seed).integers(1, VOCAB, (3, 16))
  mask = np.arange(16)[None, :] >= np.array(PADDING)[:, None]
  with torch.no_grad():
    found = theirs.generate(
      input_ids=torch.tensor(np.where(mask, tokens, 0)),
      attention_mask=torch.tensor(mask.astype(np.int64)),
      generation_config=transformers.GenerationConfig(
        do_sample=False, max_new_tokens=ANSWER, pad_token_id=0
      ),
      output_logits=True,
      return_dict_in_generate=True,
    )
  # An answer says little about the decoder where two tokens are equally likely
  # (0.001 is ten times what logits may differ by) or where it goes in circles.
  best = torch.stack(found.logits).topk(2).values
  assert float((best[..., 0] - best[..., 1]).min()) > 1e-3
  expected = found.sequences[:, 16:].numpy()
  assert all(len({*row}) > 4 for row in expected)

  config = TransformerConfig(**{**SHAPE, **FAMILIES[family][2]})
  weights = {k: v.numpy() for k, v in theirs.state_dict().items()}
  params = hugging_face.to_params(config, weights)
  np.testing.assert_array_equal(
    _answers(config, params, tokens, mask), expected
  )


def _answers(config, params, tokens, mask):
  """What our sampler writes behind each prompt."""
  how = Single(
    eos_ids=(VOCAB,),  # None that can be written.
    sampling=Sampling(temperature=0.0),
    group_size=1,
    max_new_tokens=ANSWER,
  )
  nothing = jnp.zeros((len(tokens), 1), jnp.int32)
  prompts = Prompts(
    tokens=jnp.asarray(tokens, jnp.int32),
    mask=jnp.asarray(mask),
    example_id=jnp.arange(len(tokens), dtype=jnp.int32),
    answer=nothing,
    answer_mask=nothing > 0,
    extra={},
  )
  policy, key = make_policy(config), jax.random.key(0)
  rollout = jax.jit(lambda p: how(policy, p, prompts, key))(params)
  return np.asarray(rollout.tokens[:, tokens.shape[1] :])


@pytest.mark.parametrize('family', FAMILIES)
def test_parameter_trees_of_both_have_the_same_shapes(
  family, torch, transformers
):
  name, their_options, our_options = FAMILIES[family]
  theirs = make_theirs(torch, transformers, name, their_options)
  config = TransformerConfig(**{**SHAPE, **our_options})
  weights = {k: v.numpy() for k, v in theirs.state_dict().items()}
  got = jax.tree.map(jnp.shape, hugging_face.to_params(config, weights))
  want = jax.eval_shape(make_policy(config).init, jax.random.key(0))
  assert got == jax.tree.map(lambda x: x.shape, want)
