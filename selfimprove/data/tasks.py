"""The tasks that a configuration chooses from; each returns a `TextTask`."""

from __future__ import annotations

import difflib
import functools
import os
import sys
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from selfimprove.data import chat, rows, sums, vocabularies
from selfimprove.data.examples import source_of
from selfimprove.data.json_lines import Fields, Files
from selfimprove.data.splits import SPLITS, divided, split_of
from selfimprove.data.tensorflow_host import seqio, tf
from selfimprove.data.text_task import TextTask

DIGITS = vocabularies.CharVocabulary('0123456789=?')
"""Digits, the end of a prompt, and a sign to give an instruction with."""


def answer_first(
  *,
  vocabulary: seqio.Vocabulary = DIGITS,
  operands: int = 6,
  problems: int = 65536,
  zeros: float = 0.6,
  held_out: float = 1 / 16,
  seed: int = 0,
) -> TextTask:
  """The default task: sums whose answer stands before its working.

  Prompt: the operands and `=`; answer: their sum, then the running sums (see
  `sums.answer_to`). The split of a problem is a function of its text (see
  `splits.split_of`), so no two splits share one. Easy problems are drawn, and
  trained on, more often than others; those held out are all different.

  Args:
    vocabulary: has at least the digits and `=`.
    operands: digits of a prompt, at least 2.
    problems: number of draws, of all splits together.
    zeros: probability of an operand to be 0.
    held_out: the share of validation, and again of test; in (0, 0.5).
    seed: of the draw; the split does not depend on it.

  Returns:
    The task, with splits train, validation and test.

  Raises:
    ValueError: the vocabulary lacks a character, or a number is out of range.
  """
  vocabularies.encode('0123456789=', vocabulary=vocabulary)
  drawn = sums.draw(
    operands=operands, problems=problems, zeros=zeros, seed=seed
  )
  parts = divided(drawn, text_of=str, held_out=held_out)
  records = {
    split: [{'prompt': p, 'answer': sums.answer_to(p)} for p in prompts]
    for split, prompts in parts.items()
  }
  return TextTask(
    name='answer_first',
    provider=provider_of(
      'answer_first',
      splits=SPLITS,
      rows_of=records.__getitem__,
      vocabulary=vocabulary,
    ),
    vocabulary=vocabulary,
    max_prompt_tokens=operands + 1,
    max_answer_tokens=operands,
  )


def jsonl(
  *,
  train: str | os.PathLike[str],
  validation: str | os.PathLike[str] | None = None,
  test: str | os.PathLike[str] | None = None,
  vocabulary: seqio.Vocabulary,
  max_prompt_tokens: int,
  max_answer_tokens: int,
  held_out: float = 1 / 16,
  extra_tokens: Mapping[str, int] = types.MappingProxyType({}),
  prompt_form: chat.PromptForm | None = None,
  on_bad_row: rows.OnBadRow = rows.refuse,
  name: str = 'jsonl',
) -> TextTask:
  """The user's own problems: a JSON object a line, with `prompt` and `answer`.

  Other fields are kept as they are. With `train` alone its rows are split by
  their prompt (see `splits.split_of`); otherwise each file is a split, and the
  files must not share a prompt. Files are read at the first `read`.

  Args:
    train: path, which TensorFlow can open (so also `gs://`).
    validation: path of the validation split, if there is a file for it.
    test: path of the test split, if there is a file for it.
    vocabulary: must be able to write every prompt and answer.
    max_prompt_tokens: the most that a prompt may have.
    max_answer_tokens: the most that an answer may have, without EOS.
    held_out: the share of validation, and again of test, with `train` alone.
    extra_tokens: further text fields that rollouts read, such as a hint, and
      the most tokens that each may have.
    prompt_form: how a prompt becomes what the model reads, such as
      `chat.ChatPrompts`; None for its text alone.
    on_bad_row: `rows.refuse` stops with one sentence; `rows.drop` leaves the
      row out and counts it in `Table.dropped`.
    name: of the task.

  Returns:
    The task.

  Raises:
    ValueError: a path is not a path, or a number is out of range.
    FileNotFoundError: a file is not there.
  """
  named = {'train': train, 'validation': validation, 'test': test}
  # Refuses the share now, not at the first row.
  split_of('', held_out=held_out)
  files = Files(
    paths={k: _path(v, split=k) for k, v in named.items() if v is not None},
    check=functools.partial(
      _check_row,
      encode=functools.partial(vocabularies.encode, vocabulary=vocabulary),
      limits={
        # With a form, its length is that of what the form makes of it.
        'prompt': max_prompt_tokens if prompt_form is None else sys.maxsize,
        'answer': max_answer_tokens,
        **extra_tokens,
      },
    ),
    on_bad_row=on_bad_row,
    held_out=held_out,
  )
  return TextTask(
    name=name,
    provider=provider_of(
      name, splits=files.splits, rows_of=files.rows, vocabulary=vocabulary
    ),
    vocabulary=vocabulary,
    max_prompt_tokens=max_prompt_tokens,
    max_answer_tokens=max_answer_tokens,
    extra_tokens=extra_tokens,
    prompt_form=prompt_form,
    on_bad_row=on_bad_row,
    dropped=files.dropped,
  )


def registered(
  *,
  name: str,
  prompt_field: str = 'inputs',
  answer_field: str = 'targets',
  vocabulary: seqio.Vocabulary,
  max_prompt_tokens: int,
  max_answer_tokens: int,
  extra_tokens: Mapping[str, int] = types.MappingProxyType({}),
  prompt_form: chat.PromptForm | None = None,
  on_bad_row: rows.OnBadRow = rows.refuse,
) -> TextTask:
  """A task or mixture from the registry of seqio.

  Whatever registers it must have been imported, in gin by an `import`
  statement. Its splits are its own: that they share no problem is not checked.

  Args:
    name: under which seqio knows it.
    prompt_field: feature with the prompt, as text or as token ids.
    answer_field: feature with the answer, as text or as token ids.
    vocabulary: of the model; the one of the features that are token ids.
    max_prompt_tokens: the most that a prompt may have.
    max_answer_tokens: the most that an answer may have, without EOS.
    extra_tokens: further text fields that rollouts read, such as a hint, and
      the most tokens that each may have.
    prompt_form: how a prompt becomes what the model reads, such as
      `chat.ChatPrompts`; None for its text alone.
    on_bad_row: `rows.refuse` stops with one sentence; `rows.drop` leaves the
      row out and counts it in `Table.dropped`.

  Returns:
    The task.

  Raises:
    ValueError: nothing has that name, or its token ids are those of another
      vocabulary.
  """
  provider = _look_up(name)
  for field in (prompt_field, answer_field):
    feature = provider.output_features.get(field)
    if feature is None or not feature.dtype.is_integer:
      continue
    if feature.vocabulary != vocabulary:
      raise ValueError(
        f'Feature {field!r} of seqio task {name!r} is tokenized with another '
        'vocabulary than the model; give both the same one.'
      )
  return TextTask(
    name=name,
    provider=provider,
    vocabulary=vocabulary,
    max_prompt_tokens=max_prompt_tokens,
    max_answer_tokens=max_answer_tokens,
    prompt_field=prompt_field,
    answer_field=answer_field,
    extra_tokens=extra_tokens,
    prompt_form=prompt_form,
    on_bad_row=on_bad_row,
  )


def provider_of(
  name: str,
  *,
  splits: Sequence[str],
  rows_of: Callable[[str], Sequence[Fields]],
  vocabulary: seqio.Vocabulary,
) -> seqio.Task:
  """A seqio task over rows with `prompt` and `answer`.

  Args:
    name: of the task.
    splits: names of its splits.
    rows_of: split -> its rows, called at the first read.
    vocabulary: that writes prompts and answers.

  Returns:
    The task, which is not registered.
  """
  return seqio.Task(
    name,
    source=source_of(rows_of, splits=splits),
    preprocessors=[seqio.preprocessors.tokenize],
    output_features={
      field: seqio.Feature(vocabulary, add_eos=False)
      for field in ('prompt', 'answer')
    },
  )


def _look_up(name: str) -> seqio.Task | seqio.Mixture:
  try:
    return seqio.get_mixture_or_task(name)
  except ValueError as error:
    known = sorted(
      {*seqio.TaskRegistry.names(), *seqio.MixtureRegistry.names()}
    )
    near = difflib.get_close_matches(name, known, n=3) or known[:3]
    raise ValueError(
      f'seqio knows no task or mixture {name!r} (nearest: {near}); import the '
      'module that registers it.'
    ) from error


def _path(path: object, *, split: str) -> str:
  if not isinstance(path, str | os.PathLike):
    raise ValueError(
      f'{split}={path!r} is not a path; give a file, one JSON object a line.'
    )
  found = os.path.expanduser(os.fspath(path))
  if not tf.io.gfile.exists(found) or tf.io.gfile.isdir(found):
    raise FileNotFoundError(
      f'{split}={found!r} is not a file; give one with one JSON object a line.'
    )
  return found


def _check_row(
  fields: Mapping[str, Any],
  where: str,
  *,
  encode: Callable[[str], Int[np.ndarray, 'tokens']],
  limits: Mapping[str, int],
) -> None:
  for field, limit in limits.items():
    text = rows.text_of(fields, field, where=where)
    size = len(rows.ids_of(text, field, where=where, encode=encode))
    own = field in ('prompt', 'answer')
    setting = f'max_{field}_tokens' if own else f'extra_tokens[{field!r}]'
    rows.check_length(size, field, where=where, limit=limit, setting=setting)
