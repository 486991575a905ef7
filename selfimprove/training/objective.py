"""The loss of an algorithm, and its gradient over micro-batches."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from selfimprove import types
from selfimprove.algorithms.base import Algorithm, Term
from selfimprove.algorithms.terms import check_terms
from selfimprove.ops import masks
from selfimprove.training.microbatches import split
from selfimprove.training.score import score, values
from selfimprove.training.state import Models, joined
from selfimprove.types import (
  Estimate,
  Experience,
  Metrics,
  Params,
  Rollout,
  Scores,
)


@types.record
class Credited:
  """Samples with their credit, and what was said about them before.

  Attributes:
    rollout: the samples.
    rewards: of each attempt, as the verifier gave them.
    advantages: credit of each token.
    weight: sample weights, 0 drops a row.
    streams: per-token arrays without gradient, by name.
  """

  rollout: Rollout
  rewards: Float[Array, 'b turns']
  advantages: Float[Array, 'b t']
  weight: Float[Array, 'b']
  streams: Mapping[str, Float[Array, 'b t']]


def value_and_grad(
  models: Models,
  algorithm: Algorithm,
  params: Mapping[str, Params],
  ref_params: Params,
  samples: Credited,
  *,
  microbatches: int,
  packed_rows: int = 0,
  frozen: Params | None = None,
) -> tuple[Metrics, dict[str, Params]]:
  """Loss metrics and the gradient of the loss, exact for any micro-batching.

  Every term is sum / count with the count taken over the whole batch, so the
  gradients of the micro-batches add up to that of the batch.

  Args:
    models: the networks.
    algorithm: its terms and needs.
    params: where the gradient is taken: of `policy` and of `critic`, where
      they are trained.
    ref_params: the reference policy, base and adapters joined.
    samples: the batch; its prompts are divided over the micro-batches.
    microbatches: how many; divides the number of prompts.
    packed_rows: rows into which the samples of a group are packed while the
      networks read them; 0 for a row each.
    frozen: base of the policy where `params` has its adapters.

  Returns:
    Metrics `loss/total` and `loss/<term>`, and the gradient.

  Raises:
    ValueError: the prompts do not divide into so many micro-batches, or a term
      does not fit the number of attempts.
  """
  check_terms(algorithm.terms, attempts=len(samples.rollout.spans))
  counts = _counts(algorithm, samples)

  def loss(
    params: Mapping[str, Params], part: Credited
  ) -> tuple[Array, Metrics]:
    networks = dict(params)
    if 'policy' in params:
      networks['policy'] = joined(models, frozen, params['policy'])
    scores = _scores(
      models, algorithm, networks, ref_params, part.rollout, packed_rows
    )
    total, metrics = _loss(algorithm, part, scores, counts)
    if 'policy' in params:
      of_policy = algorithm.samples_of == 'policy'
      metrics |= _of_policy(part.rollout, scores, sampled_by_it=of_policy)
    return total, metrics

  differentiate = jax.value_and_grad(loss, has_aux=True)
  if microbatches == 1:
    (_, metrics), grads = differentiate(params, samples)
  else:
    parts = split(
      samples, parts=microbatches, group_size=samples.rollout.group_size
    )
    (_, metrics), grads = _accumulate(differentiate, params, parts)
  means = {
    k: m.mean() if isinstance(m, Estimate) else m for k, m in metrics.items()
  }
  return means, grads


def _accumulate(differentiate: Any, params: Any, parts: Credited) -> Any:
  """Sum of `differentiate` over the leading axis of `parts`."""
  shapes = jax.eval_shape(
    differentiate, params, jax.tree.map(lambda x: x[0], parts)
  )
  zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)

  def add(total: Any, part: Credited) -> tuple[Any, None]:
    return jax.tree.map(jnp.add, total, differentiate(params, part)), None

  return jax.lax.scan(add, zeros, parts)[0]


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
  algorithm: Algorithm,
  samples: Credited,
  scores: Scores,
  counts: Mapping[str, Array],
) -> tuple[Array, Metrics]:
  """This micro-batch's share of the loss, and its metrics as estimates."""
  streams = dict(samples.streams)
  if 'old_logprobs' in algorithm.needs and 'old_logprobs' not in streams:
    # With one update a batch, the policy before the update is the policy.
    streams['old_logprobs'] = jax.lax.stop_gradient(scores.logprobs)
  experience = Experience(
    rollout=samples.rollout,
    rewards=samples.rewards,
    advantages=samples.advantages,
    weight=samples.weight,
    streams=streams,
  )
  total, metrics = jnp.float32(0), dict[str, Any]()
  for name, term in algorithm.terms.items():
    share, by_turn = _term(term, experience, scores, counts[name])
    total = total + share
    metrics[f'loss/{name}'] = share
    for turn, estimate in enumerate(by_turn):
      metrics[f'loss/{name}_t{turn + 1}'] = estimate
  metrics['loss/total'] = total
  return total, metrics


def _scores(
  models: Models,
  algorithm: Algorithm,
  params: Mapping[str, Params],
  ref_params: Params,
  rollout: Rollout,
  packed_rows: int,
) -> Scores:
  """What the networks that are trained say about the tokens."""
  if 'policy' in params:
    scores = score(
      models.policy,
      params['policy'],
      rollout,
      needs=algorithm.needs,
      ref_params=ref_params,
      packed_rows=packed_rows,
    )
  else:
    # A term that reads them all the same is not finite, and is named.
    unread = jnp.full(rollout.tokens.shape, jnp.nan, jnp.float32)
    scores = Scores(logprobs=unread, streams={})
  if 'values' not in algorithm.needs or 'critic' not in params:
    return scores
  found = values(
    models.critic, params['critic'], rollout, packed_rows=packed_rows
  )
  return dataclasses.replace(
    scores, streams={**scores.streams, 'values': found}
  )


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


def _of_policy(
  rollout: Rollout, scores: Scores, *, sampled_by_it: bool
) -> Metrics:
  """How sure the policy is of its tokens, and how the sampler saw them."""
  logprobs = jax.lax.stop_gradient(scores.logprobs)
  mask = rollout.loss_mask
  # Of tokens that were certain, or demonstrated, the sampler says nothing.
  sampled = mask & (rollout.sampler_logprobs != 0)
  # Nor does it of those that were drawn behind a hint.
  sampled = sampled & ~rollout.off_context[:, None] & sampled_by_it
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
