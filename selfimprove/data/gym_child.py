"""Writes problems of reasoning-gym: the script behind `gym`.

A process of its own, because some generators iterate over sets of strings or
draw from the global generators of random numbers: only here does each problem
begin with the same hash seed and the same state of these. It imports the
standard library and reasoning-gym, so it starts in a second.

Standard input is one Python literal: a list of dictionaries with `name`,
`parameters`, `level`, `seed`, `first`, `count` and `seconds`. Standard output
is one literal a line: for each of them `('parameters', {...})` or `('error',
why)`, and behind the former, for each index from `first` to below `count`,
`('problem', answer, entry)` or `('bad', rule, detail)`.
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import difflib
import json
import os
import random
import signal
import sys
import warnings
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

# Problems with many right answers say None, and show one of them here.
_EXAMPLES = {
  'graph_color': 'possible_answer',
  'propositional_logic': 'example_answer',
  'rubiks_cube': 'example_correct_answer',
}


class TooSlowError(BaseException):
  """The time for one problem is over; no generator catches it as its own."""


def answers(request: Mapping[str, Any]) -> Iterator[tuple[Any, ...]]:
  """What is said about one generator.

  Args:
    request: what to write, see the module.

  Yields:
    Tuples of plain Python values.
  """
  try:
    config = _config(request)
    dataset = _dataset(request, config)
  # Some of the package's checks are assertions, some fail by themselves.
  except (Exception, TooSlowError) as error:
    yield 'error', _why(error)
    return
  yield 'parameters', _changed(config)
  for index in range(request['first'], request['count']):
    yield _problem(dataset, index, request)


def _config(request: Mapping[str, Any]) -> Any:
  from reasoning_gym import factory

  name, parameters = request['name'], dict(request['parameters'])
  if name not in factory.DATASETS or name == 'composite':
    near = difflib.get_close_matches(name, factory.DATASETS, n=3)
    raise ValueError(
      f'reasoning-gym has no generator {name!r} (nearest: {near or "none"}); '
      "list them with: python -c 'import reasoning_gym.factory as f; "
      "print(*f.DATASETS)'"
    )
  config_cls = factory.DATASETS[name][1]
  known = sorted(
    field.name
    for field in dataclasses.fields(config_cls)
    if field.name not in ('seed', 'size')
  )
  unknown = sorted(set(parameters) - set(known))
  if unknown:
    raise ValueError(
      f'{name!r} has no parameter {unknown[0]!r}; it has {", ".join(known)}'
    )
  if request['level'] is not None:
    config = _at_level(name, request['level'])
    return dataclasses.replace(config, **parameters)
  return config_cls(**parameters)


def _at_level(name: str, level: int | Mapping[str, int]) -> Any:
  """The parameters of a level of the generator's curriculum."""
  from reasoning_gym import factory

  if not factory.has_curriculum(name):
    raise ValueError(
      f'{name!r} has no curriculum; give it parameters, no level'
    )
  curriculum = factory.create_curriculum(name)
  attributes = curriculum.attributes
  highest = max(len(attribute.levels) for attribute in attributes.values()) - 1
  if isinstance(level, int):
    if not 0 <= level <= highest:
      raise ValueError(f'level {level} is outside [0, {highest}] of {name!r}')
    curriculum.set_global_level(level)
    return curriculum.generate_configuration()
  for key, value in level.items():
    if key not in attributes:
      raise ValueError(
        f'the curriculum of {name!r} has no attribute {key!r}; it has '
        f'{", ".join(sorted(attributes))}'
      )
    count = len(attributes[key].levels)
    if not 0 <= value < count:
      raise ValueError(
        f'level {value} of {key!r} is outside [0, {count - 1}] of {name!r}'
      )
    curriculum.set_attr_level(key, value)
  return curriculum.generate_configuration()


def _dataset(request: Mapping[str, Any], config: Any) -> Any:
  from reasoning_gym import factory

  config = dataclasses.replace(
    config, seed=request['seed'], size=request['count']
  )
  with _within(request['seconds']):
    return factory.DATASETS[request['name']][0](config=config)


def _changed(config: Any) -> dict[str, Any]:
  """The parameters that are not the generator's own."""
  default = type(config)()
  changed = {}
  for field in dataclasses.fields(config):
    value = getattr(config, field.name)
    if field.name not in ('seed', 'size') and value != getattr(
      default, field.name
    ):
      changed[field.name] = _literal(value)
  return changed


def _problem(
  dataset: Any, index: int, request: Mapping[str, Any]
) -> tuple[Any, ...]:
  import numpy as np

  seed = (request['seed'] + index) % 2**32
  random.seed(seed)
  np.random.seed(seed)  # noqa: NPY002, what some generators draw from.
  try:
    with _within(request['seconds']):
      entry = dataset[index]
    text = repr(_literal(entry))
    ast.literal_eval(text)  # NaN and infinity are no literals.
    answer = _answer(entry, request['name'])
  except TooSlowError as error:
    return 'bad', 'too slow', str(error)
  except Exception as error:
    return 'bad', 'generator failed', f'{request["name"]!r} {_why(error)}'
  if answer is None:
    return (
      'bad',
      'no reference answer',
      f'{request["name"]!r} gives none; choose another generator',
    )
  return 'problem', answer, text


def _answer(entry: Mapping[str, Any], name: str) -> str | None:
  answer = entry['answer']
  if answer is None:
    answer = entry['metadata'].get(_EXAMPLES.get(name))
  if isinstance(answer, dict):
    return json.dumps({str(key): value for key, value in answer.items()})
  return answer if answer is None else str(answer)


def _literal(value: Any) -> Any:
  """The value with built-in types alone, tuples and keys as they are."""
  if value is None:
    return None
  # Strings of NumPy are strings, and write themselves differently.
  for kind in (bool, int, float, str):
    if isinstance(value, kind):
      return kind(value)
  if isinstance(value, dict):
    return {_literal(key): _literal(item) for key, item in value.items()}
  for kind in (list, tuple, set):
    if isinstance(value, kind):
      return kind(_literal(item) for item in value)
  if hasattr(value, 'tolist'):  # NumPy.
    return _literal(value.tolist())
  raise TypeError(f'gives {type(value).__name__}, which is no plain value')


@contextlib.contextmanager
def _within(seconds: float) -> Iterator[None]:
  def stop(number: int, frame: Any) -> NoReturn:
    del number, frame
    raise TooSlowError(f'took longer than {seconds:g} s')

  before = signal.signal(signal.SIGALRM, stop)
  signal.setitimer(signal.ITIMER_REAL, seconds)
  try:
    yield
  finally:
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def _why(error: BaseException) -> str:
  text = f'{error}'.strip().rstrip('.')
  return (
    text if isinstance(error, ValueError) else f'{type(error).__name__}: {text}'
  )


def main() -> None:
  """Answers what standard input asks."""
  warnings.simplefilter('ignore')
  requests = ast.literal_eval(sys.stdin.read())
  # Some generators print; standard output is for what was asked.
  with open(os.devnull, 'w', encoding='utf-8') as nowhere:
    spoken = sys.stdout
    with contextlib.redirect_stdout(nowhere):
      for request in requests:
        for answer in answers(request):
          # At once: a silence is that of the problem that is written.
          print(repr(answer), file=spoken, flush=True)


if __name__ == '__main__':
  main()
