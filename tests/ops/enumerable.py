"""A policy so small that every expectation is a finite sum.

Three tokens, sequences of three: 27 sequences over 13 prefixes, and a table
with one row of logits per prefix. Estimators can be held to their definitions
exactly, without a sample.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

VOCABULARY = 3
LENGTH = 3
SEQUENCES = np.array(
  list(itertools.product(range(VOCABULARY), repeat=LENGTH)), np.int32
)
# Prefixes are numbered by length, then as numbers in base 3: 0; 1-3; 4-12.
PREFIXES = np.stack(
  [
    np.zeros(len(SEQUENCES), np.int32),
    1 + SEQUENCES[:, 0],
    4 + 3 * SEQUENCES[:, 0] + SEQUENCES[:, 1],
  ],
  axis=1,
)
PREFIX_COUNT = 13

Table = Float[Array, '13 3']


def table(seed: int) -> Table:
  """Random logits, the same for every prefix order and run."""
  return jax.random.normal(jax.random.key(seed), (PREFIX_COUNT, VOCABULARY))


def rewards(seed: int) -> Float[Array, '27']:
  """One arbitrary reward per sequence."""
  return jax.random.normal(jax.random.key(100 + seed), (len(SEQUENCES),))


def token_logprobs(logits: Table) -> Float[Array, '27 3']:
  """Log-probability of each token of each sequence."""
  return jax.nn.log_softmax(logits, axis=1)[PREFIXES, SEQUENCES]


def sequence_logprobs(logits: Table) -> Float[Array, '27']:
  """Log-probability of each sequence."""
  return jnp.sum(token_logprobs(logits), axis=1)


def probabilities(logits: Table) -> Float[Array, '27']:
  """Probability of each sequence."""
  return jnp.exp(sequence_logprobs(logits))


def sequence_kl(logits: Table, ref_logits: Table) -> Float[Array, '']:
  """KL divergence of two distributions over the 27 sequences."""
  logprobs = sequence_logprobs(logits)
  log_ratio = logprobs - sequence_logprobs(ref_logits)
  return jnp.sum(jnp.exp(logprobs) * log_ratio)


def expected_gradient(
  loss: Callable[[Table], Float[Array, '27']], at: Table, drawn_from: Table
) -> Table:
  """Mean over samples of `drawn_from` of the gradient of their loss `at`."""
  weights = probabilities(drawn_from)
  return jax.grad(lambda logits: jnp.sum(weights * loss(logits)))(at)


def expected_group_gradient(
  credit_fn: Callable[[Array], Float[Array, 'g 3']],
  loss: Callable[[Array, Array, np.ndarray], Float[Array, 'n g 3']],
  *,
  size: int,
  at: Table,
  drawn_from: Table,
) -> Table:
  """Mean over all 27^g groups of the gradient of the mean loss of a member.

  `credit_fn` maps indices [g] of sequences to advantages [g, 3]; `loss` maps
  log-probabilities [n, g, 3], those advantages and indices [n, g] to losses.
  """
  groups = np.array(list(itertools.product(range(len(SEQUENCES)), repeat=size)))
  credit = jax.vmap(credit_fn)(jnp.asarray(groups))
  weight = jnp.prod(probabilities(drawn_from)[groups], axis=1)

  def mean(logits: Table) -> Float[Array, '']:
    values = loss(token_logprobs(logits)[groups], credit, groups)
    return jnp.sum(weight * jnp.mean(jnp.sum(values, axis=2), axis=1))

  return jax.grad(mean)(at)
