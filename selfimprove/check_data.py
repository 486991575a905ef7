"""What a run learns from: `python -m selfimprove.check_data --gin_file=...`.

Counts what is kept and left out of every split, by rule, and checks whether
problems that are trained on stand in the splits that are held out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from absl import flags

from selfimprove import command, configuration
from selfimprove.data import contamination, pipeline
from selfimprove.data.rows import Row
from selfimprove.evaluation.report import text_table, write_json
from selfimprove.experiment import Experiment

_SHOWN = 10


def define_flags(values: flags.FlagValues) -> None:
  """Defines the flags of this command.

  Args:
    values: where they go.
  """
  command.define_config_flags(values)
  flags.DEFINE_integer(
    'words',
    contamination.DEFAULT_WORDS,
    'Words in a row that two problems must share to be counted.',
    lower_bound=1,
    flag_values=values,
  )
  flags.DEFINE_string(
    'output', None, 'JSON file for the whole report.', flag_values=values
  )


def check(task: Any, *, size: int) -> dict[str, Any]:
  """The report on a task.

  Args:
    task: what an experiment trains on.
    size: words that two problems must share.

  Returns:
    Plain data: `splits` (rows, what was left out by rule, and the longest
    prompt and answer in tokens) and `contamination` (see
    `contamination.report`).
  """
  rows: dict[str, tuple[Row, ...]] = {}
  splits = {}
  for split in task.splits:
    rows[split], dropped = task.read(split)
    splits[split] = {
      'rows': len(rows[split]),
      'left_out': dropped,
      'prompt_tokens': max(len(row.prompt_ids) for row in rows[split]),
      'answer_tokens': max(len(row.answer_ids) for row in rows[split]),
      'epoch': _shares(task, rows[split]),
    }
  found = contamination.report(rows, size=size)
  return {'task': task.name, 'splits': splits, 'contamination': found}


def _shares(task: Any, rows: tuple[Row, ...]) -> dict[str, int]:
  """Slots of a cycle by source, of a mixture with rates."""
  mixed = isinstance(task, pipeline.Mixed)
  return {s.name: s.slots for s in task.shares(rows)} if mixed else {}


def tables(report: Mapping[str, Any]) -> str:
  """The report as text.

  Args:
    report: as `check` returns it.

  Returns:
    Tables, and the first problems that overlap.
  """
  splits = report['splits']
  lines = [
    text_table(
      [report['task'], 'rows', 'left out', 'prompt tokens', 'answer tokens'],
      [
        [
          name,
          str(found['rows']),
          str(sum(found['left_out'].values())),
          str(found['prompt_tokens']),
          str(found['answer_tokens']),
        ]
        for name, found in splits.items()
      ],
    )
  ]
  rules = [
    [f'{name}: {rule}', str(count)]
    for name, found in splits.items()
    for rule, count in sorted(found['left_out'].items())
  ]
  if rules:
    lines.append(text_table(['left out', 'rows'], rules))
  return '\n\n'.join([*lines, *_overlaps(report['contamination'])])


def _overlaps(found: Mapping[str, Any]) -> list[str]:
  """What is said of problems that are trained on and tested."""
  if len(found['checked']) < 2 or 'train' not in found['checked']:
    return ['Nothing to compare: a task needs train and another split.']
  header = [f'share {found["words"]} words with', 'rows of train']
  counts = [[split, str(count)] for split, count in found['counts'].items()]
  lines = [text_table(header, counts)]
  lines += [
    f'train row {row["row"]} and {row["other_split"]} row {row["other_row"]}: '
    f'"{row["ngram"]}"'
    for row in found['rows'][:_SHOWN]
  ]
  if len(found['rows']) > _SHOWN:
    lines.append(f'and {len(found["rows"]) - _SHOWN} more; see --output')
  return lines


def main(options: flags.FlagValues) -> None:
  """Prints the report and writes the JSON that the flags ask for.

  Args:
    options: parsed flags.

  Raises:
    ConfigError: the configuration cannot be used.
  """
  experiment = configuration.build(
    Experiment, files=options.gin_file, bindings=options.gin_bindings
  )
  report = check(experiment.task, size=options.words)
  print(tables(report))
  if options.output:
    write_json(options.output, report)
    print(f'Written to {options.output}')


if __name__ == '__main__':
  command.start(define_flags, main)
