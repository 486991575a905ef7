"""All implementations of attention against one loop, gradients included."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from selfimprove import partitioning
from selfimprove.models import attention_kernels
from selfimprove.models.attention import KeyValue, attend
from selfimprove.models.attention_kernels import (
  attend_whole,
  block_of,
  choose,
)
from tests.models.attention_inputs import make_part, make_queries

PROMPT = [[-1, 0, 1], [0, 1, 2]]
OWN = [[2, 3, -1, 4], [2, -1, -1, 3], [3, 4, 5, 6], [3, 4, -1, -1]]


def case(shared):
  """Queries of ragged rows behind ragged prompts, each shared by two rows."""
  parts = (make_part(0, PROMPT),) if shared else ()
  parts = (*parts, make_part(2, OWN))
  return *make_queries(OWN), parts


def slopes(by, query, positions, parts, **options):
  """What is mixed in real slots, and the gradient of a sum of squares."""
  real = (positions >= 0)[:, :, None, None]

  def mixed(query, arrays):
    whole = [
      KeyValue(keys=k, values=v, positions=part.positions)
      for part, (k, v) in zip(parts, arrays, strict=True)
    ]
    out = jnp.where(real, by(query, positions, whole, **options), 0)
    return jnp.sum(out**2), out

  arrays = [(part.keys, part.values) for part in parts]
  gradient = jax.grad(mixed, argnums=(0, 1), has_aux=True)
  return jax.jit(gradient)(query, arrays)


def by_kernel(name):
  if name == 'cudnn' and jax.default_backend() != 'gpu':
    pytest.skip('cuDNN needs an NVIDIA GPU.')

  def by(*inputs, **options):
    return attend_whole(*inputs, implementation=name, **options)

  return by


@pytest.mark.parametrize('name', ['splash', 'cudnn'])
@pytest.mark.parametrize('shared', [False, True], ids=['alone', 'shared'])
def test_kernels_mix_and_differentiate_as_plain_attention_does(name, shared):
  inputs, options = case(shared), {'window': None, 'soft_cap': None}
  got = slopes(by_kernel(name), *inputs, **options)
  want = slopes(attend, *inputs, **options)
  jax.tree.map(
    lambda g, w: np.testing.assert_allclose(g, w, atol=2e-5), got, want
  )


CALL = {
  'whole': True,
  'window': False,
  'packed': False,
  'split': False,
  'few': False,
  'soft_cap': False,
  'dtype': 'bfloat16',
}


@pytest.mark.parametrize(
  ('name', 'changes', 'sentence'),
  [
    ('splash', {'window': True}, "attention='splash' does not support sliding"),
    ('splash', {'packed': True}, 'packed rows that share a prompt; set packed'),
    ('cudnn', {'soft_cap': True}, 'cudnn.* does not support soft caps'),
    ('cudnn', {'dtype': 'float32'}, 'dtype float32; set bfloat16'),
  ],
)
def test_what_a_kernel_cannot_do_is_refused_by_name(name, changes, sentence):
  with pytest.raises(ValueError, match=sentence):
    choose(name, **CALL | changes)


def test_on_a_processor_plain_attention_is_the_choice_unless_named():
  assert choose('auto', **CALL) == 'xla'
  assert choose('splash', **CALL) == 'splash'
  # Few tokens behind a cache are not what kernels are for.
  assert choose('splash', **CALL | {'whole': False}) == 'xla'
  if jax.default_backend() == 'cpu':
    with pytest.raises(ValueError, match="an NVIDIA GPU and this is 'cpu'"):
      choose('cudnn', **CALL)


@pytest.mark.parametrize(
  ('platform', 'name', 'changes', 'choice'),
  [
    ('gpu', 'cudnn', {}, 'cudnn'),
    # Nobody asked for that: of a few prompts the tokens are divided.
    ('gpu', 'cudnn', {'split': True}, 'xla'),
    ('gpu', 'auto', {'split': True}, 'xla'),
    ('tpu', 'auto', {'split': True}, 'splash'),
    ('tpu', 'auto', {'split': True, 'few': True}, 'xla'),
    ('tpu', 'splash', {'split': True, 'few': True}, 'splash'),
  ],
)
def test_tokens_that_are_divided_have_a_choice_of_their_own(
  platform, name, changes, choice, monkeypatch
):
  monkeypatch.setattr(attention_kernels, '_platform', lambda: platform)
  assert choose(name, **CALL | changes) == choice


@pytest.mark.slow
def test_the_kernel_for_tpus_caps_logits_and_runs_over_a_mesh():
  inputs, options = case(True), {'window': None, 'soft_cap': 1.5}
  want = slopes(attend, *inputs, **options)
  mesh = partitioning.make_mesh(data=2, sequence=2, model=2)
  with jax.set_mesh(mesh):
    got = slopes(by_kernel('splash'), *inputs, **options)
  jax.tree.map(
    lambda g, w: np.testing.assert_allclose(g, w, atol=2e-5), got, want
  )


@pytest.mark.parametrize(
  ('length', 'parts', 'block'),
  [
    (1024, 1, 512),
    (768, 1, 384),
    (1792, 1, 256),  # 384 would add a fourteenth.
    (2159, 1, 384),  # 2304 slots are few more than the 2176 of blocks of 128.
    (5, 1, 128),
    (768, 64, 128),
    (768, 256, 256),  # The square of the parts divides the slots.
  ],
)
def test_blocks_are_large_where_that_adds_few_slots(length, parts, block):
  assert block_of(length, parts) == block
