"""Rooms import downwards only, and heavy libraries stay in their rooms."""

from __future__ import annotations

import subprocess
import sys

from tests.house import project


def test_rooms_import_downwards_only():
  """The contracts of pyproject.toml, in a process of their own.

  Import Linter's console outlives the streams that pytest captures.
  """
  program = 'from importlinter import cli; cli.lint_imports_command()'
  run = _python(program, '--no-cache')
  assert run.returncode == 0, run.stdout + run.stderr


def test_rooms_that_compute_load_neither_gin_nor_tensorflow():
  rooms = ('types', 'ops', 'models', 'rollout', 'rewards', 'algorithms')
  modules = [
    '.'.join(path.with_suffix('').parts)
    for path in project.sources()
    if path.parts[1].removesuffix('.py') in rooms and path.name != '__init__.py'
  ]
  run = _python(
    f'import sys, {", ".join(modules)}\n'
    "heavy = {'gin', 'seqio', 'tensorflow', 'tensorflow_datasets', 'torch'}\n"
    'loaded = heavy & sys.modules.keys()\n'
    'sys.exit(str(loaded) if loaded else 0)'
  )
  assert run.returncode == 0, run.stderr


def _python(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
  return subprocess.run(
    [sys.executable, '-c', program, *arguments],
    cwd=project.root,
    capture_output=True,
    text=True,
  )
