from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from selfimprove.models.logits import logits_of

KEYS = jax.random.split(jax.random.key(0), 3)
HIDDEN = jax.random.normal(KEYS[0], (3, 5, 4))
SLOPE = jax.random.normal(KEYS[1], (3, 5, 7))


def kernel(axis):
  return jax.random.normal(KEYS[2], (7, 4) if axis else (4, 7))


def plain(hidden, kernel, axis):
  return hidden @ (kernel.T if axis else kernel)


@pytest.mark.parametrize('axis', [0, 1])
def test_logits_and_gradients_are_those_of_the_product(axis):
  made, back = jax.vjp(lambda h, k: logits_of(h, k, axis), HIDDEN, kernel(axis))
  want, wanted = jax.vjp(lambda h, k: plain(h, k, axis), HIDDEN, kernel(axis))
  np.testing.assert_allclose(made, want, atol=1e-5)
  for got, right in zip(back(SLOPE), wanted(SLOPE), strict=True):
    np.testing.assert_allclose(got, right, atol=1e-5)


@pytest.mark.parametrize('axis', [0, 1])
def test_of_bfloat16_logits_are_in_f32_and_no_product_going_back(axis):
  hidden, matrix = (x.astype(jnp.bfloat16) for x in (HIDDEN, kernel(axis)))

  def back(hidden, matrix, slope):
    made, pull = jax.vjp(lambda h, k: logits_of(h, k, axis), hidden, matrix)
    assert made.dtype == jnp.float32
    return pull(slope)

  program = jax.make_jaxpr(back)(hidden, matrix, SLOPE)
  products = [
    str(equation.outvars[0].aval.dtype)
    for equation in program.eqns
    if equation.primitive.name == 'dot_general'
  ]
  assert products.count('bfloat16') == 2
  wanted = jax.vjp(lambda h, k: plain(h, k, axis), HIDDEN, kernel(axis))[1]
  for got, right in zip(
    back(hidden, matrix, SLOPE), wanted(SLOPE), strict=True
  ):
    assert got.dtype == jnp.bfloat16
    np.testing.assert_allclose(got, right, rtol=0.05, atol=0.1)
