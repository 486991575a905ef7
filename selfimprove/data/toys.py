"""Small tasks in which one idea each has something to win.

A hidden rule decides the answer and digits that do not matter make prompts
differ: a held-out prompt is a text that was never trained on, of facts that
were. Each function returns the problems, or with `rows = shown` the attempts
that a base model learns them from.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from selfimprove.data import decisions as _decisions
from selfimprove.data import facts as _facts
from selfimprove.data import many_answers as _many_answers
from selfimprove.data import tasks, vocabularies
from selfimprove.data.problems import Problem
from selfimprove.data.splits import SPLITS, divided
from selfimprove.data.text_task import TextTask

Rows = Callable[[Problem], list[dict[str, str]]]
"""What stands in the table for a problem."""


def asked(problem: Problem) -> list[dict[str, str]]:
  """The problem with its reference answer.

  Args:
    problem: any.

  Returns:
    One row, with `prompt`, `answer` and `kind`.
  """
  return [
    {'prompt': problem.prompt, 'answer': problem.answer, 'kind': problem.kind}
  ]


def shown(problem: Problem) -> list[dict[str, str]]:
  """What a base model imitates.

  Args:
    problem: any.

  Returns:
    Rows with `prompt`, `answer` and `kind`; the answers are attempts.
  """
  return [
    {'prompt': prompt, 'answer': text, 'kind': problem.kind}
    for prompt, text in problem.shown
  ]


def decisions(
  *,
  vocabulary: vocabularies.Vocabulary,
  classes: int = 4,
  filler: int = 24,
  right: float = 0.37,
  problems: int = 8192,
  held_out: float = 1 / 16,
  rows: Rows = asked,
  seed: int = 0,
) -> TextTask:
  """Three decisions, then noise (see `decisions.draw`).

  Args:
    vocabulary: has at least `decisions.CHARACTERS`.
    classes: kinds of prompt, in [1, 8].
    filler: digits that are shown behind an answer.
    right: probability of a decision that is shown to be right.
    problems: number of draws, of all splits together.
    held_out: the share of validation, and again of test; in (0, 0.5).
    rows: `asked` or `shown`.
    seed: of hidden table and draw.

  Returns:
    The task, with splits train, validation and test.
  """
  drawn = _decisions.draw(
    classes=classes, filler=filler, right=right, problems=problems, seed=seed
  )
  return _task('decisions', drawn, vocabulary, held_out, rows)


def facts(
  *,
  vocabulary: vocabularies.Vocabulary,
  hard: int = 32,
  easy: int = 20,
  slips: float = 0.2,
  known: float = 0.7,
  helped: float = 0.4,
  problems: int = 8192,
  held_out: float = 1 / 16,
  rows: Rows = asked,
  seed: int = 0,
) -> TextTask:
  """Facts, some of which only a hint brings up (see `facts.draw`).

  Args:
    vocabulary: has at least `facts.CHARACTERS`.
    hard: keys of which sampling finds nothing to reward.
    easy: keys that are mostly right.
    slips: probability of a digit that is shown to be random.
    known: probability of an attempt at an easy key to be right.
    helped: probability of a hint to help.
    problems: number of draws, of all splits together.
    held_out: the share of validation, and again of test; in (0, 0.5).
    rows: `asked` or `shown`.
    seed: of facts and draw.

  Returns:
    The task, with splits train, validation and test.
  """
  drawn = _facts.draw(
    hard=hard,
    easy=easy,
    slips=slips,
    known=known,
    helped=helped,
    problems=problems,
    seed=seed,
  )
  return _task('facts', drawn, vocabulary, held_out, rows)


def many_answers(
  *,
  vocabulary: vocabularies.Vocabulary,
  operands: int = 2,
  noise: int = 2,
  right: float = 0.15,
  problems: int = 8192,
  held_out: float = 1 / 16,
  rows: Rows = asked,
  seed: int = 0,
) -> TextTask:
  """Pairs of digits with a given sum (see `many_answers.draw`).

  Args:
    vocabulary: has at least `many_answers.CHARACTERS`.
    operands: digits that count, at least 1.
    noise: digits that do not matter.
    right: probability that a pair is shown because it is right.
    problems: number of draws, of all splits together.
    held_out: the share of validation, and again of test; in (0, 0.5).
    rows: `asked` or `shown`.
    seed: of the draw.

  Returns:
    The task, with splits train, validation and test.
  """
  drawn = _many_answers.draw(
    operands=operands, noise=noise, right=right, problems=problems, seed=seed
  )
  return _task('many_answers', drawn, vocabulary, held_out, rows)


def _task(
  name: str,
  drawn: Sequence[Problem],
  vocabulary: vocabularies.Vocabulary,
  held_out: float,
  rows: Rows,
) -> TextTask:
  """The task of drawn problems; held-out ones are all different."""
  parts = divided(drawn, text_of=lambda p: p.prompt, held_out=held_out)
  records = {
    split: [row for problem in problems for row in rows(problem)]
    for split, problems in parts.items()
  }
  every = [record for part in records.values() for record in part]
  return TextTask(
    name=name,
    provider=tasks.provider_of(
      name,
      splits=SPLITS,
      rows_of=records.__getitem__,
      vocabulary=vocabulary,
    ),
    vocabulary=vocabulary,
    max_prompt_tokens=max(len(record['prompt']) for record in every),
    max_answer_tokens=max(len(record['answer']) for record in every),
  )
