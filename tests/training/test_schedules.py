from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from selfimprove.training import schedules


def _after(optimizer, grads, params, steps=1):
  state = optimizer.init(params)
  for _ in range(steps):
    updates, state = optimizer.update(grads, state, params)
    params = optax.apply_updates(params, updates)
  return params


def test_a_warm_up_rises_to_the_peak_and_never_starts_at_zero():
  rate = schedules.constant(peak=0.4, warmup_steps=3)
  found = [float(rate(n)) for n in range(6)]
  np.testing.assert_allclose(found, [0.1, 0.2, 0.3, 0.4, 0.4, 0.4], rtol=1e-6)


def test_without_a_warm_up_the_rate_is_constant():
  rate = schedules.constant(peak=0.3)
  assert [float(rate(n)) for n in (0, 100)] == [0.3, 0.3]


def test_the_cosine_falls_from_the_peak_to_its_fraction():
  rate = schedules.cosine(
    peak=1.0, warmup_steps=2, total_steps=10, final_fraction=0.2
  )
  # Half way down, n = 2 + (10 - 2) / 2, the mean of peak and end.
  found = [float(rate(n)) for n in (2, 6, 10, 99)]
  np.testing.assert_allclose(found, [1.0, 0.6, 0.2, 0.2], rtol=1e-6)
  rise = [float(rate(n)) for n in (0, 1)]
  np.testing.assert_allclose(rise, [1 / 3, 2 / 3], rtol=1e-6)


def test_the_first_step_of_adam_is_the_learning_rate():
  # Bias-corrected moments are g and g², so the step is lr · g/|g|.
  params = {'w': jnp.zeros(3)}
  grads = {'w': jnp.asarray([2.0, -0.5, 1e-3])}
  found = _after(schedules.adam(learning_rate=0.01), grads, params)
  np.testing.assert_allclose(found['w'], [-0.01, 0.01, -0.01], rtol=1e-4)


def test_adam_follows_its_schedule():
  rate = schedules.constant(peak=0.4, warmup_steps=3)
  optimizer = schedules.adam(learning_rate=rate)
  params, grads = {'w': jnp.zeros(1)}, {'w': jnp.ones(1)}
  # A constant gradient gives steps of the learning rate: .1 + .2 + .3 + .4.
  found = _after(optimizer, grads, params, steps=4)
  np.testing.assert_allclose(found['w'], [-1.0], rtol=1e-5)


def test_clipping_is_by_the_norm_of_all_gradients():
  optimizer = schedules.adam(
    learning_rate=1.0, max_grad_norm=1.0, b1=0.0, b2=0.0, eps=1.0
  )
  params = {'a': jnp.zeros(1), 'b': jnp.zeros(1)}
  grads = {'a': jnp.asarray([3.0]), 'b': jnp.asarray([4.0])}
  # Norm 5, so g = (.6, .8); the step is g / (|g| + 1).
  found = _after(optimizer, grads, params)
  np.testing.assert_allclose(found['a'], [-0.6 / 1.6], rtol=1e-5)
  np.testing.assert_allclose(found['b'], [-0.8 / 1.8], rtol=1e-5)


def test_weight_decay_pulls_where_the_mask_says():
  optimizer = schedules.adam(
    learning_rate=0.1,
    weight_decay=0.5,
    decay_mask=lambda params: jax.tree.map(lambda p: p.ndim > 1, params),
  )
  params = {'kernel': jnp.ones((1, 1)), 'scale': jnp.ones(1)}
  found = _after(optimizer, jax.tree.map(jnp.zeros_like, params), params)
  np.testing.assert_allclose(found['kernel'], [[0.95]], rtol=1e-6)
  np.testing.assert_array_equal(found['scale'], [1.0])


@pytest.mark.parametrize(
  ('options', 'words'),
  [
    ({'learning_rate': 0.0}, 'learning rate of 0.0'),
    ({'learning_rate': 1.0, 'b1': 1.0}, 'b1=1.0'),
    ({'learning_rate': 1.0, 'b2': -0.1}, 'b2=-0.1'),
    ({'learning_rate': 1.0, 'eps': 0.0}, 'eps=0.0'),
    ({'learning_rate': 1.0, 'weight_decay': -1.0}, 'weight_decay=-1.0'),
    ({'learning_rate': 1.0, 'max_grad_norm': 0.0}, 'None means no limit'),
  ],
)
def test_numbers_out_of_range_are_refused(options, words):
  with pytest.raises(ValueError, match=words):
    schedules.adam(**options)


def test_schedules_out_of_range_are_refused():
  with pytest.raises(ValueError, match='leaves nothing of total_steps=5'):
    schedules.cosine(peak=1.0, total_steps=5, warmup_steps=5)
  with pytest.raises(ValueError, match='final_fraction=2'):
    schedules.cosine(peak=1.0, total_steps=5, final_fraction=2)
  with pytest.raises(ValueError, match='warmup_steps=-1'):
    schedules.constant(peak=1.0, warmup_steps=-1)


def test_steps_too_small_for_bfloat16_add_up_in_float32():
  # One unit in the last place of bf16 at 1 is 2^-7, a step a tenth of it.
  optimizer = optax.sgd(1.0)
  params = {'w': jnp.ones(3, jnp.bfloat16)}
  grads = {'w': jnp.asarray([-1.0, 1.0, 0.5], jnp.bfloat16) / 1280}
  lost = _after(optimizer, grads, params, steps=30)
  np.testing.assert_array_equal(lost['w'][0], params['w'][0])
  wide = schedules.in_float32(optimizer=optimizer)
  found = _after(wide, grads, params, steps=30)
  exact = _after(
    optimizer,
    jax.tree.map(lambda x: x.astype(jnp.float32), grads),
    {'w': jnp.ones(3)},
    steps=30,
  )
  assert found['w'].dtype == jnp.bfloat16
  np.testing.assert_array_equal(found['w'], exact['w'].astype(jnp.bfloat16))


def test_moments_and_parameters_of_in_float32_are_in_float32():
  optimizer = schedules.in_float32(
    optimizer=schedules.adam(learning_rate=0.01, weight_decay=0.1)
  )
  params = {'w': jax.random.normal(jax.random.key(0), (64,), jnp.bfloat16)}
  state = optimizer.init(params)
  updates, state = optimizer.update(params, state, params)
  stored = optax.apply_updates(params, updates)
  np.testing.assert_array_equal(
    stored['w'], state.master['w'].astype(jnp.bfloat16)
  )
  wide = {x.dtype for x in jax.tree.leaves(state) if x.ndim}
  assert wide == {jnp.dtype('float32')}
