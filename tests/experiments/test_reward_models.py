"""The truth that reward models are compared with, and its data."""

from __future__ import annotations

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags

from experiments.reward_models import data, report, run
from experiments.reward_models.truth import Count, Successors
from selfimprove import command
from tests.algorithms.rollouts import of_turns
from tests.rollout import tiny

SEPARATOR, EQUALS, EOS = 13, 12, 1


def _scored(truth, prompt, answer, *, finished=True):
  """Tokens are digits, each two above what it means."""
  ids = [*prompt, *answer]
  turn = jnp.asarray([[-1] * len(prompt) + [0] * len(answer) + [-1]])
  rollout = dataclasses.replace(
    of_turns(turn, ((len(prompt), len(ids)),), 1),
    tokens=jnp.asarray([[*ids, 0]]),
    finished=jnp.asarray([[finished]]),
  )
  prompts = dataclasses.replace(
    tiny.prompts((1,)), tokens=jnp.asarray([prompt])
  )
  return float(truth(rollout, prompts)[0, 0])


def _prompt(digits):
  ids = [x for digit in digits for x in (digit + 2, SEPARATOR)]
  return [*ids[:-1], EQUALS]


@pytest.mark.parametrize(
  ('count', 'wanted'), [(0, 0), (2, 0.4), (5, 1), (9, 0.2)]
)
def test_more_than_the_best_count_is_as_bad_as_less(count, wanted):
  answer = [3] * count + [4, EOS]
  assert _scored(Count(), _prompt([1, 1, 0, 9]), answer) == pytest.approx(
    wanted
  )


def _steps(digits):
  return [x for digit in digits for x in (digit + 2, SEPARATOR)]


@pytest.mark.parametrize(
  ('digits', 'wanted'),
  [
    ([2, 3, 0, 1], 1.0),  # Successors of 1, 2, 9 and 0.
    ([2, 3, 0], 0.75),
    ([2, 4, 0, 1], 0.5),  # One step is wrong, and counts against.
    ([2, 3, 0, 1, 1, 1], 0.5),  # Two steps are too many.
    ([], 0.0),
  ],
)
def test_steps_are_right_in_their_place_only(digits, wanted):
  truth = Successors(digits=jnp.arange(2, 12))
  answer = [*_steps(digits), EOS]
  assert _scored(truth, _prompt([1, 2, 9, 0]), answer) == wanted


def test_rows_are_as_the_truth_has_them(tmp_path):
  data.write(str(tmp_path), rows=50, seed=3)
  read = lambda name: [  # noqa: E731
    json.loads(line)
    for line in (tmp_path / f'{name}.jsonl').read_text().splitlines()
  ]
  for row in read('preferences'):
    count = lambda text, row=row: text.count(row['prompt'][0])  # noqa: E731
    assert count(row['answer']) > count(row['rejected'])
  wrong = 0
  for row in read('steps'):
    digits = row['prompt'][:-1].split(';')
    steps = row['answer'].split(';')[:-1]
    right = [(int(d) + 1) % 10 == int(s) for d, s in zip(digits, steps)]
    assert row['labels'] == ''.join('01'[x] for x in right)
    wrong += right.count(False)
  assert 0 < wrong < 100  # Of 200 steps 30 % on average.


def test_curves_are_means_over_seeds_step_by_step():
  def one(seed, score):
    row = {'step': 0, 'true': score, 'proxy': 1.0, 'length': 2.0}
    models = {
      name: {'accuracy': score, 'judged': 9}
      for name in ('outcome_model', 'process_model')
    }
    return {'seed': seed, **models, 'curves': {'arm': [row]}}

  found = report.summary([one(1, 0.25), one(2, 0.75)])
  assert found['curves']['arm'][0]['true'] == {
    'mean': 0.5,
    'standard_error': pytest.approx(0.25),
  }
  assert '0.500 ± 0.250' in report.table(found)
  assert np.shape(found['seeds']) == (2,)


def test_a_command_without_a_workdir_says_so_in_one_sentence():
  options = flags.FlagValues()
  run.define_flags(options)
  options(['run'])
  with pytest.raises(SystemExit, match=r'^Error: No --workdir given'):
    command.finish(run.main, options)
