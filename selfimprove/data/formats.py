r"""Rows as their authors publish them -> `problem`, `prompt` and `answer`.

Each function is `(fields, where) -> fields to add`. Every field of the row
stays: rewards on the host read what they need, such as the tests of a program.
`problem` is the text that tells problems apart; `prompt` is what a model is
shown of it, `answer` what it is to arrive at and `solution` how.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from selfimprove import answer_text
from selfimprove.data.rows import BadRowError, text_of

# Not digits without end, which Python would refuse to read.
_WHOLE = re.compile(r'([-+]?[0-9]{1,64})(?:\.0*)?')

Format = Callable[[Mapping[str, Any], str], dict[str, Any]]
"""(fields, where) -> fields to add; raises `BadRowError`."""


def gsm8k(fields: Mapping[str, Any], where: str) -> dict[str, Any]:
  """A problem of GSM8K: `question`, and `answer` that ends with `#### 1,072`.

  Args:
    fields: the row; tfds gives the same two and others besides.
    where: file and row.

  Returns:
    `answer` is the number without separators of thousands, `solution` all that
    the row has for an answer.
  """
  problem = text_of(fields, 'question', where=where)
  solution = text_of(fields, 'answer', where=where)
  answer = answer_text.after_hashes(solution)
  if answer is None:
    raise _no_answer(where, 'answer', 'has no final answer behind ####')
  answer = answer_text.without_thousands_separators(answer)
  return _problem(problem, answer=answer, solution=solution)


def math(fields: Mapping[str, Any], where: str) -> dict[str, Any]:
  r"""A problem of MATH: `problem`, `solution` and perhaps `answer`.

  Args:
    fields: the row.
    where: file and row.

  Returns:
    `answer` as the row has it, or else what its solution has boxed last.
  """
  problem = text_of(fields, 'problem', where=where)
  if fields.get('answer') is not None:
    answer = text_of(fields, 'answer', where=where).strip()
    solution = fields.get('solution')
    return _problem(problem, answer=answer, solution=solution or answer)
  solution = text_of(fields, 'solution', where=where)
  answer = answer_text.boxed(solution)
  if answer is None:
    raise _no_answer(where, 'solution', r'has no whole \boxed{...}')
  return _problem(problem, answer=answer, solution=solution)


def integer(fields: Mapping[str, Any], where: str) -> dict[str, Any]:
  """A problem of AIME or AMC: `problem` (or `question`) and a whole number.

  Args:
    fields: the row; names are read in whatever case they are written.
    where: file and row.

  Returns:
    `answer` without leading zeros: `33` for `033`, `33` or 33.0.
  """
  lower = {name.lower(): value for name, value in fields.items()}
  name = 'question' if 'problem' not in lower else 'problem'
  problem = text_of(lower, name, where=where)
  if 'answer' not in lower:
    text_of(lower, 'answer', where=where)  # Raises that it is missing.
  answer = _whole(lower['answer'])
  if answer is None:
    raise _no_answer(
      where, 'answer', f'{lower["answer"]!r} is not a whole number'
    )
  solution = lower.get('solution')
  if not (isinstance(solution, str) and solution.strip()):
    solution = answer
  return _problem(problem, answer=answer, solution=solution)


def humaneval(fields: Mapping[str, Any], where: str) -> dict[str, Any]:
  """A problem of HumanEval: the head of a function, to be gone on with.

  Args:
    fields: the row, with `prompt`, `canonical_solution`, `test` and
      `entry_point`.
    where: file and row.

  Returns:
    `answer` is the canonical solution: the body of the function.
  """
  for name in ('task_id', 'test', 'entry_point'):
    text_of(fields, name, where=where)
  problem = text_of(fields, 'prompt', where=where)
  body = text_of(fields, 'canonical_solution', where=where)
  return _problem(problem, answer=body, solution=body)


def mbpp(fields: Mapping[str, Any], where: str) -> dict[str, Any]:
  """A problem of MBPP: a sentence, and tests that a program has to pass.

  Args:
    fields: the row, with `text` (`prompt` in the sanitized edition), `code`,
      `test_list` and perhaps `test_setup_code` or `test_imports`.
    where: file and row.

  Returns:
    `prompt` shows the tests, which alone say what the function is called;
    `answer` is the reference program, `test_setup_code` a text in any case.
  """
  name = 'text' if 'text' in fields else 'prompt'
  problem = text_of(fields, name, where=where)
  code = text_of(fields, 'code', where=where).replace('\r\n', '\n')
  tests = fields.get('test_list')
  if not (
    isinstance(tests, list) and tests and all(isinstance(t, str) for t in tests)
  ):
    raise _no_answer(where, 'test_list', f'{tests!r} is no list of tests')
  setup = fields.get('test_setup_code') or '\n'.join(
    fields.get('test_imports') or ()
  )
  shown = '\n'.join(tests)
  added = _problem(problem, answer=code, solution=code)
  added['prompt'] = f'{problem}\nThe program has to pass these tests:\n{shown}'
  return {**added, 'test_setup_code': setup}


def _problem(problem: str, *, answer: str, solution: str) -> dict[str, Any]:
  return {
    'problem': problem,
    'prompt': problem,
    'answer': answer,
    'solution': solution,
  }


def _whole(value: Any) -> str | None:
  """The digits of a whole number, however it is written."""
  found = _WHOLE.fullmatch(str(value).strip())
  return str(int(found[1])) if found else None


def _no_answer(where: str, field: str, detail: str) -> BadRowError:
  return BadRowError(
    where=where,
    field=field,
    rule='no answer',
    detail=f'{detail}; correct the row, or leave it out with rows.drop',
  )
