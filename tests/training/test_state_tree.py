from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from selfimprove import types
from selfimprove.training import state_tree


def _state():
  params = {'w': jnp.arange(6.0).reshape(2, 3), 'b': jnp.zeros((3,))}
  return {
    'params': params,
    'opt_state': optax.adam(0.1).init(params),
    'key': jax.random.key(7),
  }


def test_a_state_comes_back_in_its_own_classes():
  state = _state()
  back = state_tree.from_named(state_tree.to_named(state), state)
  assert jax.tree.structure(back) == jax.tree.structure(state)
  assert jax.random.key_impl(back['key']) == jax.random.key_impl(state['key'])
  assert jax.random.uniform(back['key']) == jax.random.uniform(state['key'])
  np.testing.assert_array_equal(
    back['opt_state'][0].mu['w'], state['opt_state'][0].mu['w']
  )


def test_names_follow_fields_and_keys():
  named = state_tree.to_named(_state())
  assert set(named['opt_state']['0']) == {'count', 'mu', 'nu'}
  # optax.adam's second part has no arrays, so it has no name.
  assert set(named['opt_state']) == {'0'}


def test_fields_of_a_record_are_names():
  @types.record
  class Pair:
    params: jax.Array
    step: jax.Array

  pair = Pair(params=jnp.ones(2), step=jnp.int32(1))
  named = state_tree.to_named(pair)
  assert set(named) == {'params', 'step'}
  assert isinstance(state_tree.from_named(named, pair), Pair)


def test_keys_of_another_generator_keep_it():
  state = {'key': jax.random.split(jax.random.key(3, impl='rbg'), 2)}
  back = state_tree.from_named(state_tree.to_named(state), state)
  assert str(jax.random.key_impl(back['key'])) == 'rbg'
  np.testing.assert_array_equal(
    jax.random.key_data(back['key']), jax.random.key_data(state['key'])
  )


def test_an_abstract_state_asks_for_the_same_arrays_as_a_concrete_one():
  state = _state()
  shapes = jax.eval_shape(lambda: state)
  assert state_tree.to_abstract(shapes) == state_tree.to_abstract(state)


def test_a_python_number_in_a_state_is_refused_by_name():
  with pytest.raises(TypeError, match='Leaf `opt/count` of the state is a int'):
    state_tree.to_named({'opt': {'count': 3}})


def test_the_first_difference_names_the_leaf_and_both_shapes():
  saved = {'a': jnp.zeros((2, 3)), 'b': jnp.zeros((4,))}
  wanted = {'a': jnp.zeros((2, 3)), 'b': jnp.zeros((5,), jnp.bfloat16)}
  found = state_tree.first_difference(saved, wanted)
  assert found == 'leaf `b` is float32[4] there and bfloat16[5] here'


def test_a_leaf_that_one_side_lacks_is_a_difference():
  found = state_tree.first_difference({'a': jnp.zeros(2)}, {})
  assert found == 'leaf `a` is float32[2] there and absent here'


def test_equal_trees_have_no_difference():
  named = state_tree.to_named(_state())
  assert state_tree.first_difference(named, named) is None


def test_a_fingerprint_is_of_values_places_and_names_but_not_of_layout():
  x = jax.random.normal(jax.random.key(0), (8, 4))
  tree = {'a': x, 'b': x[0].astype(jnp.bfloat16)}
  first = state_tree.fingerprint(tree)
  assert re.fullmatch('[0-9a-f]{16}', first)
  mesh = jax.sharding.Mesh(np.asarray(jax.devices()), ('rows',))
  there = jax.device_put(x, jax.NamedSharding(mesh, jax.P('rows')))
  assert state_tree.fingerprint({**tree, 'a': there}) == first
  others = (
    {**tree, 'a': x.at[3, 1].add(1e-6)},
    {**tree, 'a': x[::-1]},
    {**tree, 'a': x.reshape(4, 8)},
    {'a': x, 'c': tree['b']},
    {**tree, 'b': tree['b'].astype(jnp.float32)},
  )
  found = {state_tree.fingerprint(other) for other in others}
  assert len(found | {first}) == 6
