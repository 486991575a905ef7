from __future__ import annotations

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from selfimprove.models.config import TransformerConfig
from selfimprove.models.lora import LoRA, make_adapters, merge, targets
from selfimprove.models.transformer import make_policy
from selfimprove.training.state import abstract_params
from tests.training import tiny

# No two sizes are equal, nor their products, so that shapes tell what is what.
CONFIG = TransformerConfig(
  vocab_size=11,
  num_layers=2,
  embed_dim=12,
  num_heads=2,
  num_kv_heads=1,
  head_dim=8,
  mlp_dim=14,
  qkv_bias=True,
)
POLICY = make_policy(CONFIG)
TOKENS = jnp.asarray([[1, 5, 2, 9, 3], [7, 7, 4, 10, 6]])
POSITIONS = jnp.broadcast_to(jnp.arange(5)[None, :], (2, 5))
ALL = LoRA(rank=3, alpha=6.0, targets='.*')


@functools.cache
def base():
  return jax.jit(POLICY.init)(jax.random.key(0))


def random_adapters(adapters):
  """Adapters that do something: B is not 0."""
  made = jax.eval_shape(adapters.init, jax.random.key(1))
  leaves, treedef = jax.tree.flatten(made)
  keys = jax.random.split(jax.random.key(2), len(leaves))
  drawn = [
    0.3 * jax.random.normal(key, leaf.shape)
    for key, leaf in zip(keys, leaves, strict=True)
  ]
  return jax.tree.unflatten(treedef, drawn)


@functools.partial(jax.jit, static_argnums=1)
def logits(params, policy=POLICY):
  hidden, _ = policy.apply(params, TOKENS, POSITIONS)
  return policy.unembed(params, hidden)


def test_adapters_begin_with_the_base_bit_for_bit():
  adapters = make_adapters(ALL, POLICY)
  made = jax.jit(adapters.init)(jax.random.key(1))
  fresh = adapters.join(base(), made)
  np.testing.assert_array_equal(logits(fresh), logits(base()))
  other = logits(adapters.join(base(), random_adapters(adapters)))
  assert np.max(np.abs(other - logits(base()))) > 0.1


def test_without_adapters_there_is_the_base_itself():
  joined = make_adapters(ALL, POLICY).join(base(), {})
  same = jax.tree.map(lambda a, b: a is b, joined, base())
  assert jax.tree.all(same)


def test_joining_copies_nothing_of_the_base():
  adapters = make_adapters(ALL, POLICY)
  joined = adapters.join(base(), random_adapters(adapters))
  theirs = {id(leaf) for leaf in jax.tree.leaves(joined)}
  assert {id(leaf) for leaf in jax.tree.leaves(base())} <= theirs


@pytest.mark.parametrize('changes', [{}, {'scan_layers': False}])
def test_side_paths_do_what_merged_matrices_do(changes):
  policy = make_policy(dataclasses.replace(CONFIG, **changes))
  adapters = make_adapters(ALL, policy)
  joined = adapters.join(base(), random_adapters(adapters))
  got, merged = logits(joined, policy), merge(joined)
  assert jax.tree.structure(merged) == jax.tree.structure(base())
  np.testing.assert_allclose(got, logits(merged, policy), atol=1e-5)
  decoding = policy.decode_params(joined)
  np.testing.assert_allclose(got, logits(decoding, policy), atol=1e-5)
  plain = jax.tree.structure(policy.decode_params(base()))
  assert jax.tree.structure(decoding) == plain


def loss(params):
  return jnp.sum(jax.nn.log_softmax(logits(params))[:, :, 3] ** 2)


def test_gradients_are_those_of_whole_matrices_by_the_chain_rule():
  # With W' = W + s A B: dL/dA = s dL/dW' B^T and dL/dB = s A^T dL/dW'.
  lora = LoRA(rank=3, alpha=6.0, targets='attention/(query|out)|mlp/down')
  adapters = make_adapters(lora, POLICY)
  given = random_adapters(adapters)
  joined = lambda a: adapters.join(base(), a)  # noqa: E731
  got = jax.jit(jax.grad(lambda a: loss(joined(a))))(given)['layers']
  whole = jax.jit(jax.grad(loss))(merge(joined(given)))['layers']
  names = (('attention', 'query'), ('attention', 'out'), ('mlp', 'down'))
  assert set(got) == {'attention', 'mlp'}
  for room, name in names:
    pair = given['layers'][room][name]
    fan_in = math.prod(pair['lora_a'].shape[1:-1])
    down = np.asarray(pair['lora_a']).reshape(2, fan_in, 3)
    up = np.asarray(pair['lora_b']).reshape(2, 3, -1)
    full = np.asarray(whole[room][name]['kernel']).reshape(2, fan_in, -1)
    found = got[room][name]
    assert np.max(np.abs(full)) > 1e-3
    np.testing.assert_allclose(
      found['lora_a'].reshape(down.shape),
      2.0 * np.einsum('lio,lro->lir', full, up),
      rtol=1e-4,
      atol=1e-4,
    )
    np.testing.assert_allclose(
      found['lora_b'].reshape(up.shape),
      2.0 * np.einsum('lir,lio->lro', down, full),
      rtol=1e-4,
      atol=1e-4,
    )


def _dot_shapes(jaxpr):
  """Shapes of all products, in programs inside programs too."""
  for equation in jaxpr.eqns:
    if equation.primitive.name == 'dot_general':
      yield from (out.aval.shape for out in equation.outvars)
    for inner in jax.extend.core.jaxprs_in_params(equation.params):
      yield from _dot_shapes(getattr(inner, 'jaxpr', inner))


@pytest.mark.parametrize('remat', ['none', 'full'])
def test_no_gradient_of_a_whole_matrix_is_computed(remat):
  policy = make_policy(dataclasses.replace(CONFIG, remat=remat))
  adapters = make_adapters(ALL, policy)

  def made(function, params):
    shapes = set(_dot_shapes(jax.make_jaxpr(function)(params).jaxpr))
    kernels = [(12, 16), (12, 8), (16, 12), (12, 14), (14, 12)]
    both_ways = {shape for a, b in kernels for shape in ((a, b), (b, a))}
    return shapes & both_ways

  objective = lambda p: jnp.sum(logits(p, policy))  # noqa: E731
  joined = lambda a: objective(adapters.join(base(), a))  # noqa: E731
  # The detector sees them where all parameters are trained.
  assert len(made(jax.grad(objective), base())) >= 4
  assert made(jax.grad(joined), random_adapters(adapters)) == set()


def test_a_is_uniform_within_the_root_of_its_inputs_and_b_is_zero():
  policy = make_policy(dataclasses.replace(CONFIG, mlp_dim=400))
  made = jax.jit(make_adapters(ALL, policy).init)(jax.random.key(0))['layers']
  for room, name, inputs in (
    ('attention', 'key', 12),
    ('attention', 'out', 16),
    ('mlp', 'down', 400),
  ):
    pair = made[room][name]
    largest = float(jnp.max(jnp.abs(pair['lora_a'])))
    assert 0.8 * inputs**-0.5 < largest <= inputs**-0.5
    assert not np.any(pair['lora_b'])
  # Uniform in ±1/20, whose variance is 1/20^2 / 3; normal has less below it.
  variance = float(jnp.var(made['mlp']['down']['lora_a']))
  assert variance == pytest.approx(1 / 400 / 3, rel=0.06)


def test_layers_and_maps_begin_with_different_adapters():
  made = make_adapters(ALL, POLICY).init(jax.random.key(0))['layers']
  gate, up = (made['mlp'][name]['lora_a'] for name in ('gate', 'up'))
  assert not np.any(gate == up)
  assert not np.any(gate[0] == gate[1])


def test_targets_are_matched_by_their_whole_names():
  def adapted(targets):
    lora = LoRA(rank=1, alpha=1.0, targets=targets)
    axes = make_adapters(lora, POLICY).logical_axes()['layers']
    return {f'{room}/{name}' for room in axes for name in axes[room]}

  assert adapted('.*(query|value).*') == {'attention/query', 'attention/value'}
  assert adapted('attention/.*|.*up') == {
    *(f'attention/{name}' for name in ('query', 'key', 'value', 'out')),
    'mlp/up',
  }
  with pytest.raises(ValueError, match=r"'query'.* attention/key, .*mlp/up"):
    adapted('query')


@pytest.mark.parametrize(
  ('changes', 'sentence'),
  [
    ({'rank': 0}, 'rank=0 of LoRA'),
    ({'rank': 2.5}, 'rank=2.5 of LoRA'),
    ({'alpha': 0.0}, 'alpha=0.0 of LoRA'),
    ({'alpha': math.nan}, 'alpha=nan of LoRA'),
    ({'exponent': -1.0}, 'exponent=-1.0 of LoRA'),
    ({'targets': '*query'}, 'no regular expression'),
  ],
)
def test_what_makes_no_adapter_is_refused(changes, sentence):
  with pytest.raises(ValueError, match=sentence):
    dataclasses.replace(ALL, **changes)


def test_the_scale_is_alpha_over_the_rank_or_its_root():
  lora = LoRA(rank=16, alpha=8.0, targets='.*')
  assert lora.scale == 0.5
  assert dataclasses.replace(lora, exponent=0.5).scale == 2.0


def test_adapters_are_laid_out_like_the_matrices_beside_them():
  mesh = tiny.mesh(data=1, fsdp=2, model=2)
  policy = make_policy(dataclasses.replace(CONFIG, num_kv_heads=2))
  like = abstract_params(make_adapters(ALL, policy), mesh)['layers']
  spec = lambda room, name, leaf: like[room][name][leaf].sharding.spec  # noqa: E731
  assert spec('attention', 'query', 'lora_a') == jax.P(None, ('fsdp',), None)
  assert spec('attention', 'query', 'lora_b') == jax.P(
    None, None, ('model',), None
  )
  assert spec('attention', 'out', 'lora_a') == jax.P(
    None, ('model',), None, None
  )
  assert spec('mlp', 'down', 'lora_b') == jax.P(None, None, ('fsdp',))
  whole = abstract_params(policy, mesh)['layers']['mlp']['down']['kernel']
  assert whole.sharding.spec == jax.P(None, ('model',), ('fsdp',))


@pytest.mark.slow
def test_targets_do_not_depend_on_how_layers_are_kept():
  whole = dataclasses.replace(CONFIG, training_layout='fully_sharded')
  sizes = [
    [
      (target.path, target.inputs, target.outputs)
      for target in targets(LoRA(rank=2, alpha=2.0, targets='.*'), policy)
    ]
    for policy in (POLICY, make_policy(whole))
  ]
  assert sizes[0] == sizes[1]
  assert len(sizes[0]) == 7


def test_activations_in_bfloat16_stay_in_it():
  policy = make_policy(
    dataclasses.replace(CONFIG, dtype='bfloat16', param_dtype='bfloat16')
  )
  adapters = make_adapters(ALL, policy)
  params = jax.jit(policy.init)(jax.random.key(0))
  given = jax.tree.map(lambda leaf: leaf / 3, random_adapters(adapters))
  assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(given))
  joined = adapters.join(params, given)
  hidden, _ = jax.eval_shape(policy.apply, joined, TOKENS, POSITIONS)
  assert hidden.dtype == jnp.bfloat16
  decoding = policy.decode_params(joined)
  assert {leaf.dtype for leaf in jax.tree.leaves(decoding)} == {
    jnp.dtype('bfloat16')
  }
  # Eight bits: a few per cent of logits of order one.
  gap = logits(joined, policy) - logits(decoding, policy)
  moved = logits(joined, policy) - logits(params, policy)
  assert np.mean(np.abs(gap)) < 0.05 < 0.2 < np.mean(np.abs(moved))
