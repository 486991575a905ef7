from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from selfimprove import partitioning

MESH_SHAPE = {'data': 2, 'fsdp': 2, 'model': 2}


@pytest.mark.parametrize(
  ('sizes', 'shape'),
  [
    ({}, (8, 1, 1, 1)),
    ({'model': 2}, (4, 1, 1, 2)),
    ({'fsdp': 4, 'model': 2}, (1, 4, 1, 2)),
    ({'data': 2, 'fsdp': 2, 'model': 2}, (2, 2, 1, 2)),
    ({'sequence': 4}, (2, 1, 4, 1)),
  ],
)
def test_data_takes_the_devices_that_the_other_axes_leave(sizes, shape):
  mesh = partitioning.make_mesh(**sizes)
  assert tuple(mesh.shape.items()) == tuple(
    zip(partitioning.MESH_AXES, shape, strict=True)
  )


def test_a_mesh_may_use_some_of_the_devices():
  devices = jax.devices()[2:4]
  mesh = partitioning.make_mesh(devices=devices)
  assert list(mesh.devices.flat) == devices


@pytest.mark.parametrize(
  ('sizes', 'sentence'),
  [
    (
      {'data': 3},
      'data=3 x fsdp=1 x sequence=1 x model=1 needs 3 devices but 8',
    ),
    ({'fsdp': 3}, 'needs 6 devices but 8 are there; set sizes whose product'),
    ({'model': 16}, 'needs 16 devices but 8 are there'),
    ({'model': 0}, 'model=0 has an axis without devices; give sizes from 1'),
    ({'data': -2, 'fsdp': -4}, 'has an axis without devices'),
  ],
)
def test_sizes_that_do_not_fit_the_devices_are_refused(sizes, sentence):
  with pytest.raises(ValueError, match=sentence):
    partitioning.make_mesh(**sizes)


@pytest.mark.parametrize(
  ('names', 'shape', 'spec'),
  [
    (('vocab', 'embed'), (32, 16), PartitionSpec('model', 'fsdp')),
    (('batch', None), (8, 5), PartitionSpec(('data', 'fsdp'), None)),
    (('layers', 'norm'), (4, 16), PartitionSpec(None, None)),
    ((), (), PartitionSpec()),
    # Three key-value heads over two devices: whole on both.
    (
      ('embed', 'kv_heads', 'head_size'),
      (16, 3, 8),
      PartitionSpec('fsdp', None, None),
    ),
    # Two rows over four devices: divided over the first axis alone.
    (('batch', None), (2, 5), PartitionSpec(('data',), None)),
    (('batch', None), (3, 5), PartitionSpec(None, None)),
  ],
)
def test_names_become_mesh_axes_where_these_divide(names, shape, spec):
  assert partitioning.partition_spec(names, shape, MESH_SHAPE) == spec


def test_an_unknown_name_and_a_missing_one_are_refused():
  with pytest.raises(KeyError, match="logical axis 'head' has no rule; known"):
    partitioning.partition_spec(('head',), (4,), MESH_SHAPE)
  with pytest.raises(ValueError, match=r'1 names .* for 2 axes of shape'):
    partitioning.partition_spec(('vocab',), (4, 4), MESH_SHAPE)


def test_a_tree_of_names_becomes_a_tree_of_shardings():
  mesh = partitioning.make_mesh(model=2)
  names = {'a': {'kernel': ('embed', 'mlp')}, 'b': ('vocab',)}
  shapes = {
    'a': {'kernel': jax.ShapeDtypeStruct((4, 6), jnp.float32)},
    'b': jax.ShapeDtypeStruct((7,), jnp.float32),
  }
  assert partitioning.shardings(names, shapes, mesh) == {
    'a': {'kernel': NamedSharding(mesh, PartitionSpec('fsdp', 'model'))},
    'b': NamedSharding(mesh, PartitionSpec(None)),
  }


def test_rows_are_split_over_data_and_fsdp_and_copied_over_model():
  mesh = partitioning.make_mesh(data=2, fsdp=2, model=2)
  x = jax.device_put(np.arange(8), partitioning.rows(mesh))
  pieces = [tuple(np.asarray(s.data)) for s in x.addressable_shards]
  assert sorted(pieces) == sorted([(0, 1), (2, 3), (4, 5), (6, 7)] * 2)
  whole = jax.device_put(np.arange(8), partitioning.replicated(mesh))
  assert whole.sharding.is_fully_replicated


def test_constrain_asks_for_a_layout_only_where_there_is_a_mesh():
  x = jnp.arange(8.0)

  def ask(x):
    return partitioning.constrain(2 * x, 'batch')

  assert 'sharding_constraint' not in str(jax.make_jaxpr(ask)(x))
  mesh = partitioning.make_mesh()
  with jax.set_mesh(mesh):
    y = jax.jit(ask)(jax.device_put(x, partitioning.replicated(mesh)))
  assert y.addressable_shards[0].data.shape == (1,)
  np.testing.assert_array_equal(y, 2 * x)


@pytest.mark.parametrize(
  ('layout', 'rows', 'form', 'grid'),
  [
    ('tensor_parallel', 4, 'tensor_parallel', (4, 1)),
    ('tensor_parallel', 2, 'tensor_parallel/1', (2, 2)),
    ('tensor_parallel', 3, 'tensor_parallel/0', (1, 4)),
    ('fully_sharded', 8, 'fully_sharded', (8, 1)),
    ('fully_sharded', 4, 'fully_sharded/2', (4, 2)),
    ('fully_sharded', 1, 'fully_sharded/0', (1, 8)),
    ('gathered', 3, 'gathered', (4, 1)),
    ('tensor_parallel/1', 3, 'tensor_parallel/1', (2, 2)),
  ],
)
def test_rows_that_are_few_divide_their_tokens(layout, rows, form, grid):
  mesh = partitioning.make_mesh(data=2, fsdp=2, model=2)
  with jax.set_mesh(mesh):
    assert partitioning.layout_of_rows(layout, rows) == form
    assert partitioning.grid(form) == grid
