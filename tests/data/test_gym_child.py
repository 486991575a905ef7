from __future__ import annotations

import ast
import re

import pytest

from selfimprove.data import gym_process

REFUSED = [
  ({'name': 'chain_sums'}, "no generator 'chain_sums'.*'chain_sum'"),
  (
    {'name': 'chain_sum', 'parameters': {'terms': 3}},
    "no parameter 'terms'; it has .*max_terms",
  ),
  (
    {'name': 'chain_sum', 'parameters': {'min_terms': 9}},
    'max_terms must be >= min_terms',
  ),
  ({'name': 'chain_sum', 'level': 99}, r'level 99 is outside \[0, 10\]'),
  (
    {'name': 'chain_sum', 'level': {'terms': 1}},
    "no attribute 'terms'; it has num_digits, num_terms",
  ),
  (
    {'name': 'chain_sum', 'level': {'num_terms': -1}},
    r"level -1 of 'num_terms' is outside \[0, 10\]",
  ),
  ({'name': 'acre', 'level': 1}, "'acre' has no curriculum"),
  ({'name': 'chain_sum', 'parameters': {'seed': 1}}, "no parameter 'seed'"),
  ({'name': 'composite'}, "no generator 'composite'"),
]


def request(**settings):
  plain = {
    'parameters': {},
    'level': None,
    'seed': 3,
    'count': 1,
    'seconds': 60.0,
  }
  return plain | settings


def test_what_cannot_be_used_is_refused_in_a_sentence_and_the_rest_is_written():
  requests = [request(**settings) for settings, _ in REFUSED]
  replies = gym_process.ask([*requests, request(name='chain_sum')])
  for _, message in REFUSED:
    kind, why = next(replies)
    assert kind == 'error'
    assert re.search(message, why), why
  assert next(replies) == ('parameters', {})
  assert next(replies)[0] == 'problem'


def test_entries_arrive_as_the_package_gave_them():
  # Numbers as keys and tuples, which JSON would not keep.
  generator = request(name='graph_color', parameters={'num_colors': 4})
  replies = gym_process.ask([generator])
  assert next(replies) == ('parameters', {'num_colors': 4})
  _, answer, text = next(replies)
  entry = ast.literal_eval(text)
  assert entry['answer'] is None
  possible = entry['metadata']['possible_answer']
  assert {type(key) for key in possible} == {int}
  assert {type(edge) for edge in entry['metadata']['puzzle']['edges']} == {
    tuple
  }
  assert answer.startswith('{"0": ')


# A package whose generator is deaf to its clock, as compiled code is.
DEAF = """
import dataclasses, signal, time
import numpy  # As the real one does, which takes a while.

@dataclasses.dataclass
class Config:
  seed: int = 0
  size: int = 1
  at: tuple = ()

class Dataset:
  def __init__(self, config):
    self.config = config
    self.wait(-1)

  def wait(self, index):
    if index in self.config.at:
      signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
      time.sleep(600)

  def __getitem__(self, index):
    self.wait(index)
    return {'question': f'{index}?', 'answer': f'{self.config.seed + index}'}

DATASETS = {'deaf': (Dataset, Config)}
"""


@pytest.fixture
def deaf(tmp_path, monkeypatch):
  (tmp_path / 'reasoning_gym').mkdir()
  (tmp_path / 'reasoning_gym' / '__init__.py').touch()
  (tmp_path / 'reasoning_gym' / 'factory.py').write_text(DEAF)
  monkeypatch.setenv('PYTHONPATH', str(tmp_path))
  monkeypatch.setattr(gym_process, '_SLACK', 1.0)

  def asked(at):
    return request(name='deaf', count=3, seconds=0.1, parameters={'at': at})

  return asked


SLOW = 'took longer than 0.1 s and had to be ended'


@pytest.mark.slow
def test_a_generator_that_hears_no_clock_loses_that_problem_alone(deaf):
  said = list(gym_process.ask([deaf((1,)), deaf((2,)), deaf(())]))
  assert [answer[:2] for answer in said] == [
    ('parameters', {'at': (1,)}),
    ('problem', '3'),
    ('bad', 'too slow'),
    ('problem', '5'),
    ('parameters', {'at': (2,)}),
    ('problem', '3'),
    ('problem', '4'),
    ('bad', 'too slow'),
    ('parameters', {}),
    ('problem', '3'),
    ('problem', '4'),
    ('problem', '5'),
  ]
  assert said[2][2] == SLOW


def test_a_generator_that_never_begins_is_refused(deaf, monkeypatch):
  monkeypatch.setattr(gym_process, '_START', 1.0)
  assert list(gym_process.ask([deaf((-1,))])) == [('error', SLOW)]
