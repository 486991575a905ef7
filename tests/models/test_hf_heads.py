"""Checkpoints that are more, or other, than a language model.

In the file of the parity tests torch is imported by one worker; here too.
"""

from __future__ import annotations

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from selfimprove import learned_from
from selfimprove.models import hf, hf_config
from selfimprove.models.heads import make_critic
from selfimprove.models.transformer import make_policy
from selfimprove.rollout.decode import Sampling
from selfimprove.rollout.single import Single
from selfimprove.training.state import (
  Models,
  Optimizers,
  abstract_params,
  init_state,
)
from selfimprove.types import Prompts
from tests.models.test_parity import (
  FAMILIES,
  SLOW,
  THEIR_SHAPE,
  VOCAB,
  make_theirs,
)
from tests.training import tiny

torch = pytest.importorskip('torch')
transformers = pytest.importorskip('transformers')


def _classifier(folder, name, options, *, labels=1):
  """A sequence classifier of a family, with the weights of its decoder."""
  decoder = make_theirs(torch, transformers, name, options)
  config = decoder.config
  config.num_labels = labels
  text = 'Text' if name == 'Gemma3' else ''
  made = getattr(transformers, f'{name}{text}ForSequenceClassification')(config)
  made.model.load_state_dict(decoder.model.state_dict())
  made.float().eval().save_pretrained(folder)
  return made


def _rollout(policy, params):
  """Two samples of different length for each of three padded prompts."""
  tokens = np.random.default_rng(0).integers(1, VOCAB, (3, 9))
  mask = np.arange(9)[None, :] >= np.array([0, 2, 5])[:, None]
  nothing = jnp.zeros((3, 1), jnp.int32)
  prompts = Prompts(
    tokens=jnp.asarray(tokens, jnp.int32),
    mask=jnp.asarray(mask),
    example_id=jnp.arange(3, dtype=jnp.int32),
    answer=nothing,
    answer_mask=nothing > 0,
    extra={},
  )
  how = Single(
    eos_ids=tuple(range(10)),
    sampling=Sampling(),
    group_size=2,
    max_new_tokens=8,
  )
  make = jax.jit(lambda p: how(policy, p, prompts, jax.random.key(0)))
  return make(params), prompts


@pytest.mark.parametrize(
  'family',
  ['llama', *(pytest.param(f, marks=SLOW) for f in ('qwen2', 'gemma3'))],
)
def test_a_classifier_scores_attempts_as_its_library_does(family, tmp_path):
  theirs = _classifier(tmp_path, *FAMILIES[family][:2])
  config = hf_config.from_folder(folder=tmp_path, dtype='float32', remat='none')
  policy = make_policy(config)
  rollout, prompts = _rollout(policy, policy.init(jax.random.key(0)))
  reward = learned_from.outcome_reward(workdir=str(tmp_path), model=config)
  found = np.asarray(jax.jit(lambda r, p: reward(r, p))(rollout, prompts))
  theirs.config.get_text_config().pad_token_id = None
  expected, lengths = [], []
  for row, at in zip(rollout.tokens, rollout.positions, strict=True):
    written = np.asarray(row)[np.asarray(at) >= 0]
    lengths.append(len(written))
    with torch.no_grad():
      expected.append(float(theirs(torch.tensor(written)[None]).logits[0, 0]))
  assert len({*lengths}) > 3
  assert np.std(expected) > 0.05
  np.testing.assert_allclose(found[:, 0], expected, atol=1e-4, rtol=0)


def test_a_classifier_that_was_loaded_is_written_bit_for_bit(tmp_path):
  theirs = _classifier(tmp_path / 'in', *FAMILIES['llama'][:2])
  config = hf_config.from_folder(folder=tmp_path / 'in', dtype='float32')
  like = abstract_params(make_critic(config), tiny.mesh())
  params = hf.load(tmp_path / 'in', config, like=like)
  hf.save(tmp_path / 'out', config, params)
  shutil.copy(tmp_path / 'in' / 'config.json', tmp_path / 'out')
  again = type(theirs).from_pretrained(tmp_path / 'out').state_dict()
  wanted = theirs.state_dict()
  assert set(again) == set(wanted)
  assert all(torch.equal(again[name], wanted[name]) for name in wanted)
  biased = {**params, 'value': {**params['value'], 'bias': jnp.float32(0.5)}}
  with pytest.raises(ValueError, match=r'bias 0\.5, for which the format has'):
    hf.save(tmp_path / 'out', config, biased)


def test_what_tells_no_single_score_is_refused(tmp_path):
  for labels, sentence in ((3, 'tells 3 labels apart'), (2, 'tells 2 labels')):
    folder = tmp_path / str(labels)
    _classifier(folder, *FAMILIES['llama'][:2], labels=labels)
    with pytest.raises(ValueError, match=sentence):
      learned_from.classifier_reward(folder=str(folder))
  # A config that says one label does not make it one.
  fields = json.loads((folder / 'config.json').read_text(encoding='utf-8'))
  fields['id2label'] = {'0': 'good'}
  (folder / 'config.json').write_text(json.dumps(fields), encoding='utf-8')
  with pytest.raises(ValueError, match=r'score.weight has the shape \(2, 32\)'):
    learned_from.classifier_reward(folder=str(folder))
  name, options, _ = FAMILIES['llama']
  decoder = tmp_path / 'decoder'
  make_theirs(torch, transformers, name, options).save_pretrained(decoder)
  with pytest.raises(ValueError, match=r"\['LlamaForCausalLM'\] in its config"):
    learned_from.classifier_reward(folder=str(decoder))
  with pytest.raises(ValueError, match='what judges steps is read from a run'):
    learned_from.process_reward(
      workdir=str(decoder),
      model=hf_config.from_folder(folder=decoder),
      step_ends=(1,),
    )


def test_a_critic_begins_with_the_trunk_of_a_checkpoint(tmp_path):
  name, options, _ = FAMILIES['llama']  # Untied: the critic has no such head.
  make_theirs(torch, transformers, name, options).save_pretrained(tmp_path)
  config = hf_config.from_folder(folder=tmp_path, dtype='float32')
  models = Models(make_policy(config), make_critic(config))
  like = abstract_params(models.policy, tiny.mesh())
  state = init_state(
    models,
    Optimizers(None, None),
    seed=0,
    with_reference=False,
    params=hf.load(tmp_path, config, like=like),
  )
  weights = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
  table = weights.state_dict()['model.embed_tokens.weight'].numpy()
  trunk = state.critic_params['trunk']
  np.testing.assert_array_equal(trunk['embedder']['table'], table)
  assert 'head' in state.params
  assert 'head' not in trunk
  assert not np.any(state.critic_params['value']['kernel'])


@pytest.fixture(scope='module')
def with_images(tmp_path_factory):
  """A small Gemma 3 that reads images, as its library saves it."""
  text = {**THEIR_SHAPE, **FAMILIES['gemma3'][1]}
  vision = {
    'hidden_size': 8,
    'intermediate_size': 8,
    'num_hidden_layers': 1,
    'num_attention_heads': 1,
    'image_size': 8,
    'patch_size': 4,
  }
  torch.manual_seed(0)
  theirs = transformers.Gemma3ForConditionalGeneration(
    transformers.Gemma3Config(
      text_config=text,
      vision_config=vision,
      mm_tokens_per_image=4,
      image_token_index=VOCAB - 1,
    )
  )
  folder = tmp_path_factory.mktemp('with_images')
  theirs.float().eval().save_pretrained(folder)
  return theirs, folder


def _logits_of_ours(folder, tokens):
  config = hf_config.from_folder(folder=folder, dtype='float32', remat='none')
  policy = make_policy(config)
  params = hf.load(folder, config, like=abstract_params(policy, tiny.mesh()))
  positions = jnp.broadcast_to(jnp.arange(tokens.shape[1])[None], tokens.shape)
  read = jax.jit(lambda p: policy.apply(p, jnp.asarray(tokens), positions)[0])
  return config, params, np.asarray(policy.unembed(params, read(params)))


@pytest.mark.slow
@pytest.mark.parametrize('layout', ['as saved', 'as released', 'as in memory'])
def test_the_text_part_of_a_checkpoint_with_images_is_read(
  layout, with_images, tmp_path
):
  theirs, folder = with_images
  tokens = np.random.default_rng(0).integers(1, VOCAB - 1, (2, 24))
  tokens = tokens.astype(np.int32)
  with torch.no_grad():
    expected = theirs(input_ids=torch.tensor(tokens)).logits.numpy()
  if layout != 'as saved':
    # Files of the release, and files of later versions, differ in names.
    names = theirs.state_dict()
    if layout == 'as released':
      names = {
        name.replace('model.language_model.', 'language_model.model.')
        .replace('model.vision', 'vision')
        .replace('model.multi', 'multi'): value
        for name, value in names.items()
      }
    save_file(
      {n: v.numpy() for n, v in names.items() if n != 'lm_head.weight'},
      tmp_path / hf.SINGLE_FILE,
    )
    shutil.copy(folder / 'config.json', tmp_path)
    folder = tmp_path
  _, _, found = _logits_of_ours(folder, tokens)
  assert np.std(expected) > 0.5
  np.testing.assert_allclose(found, expected, atol=1e-4, rtol=0)


def test_the_text_part_is_exported_as_a_checkpoint_of_its_own(
  with_images, tmp_path
):
  _, folder = with_images
  tokens = np.random.default_rng(0).integers(1, VOCAB - 1, (2, 24))
  config, params, logits = _logits_of_ours(folder, tokens.astype(np.int32))
  hf.save(tmp_path, config, params)
  shutil.copy(folder / 'config.json', tmp_path)
  hf_config.write_text_part(tmp_path)
  again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
  assert type(again).__name__ == 'Gemma3ForCausalLM'
  with torch.no_grad():
    found = again(input_ids=torch.tensor(tokens)).logits.numpy()
  np.testing.assert_allclose(found, logits, atol=1e-4, rtol=0)


def test_what_a_text_part_leaves_out_is_what_its_library_takes():
  few = {'num_hidden_layers': 34, 'hidden_size': 2560}
  whole = transformers.Gemma3Config(text_config=few).text_config.to_dict()
  one, two = (
    hf_config.to_transformer(
      {'model_type': 'gemma3', 'dtype': 'bfloat16', 'text_config': text}
    )
    for text in (few, whole)
  )
  assert one == two
  assert one.param_dtype == 'bfloat16'
