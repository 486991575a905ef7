"""Compiles the cases one by one and keeps what was found.

    python -m experiments.pods.run [--only=nft] [--programs=learn]

goes on where it was interrupted: `results/fit.json` has a row per program and
part, and `docs/scale.md` the tables, which `experiments.pods.page` renews.
Quick estimates (`--depths=4,8`, `--effort=-1`) need an `--output` of their own.
"""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
import tempfile
from typing import Any

from absl import flags

from experiments.pods import cases, page
from selfimprove import command
from selfimprove.scale import report


def define_flags(values: flags.FlagValues) -> None:
  """Defines the flags of this command.

  Args:
    values: where they go.
  """
  flags.DEFINE_string(
    'only', '', 'Cases with this in their key.', flag_values=values
  )
  flags.DEFINE_string(
    'programs', '', 'Programs with this in their name.', flag_values=values
  )
  flags.DEFINE_string('depths', '', 'As for fit.', flag_values=values)
  flags.DEFINE_float('effort', 0.0, 'As for fit.', flag_values=values)
  flags.DEFINE_string(
    'output', str(page.RESULTS), 'File that is continued.', flag_values=values
  )


def main(options: flags.FlagValues) -> None:
  """Compiles what is not in the results yet, and prints the table.

  Args:
    options: parsed flags.

  Raises:
    ValueError: a flag cannot be used as it is.
    SystemExit: it was interrupted, or `fit` failed for a program.
  """
  path = pathlib.Path(options.output)
  wanted = _wanted(options)
  rows, failed = _read(path, options), []
  for i, (key, (case, program)) in enumerate(wanted.items()):
    title = f'[{i + 1}/{len(wanted)}] {case.name} {case.topology} {program}'
    if any(row['key'] == key for row in rows):
      command.say(f'{title}: is there')
      continue
    command.say(title)
    try:
      found = _fit(case, program, options)
    except KeyboardInterrupt:
      command.say('Stopped; the same command goes on.')
      raise SystemExit(130) from None
    except subprocess.CalledProcessError:
      failed.append(title)
      continue
    rows += [{**row, 'key': key} for row in found]
    _write(path, rows)
  print(report.table([row for row in rows if row['key'] in wanted]))
  if failed:
    sys.exit(f'Error: fit failed, as it says above, for {"; ".join(failed)}.')


def _wanted(options: flags.FlagValues) -> dict[str, tuple[cases.Case, str]]:
  """Key of the rows -> the case and its program."""
  found = {
    f'{case.key} | {program}': (case, program)
    for case in (*cases.published(), *cases.scaling())
    for program in case.programs
    if options.only in case.key and options.programs in program
  }
  if not found:
    raise ValueError(
      f'only={options.only!r} and programs={options.programs!r} are in no '
      'case; cases are as grpo llama-3.1-8b v4:4x4x4, programs as learn.'
    )
  return found


def _read(
  path: pathlib.Path, options: flags.FlagValues
) -> list[dict[str, Any]]:
  if (options.depths or options.effort) and path.resolve() == page.RESULTS:
    raise ValueError(
      f'depths={options.depths!r} and effort={options.effort:g} make estimates '
      f'that do not belong in {path}; give them an --output of their own.'
    )
  command.check_output(options.output)
  if not path.exists():
    return []
  try:
    return json.loads(path.read_text())
  except ValueError as error:
    raise ValueError(
      f'{path} is not JSON ({error}); remove it, or give another --output.'
    ) from error


def _fit(
  case: cases.Case, program: str, options: flags.FlagValues
) -> list[dict[str, Any]]:
  """The rows of a program; a process each, so that its memory is given back."""
  with tempfile.TemporaryDirectory() as folder:
    output = os.path.join(folder, 'fit.json')
    subprocess.run(
      [
        sys.executable,
        '-m',
        'selfimprove.fit',
        f'--gin_file=experiments/pods/{case.config}.gin',
        *(f'--gin_bindings={binding}' for binding in case.all_bindings),
        f'--topology={case.topology}',
        f'--mesh={case.mesh}',
        f'--depths={options.depths}',
        f'--effort={options.effort}',
        f'--programs=/{program}',
        f'--output={output}',
      ],
      check=True,
      stdout=subprocess.DEVNULL,
    )
    found = json.loads(pathlib.Path(output).read_text())
  return [{**row, 'config': case.name} for row in found]


def _write(path: pathlib.Path, rows: list[dict[str, Any]]) -> None:
  temporary = path.with_suffix('.tmp')
  temporary.write_text(json.dumps(rows, indent=1) + '\n')
  temporary.replace(path)


if __name__ == '__main__':
  command.start(define_flags, main)
