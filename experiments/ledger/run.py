"""Runs the ledger: `python -m experiments.ledger.run --workdir=runs/ledger`.

Interrupted, the same command goes on where it was.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping, Sequence

from absl import app, flags

from experiments import pages
from experiments.ledger import arms, conversations, report, sweep, work
from selfimprove.evaluation.report import write_json

_WORKDIR = flags.DEFINE_string('workdir', None, 'Where everything goes.')
_TASKS = flags.DEFINE_list('tasks', [*arms.TASKS, conversations.TASK], 'Tasks.')
_ALGORITHMS = flags.DEFINE_list('algorithms', [], 'Arms; empty for all.')
_SEEDS = flags.DEFINE_list('seeds', [], 'Seeds; empty for those of each task.')
_TUNING_SEED = flags.DEFINE_integer(
  'tuning_seed', 1, 'Seed of the learning rates; not one of --seeds.'
)
_JOBS = flags.DEFINE_integer('jobs', 1, 'Processes.', lower_bound=1)
_RESULTS = flags.DEFINE_string(
  'results', 'experiments/ledger/results', 'Folder of ledger.json.'
)
_TABLES = flags.DEFINE_string(
  'tables', 'docs/results.md', 'Page whose tables are renewed.'
)


def main(argv: list[str]) -> None:
  """Trains and measures what is missing, then writes ledger and tables."""
  del argv
  workdir, given = _WORKDIR.value, list(map(int, _SEEDS.value))
  if not workdir:
    raise app.UsageError('Give a --workdir.')
  if _TUNING_SEED.value in given:
    raise app.UsageError(
      f'--tuning_seed={_TUNING_SEED.value} is one of --seeds: learning rates '
      'would be chosen by what is reported.'
    )
  tasks = [task for task in _TASKS.value if task != conversations.TASK]
  chosen = _chosen(tasks, _ALGORITHMS.value)
  names = {*_ALGORITHMS.value}
  talks = conversations.TASK in _TASKS.value and (
    not names or bool(names & {*conversations.NAMES})
  )
  if not chosen and not talks:
    raise app.UsageError(
      f'None of the arms {sorted(names)} is run on {_TASKS.value}; see '
      'experiments/ledger/arms.py.'
    )
  # A polite end: runs that have begun are finished, no other is begun.
  signal.signal(signal.SIGTERM, signal.default_int_handler)
  with sweep.processes(workdir, count=_JOBS.value) as perform:
    if chosen:
      _sweep(perform, chosen, given)
  if not talks:
    return
  _converse(workdir, _ALGORITHMS.value, given or conversations.SEEDS)


def _chosen(
  tasks: Sequence[str], names: Sequence[str]
) -> list[tuple[str, str]]:
  """Pairs of task and arm, task by task."""
  unknown = {*tasks} - {*arms.TASKS}
  known = {arm.name for arm in arms.ARMS} | {*conversations.NAMES}
  unknown |= {*names} - known
  if unknown:
    raise app.UsageError(
      f'There is no task or arm {sorted(unknown)}; see experiments/ledger/'
      'arms.py.'
    )
  return [
    (task, arm.name)
    for task in tasks
    for arm in arms.ARMS
    if task in arm.tasks and (not names or arm.name in names)
  ]


def _sweep(
  perform: sweep.Perform, chosen: Sequence[tuple[str, str]], given: list[int]
) -> None:
  """Base models, then learning rates, then seeds at the best of them."""
  tasks = list(dict.fromkeys(task for task, _ in chosen))
  tuning = _TUNING_SEED.value
  _perform(
    perform, [sweep.Job(task=t, arm=work.BASE, seed=tuning) for t in tasks]
  )
  tried = _perform(
    perform,
    [
      sweep.Job(task=task, arm=arm, seed=tuning, rate=rate)
      for task, arm in chosen
      for rate in arms.TASKS[task].rates
    ],
  )
  best, rows = _best(tried), list[work.Row]()
  seeds = {task: given or arms.TASKS[task].seeds for task in tasks}
  for turn in range(max(map(len, seeds.values()))):
    now = {task: of[turn] for task, of in seeds.items() if turn < len(of)}
    bases = [sweep.Job(task=t, arm=work.BASE, seed=now[t]) for t in now]
    runs = [
      sweep.Job(task=task, arm=arm, seed=now[task], rate=best[task, arm])
      for task, arm in chosen
      if (task, arm) in best and task in now
    ]
    rows += _perform(perform, bases).values()
    rows += _perform(perform, runs).values()
    # After every seed, so that an interrupted sweep leaves what it has.
    _write(rows)


def _converse(workdir: str, names: Sequence[str], seeds: Sequence[int]) -> None:
  """Learning rates of SCoRe's arms, then seeds at the best of them."""
  rates = conversations.best_rates(
    workdir, seed=_TUNING_SEED.value, names=names
  )
  rows = list[work.Row]()
  for seed in seeds:
    rows += conversations.rows(workdir, seed=seed, rates=rates, names=names)
    _write(rows)


def _perform(
  perform: sweep.Perform, jobs: Sequence[sweep.Job]
) -> dict[sweep.Job, work.Row]:
  """Rows of runs; says which of them have none."""
  rows, failures = perform(jobs)
  for sentence in failures:
    print(f'Without a row: {sentence}', file=sys.stderr)
  return rows


def _best(
  tried: Mapping[sweep.Job, work.Row],
) -> dict[tuple[str, str], float]:
  """The best learning rate, task by task and arm by arm."""
  best: dict[tuple[str, str], tuple[float, float]] = {}
  for job, row in tried.items():
    if job.rate is None:
      continue
    found = (row[arms.TASKS[job.task].chosen_by], job.rate)
    best[job.task, job.arm] = max(best.get((job.task, job.arm), found), found)
  return {key: rate for key, (_, rate) in best.items()}


def _write(rows: Sequence[work.Row]) -> None:
  """Ledger and tables, with what others have put into them."""
  paths = [
    os.path.join(_RESULTS.value, name)
    for name in ('ledger.json', 'ledger_details.json')
  ]
  details = report.merged(report.read(paths[1]), rows)
  ledger = report.merged(report.read(paths[0]), rows)
  write_json(paths[0], [report.ledger_row(row) for row in ledger])
  write_json(paths[1], details)
  pages.renew(_TABLES.value, report.tables(details))
  print(f'Written to {", ".join((*paths, _TABLES.value))}')


if __name__ == '__main__':
  app.run(main)
