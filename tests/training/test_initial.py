"""Runs that train adapters beside a base which they do not save."""

from __future__ import annotations

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from selfimprove.models.heads import make_critic
from selfimprove.models.lora import LoRA, make_adapters, merge
from selfimprove.training import initial, loop
from selfimprove.training import step as steps
from selfimprove.training.checkpoint import read_extra, restore_params
from selfimprove.training.objective import value_and_grad
from selfimprove.training.score import score
from selfimprove.training.stages import holds_reference
from selfimprove.training.state import (
  Models,
  Optimizers,
  abstract_state,
  init_state,
  policy_params,
  reference_params,
)
from tests.training import tiny
from tests.training.short import shortened

LORA = LoRA(rank=2, alpha=4.0, targets='attention/(query|out)|mlp/down')
MODELS = Models(tiny.POLICY, adapters=make_adapters(LORA, tiny.POLICY))


@pytest.fixture(scope='module', autouse=True)
def _programs_are_compiled_once():
  """Runs of equal stages share them."""
  with pytest.MonkeyPatch.context() as patch:
    build = tiny.shared_programs(loop.programs.build)
    patch.setattr(loop.programs, 'build', build)
    yield


def _train(folder, *, init_params=None, **changes):
  made = tiny.run(folder, tiny.stages(), models=MODELS, **changes)
  try:
    return loop.train(made.run, init_params=init_params)
  finally:
    made.run.writer.close()
    made.run.store.close()


def _same(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)


def _fresh(models, optimizers, seed):
  make = functools.partial(
    init_state, models, optimizers, seed=seed, with_reference=False
  )
  return jax.jit(make)()


@functools.cache
def _begun():
  """A state whose adapters do something, its rollout and rewards."""
  state = _fresh(MODELS, Optimizers(policy=optax.sgd(0.5)), 3)
  leaves, treedef = jax.tree.flatten(state.params)
  moved = [
    leaf + 0.3 * jax.random.normal(jax.random.key(i), leaf.shape)
    for i, leaf in enumerate(leaves)
  ]
  moved = jax.tree.unflatten(treedef, moved)
  state = dataclasses.replace(state, params=moved)
  sample = jax.jit(functools.partial(steps.sample, MODELS))
  rollout = sample(tiny.stage_two(), state, tiny.prompts())
  return state, rollout, tiny.Evenness()(rollout, tiny.prompts())


@pytest.fixture(scope='module')
def straight(tmp_path_factory):
  """A run in one go, and where its base was when it was measured."""
  folder, seen = tmp_path_factory.mktemp('straight'), []

  def evaluate(state):
    assert state.ref_params == {} or len(state.ref_params) == 1
    leaves = jax.tree.leaves(state.frozen)
    seen.append([leaf.unsafe_buffer_pointer() for leaf in leaves])
    return {'eval/acc_last': float(state.step)}

  base = jax.jit(tiny.POLICY.init)(jax.random.key(9))
  before = jax.device_get(base)
  state = _train(
    folder,
    init_params=lambda: base,
    evaluate=evaluate,
    schedule=loop.Schedule(checkpoint_every=2, evaluate_every=1),
  )
  return folder, state, before, seen


@pytest.mark.slow
def test_only_adapters_move_and_the_base_stays_where_it_is(straight):
  _, state, before, seen = straight
  _same(state.frozen, before)
  assert len(seen) >= 7
  assert all(pointers == seen[0] for pointers in seen)
  fresh = _fresh(MODELS, Optimizers(policy=None), 5)
  moved = jax.tree.map(lambda a, b: np.any(a != b), state.params, fresh.params)
  assert all(jax.tree.leaves(moved))


@pytest.mark.slow
def test_checkpoints_hold_adapters_and_their_optimizer_alone(straight):
  folder, state, _, _ = straight
  saved = restore_params(folder / 'checkpoints')
  assert jax.tree.structure(saved) == jax.tree.structure(state.params)
  with pytest.raises(ValueError, match='but no `frozen`'):
    restore_params(folder / 'checkpoints', part='frozen')
  adam = restore_params(folder / 'checkpoints', part='opt_state')
  held = {np.shape(leaf) for leaf in jax.tree.leaves(adam)}
  assert held == {(), *(leaf.shape for leaf in jax.tree.leaves(state.params))}
  assert len(read_extra(folder / 'checkpoints')['base']) == 16


@pytest.mark.slow
@pytest.mark.parametrize('stop_after', [2, 4, 5])
def test_a_run_that_goes_on_ends_as_one_in_one_go(
  straight, tmp_path, stop_after
):
  _, wanted, before, _ = straight
  base = lambda: jax.tree.map(jnp.asarray, before)  # noqa: E731
  part = _train(tmp_path, stop_after=stop_after, init_params=base)
  assert 0 < int(part.step) < int(wanted.step)
  _same(_train(tmp_path, init_params=base), wanted)


@pytest.mark.slow
def test_adapters_beside_another_base_are_refused(straight, tmp_path):
  _, _, before, _ = straight
  base = lambda: jax.tree.map(jnp.asarray, before)  # noqa: E731
  _train(tmp_path, stop_after=1, init_params=base)
  other = jax.tree.map(jnp.asarray, before)
  table = other['embedder']['table']
  other['embedder']['table'] = table.at[3, 2].add(1e-6)
  with pytest.raises(ValueError, match='of a base with fingerprint'):
    _train(tmp_path, init_params=lambda: other)


@pytest.mark.slow
def test_adapters_are_no_parameters_to_begin_with(straight):
  folder, state, _, _ = straight
  with pytest.raises(ValueError, match='holds LoRA adapters, without the par'):
    restore_params(folder / 'checkpoints', like=state.frozen)


def test_a_base_from_the_seed_is_that_of_a_run_without_adapters():
  made = initial.base_params(tiny.POLICY, tiny.mesh(), seed=5, read=None)
  plain = _fresh(Models(tiny.POLICY), Optimizers(policy=None), 5)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6),
    made,
    plain.params,
  )


def test_the_reference_is_the_base_and_no_copy_of_it():
  state, rollout, _ = _begun()
  reference = reference_params(MODELS, state)
  assert state.ref_params == {}
  assert jax.tree.all(
    jax.tree.map(lambda a, b: a is b, reference, state.frozen)
  )
  read = jax.jit(lambda params: score(tiny.POLICY, params, rollout).logprobs)
  _same(read(reference), read(state.frozen))
  ours = read(policy_params(MODELS, state))
  assert np.max(np.abs(ours - read(reference))) > 0.01
  one = tiny.stages()[:1]
  like = abstract_state(
    MODELS,
    one[0].optimizers,
    tiny.mesh(),
    with_reference=holds_reference(one, MODELS),
  )
  size = lambda tree: sum(leaf.size for leaf in jax.tree.leaves(tree))  # noqa: E731
  # Adam keeps two moments of the adapters; the rest are counters.
  assert size(like) - size(like.frozen) - 3 * size(like.params) < 8


@pytest.mark.slow
def test_a_reference_that_is_taken_later_is_kept_as_adapters(straight):
  _, state, _, _ = straight
  shapes = lambda tree: jax.tree.map(jnp.shape, tree)  # noqa: E731
  assert holds_reference(tiny.stages(), MODELS)
  assert not holds_reference(tiny.stages()[:2], MODELS)
  assert shapes(state.ref_params) == shapes(state.params)
  assert np.any(state.ref_params['layers']['mlp']['down']['lora_b'])


def test_samples_are_those_of_the_merged_policy():
  state, rollout, _ = _begun()
  params = policy_params(MODELS, state)
  read = jax.jit(lambda params: score(tiny.POLICY, params, rollout).logprobs)
  said, mask = read(params), np.asarray(rollout.loss_mask)
  np.testing.assert_allclose(
    said[mask], rollout.sampler_logprobs[mask], atol=1e-5
  )
  np.testing.assert_allclose(said, read(merge(params)), atol=1e-5)


@functools.cache
def _step(plan, mesh=None):
  """What one call of `learn` makes of the state."""
  state, rollout, rewards = _begun()
  optimizers = Optimizers(policy=optax.sgd(0.5))
  learn = functools.partial(steps.learn, MODELS, optimizers, plan=plan)
  if mesh is None:
    return jax.jit(learn)(tiny.stage_two(), state, rollout, rewards)[0]
  like = abstract_state(MODELS, optimizers, mesh, with_reference=False)
  shardings = jax.tree.map(lambda leaf: leaf.sharding, like)
  placed = jax.device_put(state, shardings)
  with jax.set_mesh(mesh):
    compiled = jax.jit(learn, out_shardings=(shardings, None, None))
    return compiled(tiny.stage_two(), placed, rollout, rewards)[0]


def _close(a, b):
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=2e-5), a, b)


@pytest.mark.slow
def test_neither_parts_nor_the_mesh_change_an_update():
  whole = _step(steps.Plan())
  _close(_step(steps.Plan(microbatches=2)).params, whole.params)
  mesh = tiny.mesh(data=2, fsdp=2, model=2)
  there = _step(steps.Plan(), mesh)
  _close(there.params, whole.params)
  _same(there.frozen, whole.frozen)
  start = _begun()[0]
  moved = jax.tree.map(lambda a, b: np.any(a != b), whole.params, start.params)
  assert all(jax.tree.leaves(moved))


@pytest.mark.slow
def test_several_updates_follow_from_one_batch():
  start = _begun()[0]
  plan = steps.Plan(epochs=2, minibatches=2)
  many, one = _step(plan), _step(steps.Plan())
  _same(many.frozen, start.frozen)
  differs = jax.tree.map(lambda a, b: np.any(a != b), many.params, one.params)
  assert all(jax.tree.leaves(differs))


@pytest.mark.slow
def test_packed_rows_give_the_same_gradient():
  state, rollout, rewards = _begun()
  rollout = shortened(rollout)
  algorithm = tiny.stage_two()
  samples = steps._credited(
    MODELS,
    algorithm,
    state,
    rollout,
    rewards,
    algorithm.combine(rewards),
    steps.Plan(),
  )

  def gradient(packed_rows):
    return value_and_grad(
      MODELS,
      algorithm,
      {'policy': state.params},
      reference_params(MODELS, state),
      samples,
      frozen=state.frozen,
      microbatches=1,
      packed_rows=packed_rows,
    )[1]

  compiled = jax.jit(gradient, static_argnums=0)
  _close(compiled(3), compiled(0))


def test_a_critic_begins_with_the_base_and_trains_whole():
  policy = tiny.POLICY
  models = Models(policy, make_critic(tiny.CONFIG), make_adapters(LORA, policy))
  both = Optimizers(policy=optax.sgd(0.1), critic=optax.sgd(0.1))
  state = _fresh(models, both, 0)
  _same(
    state.critic_params['trunk'],
    {name: state.frozen[name] for name in state.critic_params['trunk']},
  )
  trunk = state.critic_params['trunk']['layers']['attention']['query']
  assert set(trunk) == {'kernel'}


@pytest.mark.slow
def test_the_fingerprint_survives_json(straight):
  folder, _, before, _ = straight
  saved = json.loads(json.dumps(read_extra(folder / 'checkpoints')))['base']
  assert initial.check_base(saved, before) == saved
