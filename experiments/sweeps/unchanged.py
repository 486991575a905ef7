"""That the gin files of a sweep stay what they were."""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
import re

from experiments.sweeps.plan import ROW_FILE, Sweep
from selfimprove.configuration import ROOT, ConfigError
from selfimprove.evaluation.report import write_json

SWEEP_FILE = 'sweep.json'


def check(workdir: str, sweep: Sweep) -> None:
  """Refuses to go on with a sweep whose gin files have been edited since.

  Runs that have finished would be of other files than those that have not;
  until one has, what is wrong may be corrected.

  Args:
    workdir: of the sweep.
    sweep: the sweep.

  Raises:
    ConfigError: a file is missing, or is not what it was.
  """
  now: dict[str, str] = {}
  for file in sweep.files:
    _read(file, now)
  path = os.path.join(workdir, SWEEP_FILE)
  before: dict[str, str] = {}
  if os.path.exists(path):
    with open(path, encoding='utf-8') as opened:
      before = json.load(opened)
  changed = [file for file in now if before.get(file, now[file]) != now[file]]
  if changed and any(pathlib.Path(workdir).glob(f'*/{ROW_FILE}')):
    raise ConfigError(
      f'{", ".join(changed)} changed since runs of {workdir} were begun, and '
      'some have finished; use another --workdir, or what it was.'
    )
  write_json(path, {**before, **now})


def _read(file: str, found: dict[str, str]) -> None:
  """Fingerprints of a gin file and of those that it includes, by name."""
  if file in found:
    return
  paths = [os.path.join(base, file) for base in ('', ROOT)]
  path = next(filter(os.path.isfile, paths), None)
  if path is None:
    raise ConfigError(
      f'There is no gin file {file!r}, neither from the working directory nor '
      f'in {ROOT}.'
    )
  with open(path, encoding='utf-8') as opened:
    lines = [line.strip() for line in opened]
  # Comments may be corrected at any time.
  text = '\n'.join(line for line in lines if line and line[0] != '#')
  found[file] = hashlib.sha256(text.encode()).hexdigest()[:16]
  for other in re.findall(r"^include\s+['\"](.+?)['\"]", text, re.MULTILINE):
    _read(other, found)
