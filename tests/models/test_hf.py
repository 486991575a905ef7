"""Checkpoints of Hugging Face's own library, there and back.

In the file of the parity tests torch is imported by one worker; here too.
"""

from __future__ import annotations

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from selfimprove.models import hf, hf_config
from selfimprove.models.transformer import make_policy
from selfimprove.training.state import abstract_params
from tests.models.test_parity import FAMILIES, THEIR_SHAPE, VOCAB, make_theirs
from tests.training import tiny

torch = pytest.importorskip('torch')
transformers = pytest.importorskip('transformers')


# The other variants of a family have the same tensors.
IN_FILES = ('llama', 'llama with biases', 'qwen2', 'qwen3', 'gemma2', 'gemma3')


@pytest.fixture(scope='module', params=IN_FILES)
def checkpoint(request, tmp_path_factory):
  """A model of each family, saved by its library in several files."""
  name, options, _ = FAMILIES[request.param]
  theirs = make_theirs(torch, transformers, name, options)
  folder = tmp_path_factory.mktemp('checkpoint')
  theirs.save_pretrained(folder, max_shard_size='20KB')
  return theirs, folder


def _load(folder, **mesh):
  fields = hf_config.read_config(folder)
  config = hf_config.to_transformer(fields, dtype='float32')
  policy = make_policy(config)
  like = abstract_params(policy, tiny.mesh(**mesh))
  return config, policy, hf.load(folder, config, like=like)


def test_an_imported_model_has_the_logits_of_its_library(checkpoint):
  theirs, folder = checkpoint
  assert (folder / hf.INDEX_FILE).exists()
  _, policy, params = _load(folder)
  tokens = np.random.default_rng(0).integers(1, VOCAB, (2, 24))
  with torch.no_grad():
    expected = theirs(input_ids=torch.tensor(tokens)).logits.numpy()
  positions = jnp.broadcast_to(jnp.arange(24)[None, :], (2, 24))
  hidden, _ = jax.jit(policy.apply)(
    params, jnp.asarray(tokens, jnp.int32), positions
  )
  logits = np.asarray(policy.unembed(params, hidden))
  assert np.std(expected) > 0.5
  np.testing.assert_allclose(logits, expected, atol=1e-4, rtol=0)


def test_an_export_is_the_import_bit_for_bit(checkpoint, tmp_path):
  theirs, folder = checkpoint
  config, policy, params = _load(folder, data=1, fsdp=2, model=2)
  like = abstract_params(policy, tiny.mesh(data=1, fsdp=2, model=2))
  assert jax.tree.all(
    jax.tree.map(lambda a, b: a.sharding == b.sharding, params, like)
  )
  hf.save(tmp_path, config, params, max_bytes=20_000)
  assert len(list(tmp_path.glob('model-*.safetensors'))) > 1
  (tmp_path / 'config.json').write_bytes((folder / 'config.json').read_bytes())
  again = type(theirs).from_pretrained(tmp_path)
  wanted = theirs.state_dict()
  assert set(again.state_dict()) == set(wanted)
  for name, tensor in again.state_dict().items():
    assert torch.equal(tensor, wanted[name]), name


def test_a_checkpoint_in_bfloat16_stays_bit_for_bit(tmp_path):
  name, options, _ = FAMILIES['qwen2']
  theirs = make_theirs(torch, transformers, name, options).to(torch.bfloat16)
  theirs.save_pretrained(tmp_path / 'in')
  config, _, params = _load(tmp_path / 'in')
  assert config.param_dtype == 'bfloat16'
  hf.save(tmp_path / 'out', config, params)
  one, two = (
    transformers.AutoModelForCausalLM.from_pretrained(
      _with_config(tmp_path, folder), dtype=torch.bfloat16
    ).state_dict()
    for folder in ('in', 'out')
  )
  assert all(torch.equal(one[key], two[key]) for key in one)


def _with_config(tmp_path, folder):
  text = (tmp_path / 'in' / 'config.json').read_text(encoding='utf-8')
  (tmp_path / folder / 'config.json').write_text(text, encoding='utf-8')
  return tmp_path / folder


@pytest.fixture
def llama(tmp_path):
  name, options, _ = FAMILIES['llama']
  make_theirs(torch, transformers, name, options).save_pretrained(tmp_path)
  return tmp_path


def test_a_tensor_that_is_missing_is_named(llama):
  config, policy, _ = _load(llama)
  for changes, sentence in (
    ({'qkv_bias': True}, r'no tensor model\.layers\.0\..*bias'),
    ({'num_layers': 1}, r'9 tensors .* have no place'),
    ({'mlp_dim': 50}, r'mlp\..*has the shape'),
  ):
    other = dataclasses.replace(config, **changes)
    like = abstract_params(make_policy(other), tiny.mesh())
    with pytest.raises(ValueError, match=sentence):
      hf.load(llama, other, like=like)
  like = abstract_params(policy, tiny.mesh())
  (llama / hf.SINGLE_FILE).unlink()
  with pytest.raises(FileNotFoundError, match='name a checkpoint in safetens'):
    hf.load(llama, config, like=like)


def test_a_tensor_the_wrong_way_round_is_refused(llama):
  config, policy, _ = _load(llama)
  path = llama / hf.SINGLE_FILE
  weights = load_file(path)
  name = 'model.layers.1.mlp.gate_proj.weight'
  weights[name] = np.ascontiguousarray(weights[name].T)
  save_file(weights, path)
  like = abstract_params(policy, tiny.mesh())
  with pytest.raises(ValueError, match=r'gate_proj.*32, 48. and not'):
    hf.load(llama, config, like=like)


def test_what_follows_from_the_config_need_not_be_stored(llama):
  config, policy, _ = _load(llama)
  path = llama / hf.SINGLE_FILE
  weights = load_file(path)
  weights['model.layers.0.self_attn.rotary_emb.inv_freq'] = np.ones(4)
  save_file(weights, path)
  hf.load(llama, config, like=abstract_params(policy, tiny.mesh()))


@pytest.mark.parametrize('at', ['../model.safetensors', '/x.safetensors', 'x'])
def test_an_index_that_leaves_its_folder_is_refused(llama, at):
  config, policy, _ = _load(llama)
  text = json.dumps({'weight_map': {'model.norm.weight': at}})
  (llama / hf.INDEX_FILE).write_text(text, encoding='utf-8')
  like = abstract_params(policy, tiny.mesh())
  with pytest.raises(ValueError, match='no safetensors file beside it'):
    hf.load(llama, config, like=like)
  (llama / hf.INDEX_FILE).write_text('{}', encoding='utf-8')
  with pytest.raises(ValueError, match='no `weight_map`'):
    hf.load(llama, config, like=like)


def test_a_model_of_another_config_is_named_by_its_field(llama):
  model = hf_config.from_folder(folder=llama)
  other = dataclasses.replace(model, remat='none', dtype='float32')
  hf_config.check_same(llama, other)
  other = dataclasses.replace(other, rope_theta=1.0)
  with pytest.raises(ValueError, match=r'rope_theta=500.0, the model'):
    hf_config.check_same(llama, other)


@pytest.mark.parametrize(
  ('changes', 'sentence'),
  [
    ({'model_type': 'mamba'}, "model_type='mamba' is no architecture"),
    (
      {'model_type': 'qwen2', 'attention_bias': True},
      'attention_bias=True, and only False',
    ),
    ({'mlp_bias': True}, 'mlp_bias=True, and only False'),
    ({'quantization_config': {'bits': 4}}, 'quantization_config=.*only None'),
    ({'hidden_act': 'relu'}, "activation 'relu'"),
    ({'hidden_size': None}, 'lacks hidden_size'),
    *(
      (
        {'rope_parameters': {'rope_type': kind, 'rope_theta': 1.0}},
        f"rope_type='{kind}'; supported are default, linear, llama3, yarn",
      )
      for kind in ('dynamic', 'longrope')
    ),
    (
      {'rope_scaling': {'type': 'yarn', 'factor': 4.0}},
      'lacks original_max_position_embeddings',
    ),
    (
      {'rope_scaling': {'type': 'yarn', 'factor': 4.0, 'mscale': 1.0}},
      'mscale=1.0, and only None',
    ),
    (
      {'rope_parameters': {'rope_theta': 1.0, 'partial_rotary_factor': 0.5}},
      'partial_rotary_factor=0.5, and only 1.0',
    ),
    ({'model_type': 'qwen3', 'head_dim': None}, 'lacks head_dim'),
    ({'model_type': 'gemma3'}, 'lacks text_config'),
    (
      {
        'model_type': 'qwen2',
        'use_sliding_window': True,
        'sliding_window': 4,
        'max_window_layers': 1,
        'rope_scaling': {'type': 'linear', 'factor': 2.0},
      },
      "rope_type='linear' with use_sliding_window=True, which is not",
    ),
    (
      {
        'model_type': 'qwen2',
        'use_sliding_window': True,
        'sliding_window': 4,
        'max_window_layers': 1,
        'num_hidden_layers': 4,
        'layer_types': [
          *['full_attention', 'sliding_attention'] * 2,
        ],
      },
      r'layers \[1, 3\] of layer_types, which are neither',
    ),
    ({'dtype': 'float16'}, "dtype='float16'; bind hf_config"),
    ({'rope_parameters': {'rope_type': 'linear'}}, 'lacks rope_theta'),
  ],
)
def test_what_cannot_be_computed_is_refused_by_field(changes, sentence):
  fields = {'model_type': 'llama', **THEIR_SHAPE, 'hidden_act': 'silu'}
  fields |= {'rms_norm_eps': 1e-6}
  hf_config.to_transformer(fields)
  with pytest.raises(ValueError, match=sentence):
    hf_config.to_transformer(fields | changes)


def test_old_and_new_files_say_the_same():
  usual = {'model_type': 'gemma3_text', **THEIR_SHAPE, 'rms_norm_eps': 1e-6}
  usual |= {'hidden_activation': 'gelu_pytorch_tanh', 'sliding_window': 4}
  usual |= {'query_pre_attn_scalar': 24, 'num_hidden_layers': 6}
  linear = {'rope_type': 'linear', 'factor': 8.0}
  old = {
    'rope_theta': 1e6,
    'rope_local_base_freq': 1e4,
    'sliding_window_pattern': 6,
    'rope_scaling': linear,
  }
  new = {
    'rope_parameters': {
      'full_attention': {'rope_theta': 1e6, **linear},
      'sliding_attention': {'rope_type': 'default', 'rope_theta': 1e4},
    },
    'layer_types': ['sliding_attention'] * 5 + ['full_attention'],
  }
  one, two = (hf_config.to_transformer(usual | part) for part in (old, new))
  assert one == two
  assert one.global_every == 6
  assert one.local_rope_theta == 1e4


def test_a_config_that_is_none_is_refused(tmp_path):
  with pytest.raises(FileNotFoundError, match='name the folder'):
    hf_config.read_config(tmp_path)
  (tmp_path / 'config.json').write_text('[]', encoding='utf-8')
  with pytest.raises(ValueError, match='no JSON object'):
    hf_config.read_config(tmp_path)
  (tmp_path / 'config.json').write_text('{', encoding='utf-8')
  with pytest.raises(ValueError, match='is no JSON'):
    hf_config.read_config(tmp_path)
