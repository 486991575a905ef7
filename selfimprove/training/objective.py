"""The loss of an algorithm, and its gradient over micro-batches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from selfimprove import types
from selfimprove.algorithms.base import Algorithm, Term
from selfimprove.algorithms.terms import check_terms
from selfimprove.ops import masks
from selfimprove.training.score import score
from selfimprove.types import (
  Estimate,
  Experience,
  Metrics,
  Params,
  Policy,
  Rollout,
  Scores,
)


@types.record
class Credited:
  """Samples with their credit, before the streams of the terms.

  Attributes:
    rollout: the samples.
    advantages: credit of each token.
    weight: sample weights, 0 drops a row.
  """

  rollout: Rollout
  advantages: Float[Array, 'b t']
  weight: Float[Array, 'b']


def value_and_grad(
  policy: Policy,
  algorithm: Algorithm,
  params: Params,
  ref_params: Params,
  samples: Credited,
  *,
  microbatches: int,
) -> tuple[Metrics, Params]:
  """Loss metrics and the gradient of the loss, exact for any micro-batching.

  Every term is sum / count with the count taken over the whole batch, so the
  gradients of the micro-batches add up to that of the batch.

  Args:
    policy: the model.
    algorithm: its terms and needs.
    params: where the gradient is taken.
    ref_params: the reference policy.
    samples: the batch; its prompts are divided over the micro-batches.
    microbatches: how many; divides the number of prompts.

  Returns:
    Metrics `loss/total` and `loss/<term>`, and the gradient.

  Raises:
    ValueError: the prompts do not divide into so many micro-batches, or a term
      does not fit the number of attempts.
  """
  check_terms(algorithm.terms, attempts=len(samples.rollout.spans))
  counts = _counts(algorithm, samples)

  def loss(params: Params, part: Credited) -> tuple[Array, Metrics]:
    return _loss(policy, algorithm, params, ref_params, part, counts)

  differentiate = jax.value_and_grad(loss, has_aux=True)
  if microbatches == 1:
    (_, metrics), grads = differentiate(params, samples)
  else:
    (_, metrics), grads = _accumulate(
      differentiate, params, _split(samples, microbatches)
    )
  means = {
    k: m.mean() if isinstance(m, Estimate) else m for k, m in metrics.items()
  }
  return means, grads


def _accumulate(differentiate: Any, params: Params, parts: Credited) -> Any:
  """Sum of `differentiate` over the leading axis of `parts`."""
  shapes = jax.eval_shape(
    differentiate, params, jax.tree.map(lambda x: x[0], parts)
  )
  zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)

  def add(total: Any, part: Credited) -> tuple[Any, None]:
    return jax.tree.map(jnp.add, total, differentiate(params, part)), None

  return jax.lax.scan(add, zeros, parts)[0]


def _split(samples: Credited, microbatches: int) -> Credited:
  """Whole groups dealt out in turn, so that no device runs out of rows."""
  group = samples.rollout.group_size
  prompts = samples.weight.shape[0] // group
  if prompts % microbatches:
    raise ValueError(
      f'{prompts} prompts per step do not divide into {microbatches} '
      'micro-batches; choose a divisor.'
    )

  def deal(x: Array) -> Array:
    dealt = x.reshape(
      prompts // microbatches, microbatches, group, *x.shape[1:]
    )
    return jnp.moveaxis(dealt, 1, 0).reshape(microbatches, -1, *x.shape[1:])

  return jax.tree.map(deal, samples)


def _counts(algorithm: Algorithm, samples: Credited) -> Mapping[str, Array]:
  """What each term's sum over the whole batch is divided by."""
  blank = jnp.zeros(samples.rollout.tokens.shape, jnp.float32)
  return {
    name: term.aggregate(
      blank, _mask(term, samples.rollout), samples.weight
    ).count
    for name, term in algorithm.terms.items()
  }


def _mask(term: Term, rollout: Rollout) -> Array:
  """Tokens that a term sees."""
  if term.turns is None:
    return rollout.loss_mask
  return rollout.loss_mask & jnp.isin(rollout.turn, jnp.asarray(term.turns))


def _loss(
  policy: Policy,
  algorithm: Algorithm,
  params: Params,
  ref_params: Params,
  samples: Credited,
  counts: Mapping[str, Array],
) -> tuple[Array, Metrics]:
  """This micro-batch's share of the loss, and its metrics as estimates."""
  scores = score(
    policy,
    params,
    samples.rollout,
    needs=algorithm.needs,
    ref_params=ref_params,
  )
  experience = Experience(
    rollout=samples.rollout,
    advantages=samples.advantages,
    weight=samples.weight,
    streams=_streams(policy, algorithm, ref_params, samples.rollout, scores),
  )
  total, metrics = jnp.float32(0), dict[str, Any]()
  for name, term in algorithm.terms.items():
    share, by_turn = _term(term, experience, scores, counts[name])
    total = total + share
    metrics[f'loss/{name}'] = share
    for turn, estimate in enumerate(by_turn):
      metrics[f'loss/{name}_t{turn + 1}'] = estimate
  metrics['loss/total'] = total
  metrics |= _of_policy(samples.rollout, scores)
  return total, metrics


def _term(
  term: Term, experience: Experience, scores: Scores, count: Array
) -> tuple[Array, list[Estimate]]:
  """A term's weighted share of the loss, and its plain mean per turn."""
  rollout = experience.rollout
  values = term.fn(experience, scores)
  mask, weight = _mask(term, rollout), experience.weight
  coefficient = jnp.asarray(term.weight, jnp.float32)
  if coefficient.ndim:
    coefficient = masks.take_by_turn(
      jnp.broadcast_to(
        coefficient[None, :], (weight.shape[0], coefficient.shape[0])
      ),
      rollout.turn,
    )
  total = term.aggregate(coefficient * values, mask, weight).total
  # A label may have dropped every row: then there is no loss, not a NaN.
  share = total / jnp.maximum(count, 1e-9)
  frozen = jax.lax.stop_gradient(values)
  by_turn = [
    term.aggregate(frozen, mask & (rollout.turn == turn), weight)
    for turn in range(len(rollout.spans))
  ]
  return share, by_turn


def _streams(
  policy: Policy,
  algorithm: Algorithm,
  ref_params: Params,
  rollout: Rollout,
  scores: Scores,
) -> Mapping[str, Array]:
  """The streams without gradient that the algorithm needs."""
  streams = {}
  if 'ref_logprobs' in algorithm.needs:
    frozen = jax.lax.stop_gradient(ref_params)
    streams['ref_logprobs'] = score(policy, frozen, rollout).logprobs
  if 'old_logprobs' in algorithm.needs:
    # With one update a batch, the policy before the update is the policy.
    streams['old_logprobs'] = jax.lax.stop_gradient(scores.logprobs)
  return streams


def _of_policy(rollout: Rollout, scores: Scores) -> Metrics:
  """How sure the policy is of its tokens, and how the sampler saw them."""
  logprobs = jax.lax.stop_gradient(scores.logprobs)
  mask = rollout.loss_mask
  # Of tokens that were certain, or demonstrated, the sampler says nothing.
  sampled = mask & (rollout.sampler_logprobs != 0)
  gap = jnp.abs(logprobs - rollout.sampler_logprobs)
  return {
    'policy/entropy': _mean(-logprobs, mask),
    'policy/sampler_gap': _mean(gap, sampled),
  }


def _mean(values: Array, mask: Array) -> Estimate:
  return Estimate(
    total=jnp.sum(jnp.where(mask, values, 0.0)),
    count=jnp.sum(mask, dtype=jnp.float32),
  )
