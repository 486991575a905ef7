"""Published data sets as tasks: a table of what is where, and one reader.

A data set is fetched by its user, with the command in the table, and read from
a folder in whichever of its published layouts it is found there. How it is
split follows its authors; what they do not hold out for validation is taken
from `train` by a hash of the problem (see `splits.split_of`).
"""

from __future__ import annotations

import functools
import os
import types
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from selfimprove.data import catalogue, chat, rows, sources
from selfimprove.data.catalogue import DataSet, Layout
from selfimprove.data.examples import source_of
from selfimprove.data.json_lines import Fields
from selfimprove.data.published_rows import Problems
from selfimprove.data.splits import split_of
from selfimprove.data.tensorflow_host import seqio, tf
from selfimprove.data.text_task import TextTask


def task(
  *,
  dataset: str,
  folder: str | os.PathLike[str],
  files: Mapping[str, str | Sequence[str]] = types.MappingProxyType({}),
  vocabulary: seqio.Vocabulary,
  max_prompt_tokens: int,
  max_answer_tokens: int,
  imitated: Literal['answer', 'solution'] = 'answer',
  template: str = '{prompt}',
  held_out: float = 1 / 24,
  extra_tokens: Mapping[str, int] = types.MappingProxyType({}),
  prompt_form: chat.PromptForm | None = None,
  on_bad_row: rows.OnBadRow = rows.refuse,
) -> TextTask:
  """A published data set, read from files at the first `read`.

  The rows keep all of their fields for rewards on the host, and have besides
  `problem`, `prompt`, `answer` and `solution` (see `formats`). A problem that
  a held-out split has is taken out of `train`, and counted.

  Args:
    dataset: name in `catalogue.DATA_SETS`.
    folder: where the data set was fetched to.
    files: split -> paths or patterns relative to the folder, in place of the
      published layout.
    vocabulary: of the model.
    max_prompt_tokens: the most that a prompt may have.
    max_answer_tokens: the most that a reference may have, without EOS.
    imitated: `answer` or `solution`: which of them is the reference in tokens,
      and the field `answer` of the row; the other one stays beside it, the
      final answer as `final_answer`.
    template: what the model is shown, with `{prompt}` in it.
    held_out: the share of `train` that is held out for validation (and test)
      where the authors give no such split; in (0, 0.5).
    extra_tokens: further text fields that rollouts read, and the most tokens
      that each may have.
    prompt_form: how a prompt becomes what the model reads, such as
      `chat.ChatPrompts`; None for its text alone.
    on_bad_row: `rows.refuse` stops with one sentence; `rows.drop` leaves the
      row out and counts it in `Table.dropped`.

  Returns:
    The task.

  Raises:
    FileNotFoundError: the data is not there; says how to fetch it.
    ValueError: there is no such data set, or an argument is out of range.
  """
  found = catalogue.look_up(dataset)
  split_of('', held_out=held_out)  # Refuses the share now.
  if '{prompt}' not in template:
    raise ValueError(
      f"template={template!r} shows no problem; write '{{prompt}}' in it."
    )
  if imitated not in ('answer', 'solution'):
    raise ValueError(f"imitated={imitated!r}; use 'answer' or 'solution'.")
  problems = Problems(
    dataset=found,
    layout=find(found, os.fspath(folder), files),
    shown=functools.partial(_shown, template=template, imitated=imitated),
    on_bad_row=on_bad_row,
    held_out=held_out,
  )
  return TextTask(
    name=dataset,
    provider=_provider(dataset, problems),
    vocabulary=vocabulary,
    max_prompt_tokens=max_prompt_tokens,
    max_answer_tokens=max_answer_tokens,
    extra_tokens=extra_tokens,
    prompt_form=prompt_form,
    on_bad_row=on_bad_row,
    dropped=problems.dropped,
  )


def find(
  dataset: DataSet,
  folder: str,
  files: Mapping[str, str | Sequence[str]],
) -> Layout:
  """The files of each split.

  Args:
    dataset: which.
    folder: where it was fetched to.
    files: split -> patterns, in place of the published layouts.

  Returns:
    Split -> paths, or the folder that tfds has prepared.

  Raises:
    FileNotFoundError: none of the layouts is there; says how to fetch one.
  """
  layouts = dataset.layouts
  if files:
    layouts = (
      {k: (v,) if isinstance(v, str) else v for k, v in files.items()},
    )
  elif dataset.tfds and (prepared := sources.tfds_folder(folder)):
    return dict.fromkeys(dataset.tfds, (prepared,))
  for layout in layouts:
    found = {
      split: tuple(
        path
        for pattern in patterns
        for path in sources.matching(folder, pattern)
      )
      for split, patterns in layout.items()
    }
    if all(found.values()):
      return found
  looked = '; or '.join(
    ', '.join(pattern for patterns in layout.values() for pattern in patterns)
    for layout in layouts
  )
  raise FileNotFoundError(
    f'{dataset.title} is not in {folder!r} (looked for {looked}); fetch it '
    f'with `{dataset.fetch}`, and give the folder where it is.'
  )


def _shown(fields: Fields, *, template: str, imitated: str) -> Fields:
  """The row with its template around the prompt and its reference chosen."""
  prompt = template.replace('{prompt}', fields['prompt'])
  chosen = {'prompt': prompt, 'answer': fields[imitated]}
  return {**fields, 'final_answer': fields['answer'], **chosen}


def _provider(name: str, problems: Problems) -> seqio.Task:
  """The seqio task: text, which `TextTask` turns into ids with its checks."""
  text: Any = seqio.Feature(
    seqio.PassThroughVocabulary(1), rank=0, dtype=tf.string
  )
  return seqio.Task(
    name,
    source=source_of(problems.rows, splits=problems.splits),
    preprocessors=[],
    output_features={'prompt': text, 'answer': text},
  )
