"""Verifier of programs: an attempt is run against the tests of its row.

The program and the tests run in boxes of their own (`sandbox`), so that nothing
a program does decides its verdict but what its functions return and what it
prints. Nothing that a model wrote is parsed in this process.
"""

from __future__ import annotations

import ast
import builtins
import contextlib
import dataclasses
import functools
import json
import re
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from selfimprove.rewards import sandbox_wire as wire
from selfimprove.rewards.sandbox import Box, Limits, Sandbox, SandboxError

_FENCE = re.compile(r'^[ \t]*(`{3,}|~{3,})[^\n]*$', re.M)
# Where a model goes on after the function that it was asked to complete.
_LONGEST_PROGRAM = 100_000
_STOPS = ('\ndef ', '\nclass ', '\nif ', '\nprint', '\nassert ', '\n#', '\n@')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
  """What became of the tests of one program.

  Attributes:
    passed: how many cases passed.
    cases: how many there are, >= 1.
    reasons: why cases failed, in order; texts that the program may have
      written.
  """

  passed: int
  cases: int
  reasons: tuple[str, ...] = ()


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


@dataclasses.dataclass(frozen=True, kw_only=True)
class PassesTests:
  """How well the program in an attempt does on the tests of its row.

  A row has one of
    `test` and `entry_point` (HumanEval): `test` defines `check(candidate)`;
    `test_list`, perhaps `test_setup_code` and `test_imports` (MBPP): one
      assertion each; the functions they call are named by `entry_point`, or
      found with the help of `code`, the row's own solution;
    `inputs` and `outputs`, or both inside `input_output` as JSON: what a script
      reads and has to print, white space at the ends of lines ignored.

  The program is the last fenced block of the attempt; without one it is the
  whole attempt, or the field `prompt` completed by it.

  Attributes:
    score: `all` gives 1.0 where every case passed, else 0.0; `fraction` gives
      the share of cases that passed.
    isolation: see `Sandbox`.
    limits: of each box; `wall_seconds` is that of a whole verdict. What calls
      the verifier has to allow some seconds more.
    packages: see `Sandbox`.
  """

  score: Literal['all', 'fraction'] = 'all'
  isolation: Literal['auto', 'namespaces', 'bubblewrap', 'limits'] = 'auto'
  limits: Limits = Limits()  # noqa: RUF009, frozen.
  packages: Sequence[str] = ()

  def __post_init__(self) -> None:
    if self.score not in ('all', 'fraction'):
      raise ValueError(f"score is {self.score!r}; use 'all' or 'fraction'.")
    sandbox = Sandbox(
      isolation=self.isolation,
      limits=self.limits,
      packages=tuple(self.packages),
    )
    object.__setattr__(self, '_sandbox', sandbox)

  def __call__(self, attempt: str, reference: Mapping[str, Any]) -> float:
    """Returns the verdict.

    Args:
      attempt: what the model wrote.
      reference: data row.

    Returns:
      A reward between 0 and 1.

    Raises:
      ValueError: the row has no tests, or they cannot be run.
      SandboxError: the sandbox does not work, or not as strongly as asked.
    """
    report = self.report(attempt, reference)
    if self.score == 'fraction':
      return report.passed / report.cases
    return float(report.passed == report.cases)

  def report(self, attempt: str, reference: Mapping[str, Any]) -> Report:
    """What became of each case; arguments and errors are those of a call."""
    sandbox: Sandbox = getattr(self, '_sandbox')  # noqa: B009, set above.
    end = time.monotonic() + self.limits.wall_seconds
    cases = scripts(reference)
    tests = read_tests(reference) if cases is None else None
    sources = extract(attempt, reference)
    if max(map(len, sources)) > _LONGEST_PROGRAM:
      count = tests.cases if cases is None else len(cases)
      return Report(passed=0, cases=count, reasons=('it is too long',))
    if cases is not None:
      return _run_script(sandbox, sources, cases, end)
    return _run_tests(sandbox, sources, tests, end)

  def close(self) -> None:
    """Ends the processes; a later call starts new ones."""
    getattr(self, '_sandbox').close()  # noqa: B009


def extract(attempt: str, reference: Mapping[str, Any]) -> list[str]:
  """Texts of which the first that compiles is the program.

  Args:
    attempt: what the model wrote.
    reference: data row; `prompt` may be the beginning of a program that
      defines `entry_point`.

  Returns:
    One text or more, best first.
  """
  stub = _stub(reference)
  block = _last_block(attempt)
  text = attempt if block is None else block
  if stub is None:
    return [text]
  name = str(reference['entry_point'])
  whole = re.search(rf'^[ \t]*(async[ \t]+)?def[ \t]+{re.escape(name)}\b', text, re.M)
  # A function of the prompt is there until the program defines it anew.
  alone = f'{stub}\n{text}'
  if whole:
    return [alone, text]
  completed = reference['prompt'] + text
  cut = min((text.find(s) for s in _STOPS if s in text), default=len(text))
  return [completed, reference['prompt'] + text[:cut], alone]


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
  prompt = str(reference.get('prompt', ''))
  if 'entry_point' not in reference or 'def ' not in prompt:
    return None
  for text in (prompt, f'{prompt.rstrip()}\n    pass\n'):
    if _parsed(text) is not None:
      return text
  return None


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


def _run_tests(
  sandbox: Sandbox, sources: list[str], tests: RowTests, end: float
) -> Report:
  ours, theirs = socket.socketpair()
  with ours, theirs, contextlib.ExitStack() as boxes:
    program = boxes.enter_context(sandbox.start('calls', ours))
    examiner = boxes.enter_context(sandbox.start('examine', theirs))
    ours.close()
    theirs.close()
    _tell(program, {'sources': sources})
    _tell(examiner, dataclasses.asdict(tests))
    return _tally(examiner, tests.cases, end)


def _tell(box: Box, content: dict[str, Any]) -> None:
  try:
    wire.send(box.channel, content)
  except wire.MessageError as error:
    raise ValueError(f'The row is too long: {error}.') from None
  except OSError as error:
    box.end()  # Says why, where the box could not be set up.
    raise SandboxError(f'A box takes no program ({error}).') from None


def _tally(examiner: Box, cases: int, end: float) -> Report:
  passed, reasons, reported = 0, [], 0
  while True:
    try:
      examiner.channel.settimeout(max(end - time.monotonic(), 0.001))
      message = wire.receive(examiner.channel)
    except TimeoutError:
      reasons.append('the time was up')
      break
    except (EOFError, OSError):
      examiner.end()  # Says why, where the box could not be set up.
      reasons.append('the tests were ended by a limit')
      break
    if 'row' in message:
      raise ValueError(
        f'The tests of the row cannot be run: {message["row"]}; correct them.'
      )
    if 'end' in message:
      break
    reported += 1
    if message['case']:
      passed += 1
    else:
      reasons.append(message['why'])
  return Report(
    passed=passed, cases=max(cases, reported), reasons=tuple(reasons)
  )


def _run_script(
  sandbox: Sandbox,
  sources: list[str],
  cases: list[tuple[str, str]],
  end: float,
) -> Report:
  passed, reasons = 0, []
  for given, expected in cases:
    why = _script_case(sandbox, sources, given, expected, end)
    if why is None:
      passed += 1
    else:
      reasons.append(why)
  return Report(passed=passed, cases=len(cases), reasons=tuple(reasons))


def _script_case(
  sandbox: Sandbox, sources: list[str], given: str, expected: str, end: float
) -> str | None:
  """Why a case failed; None where it passed."""
  if time.monotonic() >= end:
    return 'the time was up'
  with sandbox.start('script') as box:
    _tell(box, {'sources': sources, 'stdin': given})
    output = _output(box.channel, sandbox.limits.output_bytes, end)
    if isinstance(output, str):
      return output
    status = box.finish(end - time.monotonic())['ended']
  if status != 0:
    return f'it ended with status {status}'
  shown = output.decode('utf-8', 'replace')
  return None if _lines(shown) == _lines(expected) else f'printed {shown!r:.200}'


def _output(channel: socket.socket, most: int, end: float) -> bytes | str:
  parts, length = [], 0
  while True:
    channel.settimeout(max(end - time.monotonic(), 0.001))
    try:
      part = channel.recv(1 << 16)
    except TimeoutError:
      return 'the time was up'
    except OSError:
      part = b''
    if not part:
      return b''.join(parts)
    parts.append(part)
    length += len(part)
    if length > most:
      return f'it printed more than {most} bytes'


def _lines(text: str) -> list[str]:
  return [line.rstrip() for line in text.rstrip().splitlines()]
