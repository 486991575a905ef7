from __future__ import annotations

import pickle
import sys

import pytest

from selfimprove.rewards import gym_scorer, verifiers
from selfimprove.rewards.gym_scorer import Scorer, answer_in


def row(generator='chain_sum', answer='12', *, parameters=None, metadata=None):
  entry = {
    'question': '5 + 7 =',
    'answer': answer,
    'metadata': metadata or {},
  }
  return {
    'generator': generator,
    'parameters': repr(parameters or {}),
    'entry': repr(entry),
  }


@pytest.fixture(scope='module')
def judge():
  """Scores in a worker process, as a run has them."""
  pools = {}

  def judge(attempts, reference, **settings):
    scorer = Scorer(**settings)
    if scorer not in pools:
      pools[scorer] = verifiers.HostVerifier(
        fn=scorer, workers=1, timeout_seconds=60
      )
    scores = pools[scorer].judge(
      [[attempt] for attempt in attempts], [reference] * len(attempts)
    )
    return [round(float(score), 3) for score in scores[:, 0]]

  yield judge
  for pool in pools.values():
    pool.close()


def test_scores_are_those_of_the_generator(judge):
  # The package: as a number; else the share of the attempt that is right.
  attempts = ['12', ' +12.0 ', '13', '', '1234', 'so 12']
  assert judge(attempts, row()) == [1.0, 1.0, 0.0, 0.0, 0.5, 0.4]


def test_with_a_minimum_only_what_reaches_it_counts(judge):
  attempts = ['12', '1234', 'so 12']
  assert judge(attempts, row(), minimum=1.0) == [1.0, 0.0, 0.0]


def test_parameters_reach_the_scorer(judge):
  # It asks that numbers be in the range of its configuration.
  numbers = {'numbers': [10, 10, 4, 1]}
  reference = row('puzzle24', '10 + 10 + 4*1', metadata=numbers)
  assert judge(['10 + 10 + 4*1'], reference) == [1.0]
  narrow = dict(reference, parameters="{'max_value': 9}")
  assert judge(['10 + 10 + 4*1'], narrow) == [0.01]


def test_an_attempt_that_a_scorer_cannot_read_is_worth_nothing(judge):
  factors = row('prime_factorization', '2 × 3', metadata={'factors': [2, 3]})
  assert judge(['2 × 3', 'zzz', '1e9999'], factors) == [1.0, 0.0, 0.0]


def test_a_row_that_cannot_be_scored_is_an_error(judge):
  broken = row('prime_factorization', 'two × 3', metadata={'factors': [2, 3]})
  with pytest.raises(verifiers.VerifierError, match='the reference answer'):
    judge(['zzz'], broken)


def test_an_attempt_is_not_executed(judge, tmp_path):
  path = tmp_path / 'written'
  attack = f'[open({str(path)!r}, "w")]'
  assert judge([attack], row('string_insertion', 'ABC')) == [0.0]
  assert not path.exists()


@pytest.mark.parametrize(
  ('where', 'attempt', 'answer'),
  [
    ('whole', ' 12\n', '12'),
    ('last_line', 'Let me see.\n\n 12 \n\n', '12'),
    ('last_line', ' \n', None),
    ('tags', '<answer>1</answer> no: <answer>\n12 </answer>.', '12'),
    ('tags', '12', None),
    ('tags', '<answer>12', None),
    ('boxed', r'\boxed{1} and \boxed{\frac{1}{2}}.', r'\frac{1}{2}'),
    ('boxed', r'$\boxed 7$.', '7'),
    ('boxed', r'\boxed{\{1\}} \boxed{}', r'\{1\}'),
    ('boxed', r'\boxed{12', None),
    ('boxed', '12', None),
  ],
)
def test_the_answer_is_taken_from_where_it_stands(where, attempt, answer):
  assert answer_in(attempt, where=where) == answer


def test_an_attempt_without_what_is_asked_for_is_worth_nothing(judge):
  attempts = ['12', '<answer>12</answer>']
  assert judge(attempts, row(), where='tags') == [0.0, 1.0]


def test_rows_of_other_tasks_are_refused():
  with pytest.raises(ValueError, match="no field 'generator'"):
    Scorer()('12', {'prompt': '5 + 7 =', 'answer': '12'})


def test_bad_settings_are_refused():
  with pytest.raises(ValueError, match="where is 'first'"):
    Scorer(where='first')
  with pytest.raises(ValueError, match='minimum is 2'):
    Scorer(minimum=2)


def test_a_worker_imports_the_package_before_its_first_call(monkeypatch):
  # A slow import would be counted as the time of the first attempt.
  asked = []
  monkeypatch.setattr(gym_scorer, '_package', lambda: asked.append(1))
  scorer = Scorer(minimum=0.5)
  assert pickle.loads(pickle.dumps(scorer)) == scorer
  assert asked == [1]


def test_without_the_package_the_message_says_how_to_get_it(monkeypatch):
  monkeypatch.setitem(sys.modules, 'reasoning_gym', None)
  with pytest.raises(ImportError, match=r'pip install .selfimprove\[reasoning'):
    pickle.loads(pickle.dumps(Scorer()))
