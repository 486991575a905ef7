"""Compiles the cases one by one and keeps what was found.

    python -m experiments.pods.run [--only=nft] [--depths=4,8] [--effort=-1]

goes on where it was interrupted; `results/fit.json` has a row per program and
part, and `docs/scale.md` the tables.
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
  """
  path = pathlib.Path(options.output)
  rows = json.loads(path.read_text()) if path.exists() else []
  done = {row['key'] for row in rows}
  wanted = [
    case
    for case in (*cases.published(), *cases.scaling())
    if options.only in case.key
  ]
  for i, case in enumerate(wanted):
    key = f'{case.key} | {options.programs} {options.depths} {options.effort:g}'
    print(f'[{i + 1}/{len(wanted)}] {key}', file=sys.stderr, flush=True)
    if key in done:
      continue
    rows += [
      {**row, 'key': key, 'effort': options.effort}
      for row in _fit(case, options)
    ]
    _write(path, rows)
  print(report.table(rows))


def _fit(case: cases.Case, options: flags.FlagValues) -> list[dict[str, Any]]:
  """The rows of a case; a process each, so that its memory is given back."""
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
        f'--programs={options.programs}',
        f'--output={output}',
      ],
      check=True,
      stdout=subprocess.DEVNULL,
    )
    found = json.loads(pathlib.Path(output).read_text())
  return [{**row, 'config': case.name} for row in found]


def _write(path: pathlib.Path, rows: list[dict[str, Any]]) -> None:
  path.parent.mkdir(parents=True, exist_ok=True)
  temporary = path.with_suffix('.tmp')
  temporary.write_text(json.dumps(rows, indent=1) + '\n')
  temporary.replace(path)


if __name__ == '__main__':
  command.start(define_flags, main)
