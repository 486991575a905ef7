from __future__ import annotations

import dataclasses
import re

import jax
import jax.ad_checkpoint
import jax.numpy as jnp
import numpy as np
import pytest

from selfimprove.models.config import REMAT, TransformerConfig
from selfimprove.models.transformer import make_policy

CONFIG = TransformerConfig(
  vocab_size=16,
  num_layers=2,
  embed_dim=8,
  num_heads=2,
  num_kv_heads=2,
  head_dim=4,
  mlp_dim=12,
)
TOKENS = jnp.arange(10, dtype=jnp.int32).reshape(2, 5)
POSITIONS = jnp.tile(jnp.arange(5, dtype=jnp.int32), (2, 1))


def slope(remat, **changes):
  policy = make_policy(dataclasses.replace(CONFIG, remat=remat, **changes))

  def loss(params):
    hidden, _ = policy.apply(params, TOKENS, POSITIONS)
    return jnp.sum(hidden[..., 0] ** 2)

  return jax.jit(jax.grad(loss))


@pytest.fixture(scope='module')
def params():
  return make_policy(CONFIG).init(jax.random.key(0))


@pytest.fixture(scope='module')
def plain(params):
  return slope('none')(params)


@pytest.mark.parametrize('remat', [name for name in REMAT if name != 'none'])
def test_what_is_recomputed_changes_no_gradient(remat, params, plain):
  jax.tree.map(
    lambda g, w: np.testing.assert_allclose(g, w, atol=1e-5),
    slope(remat)(params),
    plain,
  )


@pytest.mark.parametrize('qk_norm', [False, True])
def test_each_policy_recomputes_less_than_the_one_before(qk_norm):
  params = make_policy(dataclasses.replace(CONFIG, qk_norm=qk_norm)).init(
    jax.random.key(0)
  )
  names = (
    'full',
    'attention_inputs',
    'attention_dots',
    'most_dots',
    'dots',
    'none',
  )
  counts = [
    str(slope(name, qk_norm=qk_norm).trace(params).jaxpr).count('dot_general')
    for name in names
  ]
  assert counts == sorted(set(counts), reverse=True)


@pytest.mark.parametrize(
  ('qk_norm', 'shape'), [(False, '2,3,5,4'), (True, '2,5,3,4')]
)
def test_queries_are_kept_as_they_are_read_unless_a_norm_needs_them(
  qk_norm, shape, capsys
):
  config = dataclasses.replace(
    CONFIG,
    remat='attention_dots',
    num_heads=3,
    num_kv_heads=1,
    qk_norm=qk_norm,
    scan_layers=False,
  )
  policy = make_policy(config)
  jax.ad_checkpoint.print_saved_residuals(
    lambda params: policy.apply(params, TOKENS, POSITIONS)[0].sum(),
    policy.init(jax.random.key(0)),
  )
  kept = capsys.readouterr().out
  assert kept.count(f"f32[{shape}] named 'query'") == config.num_layers


_INPUTS = {'attention_mixed', 'query', 'key', 'value'}


# Nobody reads the last product again: there is no norm behind it.
@pytest.mark.parametrize(
  ('remat', 'names'),
  [
    ('full', set()),
    ('attention', {'attention_mixed'}),
    ('attention_inputs', _INPUTS),
    ('attention_dots', {*_INPUTS, 'out'}),
    ('most_dots', {*_INPUTS, 'out', 'gate'}),
    ('mlp_dots', {'attention_mixed', 'key', 'value', 'gate', 'up'}),
    ('dots', {*_INPUTS, 'out', 'gate', 'up'}),
  ],
)
def test_a_policy_keeps_what_it_says(remat, names, params, capsys):
  config = dataclasses.replace(
    CONFIG, remat=remat, attention='splash', scan_layers=False
  )
  policy = make_policy(config)
  jax.ad_checkpoint.print_saved_residuals(
    lambda params: policy.apply(params, TOKENS, POSITIONS)[0].sum(), params
  )
  kept = set(re.findall("named '(.*?)'", capsys.readouterr().out))
  assert kept == names


def test_a_name_that_is_no_policy_is_refused():
  with pytest.raises(ValueError, match='remat=True is not supported; use none'):
    dataclasses.replace(CONFIG, remat=True)
