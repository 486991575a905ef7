"""Reward models from their files to the recipes that they reward."""

from __future__ import annotations

import json

import jax
import numpy as np
import pytest

from selfimprove import configuration, evaluate, learned_from, train
from selfimprove.data import pipeline
from selfimprove.experiment import Experiment
from selfimprove.training.checkpoint import restore_params
from selfimprove.training.metrics import read_rows
from tests import commands
from tests.commands import bind

# Whole runs of minutes on a loaded machine.
pytestmark = pytest.mark.slow

MODELS = {
  'reward_model': 'preferences',
  'process_reward_model': 'steps',
  'implicit_reward': 'outcomes',
}


def _flags(folder, task):
  return (
    *commands.FILES,
    f'--gin_file=gin_configs/tasks/{task}.gin',
    *commands.TINY_MODEL,
    *bind(
      f"TRAIN_FILE = '{folder}/rows.jsonl'",
      'MAX_PROMPT_TOKENS = 4',
      'MAX_ANSWER_TOKENS = 4',
      'STEPS = 12',
      'LEARNING_RATE = 3e-2',
    ),
  )


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """Rows in which `a` is right, and a reward model that was trained on them."""
  made = tmp_path_factory.mktemp('rewards')
  rows = [
    {
      'prompt': f'{i}?',
      'answer': 'a;a' if i % 2 else 'a;b',
      'rejected': 'b;b',
      'labels': '11' if i % 2 else '10',
      'label': str(i % 2),
    }
    for i in range(96)
  ]
  text = ''.join(json.dumps(row) + '\n' for row in rows)
  (made / 'rows.jsonl').write_text(text, encoding='utf-8')
  _train(made, 'reward_model')
  return made


def _train(folder, name, *more):
  steps = ['MAX_STEPS = 2', "STEP_END = ';'"]
  commands.run(
    train,
    *_flags(folder, MODELS[name]),
    commands.algorithm(name),
    *bind(*(steps if name == 'process_reward_model' else [])),
    *more,
    f'--workdir={folder}/{name}',
  )


def _last(folder, name, metric):
  rows = read_rows(folder / name / 'metrics.jsonl')
  return [row[metric] for row in rows if metric in row][-1]


def _config(folder):
  return configuration.build(
    Experiment, files=[str(folder / 'reward_model' / 'config.gin')]
  )


def test_pairs_are_ranked_and_both_commands_say_so(folder, capsys):
  assert _last(folder, 'reward_model', 'eval/acc_t1') > 0.9
  commands.run(
    evaluate,
    f'--workdir={folder}/reward_model',
    '--split=validation',
    '--samples=1',
    f'--output={folder}/ranked.json',
  )
  capsys.readouterr()
  found = json.loads((folder / 'ranked.json').read_text(encoding='utf-8'))
  assert found['acc_t1']['value'] == pytest.approx(
    _last(folder, 'reward_model', 'eval/acc_t1')
  )


def test_a_reward_model_has_no_samples_to_draw(folder):
  sentence = commands.refusal(evaluate, f'--workdir={folder}/reward_model')
  assert '--samples=1' in sentence


def test_the_loaded_reward_scores_preferred_rows_higher(folder):
  experiment = _config(folder)
  reward = learned_from.outcome_reward(
    workdir=str(folder / 'reward_model'), model=experiment.model
  )
  table = pipeline.load(experiment.task, 'test')
  prompts = next(pipeline.in_order(table, batch_size=8)).prompts
  prompts = jax.tree.map(jax.numpy.asarray, prompts)
  pairs = experiment.stages[0].algorithm.rollout(
    experiment.models().policy, {}, prompts, jax.random.key(0)
  )
  scores = np.asarray(reward(pairs, prompts)).reshape(-1, 2)
  assert np.mean(scores[:, 0] > scores[:, 1]) > 0.9
  # What a macro names twice is one object in memory and one program.
  again = learned_from.outcome_reward(
    workdir=str(folder / 'reward_model'), model=experiment.model
  )
  assert again.read is reward.read
  assert jax.tree.leaves(again)[0] is jax.tree.leaves(reward)[0]


def test_another_shape_than_the_trained_one_is_refused(folder):
  model = _config(folder).model
  wider = type(model)(**{**vars(model), 'mlp_dim': model.mlp_dim + 8})
  with pytest.raises(ValueError, match='does not fit this run'):
    learned_from.outcome_reward(
      workdir=str(folder / 'reward_model'), model=wider
    )


def test_the_policy_beside_a_reward_model_is_as_it_was(folder):
  trunk = restore_params(folder / 'reward_model' / 'checkpoints')
  experiment = _config(folder)
  made = experiment.models().policy.init(
    train.named_key(jax.random.key(experiment.seed), 'params')
  )
  # Another program has made these: the last bit may differ.
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-6),
    trunk,
    jax.device_get(made),
  )


def _reinforce(folder, name, kind, *bindings, recipe='rloo'):
  commands.run(
    train,
    *commands.FILES,
    commands.JSONL,
    *commands.TINY_MODEL,
    commands.algorithm(recipe),
    f'--gin_file=gin_configs/rewards/{kind}.gin',
    *bind(
      f"TRAIN_FILE = '{folder}/rows.jsonl'",
      'MAX_PROMPT_TOKENS = 4',
      'MAX_ANSWER_TOKENS = 4',
      'ATTEMPT_TOKENS = 5',
      'STEPS = 2',
      f"REWARD_WORKDIR = '{folder}/{name}'",
      *bindings,
    ),
    f'--workdir={folder}/rl_{kind}_{recipe}',
  )
  return read_rows(folder / f'rl_{kind}_{recipe}' / 'metrics.jsonl')


def test_any_recipe_is_rewarded_by_the_score_and_evaluated_by_the_truth(folder):
  rows = _reinforce(folder, 'reward_model', 'outcome')
  rewards = [r['reward/verifier_t1'] for r in rows if 'loss/policy' in r]
  assert len(rewards) == 2
  assert not set(rewards) <= {0.0, 1.0}  # Scores, not verdicts.
  assert 0 <= _last(folder, 'rl_outcome_rloo', 'eval/acc_t1') <= 1


def test_steps_are_judged_and_reward_any_recipe(folder):
  _train(folder, 'process_reward_model', *bind('STEPS = 40'))
  assert _last(folder, 'process_reward_model', 'eval/acc_t1') > 0.9
  rows = _reinforce(folder, 'process_reward_model', 'process', "STEP_END = ';'")
  rewards = [r['reward/verifier_t1'] for r in rows if 'loss/policy' in r]
  assert all(0 < reward <= 1 for reward in rewards)


def test_outcomes_are_guessed_and_tokens_rewarded(folder):
  _train(folder, 'implicit_reward', *bind('STEPS = 40', 'BETA = 0.5'))
  assert _last(folder, 'implicit_reward', 'eval/acc_t1') > 0.9
  for recipe in ('rloo', 'ppo'):  # PPO has rewards of tokens of its own.
    rows = _reinforce(
      folder, 'implicit_reward', 'implicit', 'REWARD_BETA = 0.5', recipe=recipe
    )
    assert all(
      np.isfinite(row['loss/total']) for row in rows if 'grad/norm' in row
    )
  # A run without a critic is no place to look for one.
  with pytest.raises(ValueError, match='with a critic') as caught:
    learned_from.outcome_reward(
      workdir=str(folder / 'implicit_reward'), model=_config(folder).model
    )
  assert '\n' not in str(caught.value)


def test_a_folder_without_a_run_is_refused(folder, tmp_path):
  with pytest.raises(FileNotFoundError, match='no checkpoint at'):
    learned_from.outcome_reward(
      workdir=str(tmp_path), model=_config(folder).model
    )
