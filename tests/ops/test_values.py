from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from selfimprove.ops import values


def _clipped(value, old_value, target):
  return values.clipped_value(
    jnp.float32(value), jnp.float32(old_value), jnp.float32(target), clip=0.5
  )


@pytest.mark.parametrize(
  ('value', 'loss', 'slope'),
  [
    # Old value 0, return 2, clip ½. Near the old value: (V − 2)²/2.
    (0.2, 1.62, -1.8),
    # Gone too far towards the return: that of V = ½, without slope.
    (1.0, 1.125, 0),
    # Gone the other way, or past the return by more than was clipped.
    (-1.0, 4.5, -3.0),
    (4.0, 2.0, 2.0),
  ],
)
def test_known_clipped_losses(value, loss, slope):
  actual, gradient = jax.value_and_grad(_clipped)(value, 0.0, 2.0)
  np.testing.assert_allclose(actual, loss, rtol=1e-5)
  np.testing.assert_allclose(gradient, slope, rtol=1e-5, atol=1e-7)


def test_before_the_first_update_both_losses_and_gradients_agree():
  old, target = jax.random.normal(jax.random.key(0), (2, 9))
  clipped = jax.value_and_grad(
    lambda v: jnp.sum(values.clipped_value(v, old, target, clip=0.1))
  )(old)
  plain = jax.value_and_grad(
    lambda v: jnp.sum(values.squared_value(v, target))
  )(old)
  jax.tree.map(np.testing.assert_array_equal, clipped, plain)


def test_a_clip_never_lowers_the_loss_and_a_wide_one_does_nothing():
  new, old, target = jax.random.normal(jax.random.key(1), (3, 50))
  plain = values.squared_value(new, target)
  tight = values.clipped_value(new, old, target, clip=0.1)
  assert jnp.all(tight >= plain)
  assert jnp.any(tight > plain + 0.1)
  wide = values.clipped_value(new, old, target, clip=100.0)
  np.testing.assert_array_equal(wide, plain)


def test_the_squared_loss_is_lowest_at_the_mean_return():
  target = jnp.array([1.0, 0.0, 0.0, 1.0, 1.0])

  def loss(value):
    return jnp.sum(values.squared_value(jnp.full(5, value), target))

  np.testing.assert_allclose(jax.grad(loss)(0.6), 0, atol=1e-6)
  assert abs(jax.grad(loss)(0.5)) > 0.1


def test_no_gradient_reaches_data():
  gradients = jax.grad(_clipped, argnums=(1, 2))(4.0, 0.0, 2.0)
  assert gradients == (0, 0)
  squared = jax.grad(values.squared_value, argnums=1)
  assert squared(jnp.float32(1), jnp.float32(3)) == 0


def test_gradients_agree_with_finite_differences():
  with jax.enable_x64(True):
    new = jnp.array([0.2, 1.0, -1.0, 4.0])
    old, target = jnp.zeros(4), jnp.full(4, 2.0)

    @jax.jit
    def every(new):
      return (
        values.squared_value(new, target),
        values.clipped_value(new, old, target, clip=0.5),
      )

    check_grads(every, (new,), 1, ['rev'])
