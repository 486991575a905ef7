from __future__ import annotations

import ast
import re

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
