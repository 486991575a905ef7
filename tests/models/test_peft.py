"""Adapters of ours in the `peft` library, and its own here."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from selfimprove.models import hf, hf_config, peft
from selfimprove.models.lora import LoRA, make_adapters
from selfimprove.models.transformer import make_policy
from selfimprove.training.state import abstract_params
from tests.models.test_parity import FAMILIES, VOCAB, make_theirs
from tests.training import tiny

pytestmark = [
  pytest.mark.slow,
  # `peft` asks a newer `transformers` for what that calls otherwise now.
  pytest.mark.filterwarnings('ignore::FutureWarning'),
]
torch = pytest.importorskip('torch')
transformers = pytest.importorskip('transformers')
theirs = pytest.importorskip('peft')

TOKENS = np.random.default_rng(0).integers(1, VOCAB, (2, 24))


class Base:
  """A checkpoint of a family, and what we read from it."""

  def __init__(self, folder, family):
    self.folder = folder
    name, options, _ = FAMILIES[family]
    make_theirs(torch, transformers, name, options).save_pretrained(folder)
    fields = hf_config.read_config(folder)
    self.config = hf_config.to_transformer(fields, dtype='float32')
    self.policy = make_policy(self.config)
    like = abstract_params(self.policy, tiny.mesh())
    self.params = hf.load(folder, self.config, like=like)

  def model(self):
    """Their model."""
    return transformers.AutoModelForCausalLM.from_pretrained(self.folder)

  def logits(self, lora, adapters):
    """What we say with adapters."""
    joined = make_adapters(lora, self.policy).join(self.params, adapters)
    positions = jnp.broadcast_to(jnp.arange(24)[None, :], (2, 24))
    hidden, _ = jax.jit(self.policy.apply)(
      joined, jnp.asarray(TOKENS, jnp.int32), positions
    )
    return np.asarray(self.policy.unembed(joined, hidden))

  def adapters(self, lora):
    """Adapters that do something."""
    rng = np.random.default_rng(1)
    made = make_adapters(lora, self.policy).init(jax.random.key(0))
    return jax.tree.map(
      lambda x: jnp.asarray(0.1 * rng.normal(size=x.shape), x.dtype), made
    )

  def read(self, folder, lora, **mesh):
    """Adapters of theirs as ours."""
    made = make_adapters(lora, self.policy)
    like = abstract_params(made, tiny.mesh(**mesh))
    return peft.load(folder, self.config, lora, like=like)


@pytest.fixture(scope='module', params=['qwen3', 'gemma2', 'qwen2'])
def base(request, tmp_path_factory):
  """A checkpoint of each of three families."""
  return Base(tmp_path_factory.mktemp('base'), request.param)


def _said(model):
  with torch.no_grad():
    return model(input_ids=torch.tensor(TOKENS)).logits.numpy()


@pytest.mark.parametrize(
  'lora',
  [
    LoRA(rank=3, alpha=6.0, targets='.*'),
    LoRA(rank=4, alpha=3.0, targets='.*(query|value).*', exponent=0.5),
  ],
)
def test_adapters_say_in_peft_what_they_say_here(base, lora, tmp_path):
  adapters = base.adapters(lora)
  peft.save(tmp_path, base.config, lora, adapters, base=str(base.folder))
  loaded = theirs.PeftModel.from_pretrained(base.model(), tmp_path).eval()
  count = sum(p.numel() for n, p in loaded.named_parameters() if 'lora_' in n)
  assert count == sum(leaf.size for leaf in jax.tree.leaves(adapters))
  got, plain = base.logits(lora, adapters), _said(base.model())
  np.testing.assert_allclose(got, _said(loaded), atol=1e-4, rtol=0)
  assert np.max(np.abs(got - plain)) > 0.1
  again = base.read(tmp_path, lora, data=1, fsdp=2, model=2)
  jax.tree.map(np.testing.assert_array_equal, again, adapters)


def _of_theirs(base, folder, **options):
  """Adapters that their library has made, and their model with them."""
  torch.manual_seed(0)
  config = theirs.LoraConfig(
    r=4,
    lora_alpha=8,
    target_modules=['q_proj', 'o_proj', 'down_proj'],
    task_type='CAUSAL_LM',
    **{'init_lora_weights': False, **options},
  )
  model = theirs.get_peft_model(base.model(), config).eval()
  model.save_pretrained(folder)
  return model


SAME = LoRA(rank=4, alpha=8.0, targets='attention/(query|out)|mlp/down')


def test_adapters_of_peft_say_the_same_here(base, tmp_path):
  model = _of_theirs(base, tmp_path)
  got = base.logits(SAME, base.read(tmp_path, SAME))
  np.testing.assert_allclose(got, _said(model), atol=1e-4, rtol=0)
  assert np.max(np.abs(got - _said(base.model()))) > 0.1


def test_a_is_drawn_as_peft_draws_it(base, tmp_path):
  _of_theirs(base, tmp_path, init_lora_weights=True)
  drawn = base.read(tmp_path, SAME)['layers']
  ours = make_adapters(SAME, base.policy).init(jax.random.key(0))['layers']
  for room, name in (('attention', 'query'), ('mlp', 'down')):
    one, other = drawn[room][name], ours[room][name]
    assert not np.any(one['lora_b'])
    bound = np.prod(one['lora_a'].shape[1:-1]) ** -0.5
    for pair in (one, other):
      largest = np.max(np.abs(pair['lora_a'])) / bound
      assert 0.95 < largest <= 1.0
      assert np.std(pair['lora_a']) == pytest.approx(bound / 3**0.5, rel=0.15)


@pytest.mark.parametrize(
  ('changes', 'sentence'),
  [
    ({'rank': 8}, 'r=4 and lora_alpha=8, but LORA_RANK is 8'),
    ({'alpha': 4.0}, 'by 2, but LORA_ALPHA makes that 1; .* LORA_ALPHA to 8'),
    ({'targets': '.*'}, r'has no tensor .*self_attn\.k_proj\.lora_A'),
    ({'targets': '.*query'}, 'tensors of linear maps that LORA_TARGETS leaves'),
  ],
)
def test_other_adapters_are_refused(base, tmp_path, changes, sentence):
  _of_theirs(base, tmp_path)
  fields = {'rank': 4, 'alpha': 8.0, 'targets': SAME.targets, **changes}
  with pytest.raises(ValueError, match=sentence):
    base.read(tmp_path, LoRA(**fields))


@pytest.mark.parametrize(
  'changes',
  [
    {'peft_type': 'LOHA'},
    {'use_dora': True},
    {'bias': 'all'},
    {'rank_pattern': {'q_proj': 8}},
    {'modules_to_save': ['lm_head']},
  ],
)
def test_what_no_adapter_here_does_is_refused(base, tmp_path, changes):
  _of_theirs(base, tmp_path)
  path = tmp_path / peft.CONFIG_FILE
  fields = json.loads(path.read_text(encoding='utf-8')) | changes
  path.write_text(json.dumps(fields), encoding='utf-8')
  with pytest.raises(ValueError, match=f'has {next(iter(changes))}='):
    base.read(tmp_path, SAME)


def test_files_that_are_not_there_or_not_whole_are_refused(base, tmp_path):
  with pytest.raises(FileNotFoundError, match=r'has no adapter_config\.json'):
    base.read(tmp_path, SAME)
  _of_theirs(base, tmp_path)
  path = tmp_path / peft.TENSORS_FILE
  tensors = load_file(path)
  name = min(tensors)
  tensors[name] = tensors[name][:, :-1].copy()
  save_file(tensors, path)
  with pytest.raises(ValueError, match=r'has shape \(.*\) of tensor'):
    base.read(tmp_path, SAME)
