"""One step of training: sample, judge, credit, update."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from selfimprove.algorithms.base import Algorithm
from selfimprove.training import measures
from selfimprove.training.finite import finite_codes
from selfimprove.training.objective import Credited, value_and_grad
from selfimprove.training.state import TrainState, stream_key
from selfimprove.types import Metrics, Policy, Prompts, Rollout


def sample(
  policy: Policy, algorithm: Algorithm, state: TrainState, prompts: Prompts
) -> Rollout:
  """The rollout of a step: a function of run seed, step and prompts.

  Args:
    policy: the model.
    algorithm: whose `rollout` samples.
    state: parameters, seed and step.
    prompts: the batch.

  Returns:
    `p * group_size` samples.
  """
  key = jax.random.fold_in(stream_key(state.seed, 'rollout'), state.step)
  return algorithm.rollout(policy, state.params, prompts, key)


def learn(
  policy: Policy,
  optimizer: optax.GradientTransformation,
  algorithm: Algorithm,
  state: TrainState,
  rollout: Rollout,
  rewards: Float[Array, 'b turns'],
  *,
  microbatches: int,
) -> tuple[TrainState, Metrics, Int[Array, 'checks']]:
  """The update that follows from judged samples.

  Args:
    policy: the model.
    optimizer: of the stage.
    algorithm: its combiner, label, credit and terms.
    state: before the step.
    rollout: the samples.
    rewards: of each attempt, as the verifier gave them.
    microbatches: parts in which the gradient is computed.

  Returns:
    State after the step, its metrics, and codes that say whether each loss
    term and gradient was finite (`finite.check_finite`).
  """
  shaped = algorithm.combine(rewards)
  samples = Credited(
    rollout=rollout,
    advantages=algorithm.credit(rollout, shaped),
    weight=algorithm.label(rollout, rewards),
  )
  losses, grads = value_and_grad(
    policy,
    algorithm,
    state.params,
    state.ref_params,
    samples,
    microbatches=microbatches,
  )
  updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
  metrics = {
    **losses,
    **measures.of_rollout(rollout),
    **measures.of_rewards(rollout, rewards, shaped, samples.weight),
    'grad/norm': optax.tree.norm(grads),
  }
  prompts = rollout.tokens.shape[0] // rollout.group_size
  state = dataclasses.replace(
    state,
    step=state.step + 1,
    position=state.position + jnp.int32(prompts),
    params=optax.apply_updates(state.params, updates),
    opt_state=opt_state,
  )
  terms = {name: losses[f'loss/{name}'] for name in algorithm.terms}
  return state, metrics, finite_codes(terms, grads)


def step(
  policy: Policy,
  optimizer: optax.GradientTransformation,
  algorithm: Algorithm,
  state: TrainState,
  prompts: Prompts,
  *,
  microbatches: int,
) -> tuple[TrainState, Metrics, Int[Array, 'checks']]:
  """A whole step as one program, for rewards that are computed in graph.

  Args:
    policy: the model.
    optimizer: of the stage.
    algorithm: what to sample and minimise.
    state: before the step.
    prompts: the batch.
    microbatches: parts in which the gradient is computed.

  Returns:
    What `learn` returns.
  """
  rollout = sample(policy, algorithm, state, prompts)
  verify: Any = algorithm.reward  # `programs` takes rewards on the host apart.
  rewards = verify(rollout, prompts)
  return learn(
    policy,
    optimizer,
    algorithm,
    state,
    rollout,
    rewards,
    microbatches=microbatches,
  )
