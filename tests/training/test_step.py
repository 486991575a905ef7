from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from selfimprove.models.transformer import make_policy
from selfimprove.training import programs
from selfimprove.training import step as steps
from selfimprove.training.stages import Stage, needs_reference
from selfimprove.training.state import (
  Models,
  Optimizers,
  abstract_state,
  init_state,
  stream_key,
)
from selfimprove.training.timing import PhaseTimers
from tests.training import tiny

PROMPTS = 16
MODELS = Models(tiny.POLICY)


def _stage(**changes):
  made = Stage(
    name='two',
    # Both terms count: the reference is another policy than the trained one.
    algorithm=tiny.stage_two(kl=(1.0, 0.5)),
    optimizer=optax.sgd(1.0),
    steps=1,
    prompts_per_step=PROMPTS,
  )
  return dataclasses.replace(made, **changes)


def _state(stage, mesh, models=MODELS):
  like = abstract_state(models, stage.optimizers, mesh, with_reference=True)
  state = init_state(MODELS, stage.optimizers, seed=3, with_reference=True)
  state = dataclasses.replace(
    state, ref_params=tiny.POLICY.init(jax.random.key(1))
  )
  return jax.device_put(state, jax.tree.map(lambda leaf: leaf.sharding, like))


def _update(stage, models=MODELS, **axes):
  """Parameters and metrics after one step on a mesh of these axes."""
  mesh = tiny.mesh(**axes)
  with jax.set_mesh(mesh):
    state = _state(stage, mesh, models)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
    made = programs.Build(
      models=models,
      stage=stage,
      mesh=mesh,
      state_shardings=shardings,
      judge=lambda reward, rollout: reward.judge(rollout, None),
    )
    step = programs.build(made)
    prompts = jax.device_get(tiny.prompts(PROMPTS))
    state, metrics, codes = step(state, lambda _: prompts, PhaseTimers())
  kept = jax.tree.map(lambda leaf: leaf.sharding, state)
  assert kept == shardings
  assert not np.any(codes)
  return jax.device_get(state.params), jax.device_get(metrics)


@functools.cache
def _whole():
  return _update(_stage())


def _assert_close(params, wanted):
  before = jax.device_get(_state(_stage(), tiny.mesh()).params)
  moved = jax.tree.map(np.subtract, wanted, before)
  size = max(np.max(np.abs(leaf)) for leaf in jax.tree.leaves(moved))
  assert size > 1e-2
  # 1e-5 of the largest entry of the update, which is a plain gradient here.
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * size),
    params,
    wanted,
  )


@pytest.mark.slow  # The conformance tests do the same by default, for fewer.
@pytest.mark.parametrize(
  ('microbatches', 'axes'),
  [
    (2, {}),
    (4, {}),
    (4, {'data': 4, 'model': 2}),
    (1, {'data': 4, 'model': 2}),
    (2, {'data': 4, 'fsdp': 2}),
    # Fewer prompts than devices: groups lie on several.
    (8, {'fsdp': 8}),
    (4, {'data': 4, 'fsdp': 2}),
  ],
)
def test_the_update_depends_on_no_micro_batch_and_no_mesh(microbatches, axes):
  params, metrics = _update(_stage(microbatches=microbatches), **axes)
  wanted, wanted_metrics = _whole()
  _assert_close(params, wanted)
  assert metrics.keys() == wanted_metrics.keys()
  for name in ('loss/total', 'loss/kl', 'reward/verifier_t2', 'grad/norm'):
    np.testing.assert_allclose(metrics[name], wanted_metrics[name], rtol=1e-4)
  # The same tokens were sampled: lengths are whole numbers of them.
  for name in ('rollout/tokens', 'rollout/copied'):
    assert metrics[name] == wanted_metrics[name]


@pytest.mark.slow
@pytest.mark.parametrize('microbatches', [1, 8])
def test_layers_that_are_used_whole_get_the_same_update(microbatches):
  # Prompts do not fill the devices; of eight micro-batches samples just do.
  config = dataclasses.replace(tiny.CONFIG, training_layout='fully_sharded')
  params, metrics = _update(
    _stage(microbatches=microbatches),
    models=Models(make_policy(config)),
    data=2,
    fsdp=2,
    model=2,
  )
  wanted, wanted_metrics = _whole()
  _assert_close(params, wanted)
  assert metrics['rollout/tokens'] == wanted_metrics['rollout/tokens']


@dataclasses.dataclass
class _HostEvenness:
  """`tiny.Evenness` on the host, where the texts are not needed."""

  calls: int = 0

  def judge(self, attempts, references):
    self.calls += 1
    firsts = [attempts.tokens[:, first] for first, _ in attempts.spans]
    return (np.stack(firsts, axis=1) % 2 == 0).astype(np.float32)


@pytest.mark.slow
def test_a_reward_on_the_host_gives_the_update_of_one_in_graph():
  reward = _HostEvenness()
  algorithm = dataclasses.replace(_stage().algorithm, reward=reward)
  params, metrics = _update(_stage(algorithm=algorithm))
  wanted, wanted_metrics = _whole()
  assert reward.calls == 1
  _assert_close(params, wanted)
  assert metrics.keys() == wanted_metrics.keys()


def test_samples_that_do_not_divide_over_the_devices_are_refused():
  stage = _stage(prompts_per_step=8, microbatches=8)
  said = "Stage 'two': a micro-batch has 1 prompts with 4 samples each"
  with pytest.raises(ValueError, match=said):
    _update(stage, data=8)


def test_keys_of_different_uses_do_not_meet():
  seed = jax.random.key_data(jax.random.key(0))
  names = ['rollout', 'params', 'evaluate']
  data = [np.asarray(jax.random.key_data(stream_key(seed, n))) for n in names]
  assert len({tuple(key) for key in data}) == 3


def test_optimizer_state_is_laid_out_like_its_parameters():
  mesh = tiny.mesh(data=2, fsdp=2, model=2)
  optimizers = Optimizers(optax.adam(1e-3))
  state = abstract_state(MODELS, optimizers, mesh, with_reference=True)
  spec = lambda tree: [leaf.sharding.spec for leaf in jax.tree.leaves(tree)]  # noqa: E731
  adam = state.opt_state[0]
  assert spec(adam.mu) == spec(adam.nu) == spec(state.params)
  assert spec(state.ref_params) == spec(state.params)
  assert any(axes != jax.P() for axes in spec(state.params))


def test_a_state_without_comparisons_holds_no_reference():
  optimizers = Optimizers(optax.sgd(1.0))
  state = init_state(MODELS, optimizers, seed=0, with_reference=False)
  assert state.ref_params == {}
  assert int(state.step) == 0
  assert jnp.issubdtype(state.seed.dtype, jnp.uint32)


@pytest.mark.parametrize(('at_once', 'parts'), [(16, 1), (8, 2), (7, 4)])
def test_samples_do_not_depend_on_how_many_are_drawn_at_once(at_once, parts):
  state, prompts = _state(_stage(), tiny.mesh()), tiny.prompts(PROMPTS)
  plan = steps.Plan(prompts_at_once=at_once)
  assert plan.parts_to_sample(PROMPTS) == parts
  algorithm = tiny.algorithm()
  wanted, found = (
    jax.jit(functools.partial(steps.sample, MODELS, plan=plan))(
      algorithm, state, prompts
    )
    for plan in (steps.WHOLE, plan)
  )
  for name in ('tokens', 'positions', 'turn', 'group_id', 'example_id'):
    np.testing.assert_array_equal(getattr(found, name), getattr(wanted, name))
  np.testing.assert_allclose(
    found.sampler_logprobs, wanted.sampler_logprobs, atol=1e-5
  )


def test_samples_may_be_those_of_the_reference():
  state = _state(_stage(), tiny.mesh())
  mine, theirs = (
    dataclasses.replace(tiny.algorithm(), samples_of=whose)
    for whose in ('policy', 'reference')
  )
  turned = dataclasses.replace(
    state, params=state.ref_params, ref_params=state.params
  )
  sample = jax.jit(functools.partial(steps.sample, MODELS))
  prompts = tiny.prompts(PROMPTS)
  of_reference = sample(theirs, state, prompts)
  np.testing.assert_array_equal(
    of_reference.tokens, sample(mine, turned, prompts).tokens
  )
  assert np.any(of_reference.tokens != sample(mine, state, prompts).tokens)
  stage = dataclasses.replace(
    _stage(), algorithm=dataclasses.replace(theirs, needs=())
  )
  assert needs_reference([stage])
  with pytest.raises(ValueError, match="samples_of='base' is nobody"):
    dataclasses.replace(theirs, samples_of='base')
