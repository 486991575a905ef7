"""The file tree in the README is the real one.

Listed are every file of the library but `__init__.py`, with its folder, and
every other folder and file at the top of the repository but dot-files. More may
be listed where it helps; whatever is listed exists and says what it is for.
"""

from __future__ import annotations

import ast
import re

from tests.house import project


def test_every_file_is_in_the_tree():
  lines = [_suggestion(entry) for entry in sorted(_expected() - _tree().keys())]
  project.expect_none(lines)


def test_everything_in_the_tree_exists():
  real = {path.as_posix() for path in project.files()}
  real |= {f'{p.as_posix()}/' for path in project.files() for p in path.parents}
  project.expect_none(sorted(_tree().keys() - real))


def test_everything_in_the_tree_has_a_purpose():
  project.expect_none(
    [entry for entry, purpose in _tree().items() if not purpose]
  )


def test_the_two_commands_are_in_the_readme():
  text = (project.root / 'README.md').read_text(encoding='utf-8')
  assert 'make demo' in text
  assert 'make test' in text


def _tree() -> dict[str, str]:
  """Path -> purpose; a folder ends with a slash."""
  text = (project.root / 'README.md').read_text(encoding='utf-8')
  block = re.search(r'^```\w*\n(selfimprove/.*?)^```', text, re.M | re.S)
  assert block, 'README.md has no code block that begins with selfimprove/'
  entries, folders = {}, []
  for line in filter(str.strip, block[1].splitlines()):
    depth = (len(line) - len(line.lstrip())) // 2
    name, _, purpose = line.strip().partition(' ')
    folders[depth:] = [name]
    entries[''.join(folders)] = purpose.strip()
  return entries


def _expected() -> set[str]:
  top = {path.parts[0] for path in project.files() if len(path.parts) == 1}
  folders = {f'{p.parts[0]}/' for p in project.files() if len(p.parts) > 1}
  rooms = {f'selfimprove/{p.parts[1]}/' for p in _library() if len(p.parts) > 2}
  modules = {p.as_posix() for p in _library() if p.name != '__init__.py'}
  visible = {name for name in top if not name.startswith('.')}
  return visible | folders | rooms | modules


def _library() -> list:
  return [path for path in project.files() if path.parts[0] == 'selfimprove']


def _suggestion(entry: str) -> str:
  """A line for the README, with the purpose from the docstring."""
  path = project.root / entry
  source = path / '__init__.py' if path.is_dir() else path
  purpose = '...'
  if source.suffix == '.py' and source.is_file():
    docstring = ast.get_docstring(ast.parse(source.read_text(encoding='utf-8')))
    purpose = (docstring or '...').splitlines()[0]
  depth = len(entry.strip('/').split('/')) - 1
  return '  ' * depth + f'{path.name}{"/" * entry.endswith("/")} {purpose}'
