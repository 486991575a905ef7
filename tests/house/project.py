"""The project as the house tests read it: its files and their syntax trees."""

from __future__ import annotations

import ast
import functools
import pathlib
import subprocess
from collections.abc import Iterator

import pytest

root = pathlib.Path(__file__).parents[2]
package = root / 'selfimprove'

Function = ast.FunctionDef | ast.AsyncFunctionDef


@functools.cache
def files() -> tuple[pathlib.Path, ...]:
  """The files that git tracks or would track, relative to the root."""
  command = ['git', 'ls-files', '--cached', '--others', '--exclude-standard']
  listed = subprocess.run(command, cwd=root, capture_output=True, text=True)
  if listed.returncode:
    pytest.skip('not a git checkout', allow_module_level=True)
  paths = map(pathlib.Path, sorted(set(listed.stdout.splitlines())))
  return tuple(path for path in paths if (root / path).is_file())


def sources(folder: str = 'selfimprove') -> list[pathlib.Path]:
  """The Python files below a folder, relative to the root."""
  return [
    path for path in files() if path.suffix == '.py' and path.parts[0] == folder
  ]


def lines(path: pathlib.Path) -> list[str]:
  """The lines of a text file."""
  return (root / path).read_text(encoding='utf-8').splitlines()


@functools.cache
def syntax(path: pathlib.Path) -> ast.Module:
  """The syntax tree of a Python file."""
  return ast.parse((root / path).read_text(encoding='utf-8'))


def functions(path: pathlib.Path) -> Iterator[tuple[str, Function]]:
  """Functions and methods of a file with their dotted names.

  Functions inside functions belong to the one that holds them.
  """
  yield from _functions(syntax(path), path.as_posix())


def _functions(
  node: ast.Module | ast.ClassDef, name: str
) -> Iterator[tuple[str, Function]]:
  for child in node.body:
    if isinstance(child, Function):
      yield f'{name}:{child.name}', child
    elif isinstance(child, ast.ClassDef):
      yield from _functions(child, f'{name}:{child.name}')


def is_public(dotted_name: str) -> bool:
  """Whether no part after the file is private; magic methods are public."""
  parts = dotted_name.split(':')[1:]
  return not any(p.startswith('_') and not p.endswith('__') for p in parts)


def expect_none(offenders: list) -> None:
  """Fails with one offender a line."""
  assert not offenders, '\n'.join(map(str, offenders))
