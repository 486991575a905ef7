"""How the tokens of a term are averaged: fillers of `Term.aggregate`."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from selfimprove import types
from selfimprove.ops import aggregate
from selfimprove.types import Estimate


@types.record
class TokenMean:
  """Mean over all tokens (`ops.aggregate.token_mean`)."""

  def __call__(
    self,
    values: Float[Array, 'b t'],
    mask: Bool[Array, 'b t'],
    weight: Float[Array, 'b'],
  ) -> Estimate:
    """Returns the sum over tokens and their number."""
    return aggregate.token_mean(values, mask, weight)


@types.record
class SequenceMean:
  """Mean over rows of token sums (`ops.aggregate.sequence_mean`)."""

  def __call__(
    self,
    values: Float[Array, 'b t'],
    mask: Bool[Array, 'b t'],
    weight: Float[Array, 'b'],
  ) -> Estimate:
    """Returns the sum over tokens and the number of rows."""
    return aggregate.sequence_mean(values, mask, weight)


@types.record
class SequenceMeanTokenMean:
  """Mean of rows' means (`ops.aggregate.sequence_mean_token_mean`)."""

  def __call__(
    self,
    values: Float[Array, 'b t'],
    mask: Bool[Array, 'b t'],
    weight: Float[Array, 'b'],
  ) -> Estimate:
    """Returns the sum of the rows' means and the number of rows."""
    return aggregate.sequence_mean_token_mean(values, mask, weight)


@types.record
class ConstantNorm:
  """Mean over rows in units of a length (`ops.aggregate.constant_norm`).

  Attributes:
    length: tokens by which every row is divided, above 0.
  """

  length: float | Array

  def __call__(
    self,
    values: Float[Array, 'b t'],
    mask: Bool[Array, 'b t'],
    weight: Float[Array, 'b'],
  ) -> Estimate:
    """Returns the sum over tokens over `length`, and the number of rows."""
    length = jnp.asarray(self.length, jnp.float32)
    return aggregate.constant_norm(values, mask, weight, length=length)
