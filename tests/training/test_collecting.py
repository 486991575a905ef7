from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from selfimprove import types as nouns
from selfimprove.algorithms import credit
from selfimprove.algorithms.base import Collect, Retry
from selfimprove.rewards import labels, merges
from selfimprove.rollout.contexts import AnswerPrefix, Hinted, InContext
from selfimprove.training import collect, collecting, loop, programs
from selfimprove.training import step as steps
from selfimprove.training.stages import Stage
from selfimprove.training.timing import PhaseTimers
from tests.training import tiny

PROMPTS = 4


@nouns.record
class FirstIs:
  """1.0 where the first token of an attempt is `token`."""

  token: int = 5

  def __call__(self, rollout, prompts):
    firsts = [rollout.tokens[:, first] for first, _ in rollout.spans]
    return (jnp.stack(firsts, axis=1) == self.token).astype(jnp.float32)


def _algorithm(*, retry=None, max_rounds=10, **changes):
  made = tiny.algorithm(kl=(0.0, 0.0), baseline=credit.GroupNormalized())
  return dataclasses.replace(
    made,
    label=labels.DropTiedGroups(),
    collect=Collect(retry=retry, max_rounds=max_rounds),
    **changes,
  )


def _retry(**changes):
  return Retry(
    rollout=InContext(
      rollout=tiny.revise(),
      context=Hinted(
        hint=AnswerPrefix(length=1),
        opening=jnp.asarray([6]),
        closing=jnp.asarray([], jnp.int32),
      ),
    ),
    **({'merge': merges.Replace()} | changes),
  )


def _stage(algorithm, *, steps=3):
  return Stage(
    name='full',
    algorithm=algorithm,
    optimizer=optax.sgd(0.3),
    steps=steps,
    prompts_per_step=PROMPTS,
  )


def _begin(tmp_path, stage, **changes):
  """A state with an empty buffer, and the step of the stage."""
  made = tiny.run(tmp_path, [stage], **changes)
  with jax.set_mesh(made.run.mesh):
    _, state, _ = loop._begin(made.run, None, None)
    state = loop._enter(made.run, stage, state)
  build = programs.Build(
    models=made.run.models,
    stage=stage,
    mesh=made.run.mesh,
    state_shardings=jax.tree.map(lambda x: x.sharding, state),
    judge=made.run.judge,
  )
  return made.run, state, collecting.build(build)


@pytest.mark.slow
def test_every_group_that_teaches_is_learned_from_once_in_order(
  tmp_path, monkeypatch
):
  stage = _stage(_algorithm(), steps=4)
  sampled, learned = [], []
  put, take = collect.put, collect.take

  def spy_put(state, rollout, rewards, keep):
    jax.debug.callback(
      lambda ids, keep: sampled.extend(ids[keep].tolist()),
      rollout.example_id[:: rollout.group_size],
      keep,
    )
    return put(state, rollout, rewards, keep)

  def spy_take(state, *, groups):
    out = take(state, groups=groups)
    jax.debug.callback(
      lambda ids: learned.extend(ids.tolist()),
      out[1].example_id[:: out[1].group_size],
    )
    return out

  monkeypatch.setattr(collect, 'put', spy_put)
  monkeypatch.setattr(collect, 'take', spy_take)
  state, _ = tiny.train(tmp_path, [stage])
  jax.effects_barrier()
  assert len(learned) == 4 * PROMPTS
  assert len(set(sampled)) == len(sampled)
  assert learned == sampled[: len(learned)]
  left = int(state.buffer.count)
  assert len(sampled) == len(learned) + left
  assert int(state.position) % PROMPTS == 0
  # Tied groups were passed by: more prompts were drawn than groups kept.
  assert int(state.position) > len(sampled)


@pytest.mark.slow
@pytest.mark.parametrize('retry', [None, _retry()])
def test_an_interrupted_collection_ends_bit_for_bit_as_a_straight_one(
  tmp_path, monkeypatch, retry
):
  stages = [_stage(_algorithm(retry=retry), steps=4)]
  often = loop.Schedule(checkpoint_every=1)
  shared, running = tiny.shared_programs(collecting.build), []

  def build_and_stop(given):
    step = shared(given)

    def one_step(*inputs):
      for run in running:
        run.stop.requested = True
      return step(*inputs)

    return one_step

  monkeypatch.setattr(loop.collecting, 'build', build_and_stop)
  straight, _ = tiny.train(tmp_path / 'straight', stages, schedule=often)
  for done in range(1, 5):
    made = tiny.run(tmp_path / 'cut', stages, schedule=often)
    running[:] = [made.run]
    state = loop.train(made.run)
    assert int(state.step) == done
    made.run.store.close()
    made.run.writer.close()
  jax.tree.map(np.testing.assert_array_equal, state, straight)


class _Counting:
  """Rewards nothing on the host, and says what it did."""

  def judge(self, rollout, references):
    return np.zeros(rollout.finished.shape, np.float32)

  def metrics(self):
    return {'reward/verifier_calls': 3.0}

  def timing(self):
    return {'verifier/seconds': 2.0, 'verifier/seconds_max': 2.0}


@pytest.mark.slow
def test_the_calls_of_all_rounds_are_counted_and_timed(tmp_path):
  algorithm = _algorithm(max_rounds=2, reward=_Counting())
  run, state, step = _begin(tmp_path, _stage(algorithm))
  timers = PhaseTimers()
  with jax.set_mesh(run.mesh):
    _, metrics, _ = step(
      state, lambda position: run.batch(run.stages[0], position), timers
    )
  assert metrics['reward/verifier_calls'] == 6.0
  timing = timers.end_step()
  assert timing['verifier/seconds'] == 4.0
  assert timing['verifier/seconds_max'] == 2.0


@pytest.mark.slow
def test_a_batch_that_stays_short_is_learned_from_as_it_is(tmp_path):
  # Nothing is ever right, so that every group is tied.
  algorithm = _algorithm(max_rounds=2, reward=FirstIs(token=99))
  run, state, step = _begin(tmp_path, _stage(algorithm))
  before = jax.device_get(state.params)
  with jax.set_mesh(run.mesh):
    state, metrics, codes = step(
      state, lambda position: run.batch(run.stages[0], position), PhaseTimers()
    )
  assert metrics['collect/rounds'] == 2
  assert metrics['collect/full'] == 0
  assert not np.any(codes)
  assert int(state.position) == 2 * PROMPTS
  jax.tree.map(np.testing.assert_array_equal, before, state.params)


def _step_with(tmp_path, algorithm, **changes):
  run, state, step = _begin(tmp_path, _stage(algorithm), **changes)
  with jax.set_mesh(run.mesh):
    state, metrics, _ = step(
      state, lambda position: run.batch(run.stages[0], position), PhaseTimers()
    )
  return jax.device_get(state), metrics


@pytest.mark.slow
def test_without_failed_groups_nobody_is_asked_to_try_again(tmp_path):
  # The threshold is below every reward: no group has failed.
  guided, metrics = _step_with(
    tmp_path / 'a', _algorithm(retry=_retry(threshold=-1.0))
  )
  plain, others = _step_with(tmp_path / 'b', _algorithm())
  assert metrics['collect/retried'] == 0
  assert metrics['rollout/tokens'] == others['rollout/tokens']
  jax.tree.map(np.testing.assert_array_equal, guided, plain)


def test_a_group_has_failed_if_no_last_attempt_of_it_was_rewarded():
  # Right first and wrong last; all wrong; one right; a trace of a reward.
  rewards = jnp.asarray(
    [[1, 0], [1, 0], [0, 0], [0, 0], [0, 0], [0, 1], [0, 5e-4], [0, 1e-3]]
  )
  found = collect.failed(rewards, group_size=2, threshold=1e-3)
  assert found.tolist() == [True, True, False, True]


def test_failed_groups_are_sampled_again_behind_the_hint(tmp_path):
  reward = FirstIs(token=5)
  state, metrics = _step_with(
    tmp_path, _algorithm(retry=_retry(), reward=reward)
  )
  assert metrics['collect/retried'] > 0
  assert metrics['rollout/tokens'] > 0
  # What is left over has rows of both kinds, each group of one kind.
  hinted = state.buffer.rollout.off_context.reshape(-1, 4)
  assert np.all(hinted == hinted[:, :1])


@pytest.mark.slow
def test_a_batch_with_fewer_prompts_than_devices_is_the_same_batch(tmp_path):
  algorithm = _algorithm(retry=_retry(), reward=FirstIs(token=5))
  mesh = tiny.mesh(fsdp=8)
  assert mesh.size > PROMPTS
  wanted, one = _step_with(tmp_path / 'one', algorithm)
  state, eight = _step_with(tmp_path / 'eight', algorithm, mesh=mesh)
  assert one['collect/retried'] > 0
  for name in ('collect/retried', 'rollout/tokens', 'collect/accuracy'):
    assert eight[name] == one[name]
  np.testing.assert_array_equal(
    state.buffer.rollout.tokens, wanted.buffer.rollout.tokens
  )
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5),
    state.params,
    wanted.params,
  )


@pytest.mark.slow
@pytest.mark.parametrize(
  ('merge', 'wanted'),
  [
    (merges.Replace(), [1.0, 0.0, 7.0, 8.0, 0.0, 1.0]),
    (merges.Mixin(), [1.0, 0.0, 3.0, 8.0, 0.0, 1.0]),
  ],
)
def test_second_tries_take_the_rows_that_the_rule_gives_them(merge, wanted):
  # Three groups of two; the middle one failed. Marked by their first token.
  def rollout(marks):
    made = jax.eval_shape(
      lambda params, prompts: tiny.revise(group_size=2)(
        tiny.POLICY, params, prompts, jax.random.key(0)
      ),
      tiny.POLICY.init(jax.random.key(0)),
      tiny.prompts(len(marks) // 2),
    )
    made = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), made)
    return dataclasses.replace(
      made, temperature=jnp.asarray(marks, jnp.float32)
    )

  first = rollout([1, 0, 3, 4, 0, 1]), jnp.zeros((6, 2))
  second = (
    rollout([7, 8, 9, 9]),
    jnp.asarray([[0.0, 0], [0, 1], [1, 1], [1, 1]]),
  )
  algorithm = _algorithm(retry=_retry(merge=merge))
  # The second group of second tries only fills up: it is behind the last.
  merged, rewards = collect.merge(algorithm, first, second, jnp.asarray([1, 3]))
  assert merged.temperature.tolist() == wanted
  assert rewards[2:4].tolist() == [[0.0, 0.0], [0.0, 1.0]]
  assert not np.any(np.asarray(rewards)[[0, 1, 4, 5]])


def test_the_widths_of_second_tries_are_few_and_large_enough():
  room = functools.partial(
    collecting._room, total=96, group=2, shards=8, plan=steps.WHOLE
  )
  assert {room(n) for n in range(1, 97)} == {12, 24, 48, 96}
  assert all(room(n) >= n for n in range(1, 97))
