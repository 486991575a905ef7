from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from selfimprove.algorithms import aggregates
from selfimprove.ops import aggregate

VALUES = jax.random.normal(jax.random.key(0), (4, 3))
MASK = jnp.array([[True, True, False], [True] * 3, [False] * 3, [True] * 3])
WEIGHT = jnp.array([1.0, 2, 1, 0])


@pytest.mark.parametrize(
  ('record', 'function'),
  [
    (aggregates.TokenMean(), aggregate.token_mean),
    (aggregates.SequenceMean(), aggregate.sequence_mean),
    (aggregates.SequenceMeanTokenMean(), aggregate.sequence_mean_token_mean),
    (
      aggregates.ConstantNorm(length=7.0),
      functools.partial(aggregate.constant_norm, length=7.0),
    ),
  ],
)
def test_records_aggregate_as_their_functions_do(record, function):
  actual = jax.jit(lambda record: record(VALUES, MASK, WEIGHT))(record)
  expected = function(VALUES, MASK, WEIGHT)
  np.testing.assert_allclose(actual.total, expected.total, rtol=1e-6)
  assert actual.count == expected.count


def test_another_length_needs_no_other_program():
  traces = []

  @jax.jit
  def mean(record):
    traces.append(record)
    return record(VALUES, MASK, WEIGHT).mean()

  short = mean(aggregates.ConstantNorm(length=2.0))
  long = mean(aggregates.ConstantNorm(length=4.0))
  np.testing.assert_allclose(short, 2 * long, rtol=1e-6)
  assert len(traces) == 1
