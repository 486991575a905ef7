"""Rows of tests, and the program in an attempt: texts before they are run.

What a row says is parsed here; what a model wrote is only searched.
"""

from __future__ import annotations

import ast
import builtins
import dataclasses
import functools
import json
import re
import sys
from collections.abc import Mapping
from typing import Any

_FENCE = re.compile(r'^[ \t]*(`{3,}|~{3,})[^\n]*$', re.M)
# Where a model goes on after the function that it was asked to complete.
_STOPS = ('\ndef ', '\nclass ', '\nif ', '\nprint', '\nassert ', '\n#', '\n@')


@dataclasses.dataclass(frozen=True, kw_only=True)
class RowTests:
  """The tests of a row, ready to be sent to a box.

  Attributes:
    setup: text that is run before the program's functions are there.
    tests: texts that are run one after the other.
    names: what the program has to define.
    cases: how many cases the tests have.
    counted: whether the tests count their cases themselves.
  """

  setup: str
  tests: tuple[str, ...]
  names: tuple[str, ...]
  cases: int
  counted: bool


def extract(attempt: str, reference: Mapping[str, Any]) -> list[str]:
  """Texts of which the first that compiles is the program.

  Args:
    attempt: what the model wrote.
    reference: data row; `problem` (or, without one, `prompt`) may be the
      beginning of a program that defines `entry_point`.

  Returns:
    One text or more, best first.
  """
  stub = _stub(reference)
  block = _last_block(attempt)
  text = attempt if block is None else block
  if stub is None:
    return [text]
  name = str(reference['entry_point'])
  whole = re.search(
    rf'^[ \t]*(async[ \t]+)?def[ \t]+{re.escape(name)}\b', text, re.M
  )
  # A function of the prompt is there until the program defines it anew.
  alone = f'{stub}\n{text}'
  if whole:
    return [alone, text]
  head = _head(reference)
  cut = min((text.find(s) for s in _STOPS if s in text), default=len(text))
  return [head + text, head + text[:cut], alone]


def _last_block(attempt: str) -> str | None:
  """What is between the last two fences; one that is open ends the text."""
  start, content = None, None
  for fence in _FENCE.finditer(attempt):
    if start is None:
      start = fence
    elif fence[1] == start[1] and fence[0].strip() == fence[1]:
      content = attempt[start.end() + 1 : fence.start()]
      start = None
  return attempt[start.end() + 1 :] if start is not None else content


def _stub(reference: Mapping[str, Any]) -> str | None:
  """The prompt, where it is the beginning of a program: with its body empty.

  A prompt in words has none. Functions that a prompt of HumanEval defines for
  its tests are those of the prompt, whatever the program makes of them.
  """
  prompt = _head(reference)
  if 'entry_point' not in reference or 'def ' not in prompt:
    return None
  for text in (prompt, f'{prompt.rstrip()}\n    pass\n'):
    if _parsed(text) is not None:
      return text
  return None


def _head(reference: Mapping[str, Any]) -> str:
  """What the attempt goes on with, without what a task has put around it."""
  return str(reference.get('problem', reference.get('prompt', '')))


def _parsed(text: str) -> ast.Module | None:
  try:
    return ast.parse(text)
  except (SyntaxError, ValueError):
    return None


def scripts(
  reference: Mapping[str, Any],
) -> list[tuple[str, str]] | None:
  """What a script reads, and what it has to print.

  Args:
    reference: data row.

  Returns:
    Pairs of input and output; None where the row has other tests.

  Raises:
    ValueError: inputs and outputs are not texts, or not equally many.
  """
  fields = reference.get('input_output', reference)
  if isinstance(fields, str):
    fields = json.loads(fields)
  if 'inputs' not in fields or 'outputs' not in fields:
    return None
  if fields.get('fn_name'):
    raise ValueError(
      f'The row tests the function {fields["fn_name"]!r} by `fn_name`; write '
      'its tests as `test_list`.'
    )
  inputs, outputs = list(fields['inputs']), list(fields['outputs'])
  texts = all(isinstance(text, str) for text in [*inputs, *outputs])
  if not inputs or len(inputs) != len(outputs) or not texts:
    raise ValueError(
      f'The row has {len(inputs)} inputs and {len(outputs)} outputs; give '
      'equally many texts, at least one.'
    )
  return list(zip(inputs, outputs))


def read_tests(reference: Mapping[str, Any]) -> RowTests:
  """The tests of functions in a row.

  Args:
    reference: data row.

  Returns:
    The tests.

  Raises:
    ValueError: there are none, or they are not Python, or it is not clear
      which names the program is to define.
  """
  listed = reference.get('test_list')
  if listed is not None and not isinstance(listed, str) and len(listed):
    parts = [reference.get('test_setup_code') or '']
    parts += list(_or_empty(reference.get('test_imports')))
    return _listed_tests(
      '\n'.join(parts),
      tuple(listed),
      _entry_points(reference),
      reference.get('code'),
    )
  if 'test' in reference and 'entry_point' in reference:
    stub = _stub(reference) or ''
    return _checking_tests(
      stub, str(reference['test']), str(reference['entry_point'])
    )
  raise ValueError(
    f'The row has the fields {sorted(reference)}; tests are `test` with '
    '`entry_point`, `test_list`, or `inputs` with `outputs`.'
  )


def _or_empty(value: Any) -> Any:
  return () if value is None else value


def _entry_points(reference: Mapping[str, Any]) -> tuple[str, ...]:
  given = reference.get('entry_point') or ()
  return (given,) if isinstance(given, str) else tuple(given)


@functools.lru_cache(maxsize=256)
def _checking_tests(stub: str, test: str, entry_point: str) -> RowTests:
  """HumanEval: the assertions of `check`, or of the text, are the cases."""
  tree = _python(test, 'test')
  checks = [
    node
    for node in tree.body
    if isinstance(node, ast.FunctionDef) and node.name == 'check'
  ]
  imports = f'{stub}\n'
  if checks:
    checks[-1].body, cases = _with_cases(checks[-1].body)
    setup, call = ast.unparse(tree), f'check({entry_point})'
  else:
    tree.body, cases = _with_cases(tree.body)
    setup, call = '', ast.unparse(tree)
  return RowTests(
    setup=imports + setup,
    tests=(call,),
    names=(entry_point,),
    cases=max(cases, 1),
    counted=cases > 0,
  )


def _with_cases(body: list[ast.stmt]) -> tuple[list[ast.stmt], int]:
  """Statements with an assertion in them, each in a `with __case__():`."""
  wrapped, cases = [], 0
  for statement in body:
    definition = isinstance(statement, ast.FunctionDef | ast.ClassDef)
    asserts = any(isinstance(node, ast.Assert) for node in ast.walk(statement))
    if asserts and not definition:
      case = ast.Call(ast.Name('__case__', ast.Load()), [], [])
      statement = ast.With([ast.withitem(case)], [statement])
      cases += 1
    wrapped.append(statement)
  module = ast.fix_missing_locations(ast.Module(wrapped, []))
  return module.body, cases


@functools.lru_cache(maxsize=256)
def _listed_tests(
  setup: str,
  tests: tuple[str, ...],
  names: tuple[str, ...],
  code: str | None,
) -> RowTests:
  """MBPP: every text is a case."""
  trees = [_python(setup, 'test_setup_code')]
  trees += [_python(test, 'test_list') for test in tests]
  if not names:
    names = _wanted(trees, code)
  return RowTests(
    setup=setup, tests=tests, names=names, cases=len(tests), counted=False
  )


def _wanted(trees: list[ast.Module], code: str | None) -> tuple[str, ...]:
  """The names that tests use and do not have."""
  nodes = [node for tree in trees for node in ast.walk(tree)]
  names = [node for node in nodes if isinstance(node, ast.Name)]
  used = {name.id for name in names if isinstance(name.ctx, ast.Load)}
  open_ = used - _bound(nodes) - set(dir(builtins))
  known = open_ if code is None else _bound(ast.walk(_python(code, 'code')))
  # A library that was not imported is no function of the program.
  missing = open_ - known | open_ & sys.stdlib_module_names
  if missing or not open_ or (code is None and len(open_) > 1):
    raise ValueError(
      f'The tests use the names {sorted(open_)}, and it is not clear which the '
      'program is to define; give the row an `entry_point`, or import the '
      'others in `test_setup_code`.'
    )
  return tuple(sorted(open_))


def _bound(nodes: Any) -> set[str]:
  bound = set()
  for node in nodes:
    if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
      bound.add(node.id)
    elif isinstance(node, ast.FunctionDef | ast.ClassDef):
      bound.add(node.name)
    elif isinstance(node, ast.arg):
      bound.add(node.arg)
    elif isinstance(node, ast.alias):
      bound.add((node.asname or node.name).split('.')[0])
  return bound


def _python(text: str, field: str) -> ast.Module:
  tree = _parsed(text)
  if tree is None:
    raise ValueError(f'The field `{field}` is not Python: {text!r:.200}.')
  return tree
