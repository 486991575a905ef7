"""All generators of reasoning-gym, as they come: a list of what is odd."""

from __future__ import annotations

import math

import pytest

from selfimprove.data import gym_process
from selfimprove.rewards import verifiers
from selfimprove.rewards.gym_scorer import Scorer

SECONDS = 120.0
ITEMS = 2
WITHOUT_REFERENCE = {
  'boxnet': 'a plan for robots: every plan that works is right',
  'rush_hour': 'moves of cars: every solution is right',
}
FOOLED = {
  'game_of_life_halting': 'whatever is not False counts as True',
}
MALFORMED = [
  '',
  'zzz',
  '}{',
  '1e9999',
  '[[',
  '((((',
  '0/0',
  'None',
  '\x00',
  '"',
]

pytestmark = pytest.mark.slow


def names():
  factory = pytest.importorskip('reasoning_gym.factory')
  return sorted(set(factory.DATASETS) - {'composite'})


def written(seed):
  """Generator -> what the child says of it."""
  requests = [
    {
      'name': name,
      'parameters': {},
      'level': None,
      'seed': seed,
      'count': ITEMS,
      'seconds': SECONDS,
    }
    for name in names()
  ]
  replies = gym_process.ask(requests)
  found = {}
  for request in requests:
    assert next(replies) == ('parameters', {})
    found[request['name']] = [next(replies) for _ in range(ITEMS)]
  return found


@pytest.fixture(scope='module')
def problems():
  return written(7)


@pytest.fixture(scope='module')
def judge():
  verifier = verifiers.HostVerifier(
    fn=Scorer(), workers=2, timeout_seconds=SECONDS
  )
  yield verifier.judge
  verifier.close()


def rows(problems):
  return [
    {
      'generator': name,
      'parameters': '{}',
      'answer': reply[1],
      'entry': reply[2],
    }
    for name, replies in problems.items()
    for reply in replies
    if name not in WITHOUT_REFERENCE
  ]


def test_more_than_a_hundred_generators_work_offline(problems):
  assert len(problems) > 100
  kinds = {
    name: {reply[0] for reply in replies} for name, replies in problems.items()
  }
  assert {k for k, v in kinds.items() if v != {'problem'}} == {
    *WITHOUT_REFERENCE
  }


def test_the_same_seed_gives_the_same_problems(problems, monkeypatch):
  monkeypatch.setenv('PYTHONHASHSEED', '5')
  assert written(7) == problems


def test_every_reference_answer_is_right(problems, judge):
  found = rows(problems)
  scores = judge([[row['answer']] for row in found], found)
  wrong = {
    row['generator']: score
    for row, score in zip(found, scores[:, 0].tolist())
    if not math.isclose(score, 1.0)
  }
  assert wrong == {}


def test_every_malformed_attempt_has_a_verdict(problems, judge):
  found = rows(problems)[::ITEMS]
  scores = judge([MALFORMED] * len(found), found)
  assert ((scores >= 0) & (scores <= 1)).all()
  fooled = {
    row['generator']
    for row, verdicts in zip(found, scores)
    if verdicts.max() == 1
  }
  assert fooled == set(FOOLED)
