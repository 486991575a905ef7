"""What every `gin_configs/algorithms/*.gin` must do, found by glob."""

from __future__ import annotations

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from docs import algorithm_table
from selfimprove import configuration, evaluate, train
from selfimprove import types as nouns
from selfimprove.algorithms.base import HostReward
from selfimprove.data import pipeline
from selfimprove.models.heads import make_critic
from selfimprove.models.transformer import make_policy
from selfimprove.training import programs
from selfimprove.training import step as steps
from selfimprove.training.metrics import read_rows
from selfimprove.training.state import (
  Models,
  Optimizers,
  abstract_state,
  init_state,
)
from selfimprove.training.timing import PhaseTimers
from tests import commands
from tests.conformance import built
from tests.training import tiny
from tests.training.short import shortened

FILES = algorithm_table.algorithm_files()
each_file = pytest.mark.parametrize('file', FILES)


def some(*names):
  """Each file, but only those named outside the slow suite."""
  fast = {f'gin_configs/algorithms/{name}.gin' for name in names}
  return pytest.mark.parametrize(
    'file',
    [
      pytest.param(file, marks=() if file in fast else pytest.mark.slow)
      for file in FILES
    ],
  )


# The whole gradient is the update, so that rounding is not blown up to a
# learning rate by Adam's division.
OPTIMIZER = optax.sgd(1.0)


@functools.cache
def _experiment(file):
  experiment = built.build(file)
  return experiment, configuration.operative_config()


@functools.cache
def _models(config):
  return Models(make_policy(config), make_critic(config))


def _stages(file):
  return [
    dataclasses.replace(
      stage,
      optimizer=stage.optimizer and OPTIMIZER,
      critic_optimizer=stage.critic_optimizer and OPTIMIZER,
    )
    for stage in _experiment(file)[0].unrolled()
  ]


@functools.cache
def _batch_of(task):
  first = next(file for file in FILES if algorithm_table.task_of(file) == task)
  table = pipeline.load(_experiment(first)[0].task, 'train')
  return pipeline.PromptStream(table, prompts_per_step=16).batch(0)


def _batch(file):
  return _batch_of(algorithm_table.task_of(file))


@functools.cache
def _state(config):
  models = _models(config)
  both = Optimizers(OPTIMIZER, OPTIMIZER)
  state = init_state(models, both, seed=0, with_reference=True)
  # As after some training: policy and reference differ.
  other = models.policy.init(jax.random.key(1))
  return dataclasses.replace(state, ref_params=other)


# Algorithms that differ in numbers only share these programs.
@functools.cache
def _programs(config, optimizers):
  models = _models(config)
  learn = functools.partial(steps.learn, models, optimizers, plan=steps.Plan())
  return jax.jit(functools.partial(steps.sample, models)), jax.jit(learn)


@nouns.record
class _Parity:
  """0 or 1 by the first token; not the same for a copy of it."""

  def __call__(self, rollout, prompts):
    rows, turns = rollout.finished.shape
    firsts = rollout.tokens[:, jnp.asarray([s for s, _ in rollout.spans])]
    shift = jnp.arange(rows)[:, None] * jnp.arange(turns)[None, :]
    return ((firsts + shift) % 2 == 0).astype(jnp.float32)


@functools.cache
def _first_step(file, index):
  """Rollout, rewards, and what one update on one device makes of them."""
  stage, config = _stages(file)[index], _experiment(file)[0].model
  sample, learn = _programs(config, stage.optimizers)
  state, prompts = _state(config), jax.tree.map(jnp.asarray, _batch(file))
  assert not isinstance(stage.algorithm.reward, HostReward)
  rollout = sample(stage.algorithm, state, prompts)
  # Rewards that differ, whatever an untrained model has written.
  rewards = _Parity()(rollout, prompts)
  return rollout, rewards, learn(stage.algorithm, state, rollout, rewards)


def _params(state):
  return state.params, state.critic_params


def _moved(state, config):
  return jax.tree.map(jnp.subtract, _params(state), _params(_state(config)))


def _largest(tree):
  return max(float(jnp.max(jnp.abs(leaf))) for leaf in jax.tree.leaves(tree))


def test_the_algorithms_of_the_first_release_are_there():
  names = {re.sub(r'.*/|\.gin', '', file) for file in FILES}
  wanted = {'sft', 'reinforce', 'rloo', 'grpo', 'multi_turn', 'score'}
  wanted |= {'dr_grpo', 'dapo', 'gspo', 'cispo', 'ppo', 'rft', 'star', 'dpo'}
  wanted |= {'guide_grpo', 'guide_ppo', 'nft', 'tempo'}
  wanted |= {'reward_model', 'process_reward_model', 'implicit_reward'}
  assert wanted <= names


@each_file
def test_it_is_short_and_names_its_source(file):
  lines = (algorithm_table.ROOT / file).read_text(encoding='utf-8').splitlines()
  assert len(lines) <= 60
  header = '\n'.join(line for line in lines if line.startswith('#'))
  assert lines[0].startswith('# ')
  for heading in ('Source:', 'Differs:', 'Must be set elsewhere:'):
    assert heading in header


@each_file
def test_it_parses_and_every_binding_is_consumed(file):
  # `build` raises on unknown names and on bindings that nothing reads.
  experiment, _ = _experiment(file)
  assert experiment.unrolled()


@each_file
def test_a_binding_that_nothing_reads_is_refused(file):
  with pytest.raises(configuration.ConfigError, match='TYPO') as caught:
    built.build(file, 'TYPO = 1')
  assert '\n' not in str(caught.value)


@each_file
def test_its_operative_config_describes_itself(file, tmp_path):
  experiment, config = _experiment(file)
  path = tmp_path / 'config.gin'
  path.write_text(config, encoding='utf-8')
  again = configuration.build(type(experiment), files=[str(path)])
  assert configuration.operative_config() == config
  names = lambda e: [stage.name for stage in e.unrolled()]  # noqa: E731
  assert names(again) == names(experiment)


@some('score', 'ppo', 'guide_grpo', 'nft', 'dpo')
def test_one_step_is_finite_and_learns_something(file):
  config = _experiment(file)[0].model
  for index in range(len(_stages(file))):
    _, _, (state, metrics, codes) = _first_step(file, index)
    assert not np.any(codes)
    for name, value in metrics.items():
      assert np.isfinite(value), name
    assert _largest(_moved(state, config)) > 0


@some('reinforce', 'grpo', 'tempo', 'score')
def test_tied_rewards_give_no_policy_gradient(file):
  config = _experiment(file)[0].model
  for index, stage in enumerate(_stages(file)):
    terms = stage.algorithm.terms
    if 'policy' not in terms:
      pytest.skip('has no policy term')
    if 'values' in stage.algorithm.needs:
      pytest.skip('is credited with what its critic did not expect')
    learn = _programs(config, stage.optimizers)[1]
    # The other terms are weighted with 0: the program is the same.
    silent = {
      name: term
      if name == 'policy'
      else dataclasses.replace(
        term, weight=jax.tree.map(lambda w: 0.0 * w, term.weight)
      )
      for name, term in terms.items()
    }
    algorithm = dataclasses.replace(stage.algorithm, terms=silent)
    rollout, rewards, _ = _first_step(file, index)
    tied = jnp.ones_like(rewards)
    state, _, _ = learn(algorithm, _state(config), rollout, tied)
    assert _largest(_moved(state, config)) == 0
    state, _, _ = learn(algorithm, _state(config), rollout, rewards)
    assert _largest(_moved(state, config)) > 0


@functools.cache
def _on_devices(file, microbatches, data, model):
  """The first stage's step, reward in graph, as the loop runs it."""
  experiment = _experiment(file)[0]
  stage = _stages(file)[0]
  reward = _Parity()
  stage = dataclasses.replace(
    stage,
    microbatches=microbatches,
    algorithm=dataclasses.replace(stage.algorithm, reward=reward, collect=None),
  )
  models, mesh = _models(experiment.model), tiny.mesh(data=data, model=model)
  with jax.set_mesh(mesh):
    both = Optimizers(OPTIMIZER, OPTIMIZER)
    like = abstract_state(models, both, mesh, with_reference=True)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, like)
    made = programs.Build(
      models=models,
      stage=stage,
      mesh=mesh,
      state_shardings=shardings,
      judge=lambda *_: None,
    )
    step = programs.build(made)
    state = jax.device_put(jax.device_get(_state(experiment.model)), shardings)
    state, _, _ = step(state, lambda _: _batch(file), PhaseTimers())
  return jax.device_get(_params(state))


@some('tempo')
def test_micro_batches_on_a_mesh_give_the_update_of_one_device(file):
  # Eight devices in 4 x 2 and four micro-batches at once: the tests of the
  # step take them apart.
  config = _experiment(file)[0].model
  _, _, (state, _, _) = _first_step(file, 0)
  wanted, params = _params(state), _on_devices(file, 4, 4, 2)
  size = _largest(_moved(state, config))
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * size),
    params,
    jax.device_get(wanted),
  )


@some()
def test_packed_samples_give_the_update_of_unpacked_ones(file):
  config = _experiment(file)[0].model
  stage = _stages(file)[0]
  rollout, rewards, _ = _first_step(file, 0)
  if rollout.group_size == 1:
    pytest.skip('has one sample per prompt')
  rollout = shortened(rollout)
  made = {}
  for rows in (0, rollout.group_size - 1):
    learn = functools.partial(
      steps.learn,
      _models(config),
      stage.optimizers,
      plan=steps.Plan(packed_rows=rows),
    )
    made[rows] = jax.jit(learn)(
      stage.algorithm, _state(config), rollout, rewards
    )
  (alone, _, _), (packed, metrics, _) = made.values()
  assert metrics['update/packed'] == 1
  size = _largest(_moved(alone, config))
  assert size > 0
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * size),
    _params(packed),
    _params(alone),
  )


@pytest.mark.slow
@each_file
def test_it_trains_from_the_command_line_and_goes_on(file, tmp_path):
  asked = {
    name: line
    for name, line in algorithm_table.ASKED.items()
    if name != 'STEPS' and name in _all_text(file)
  }
  judges = 'answer_first' not in algorithm_table.task_of(file)
  flags = (
    *commands.FILES,
    f'--gin_file={algorithm_table.task_of(file)}',
    f'--gin_file={file}',
    *commands.TINY_MODEL,
    *commands.bind(
      *built.task_bindings(file),
      *(['GROUP_SIZE = 4'] if 'GROUP_SIZE' in _all_text(file) else []),
      *asked.values(),
    ),
    f'--workdir={tmp_path}',
  )
  # SCoRe has steps of its own instead; a warm-up has some besides.
  text = _all_text(file)
  length = ['STEPS = 2']
  if 'STAGE_ONE_STEPS' in text:
    length = ['STAGE_ONE_STEPS = 1', 'STAGE_TWO_STEPS = 1']
  if 'WARM_UP_STEPS' in text:
    length = ['WARM_UP_STEPS = 1', 'STEPS = 1']
  commands.run(train, *flags, *commands.bind(*length))
  rows = read_rows(tmp_path / 'metrics.jsonl')
  assert [row['step'] for row in rows if 'loss/total' in row] == [1, 2]
  # A finished run is found finished, and measured.
  commands.run(train, *flags, *commands.bind(*length))
  samples = 1 if judges else 2
  commands.run(evaluate, f'--workdir={tmp_path}', f'--samples={samples}')


def _all_text(file):
  """A gin file and those that it includes."""
  text = (algorithm_table.ROOT / file).read_text(encoding='utf-8')
  for parent in re.findall(r"include '(.*?)'", text):
    text += _all_text(parent)
  return text
