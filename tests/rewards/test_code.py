from __future__ import annotations

import json
import pathlib
import pickle
import time

import gin
import pytest

from selfimprove.rewards import code, sandbox
from selfimprove.rewards.code import PassesTests
from selfimprove.rewards.sandbox_limits import Limits
from selfimprove.rewards.verifiers import HostVerifier

_ADD = {
  'prompt': 'def add(a, b):\n    """The sum of a and b."""\n',
  'entry_point': 'add',
  'test': 'METADATA = {"author": "x"}\n\ndef check(candidate):\n'
  '    assert candidate(1, 2) == 3\n    assert candidate(0, 0) == 0, "zero"\n'
  '    for i in range(5):\n        assert candidate(i, i) == 2 * i\n'
  '    assert abs(candidate(0.1, 0.2) - 0.3) < 1e-6\n',
}
_SORT = {
  'test_list': [
    'assert order([3, 1]) == [1, 3]',
    'assert order([]) == []',
    'assert set(order("ba")) == {"a", "b"}',
  ],
  'code': 'def order(x):\n  return sorted(x)',
}
_SUM = {
  'inputs': ['1 2\n', '3 4\n', '10 -3'],
  'outputs': ['3\n', '7', '7 \n\n'],
}


@pytest.fixture(scope='module')
def verifier():
  if sandbox.weakness('namespaces') is not None:
    pytest.skip(f'no sandbox here: {sandbox.weakness("namespaces")}')
  made = PassesTests(score='fraction', limits=Limits(wall_seconds=20.0))
  yield made
  made.close()


@pytest.mark.parametrize(
  'attempt',
  [
    '    return a + b\n',
    '```python\ndef add(a, b):\n    return a + b\n```',
    'First\n```\ndef add(a, b): return 0\n```\nbetter:\n```py\n'
    'def add(a, b):\n  return a + b\n```\nDone.',
    '```python\ndef add(a, b):\n  return a + b',
    '```python\n    return a + b\n```',
    'def add(a, b):\n  return a + b',
    'def add(a, b):\n  return plus(a, b)\ndef plus(a, b):\n  return a + b',
    '    return a + b\n\ndef main(:\n  and so on',
    'add = None\n    def add',
  ],
)
def test_the_program_is_found_in_the_attempt(attempt, verifier):
  right = 'so on' in attempt or 'a + b' in attempt
  assert verifier(attempt, _ADD) == float(right)


def test_a_fraction_counts_the_assertions_of_check(verifier):
  # Wrong for 0 + 0 and, in the loop, for 0 + 0 again: two of four.
  report = verifier.report('    return a + b + (a == b == 0)\n', _ADD)
  assert (report.passed, report.cases) == (2, 4)
  assert report.reasons[0] == 'AssertionError: zero'


@pytest.mark.slow
@pytest.mark.parametrize(
  ('attempt', 'row'),
  [
    ('    return a + b\n', _ADD),
    ('print(sum(map(int, input().split())))', _SUM),
  ],
)
def test_the_start_of_boxes_is_not_on_the_time_of_a_program(
  attempt, row, verifier, monkeypatch
):
  del verifier  # Skips where there is no sandbox.
  start = sandbox.Sandbox.start

  def slow(*args, **settings):
    time.sleep(0.8)
    return start(*args, **settings)

  monkeypatch.setattr(sandbox.Sandbox, 'start', slow)
  hurried = PassesTests(limits=Limits(wall_seconds=1.5))
  assert hurried(attempt, row) == 1.0
  hurried.close()


def test_what_starts_boxes_can_be_started_before_the_first_call(verifier):
  del verifier
  made = PassesTests()
  made.prepare()
  launcher = made._sandbox._launcher
  assert launcher is not None
  assert made('    return a + b\n', _ADD) == 1.0
  assert made._sandbox._launcher is launcher
  made.close()


def test_a_machine_that_cannot_isolate_ends_a_run_and_gives_no_zero():
  # Settings that no machine has; a fallback must not hide them.
  fn = PassesTests(packages=('/no/such/folder',))
  host = HostVerifier(fn=fn, workers=1, fallback=0.0, timeout_seconds=30.0)
  with pytest.raises(RuntimeError, match=r'cannot be prepared.*SandboxError'):
    host.judge([['x']], [_ADD])
  host.close()


def test_all_or_nothing_is_the_default():
  if sandbox.weakness('namespaces') is not None:
    pytest.skip('no sandbox here')
  verifier = PassesTests()
  assert verifier('    return a + b + (a == b == 0)\n', _ADD) == 0.0
  assert verifier('    return a + b\n', _ADD) == 1.0
  verifier.close()


def test_a_check_that_fails_between_its_assertions_fails(verifier):
  row = {**_ADD, 'test': _ADD['test'] + '    candidate("a", 1)\n'}
  report = verifier.report('    return a + b\n', row)
  assert (report.passed, report.cases) == (4, 5)
  assert report.reasons[0].startswith('TypeError')


def test_listed_assertions_are_a_case_each(verifier):
  assert verifier('def order(x): return sorted(x)', _SORT) == 1.0
  assert verifier('def order(x): return list(x)', _SORT) == 2 / 3
  assert verifier('def other(x): return sorted(x)', _SORT) == 0.0


def test_a_script_is_judged_by_what_it_prints(verifier):
  program = 'a, b = map(int, input().split())\nprint(a + b)'
  assert verifier(f'```python\n{program}\n```', _SUM) == 1.0
  assert verifier('print(7)', _SUM) == 2 / 3
  nested = {'input_output': json.dumps(_SUM)}
  assert verifier(program, nested) == 1.0


@pytest.mark.parametrize(
  ('program', 'verdict'),
  [
    ('import sys; print(7); sys.exit()', 2 / 3),
    ('import sys; print(7); sys.exit(1)', 0.0),
    ('import os; print(7, flush=True); os._exit(0)', 2 / 3),
    ('print(7); 1 / 0', 0.0),
    ('print(7, end="")', 2 / 3),
    ('print(" 7")', 0.0),
    ('if __name__ == "__main__": print(7)', 2 / 3),
    (
      'import sys, threading\n'
      'threading.Thread(target=lambda: print(sum(map(int, sys.stdin.read()'
      '.split())))).start()',
      1.0,
    ),
    ('import os; os.close(1)', 0.0),
    ('import sys; sys.stdout.buffer.write(bytes(range(256)))', 0.0),
    ('print("x" * (2 << 20))', 0.0),
    ('print(open("/proc/self/cmdline").read(), 7)', 0.0),
  ],
)
def test_a_script_ends_as_it_likes(program, verdict, verifier):
  assert verifier(program, _SUM) == verdict


@pytest.mark.parametrize(
  ('program', 'test'),
  [
    ('def f(x): raise ValueError("no")', 'try:\n  f(1)\nexcept ValueError as '
     'error:\n  assert str(error) == "no"\nelse:\n  assert False'),
    ('class E(KeyError): pass\ndef f(x): raise E', 'try:\n  f(1)\n  assert 0\n'
     'except KeyError: pass'),
    ('def f(x): x.sort()', 'x = [2, 1]\nf(x)\nassert x == [1, 2]'),
    ('def f(x): x["a"] = {1}', 'x = {}\nf(x)\nassert x == {"a": {1}}'),
    ('def f(x, *, y=2): return x, y', 'assert f(1, y=3) == (1, 3)'),
    ('def f(x): return x', 'assert f({(1, 2): [None, b"", 1j]}) == '
     '{(1, 2): [None, b"", 1j]}'),
    ('def f(x): return (i * i for i in range(x))', 'assert list(f(3)) == '
     '[0, 1, 4]'),
    ('from collections import *\ndef f(x): return Counter(x)',
     'assert f("aab") == {"a": 2, "b": 1}'),
    ('def f(n):\n  return lambda x: x + n', 'assert f(3)(4) == 7'),
    ('class f:\n  def __init__(self, x): self.x = [x]\n'
     '  def push(self, y): self.x.append(y)\n'
     '  def top(self): return self.x[-1]',
     's = f(1)\ns.push(5)\nassert s.top() == 5\nassert s.x == [1, 5]'),
    ('calls = []\ndef f(x):\n  calls.append(x)\n  return len(calls)',
     'assert [f(0), f(0)] == [1, 2]'),
    ('import typing\nfrom dataclasses import dataclass\n@dataclass\nclass P:\n'
     '  a: int\ndef f(x): return P(x).a', 'assert f(3) == 3'),
    ('import hashlib, zlib, decimal, random\ndef f(x): return hashlib.md5(x)'
     '.hexdigest()[:4]', 'assert f(b"") == "d41d"'),
    ('import os\ndef f(x):\n  with open("file", "w") as g: g.write(x)\n'
     '  return open("file").read()', 'assert f("a") == "a"'),
  ],
)  # fmt: skip
def test_ordinary_python_passes(program, test, verifier):
  row = {'test_list': [test], 'entry_point': 'f'}
  assert verifier.report(program, row) == code.Report(passed=1, cases=1)


def test_objects_of_the_program_can_be_handed_back(verifier):
  row = {
    'test_list': ['assert longest([Pair(5, 24), Pair(1, 2)]) == 19'],
    'code': 'class Pair: ...\ndef longest(pairs): ...',
  }
  program = (
    'class Pair:\n  def __init__(self, a, b): self.a, self.b = a, b\n'
    'def longest(pairs): return max(p.b - p.a for p in pairs)'
  )
  assert verifier(program, row) == 1.0


def test_functions_of_the_prompt_are_not_those_of_the_program(verifier):
  row = {
    'prompt': 'def double(x):\n  return 2 * x\n\ndef half(x):\n  """x/2"""\n',
    'entry_point': 'half',
    'test': 'def check(candidate):\n  assert double(candidate(8)) == 8\n',
  }
  forged = 'def double(x): return 8\ndef half(x): return 0'
  assert verifier(forged, row) == 0.0
  assert verifier('def half(x): return x // 2', row) == 1.0


def test_programs_meet_the_same_chances(verifier):
  row = {'test_list': ['assert f() == 1, f()'], 'code': 'f = 0'}
  program = 'import random\ndef f(): return random.random(), hash("a")'
  first, second = (verifier.report(program, row).reasons for _ in range(2))
  assert first == second


def test_programs_do_not_meet_each_other(verifier):
  row = {'test_list': ['assert f() == 1, f()'], 'code': 'f = 0'}
  leave = 'import math, os\nmath.mark = open("mark", "w")\ndef f(): return 1'
  look = (
    'import gc, math, os\ndef f():\n  assert not hasattr(math, "mark")\n'
    '  assert "mark" not in gc.get_objects()\n  assert os.listdir() == []\n'
    '  return 1'
  )
  assert verifier(leave, row) == 1.0
  assert verifier(look, row) == 1.0


@pytest.mark.parametrize(
  ('row', 'message'),
  [
    ({'answer': '3'}, 'fields'),
    ({'test_list': []}, 'fields'),
    ({'test_list': ['assert f(']}, 'not Python'),
    ({'test_list': ['assert isclose(f(1), 1)']}, 'entry_point'),
    ({'test_list': ['assert math.sqrt(4) == 2'], 'code': 'math = 1'}, 'import'),
    ({'test_list': ['assert 1 == 1']}, 'entry_point'),
    ({'inputs': ['1'], 'outputs': []}, 'equally many'),
    ({'inputs': [[1]], 'outputs': ['2']}, 'equally many'),
    ({'inputs': ['1'], 'outputs': ['2'], 'fn_name': 'f'}, 'fn_name'),
  ],
)
def test_a_row_without_usable_tests_is_an_error(row, message):
  with pytest.raises(ValueError, match=message):
    PassesTests()('def f(x): return x', row)


@pytest.mark.parametrize(
  ('row', 'message'),
  [
    (
      {'test_list': ['assert f(lambda x: x) == 1'], 'code': 'f = 0'},
      "argument cannot be sent: 'function'",
    ),
    (
      {
        'test_list': ['assert f(1) == 1'],
        'code': 'f = 0',
        'test_setup_code': 'import no_such_library',
      },
      'no_such_library',
    ),
  ],
)
def test_tests_that_cannot_be_run_are_an_error(row, message, verifier):
  with pytest.raises(ValueError, match=message):
    verifier('def f(x): return 1', row)


def test_an_attempt_that_is_too_long_is_wrong(verifier):
  assert verifier('x = 1\n' * 100_000, _SORT) == 0.0
  assert verifier('x = 1\n' * 100_000, _SUM) == 0.0


def test_a_verifier_is_sent_to_workers_as_what_it_is():
  made = PassesTests(score='fraction', limits=Limits(cpu_seconds=3))
  copy = pickle.loads(pickle.dumps(made))
  assert copy == made
  assert copy._sandbox.limits.cpu_seconds == 3


@pytest.mark.parametrize(
  ('settings', 'message'),
  [({'score': 'some'}, 'score'), ({'isolation': 'none'}, 'isolation')],
)
def test_settings_are_checked(settings, message):
  with pytest.raises(ValueError, match=message):
    PassesTests(**settings)


def test_it_judges_in_the_workers_of_a_host_verifier(verifier):
  del verifier  # Skips where there is no sandbox.
  host = HostVerifier(fn=PassesTests(), workers=2, timeout_seconds=30.0)
  good, bad = '    return a + b\n', 'import os; os._exit(0)'
  rewards = host.judge([[bad, good], [good, bad]], [_ADD, _ADD])
  host.close()
  assert rewards.tolist() == [[0.0, 1.0], [1.0, 0.0]]


def test_the_gin_file_makes_the_reward():
  file = pathlib.Path(__file__).parents[2] / 'gin_configs/rewards'
  lines = "include 'unit_tests.gin'\ncode.PassesTests.score = 'fraction'\n"
  with gin.config_scope(None), gin.unlock_config():
    gin.clear_config()
    gin.add_config_file_search_path(str(file))
    gin.parse_config(lines)
    made = gin.get_configurable(HostVerifier)()
    gin.clear_config()
  assert made.fn == PassesTests(score='fraction')
  assert made.timeout_seconds > made.fn.limits.wall_seconds
