"""Verifier of programs: an attempt is run against the tests of its row.

The program and the tests run in boxes of their own (`sandbox`), so that nothing
a program does decides its verdict but what its functions return and what it
prints. Nothing that a model wrote is parsed in this process.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import socket
import time
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from selfimprove.rewards import code_rows as rows
from selfimprove.rewards import sandbox_wire as wire
from selfimprove.rewards.sandbox import Box, Sandbox, SandboxError
from selfimprove.rewards.sandbox_limits import Limits

_LONGEST_PROGRAM = 100_000
# The end of a box is decided here; one that this process forgot ends by itself.
_SPARE_SECONDS = 30.0


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
    limits: of each box; `wall_seconds` is that of a whole verdict, without
      the time in which boxes are set up. What calls the verifier has to allow
      some seconds more.
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

  def prepare(self) -> None:
    """Tries the isolation and starts what starts boxes.

    Raises:
      SandboxError: the sandbox does not work, or not as strongly as asked.
    """
    getattr(self, '_sandbox').prepare()  # noqa: B009

  def check(self, reference: Mapping[str, Any]) -> None:
    """Reads the tests of a row, and runs none.

    Args:
      reference: data row.

    Raises:
      ValueError: the row has no tests, or they cannot be read.
    """
    if rows.scripts(reference) is None:
      rows.read_tests(reference)

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
    sources = rows.extract(attempt, reference)
    short = max(map(len, sources)) <= _LONGEST_PROGRAM
    scripts = rows.scripts(reference)
    if scripts is not None:
      count, run = (
        len(scripts),
        lambda: _run_script(sandbox, sources, scripts),
      )
    else:
      tests = rows.read_tests(reference)
      count, run = tests.cases, lambda: _run_tests(sandbox, sources, tests)
    if short:
      return run()
    return Report(passed=0, cases=count, reasons=('it is too long',))

  def close(self) -> None:
    """Ends the processes; a later call starts new ones."""
    getattr(self, '_sandbox').close()  # noqa: B009


def _run_tests(
  sandbox: Sandbox, sources: list[str], tests: rows.RowTests
) -> Report:
  ours, theirs = socket.socketpair()
  with ours, theirs, contextlib.ExitStack() as boxes:
    start = functools.partial(sandbox.start, spare_seconds=_SPARE_SECONDS)
    program = boxes.enter_context(start('calls', ours))
    examiner = boxes.enter_context(start('examine', theirs))
    ours.close()
    theirs.close()
    # A machine that is slow to set up boxes makes no program wrong.
    program.wait_until_up()
    examiner.wait_until_up()
    end = time.monotonic() + sandbox.limits.wall_seconds
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
) -> Report:
  passed, reasons = 0, []
  left = sandbox.limits.wall_seconds
  for given, expected in cases:
    why, seconds = _script_case(sandbox, sources, given, expected, left)
    left -= seconds
    if why is None:
      passed += 1
    else:
      reasons.append(why)
  return Report(passed=passed, cases=len(cases), reasons=tuple(reasons))


def _script_case(
  sandbox: Sandbox, sources: list[str], given: str, expected: str, left: float
) -> tuple[str | None, float]:
  """Why a case failed, None where it passed; and the seconds that it ran."""
  if left <= 0:
    return 'the time was up', 0.0
  with sandbox.start('script', spare_seconds=_SPARE_SECONDS) as box:
    box.wait_until_up()
    began = time.monotonic()
    why = _run_case(box, sources, given, expected, sandbox.limits, began + left)
    return why, time.monotonic() - began


def _run_case(
  box: Box,
  sources: list[str],
  given: str,
  expected: str,
  limits: Limits,
  end: float,
) -> str | None:
  _tell(box, {'sources': sources, 'stdin': given})
  output = _output(box.channel, limits.output_bytes, end)
  if isinstance(output, str):
    return output
  status = box.finish(end - time.monotonic())['ended']
  if status != 0:
    return f'it ended with status {status}'
  shown = output.decode('utf-8', 'replace')
  return (
    None if _lines(shown) == _lines(expected) else f'printed {shown!r:.200}'
  )


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
