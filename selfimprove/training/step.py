"""One step of training: sample, judge, credit, update."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Key

from selfimprove.algorithms.base import Algorithm, RolloutFn
from selfimprove.training import measures, packing, streams
from selfimprove.training.finite import finite_codes
from selfimprove.training.microbatches import join, split, take_groups
from selfimprove.training.objective import Credited, value_and_grad
from selfimprove.training.state import (
  Models,
  Optimizers,
  TrainState,
  fetched,
  policy_params,
  put_away,
  reference_params,
  stream_key,
)
from selfimprove.types import Metrics, Params, Policy, Prompts, Rollout


class Plan(NamedTuple):
  """How a batch becomes updates.

  Attributes:
    epochs: times that the batch is gone through.
    minibatches: updates in each epoch, over as many parts of the batch.
    microbatches: parts in which the gradient of an update is computed.
    packed_rows: rows into which the samples of a group are packed while the
      networks read them; 0 for a row each.
    prompts_at_once: prompts whose samples are drawn at one time; 0 for all.
  """

  epochs: int = 1
  minibatches: int = 1
  microbatches: int = 1
  packed_rows: int = 0
  prompts_at_once: int = 0

  @property
  def updates(self) -> int:
    """Updates that follow from one batch."""
    return self.epochs * self.minibatches

  def parts_to_sample(self, count: int) -> int:
    """Parts in which prompts are sampled for.

    Args:
      count: of prompts.

    Returns:
      The fewest that divide them into parts that are small enough.
    """
    most = self.prompts_at_once or count
    return next(
      n for n in range(1, count + 1) if count <= n * most and count % n == 0
    )


WHOLE = Plan()
"""One update of all samples, which are drawn together."""


def sample(
  models: Models,
  algorithm: Algorithm,
  state: TrainState,
  prompts: Prompts,
  *,
  plan: Plan = WHOLE,
) -> Rollout:
  """The rollout of a step: a function of run seed, step and prompts.

  Args:
    models: the networks.
    algorithm: whose `rollout` samples.
    state: parameters, seed and step.
    prompts: the batch.
    plan: how many of them are sampled for at one time.

  Returns:
    `p * group_size` samples.
  """
  key = jax.random.fold_in(stream_key(state.seed, 'rollout'), state.step)
  params = sampled_params(models, algorithm, state)
  return draw(algorithm.rollout, models.policy, params, prompts, key, plan=plan)


def draw(
  rollout: RolloutFn,
  policy: Policy,
  params: Params,
  prompts: Prompts,
  key: Key[Array, ''],
  *,
  plan: Plan,
) -> Rollout:
  """Samples for a batch, part by part where it asks for that.

  A row's randomness is that of its prompt and number, so the parts change no
  sample: they only bound the memory of the cache.

  Args:
    rollout: how samples are drawn.
    policy: the model.
    params: its parameters.
    prompts: the batch.
    key: of the step.
    plan: how many prompts are sampled for at one time.

  Returns:
    `p * group_size` samples.
  """
  count, group = prompts.example_id.shape[0], rollout.group_size
  parts = plan.parts_to_sample(count)
  if parts == 1:
    return rollout(policy, params, prompts, key)
  dealt = split(prompts, parts=parts, group_size=1)
  drawn = jax.lax.map(lambda part: rollout(policy, params, part, key), dealt)
  whole: Rollout = join(drawn, group_size=group)
  numbers = jnp.repeat(jnp.arange(count, dtype=jnp.int32), group)
  return dataclasses.replace(whole, group_id=numbers)


def sampled_params(
  models: Models, algorithm: Algorithm, state: TrainState
) -> Params:
  """The parameters that samples are drawn with.

  Args:
    models: the networks.
    algorithm: says whose samples it learns from.
    state: of the run.

  Returns:
    Those of the policy or of the reference.
  """
  whose = {'policy': policy_params, 'reference': reference_params}
  return whose[algorithm.samples_of](models, state)


def learn(
  models: Models,
  optimizers: Optimizers,
  algorithm: Algorithm,
  state: TrainState,
  rollout: Rollout,
  rewards: Float[Array, 'b turns'],
  *,
  plan: Plan,
  real: Float[Array, 'b'] | None = None,
) -> tuple[TrainState, Metrics, Int[Array, 'checks']]:
  """The updates that follow from judged samples.

  Args:
    models: the networks.
    optimizers: of the stage.
    algorithm: its combiner, label, credit and terms.
    state: before the step.
    rollout: the samples.
    rewards: of each attempt, as the verifier gave them.
    plan: how many updates, and in which parts.
    real: 0.0 for rows that are no samples; None if all are.

  Returns:
    State after the step, its metrics (means over the updates), and codes that
    say whether each loss term and gradient was finite (`finite.check_finite`).
  """
  shaped = algorithm.combine(rewards)
  samples = _credited(models, algorithm, state, rollout, rewards, shaped, plan)
  if real is not None:
    samples = dataclasses.replace(samples, weight=samples.weight * real)
  if plan.updates == 1:
    state, losses, codes = _update(
      models, optimizers, algorithm, state, samples, plan
    )
  else:
    state, losses, codes = _updates(
      models, optimizers, algorithm, state, samples, plan
    )
  metrics = {
    **losses,
    **measures.of_rollout(rollout),
    **measures.of_rewards(rollout, rewards, shaped, samples.weight),
  }
  if plan.packed_rows:
    metrics['update/packed'] = _packed(rollout, plan)
  return dataclasses.replace(state, step=state.step + 1), metrics, codes


def step(
  models: Models,
  optimizers: Optimizers,
  algorithm: Algorithm,
  state: TrainState,
  prompts: Prompts,
  *,
  plan: Plan,
) -> tuple[TrainState, Metrics, Int[Array, 'checks']]:
  """A whole step as one program, for rewards that are computed in graph.

  Args:
    models: the networks.
    optimizers: of the stage.
    algorithm: what to sample and minimise.
    state: before the step.
    prompts: the batch.
    plan: how many updates, and in which parts.

  Returns:
    What `learn` returns.
  """
  rollout = sample(models, algorithm, state, prompts, plan=plan)
  verify: Any = algorithm.reward  # `programs` takes rewards on the host apart.
  with jax.named_scope('phase.reward'):
    rewards = verify(rollout, prompts)
  state = consume(state, prompts.tokens.shape[0])
  return learn(
    models, optimizers, algorithm, state, rollout, rewards, plan=plan
  )


def consume_and_learn(
  models: Models,
  optimizers: Optimizers,
  algorithm: Algorithm,
  state: TrainState,
  prompts: Prompts,
  rollout: Rollout,
  rewards: Float[Array, 'b turns'],
  *,
  plan: Plan,
) -> tuple[TrainState, Metrics, Int[Array, 'checks']]:
  """`learn`, for prompts whose samples were judged outside the graph.

  Args:
    models: the networks.
    optimizers: of the stage.
    algorithm: its combiner, label, credit and terms.
    state: before the step.
    prompts: that were sampled for.
    rollout: the samples.
    rewards: of each attempt.
    plan: how many updates, and in which parts.

  Returns:
    What `learn` returns.
  """
  state = consume(state, prompts.tokens.shape[0])
  return learn(
    models, optimizers, algorithm, state, rollout, rewards, plan=plan
  )


def consume(state: TrainState, count: int) -> TrainState:
  """The state after prompts were drawn.

  Args:
    state: before.
    count: of prompts.

  Returns:
    The state with its data position moved on.
  """
  moved = state.position + jnp.int32(count)
  return dataclasses.replace(state, position=moved)


def trained(state: TrainState, optimizers: Optimizers) -> dict[str, Params]:
  """The parameters that a stage trains; of a policy perhaps its adapters.

  Args:
    state: of the run.
    optimizers: of the stage.

  Returns:
    Those of `policy` and of `critic`, where they have an optimizer.
  """
  params = {'policy': state.params, 'critic': state.critic_params}
  return {
    name: params[name]
    for name, optimizer in optimizers._asdict().items()
    if optimizer is not None
  }


def _credited(
  models: Models,
  algorithm: Algorithm,
  state: TrainState,
  rollout: Rollout,
  rewards: Float[Array, 'b turns'],
  shaped: Float[Array, 'b turns'],
  plan: Plan,
) -> Credited:
  """The samples with all that is known before the first update."""
  names = [name for name in streams.FROZEN if name in algorithm.needs]
  # With one update a batch, the loss finds them on its way.
  reads = algorithm.derived or algorithm.token_reward
  if plan.updates == 1 and not reads and 'old_logprobs' in names:
    names.remove('old_logprobs')
  found: dict[str, Array] = streams.before_update(
    models,
    {
      'policy': policy_params(models, state),
      'critic': state.critic_params,
    },
    reference_params(models, state),
    rollout,
    names=names,
    parts=plan.minibatches * plan.microbatches,
    packed_rows=plan.packed_rows,
  )
  found = streams.with_derived(algorithm, rollout, shaped, found)
  return Credited(
    rollout=rollout,
    rewards=rewards,
    advantages=algorithm.credit(rollout, shaped, found),
    weight=algorithm.label(rollout, rewards),
    streams=found,
  )


def _updates(
  models: Models,
  optimizers: Optimizers,
  algorithm: Algorithm,
  state: TrainState,
  samples: Credited,
  plan: Plan,
) -> tuple[TrainState, Metrics, Int[Array, 'checks']]:
  """Several updates, each over whole groups drawn without replacement."""
  group = samples.rollout.group_size
  groups = samples.weight.shape[0] // group
  if groups % plan.minibatches:
    raise ValueError(
      f'{groups} prompts per step do not divide into {plan.minibatches} '
      'mini-batches; choose a divisor.'
    )
  key = jax.random.fold_in(stream_key(state.seed, 'minibatches'), state.step)
  orders = jax.vmap(
    lambda epoch: jax.random.permutation(jax.random.fold_in(key, epoch), groups)
  )(jnp.arange(plan.epochs))

  def one(state: TrainState, chosen: Array) -> tuple[TrainState, Any]:
    part = take_groups(samples, chosen, group_size=group)
    state, metrics, codes = _update(
      models, optimizers, algorithm, state, part, plan
    )
    return state, (metrics, codes)

  chosen = orders.reshape(plan.updates, groups // plan.minibatches)
  state, (metrics, codes) = jax.lax.scan(one, state, chosen)
  # The first update in which something was not finite tells what.
  first = jnp.argmax(jnp.any(codes > 0, axis=1))
  return (
    state,
    jax.tree.map(lambda m: jnp.mean(m, axis=0), metrics),
    codes[first],
  )


@jax.named_scope('phase.update')
def _update(
  models: Models,
  optimizers: Optimizers,
  algorithm: Algorithm,
  state: TrainState,
  samples: Credited,
  plan: Plan,
) -> tuple[TrainState, Metrics, Int[Array, 'checks']]:
  """One step of the optimizers."""
  losses, grads = value_and_grad(
    models,
    algorithm,
    trained(state, optimizers),
    reference_params(models, state),
    samples,
    frozen=state.frozen,
    microbatches=plan.microbatches,
    packed_rows=plan.packed_rows,
  )
  metrics, changes = dict(losses), dict[str, Any]()
  if optimizers.policy is not None:
    changes['params'], changes['opt_state'] = _stepped(
      models, optimizers.policy, grads['policy'], state.opt_state, state.params
    )
    metrics['grad/norm'] = optax.tree.norm(grads['policy'])
  if optimizers.critic is not None:
    changes['critic_params'], changes['critic_opt_state'] = _stepped(
      models,
      optimizers.critic,
      grads['critic'],
      state.critic_opt_state,
      state.critic_params,
    )
    metrics['grad/critic_norm'] = optax.tree.norm(grads['critic'])
  terms = {name: losses[f'loss/{name}'] for name in algorithm.terms}
  state = dataclasses.replace(state, **changes)
  return state, metrics, finite_codes(terms, grads)


def _packed(rollout: Rollout, plan: Plan) -> Array:
  """The share of groups that fit into their packed rows."""
  room = packing.fits(
    rollout.positions[:, rollout.prompt_slots :],
    group_size=rollout.group_size,
    rows=plan.packed_rows,
  )
  return jnp.mean(room, dtype=jnp.float32)


def _stepped(
  models: Models,
  optimizer: optax.GradientTransformation,
  grads: Params,
  opt_state: Any,
  params: Params,
) -> tuple[Params, Any]:
  """Parameters and optimizer state after one step."""
  opt_state = fetched(models, 'optimizer', opt_state)
  updates, opt_state = optimizer.update(grads, opt_state, params)
  params = optax.apply_updates(params, updates)
  return params, put_away(models, 'optimizer', opt_state)
