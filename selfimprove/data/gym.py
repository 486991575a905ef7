"""Problems of reasoning-gym: seeded generators, by name and parameters.

The problems are written by another process (see `gym_child`), the same ones on
every machine with the same release of reasoning-gym. They are judged by
`selfimprove.rewards.gym_scorer`, which reads what is put into each row here.
"""

from __future__ import annotations

import ast
import collections
import contextlib
import dataclasses
import functools
import hashlib
import sys
from collections import abc
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from selfimprove.data import chat, gym_process, rows, tasks, vocabularies
from selfimprove.data.problems import check_seed, uniforms
from selfimprove.data.splits import SPLITS, divided, split_of
from selfimprove.data.text_task import TextTask

Fields = dict[str, Any]
_Reply = tuple[int, tuple[Any, ...]]

_CHOICE = 6  # Stream of which generator comes next.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Generator:
  """A generator of reasoning-gym, as configured.

  Attributes:
    name: under which reasoning-gym knows it, such as `chain_sum`.
    parameters: of its own configuration, such as `max_terms`; they override
      those of the level. No `seed` and no `size`: these are the task's.
    level: of its curriculum: one for all attributes, from 0 (an attribute with
      fewer levels stays at its highest), or attribute -> level; None for the
      generator's own defaults.
    weight: share of the problems, relative to the other generators, above 0.
  """

  name: str
  parameters: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  level: int | Mapping[str, int] | None = None
  weight: float = 1.0

  def __post_init__(self) -> None:
    if not 0 < self.weight < float('inf'):
      raise ValueError(
        f'Generator {self.name!r} has weight {self.weight}; choose a number '
        'above 0, or take it off the list.'
      )


def reasoning_gym(
  *,
  generators: Sequence[Generator],
  vocabulary: vocabularies.Vocabulary,
  max_prompt_tokens: int,
  max_answer_tokens: int,
  problems: int = 8192,
  held_out: float = 1 / 16,
  seed: int = 0,
  prompt: str = '{question}',
  answer: str = '{answer}',
  seconds_per_problem: float = 60.0,
  prompt_form: chat.PromptForm | None = None,
  on_bad_row: rows.OnBadRow = rows.refuse,
  name: str = 'reasoning_gym',
) -> TextTask:
  """Problems of one generator or of several, in proportion to their weights.

  The split of a problem is a function of its question (see `splits.split_of`);
  those held out are all different. Problems are written at the first `read`.
  A row has, besides `prompt` and `answer`, what a scorer needs: `generator`,
  `parameters` and `entry`, the problem as reasoning-gym gave it, as a Python
  literal; and `level` and `part`, the place in `generators`.

  Args:
    generators: at least one.
    vocabulary: must be able to write every prompt and answer.
    max_prompt_tokens: the most that a prompt may have.
    max_answer_tokens: the most that an answer may have, without EOS.
    problems: number of draws, of all splits and generators together.
    held_out: the share of validation, and again of test; in (0, 0.5).
    seed: of the draw; the split does not depend on it.
    prompt: what is asked; `{question}` stands for the question.
    answer: what is right; `{answer}` stands for the reference answer.
    seconds_per_problem: time to write one, above 0.
    prompt_form: such as `chat.ChatPrompts`; None for the text alone.
    on_bad_row: `rows.refuse` stops with one sentence; `rows.drop` leaves the
      row out and counts it in `Table.dropped`.
    name: of the task.

  Returns:
    The task, with splits train, validation and test.

  Raises:
    ImportError: reasoning-gym is not installed.
    ValueError: a number is out of range or a placeholder is missing.
  """
  gym_process.check_installed()
  source = _Source(
    generators=tuple(generators),
    problems=problems,
    held_out=held_out,
    seed=seed,
    prompt=prompt,
    answer=answer,
    seconds=seconds_per_problem,
    on_bad_row=on_bad_row,
    encode=functools.partial(vocabularies.encode, vocabulary=vocabulary),
    # With a form, the length of a prompt is that of what the form makes of it.
    limits={
      'prompt': sys.maxsize if prompt_form else max_prompt_tokens,
      'answer': max_answer_tokens,
    },
  )
  return TextTask(
    name=name,
    provider=tasks.provider_of(
      name, splits=SPLITS, rows_of=source.rows_of, vocabulary=vocabulary
    ),
    vocabulary=vocabulary,
    max_prompt_tokens=max_prompt_tokens,
    max_answer_tokens=max_answer_tokens,
    prompt_form=prompt_form,
    on_bad_row=on_bad_row,
    dropped=source.dropped,
  )


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Source:
  """The problems of all splits, written once, when they are asked for."""

  generators: tuple[Generator, ...]
  problems: int
  held_out: float
  seed: int
  prompt: str
  answer: str
  seconds: float
  on_bad_row: rows.OnBadRow
  encode: Callable[[str], Int[np.ndarray, 'tokens']]
  limits: Mapping[str, int]

  def __post_init__(self) -> None:
    """Refuses settings now that could only fail later."""
    check_seed(self.seed)
    split_of('', held_out=self.held_out)
    for setting, text, needed in (
      ('prompt', self.prompt, '{question}'),
      ('answer', self.answer, '{answer}'),
    ):
      if needed not in text:
        raise ValueError(
          f'{setting}={text!r} has no {needed}; write where it goes.'
        )
    if self.problems < 1 or not self.generators or not self.seconds > 0:
      raise ValueError(
        f'problems={self.problems} of {len(self.generators)} generators in '
        f'seconds_per_problem={self.seconds}: give at least one of each, and '
        'a time above 0.'
      )

  def rows_of(self, split: str) -> list[Fields]:
    return self._written[0][split]

  def dropped(self, split: str) -> Mapping[str, int]:
    """Of all splits: a problem that was not written belongs to none."""
    del split
    return self._written[1]

  @functools.cached_property
  def _written(self) -> tuple[dict[str, list[Fields]], dict[str, int]]:
    parts = self._parts()
    found: list[list[Fields | None]] = [[] for _ in self.generators]
    dropped = collections.Counter[str]()
    counts = [parts.count(i) for i in range(len(found))]
    with contextlib.closing(self._replies(counts)) as replies:
      for part, reply in gym_process.shown(replies, total=self.problems):
        where = f'{self.generators[part].name!r}, problem {len(found[part])}'
        try:
          fields = self._fields(part, where, reply)
        except rows.BadRowError as bad_row:
          self.on_bad_row(bad_row)
          dropped[bad_row.key] += 1
          fields = None
        found[part].append(fields)
    turns = [iter(rows_of_part) for rows_of_part in found]
    mixed = [next(turns[part]) for part in parts]
    parts_of = divided(
      [fields for fields in mixed if fields is not None],
      text_of=lambda fields: fields['question'],
      held_out=self.held_out,
    )
    return parts_of, dict(dropped)

  def _parts(self) -> list[int]:
    """Which generator writes each problem."""
    weights = np.asarray([generator.weight for generator in self.generators])
    ends = np.cumsum(weights / weights.sum())
    draw = uniforms(
      seed=self.seed, stream=_CHOICE, rows=self.problems, columns=1
    )
    places = np.searchsorted(ends, draw[:, 0], side='right')
    # The shares may add up to a little less than 1.
    return np.minimum(places, len(ends) - 1).tolist()

  def _replies(
    self, counts: Sequence[int]
  ) -> abc.Generator[_Reply, None, None]:
    """What the child says about each problem, and of which generator."""
    asked = [i for i, count in enumerate(counts) if count]
    requests = [self._request(i, counts[i]) for i in asked]
    with contextlib.closing(gym_process.ask(requests)) as replies:
      for part in asked:
        kind, content = next(replies)
        if kind == 'error':
          raise ValueError(
            f'Generator {self.generators[part].name!r} cannot be used: '
            f'{content}.'
          )
        self._parameters[part] = repr(content)
        for _ in range(counts[part]):
          yield part, next(replies)

  def _request(self, part: int, count: int) -> dict[str, Any]:
    generator, level = self.generators[part], self.generators[part].level
    # The problem at index i of seed s is that at index 0 of seed s + i: seeds
    # next to each other would share most problems.
    text = f'{self.seed} {part} {generator.name}'.encode()
    digest = hashlib.blake2b(text, digest_size=4).digest()
    return {
      'name': generator.name,
      'parameters': dict(generator.parameters),
      'level': dict(level) if isinstance(level, Mapping) else level,
      'seed': int.from_bytes(digest, 'big') >> 1,
      'count': count,
      'seconds': self.seconds,
    }

  @functools.cached_property
  def _parameters(self) -> dict[int, str]:
    return {}

  def _fields(self, part: int, where: str, reply: tuple[Any, ...]) -> Fields:
    """The row of a problem; raises `BadRowError`."""
    if reply[0] == 'bad':
      _, rule, detail = reply
      raise rows.BadRowError(where=where, field=None, rule=rule, detail=detail)
    _, answer, entry = reply
    question = ast.literal_eval(entry)['question']
    text = {
      'prompt': self.prompt.replace('{question}', question),
      'answer': self.answer.replace('{answer}', answer),
    }
    for field, limit in self.limits.items():
      rows.text_of(text, field, where=where)
      ids = rows.ids_of(text[field], field, where=where, encode=self.encode)
      rows.check_length(
        len(ids),
        field,
        where=where,
        limit=limit,
        setting=f'max_{field}_tokens',
      )
    return {
      **text,
      'question': question,
      'generator': self.generators[part].name,
      'parameters': self._parameters[part],
      'entry': entry,
      'level': self._request(part, 1)['level'],
      'part': part,
    }
