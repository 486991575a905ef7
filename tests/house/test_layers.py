"""Rooms import downwards only, and heavy libraries stay in their rooms."""

from __future__ import annotations

import subprocess
import sys

from importlinter import cli

from tests.house import project


def test_rooms_import_downwards_only(capsys):
  failed = cli.lint_imports(
    config_filename=str(project.root / 'pyproject.toml'), no_cache=True
  )
  assert not failed, capsys.readouterr().out


def test_rooms_that_compute_load_neither_gin_nor_tensorflow():
  rooms = ('types', 'ops', 'models', 'rollout', 'rewards', 'algorithms')
  modules = [
    '.'.join(path.with_suffix('').parts)
    for path in project.sources()
    if path.parts[1].removesuffix('.py') in rooms and path.name != '__init__.py'
  ]
  program = (
    f'import sys, {", ".join(modules)}\n'
    "heavy = {'gin', 'seqio', 'tensorflow', 'tensorflow_datasets', 'torch'}\n"
    'loaded = heavy & sys.modules.keys()\n'
    'sys.exit(str(loaded) if loaded else 0)'
  )
  run = subprocess.run(
    [sys.executable, '-c', program],
    cwd=project.root,
    capture_output=True,
    text=True,
  )
  assert run.returncode == 0, run.stderr
