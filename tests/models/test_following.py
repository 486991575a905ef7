"""Prompts and samples read at once, against whole rows on one device.

Values and gradients, where rows or slots do not divide over the devices.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from selfimprove import partitioning
from selfimprove.models.config import TransformerConfig
from selfimprove.models.transformer import make_policy
from selfimprove.training import packing

CONFIG = TransformerConfig(
  vocab_size=14,
  num_layers=2,
  embed_dim=16,
  num_heads=4,
  num_kv_heads=2,
  head_dim=8,
  mlp_dim=32,
  tied_embeddings=False,
)
CUBE = {'data': 2, 'fsdp': 2, 'model': 2}
ALONG = {'fsdp': 2, 'sequence': 2, 'model': 2}


def texts(prompts, prompt_slots, group, slots):
  """Tokens and positions of ragged prompts and ragged samples."""
  random = np.random.default_rng(0)
  lengths = random.integers(1, prompt_slots + 1, (prompts, 1))
  at = np.arange(prompt_slots) - (prompt_slots - lengths)
  ends = random.integers(0, slots + 1, (prompts * group, 1))
  ends[0] = slots
  own = np.arange(slots) + np.repeat(lengths, group, axis=0)
  own = np.where(np.arange(slots) < ends, own, -1)
  return tuple(
    (jnp.asarray(random.integers(0, 14, x.shape), jnp.int32), jnp.asarray(x))
    for x in (np.maximum(at, -1), own)
  )


def told(hidden, positions):
  """What is compared: empty slots say anything."""
  return jnp.where((positions >= 0)[:, :, None], hidden, 0)


@pytest.mark.slow
@pytest.mark.parametrize(
  ('sizes', 'shape', 'rows', 'changes'),
  [
    # Prompts on fewer devices than rows; slots that do not divide.
    (CUBE, (2, 5, 4, 7), 0, {}),
    # Samples fewer than devices too: their tokens lie over `model`.
    (CUBE, (2, 5, 2, 7), 0, {'training_layout': 'fully_sharded'}),
    ({'data': 8}, (1, 3, 1, 5), 0, {'scan_layers': False}),
    (
      ALONG,
      (3, 5, 2, 7),
      0,
      {
        'training_layout': 'fully_sharded',
        'sliding_window': 3,
        'qk_norm': True,
        'local_rope_theta': 100.0,
      },
    ),
    ({**ALONG, 'data': 2, 'fsdp': 1}, (2, 5, 4, 7), 3, {'remat': 'most_dots'}),
    (
      CUBE,
      (1, 4, 2, 6),
      0,
      {
        'training_layout': 'fully_sharded',
        'attention': 'splash',
        'remat': 'dots',
      },
    ),
  ],
  ids=['few', 'fewer', 'one', 'sequence', 'packed', 'splash'],
)
def test_texts_that_do_not_divide_say_and_learn_the_same(
  sizes, shape, rows, changes
):
  config = dataclasses.replace(CONFIG, **changes)
  policy = make_policy(config)
  plain = make_policy(
    dataclasses.replace(config, remat='none', attention='xla')
  )
  params = jax.jit(plain.init)(jax.random.key(1))
  prompts, own = texts(*shape)
  group, start = shape[2], shape[1]

  def alone(params):
    before = [jnp.repeat(x, group, axis=0) for x in prompts]
    both = [
      jnp.concatenate(pair, axis=1) for pair in zip(before, own, strict=True)
    ]
    hidden, _ = plain.apply(params, *both)
    return plain.apply(params, *prompts)[0], hidden[:, start:]

  def together(params):
    return packing.read(policy, params, prompts, *own, rows=rows)

  def judged(read):
    def total(params):
      said = [
        told(x, at)
        for x, (_, at) in zip(read(params), (prompts, own), strict=True)
      ]
      weights = jnp.arange(config.embed_dim)[None, None] - 5.0
      return sum(jnp.sum(jnp.sin(x * weights)) for x in said), said

    return jax.jit(jax.value_and_grad(total, has_aux=True))

  (_, want), want_slopes = judged(alone)(params)
  mesh = partitioning.make_mesh(**sizes)
  placed = jax.device_put(
    params, partitioning.shardings(policy.logical_axes(), params, mesh)
  )
  with jax.set_mesh(mesh):
    (_, got), slopes = judged(together)(placed)
  for x, y in zip(got, want, strict=True):
    np.testing.assert_allclose(x, y, atol=1e-5)
  jax.tree.map(
    lambda g, w: np.testing.assert_allclose(
      g, w, atol=5e-5 * (1 + np.abs(w).max())
    ),
    slopes,
    want_slopes,
  )
