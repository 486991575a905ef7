"""Speed of our rollout and GRPO step beside google-tunix, on one core.

    python benchmarks/compare_tunix.py --tunix_venv=~/.cache/tunix-0.1.7

Needs only the standard library: each side runs as a process of its own, in
its own environment, pinned to one core and with XLA at one thread. The sides
take turns, so that a slow minute of the machine meets both. `README.md` here
says what is measured and how to read the table.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import venv
from collections.abc import Mapping, Sequence
from typing import Any

Rounds = Sequence[Mapping[str, Any]]
"""The reports of one side, one per round."""

TUNIX_VERSION = '0.1.7'

# What the ratio tunix / ours must reach, from CPU seconds.
TARGETS = {'rollout': 1.5, 'step': 1.8}

SINGLE_THREAD = (
  '--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1'
)

HERE = pathlib.Path(__file__).resolve().parent


def environment() -> dict[str, str]:
  """Returns the environment variables of a measured process."""
  return os.environ | {
    'JAX_PLATFORMS': 'cpu',
    'XLA_FLAGS': SINGLE_THREAD,
    'OMP_NUM_THREADS': '1',
    'OPENBLAS_NUM_THREADS': '1',
    'TF_CPP_MIN_LOG_LEVEL': '2',
    'WANDB_MODE': 'disabled',
    'PYTHONPATH': str(HERE.parent),
  }


def installed(python: pathlib.Path, package: str) -> str | None:
  """Version of a distribution in another environment.

  Args:
    python: interpreter of that environment.
    package: name of the distribution.

  Returns:
    Its version, or None where it is not installed.
  """
  code = f'import importlib.metadata as m; print(m.version({package!r}))'
  done = subprocess.run(
    [python, '-c', code], capture_output=True, text=True, check=False
  )
  return done.stdout.strip() if done.returncode == 0 else None


def tunix_python(folder: pathlib.Path, jax_version: str) -> pathlib.Path:
  """Interpreter with Tunix, whose environment is made where it is missing.

  Args:
    folder: the environment; 1.6 GB once filled.
    jax_version: JAX that both sides are to have.

  Returns:
    Path of the interpreter.

  Raises:
    ValueError: the environment holds another version of Tunix.
  """
  python = folder / 'bin' / 'python'
  if not python.exists():
    print(f'Making {folder} for google-tunix {TUNIX_VERSION} ...', flush=True)
    venv.create(folder, with_pip=True)
    (folder / '.gitignore').write_text('*\n')
  found = installed(python, 'google-tunix')
  if found is None:
    wanted = [f'google-tunix=={TUNIX_VERSION}', f'jax=={jax_version}']
    install = [python, '-m', 'pip', 'install', '--quiet', *wanted]
    subprocess.run(install, check=True)
  elif found != TUNIX_VERSION:
    raise ValueError(
      f'{folder} has google-tunix {found}; the check is defined against '
      f'{TUNIX_VERSION}: give another folder with --tunix_venv.'
    )
  return python


def measure(
  python: pathlib.Path, script: str, flags: argparse.Namespace
) -> dict[str, Any]:
  """Runs one side once.

  Args:
    python: interpreter of the side.
    script: file beside this one.
    flags: core, numbers of rollouts and steps.

  Returns:
    The report that the side printed as its last line.

  Raises:
    RuntimeError: the side failed; its last lines are quoted.
  """
  pin = ['taskset', '-c', str(flags.core)]
  side = [str(python), '-W', 'ignore', str(HERE / script)]
  counts = [f'--rollouts={flags.rollouts}', f'--steps={flags.steps}']
  done = subprocess.run(
    [*pin, *side, *counts],
    env=environment(),
    capture_output=True,
    text=True,
    check=False,
  )
  if done.returncode:
    tail = '\n'.join(done.stderr.splitlines()[-15:])
    raise RuntimeError(f'{script} ended with {done.returncode}:\n{tail}')
  return json.loads(done.stdout.splitlines()[-1])


def check_equal(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> None:
  """Stops a comparison of unequal work.

  Args:
    ours: a report of our side.
    theirs: a report of Tunix's side.

  Raises:
    ValueError: parameters, tokens or cores differ.
  """
  for field in ('parameters', 'tokens', 'cores', 'xla_flags'):
    if ours[field] != theirs[field]:
      raise ValueError(
        f'The sides differ in {field}: ours {ours[field]!r}, Tunix '
        f'{theirs[field]!r}; make them equal before comparing times.'
      )


def median(rounds: Rounds, field: str) -> float:
  """Returns the median of a list field over all rounds of a side."""
  return statistics.median(
    seconds for report in rounds for seconds in report[field]
  )


def summarize(ours: Rounds, theirs: Rounds) -> dict[str, dict[str, Any]]:
  """Medians, ratios and whether the targets are met.

  Args:
    ours: reports of our side, one per round.
    theirs: reports of Tunix's side, in the same order.

  Returns:
    For `rollout` and `step`: CPU seconds of each side (median over all
    measurements of all rounds), `ratio` tunix / ours, the lowest and highest
    ratio of a single round, tokens/s of each side, the target and `met`.
  """
  summary = {}
  for name, target in TARGETS.items():
    field = f'{name}_seconds'
    mine, other = median(ours, field), median(theirs, field)
    by_round = [
      median([b], field) / median([a], field)
      for a, b in zip(ours, theirs, strict=True)
    ]
    tokens = ours[0]['tokens']
    summary[name] = {
      'ours': mine,
      'tunix': other,
      'ours_tokens_per_second': tokens / mine,
      'tunix_tokens_per_second': tokens / other,
      'ratio': other / mine,
      'ratio_low': min(by_round),
      'ratio_high': max(by_round),
      'target': target,
      'met': other / mine >= target,
    }
  return summary


def table(summary: Mapping[str, Mapping[str, Any]]) -> str:
  """Returns the summary as text for a person."""
  lines = [
    '              CPU seconds            tokens/s        tunix / ours',
    '            tunix     ours      tunix     ours   ratio (rounds)'
    '     target',
  ]
  for name, row in summary.items():
    verdict = 'met' if row['met'] else 'MISSED'
    lines.append(
      f'{name:8} {row["tunix"]:8.2f} {row["ours"]:8.2f}'
      f' {row["tunix_tokens_per_second"]:10.0f}'
      f' {row["ours_tokens_per_second"]:8.0f}'
      f'   {row["ratio"]:.2f}x ({row["ratio_low"]:.2f}-'
      f'{row["ratio_high"]:.2f})  {row["target"]:.1f}x {verdict}'
    )
  return '\n'.join(lines)


def parse_flags(arguments: Sequence[str] | None) -> argparse.Namespace:
  """Returns the flags of the command; None reads the command line."""
  parser = argparse.ArgumentParser(
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument(
    '--tunix_venv',
    type=lambda text: pathlib.Path(text).expanduser(),
    default=HERE / '.tunix_venv',
    help='environment of Tunix; made where it does not exist',
  )
  parser.add_argument(
    '--python',
    type=pathlib.Path,
    default=pathlib.Path(sys.executable),
    help='interpreter that has the dependencies of this project',
  )
  parser.add_argument('--rounds', type=int, default=3)
  parser.add_argument('--rollouts', type=int, default=5)
  parser.add_argument('--steps', type=int, default=5)
  parser.add_argument(
    '--core',
    type=int,
    default=max(os.sched_getaffinity(0)),
    help='the one core that both sides run on',
  )
  parser.add_argument(
    '--output',
    type=pathlib.Path,
    default=HERE / 'results' / 'tunix.json',
    help='where all measurements and the summary go',
  )
  return parser.parse_args(arguments)


def run_rounds(
  flags: argparse.Namespace, other_python: pathlib.Path
) -> tuple[Rounds, Rounds]:
  """Runs the sides in turns.

  Args:
    flags: of the command.
    other_python: interpreter with Tunix.

  Returns:
    Reports of our side and of Tunix's side, one per round.
  """
  ours, theirs = [], []
  for turn in range(flags.rounds):
    load = os.getloadavg()[0]
    print(f'Round {turn + 1} of {flags.rounds}, load {load:.1f}', flush=True)
    theirs.append(measure(other_python, 'tunix_side.py', flags))
    ours.append(measure(flags.python, 'our_side.py', flags))
    check_equal(ours[-1], theirs[-1])
    for report in (theirs[-1], ours[-1]):
      print(
        f'  {report["side"]:6}'
        f' rollout {median([report], "rollout_seconds"):.2f} s'
        f' step {median([report], "step_seconds"):.2f} s'
        f' (core at {report["core_gflops"]:.0f} GFLOP/s)',
        flush=True,
      )
  return ours, theirs


def main(arguments: Sequence[str] | None = None) -> None:
  """Measures both sides, prints the table and writes the file.

  Args:
    arguments: flags; None for those of the command line.

  Raises:
    SystemExit: something that the measurement needs is missing.
  """
  flags = parse_flags(arguments)
  if shutil.which('taskset') is None:
    raise SystemExit('taskset (util-linux) is missing: needed to pin a core.')
  jax_version = installed(flags.python, 'jax')
  if jax_version is None:
    raise SystemExit(
      f'{flags.python} has no jax: give the interpreter of this '
      "project's environment with --python."
    )
  other_python = tunix_python(flags.tunix_venv, jax_version)
  ours, theirs = run_rounds(flags, other_python)
  if ours[0]['versions']['jax'] != theirs[0]['versions']['jax']:
    print('Note: the sides have different versions of JAX, see the file.')
  summary = summarize(ours, theirs)
  print('\n' + table(summary))
  flags.output.parent.mkdir(parents=True, exist_ok=True)
  content = {'summary': summary, 'ours': ours, 'tunix': theirs}
  flags.output.write_text(json.dumps(content, indent=1) + '\n')
  print(f'\nAll measurements: {flags.output}')


if __name__ == '__main__':
  main()
