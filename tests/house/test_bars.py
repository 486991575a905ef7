"""Sizes, names and documentation stay within the bars of CONTRIBUTING.md."""

from __future__ import annotations

import ast
import re
import statistics

import pytest

from tests.house import project


def test_files_are_short():
  sizes = {
    path: len(project.lines(path))
    for path in project.sources()
    if path.name != '__init__.py'
  }
  assert statistics.median(sizes.values()) <= 180
  project.expect_none([item for item in sizes.items() if item[1] > 500])


def test_an_algorithm_costs_a_small_file():
  """What many algorithms share is longer."""
  shared = ('base.py', 'credit.py', 'terms.py')
  sizes = {
    path: len(project.lines(path))
    for path in project.sources()
    if 'algorithms' in path.parts and path.name not in shared
  }
  assert len(sizes) > 5
  project.expect_none([item for item in sizes.items() if item[1] > 120])


def test_functions_are_short():
  """Counted from `def` to the last line, the docstring included."""
  sizes = [
    (node.end_lineno - node.lineno + 1, f'{path}:{node.lineno} {node.name}')
    for path in project.sources()
    for node in ast.walk(project.syntax(path))
    if isinstance(node, project.Function)
  ]
  assert statistics.median(size for size, _ in sizes) <= 12
  project.expect_none([item for item in sizes if item[0] > 80])


def test_public_functions_are_annotated():
  missing = [
    f'{name}({argument})'
    for path in project.sources()
    for name, node in project.functions(path)
    if project.is_public(name)
    for argument in _unannotated(node)
  ]
  project.expect_none(missing)


def _unannotated(node: project.Function) -> list[str]:
  signature = node.args
  arguments = [
    *signature.posonlyargs,
    *signature.args,
    *signature.kwonlyargs,
    *filter(None, [signature.vararg, signature.kwarg]),
  ]
  names = [
    argument.arg
    for argument in arguments
    if argument.annotation is None and argument.arg not in ('self', 'cls')
  ]
  return names if node.returns else [*names, 'return']


def test_public_functions_and_classes_are_documented():
  """Magic methods are documented by Python and by their class."""
  missing = [
    name
    for path in project.sources()
    for name, node in [*project.functions(path), *_classes(path)]
    if project.is_public(name)
    and not name.endswith('__')
    and not ast.get_docstring(node)
  ]
  project.expect_none(missing)


def test_modules_are_documented():
  undocumented = [
    str(path)
    for path in project.sources()
    if not ast.get_docstring(project.syntax(path))
  ]
  project.expect_none(undocumented)


def _classes(path):
  for node in project.syntax(path).body:
    if isinstance(node, ast.ClassDef):
      yield f'{path}:{node.name}', node


@pytest.mark.parametrize('section', ['Args:', 'Returns:', '>>> '])
def test_primitives_have_every_section(section):
  missing = [name for name, doc in _primitives() if section not in doc]
  project.expect_none(missing)


def test_a_source_comes_with_the_differences_from_it():
  one_sided = [
    name
    for name, doc in _primitives()
    if ('Source:' in doc) != ('Differs:' in doc)
  ]
  project.expect_none(one_sided)


def _primitives() -> list[tuple[str, str]]:
  return [
    (name, ast.get_docstring(node) or '')
    for path in project.sources()
    if path.parts[1] == 'ops'
    for name, node in project.functions(path)
    if project.is_public(name) and not name.endswith('__')
  ]


def test_there_is_enough_to_test_with():
  tests, source = (
    sum(len(project.lines(path)) for path in project.sources(folder))
    for folder in ('tests', 'selfimprove')
  )
  assert tests / source >= 0.6


def test_no_file_is_a_drawer():
  drawer = re.compile(r'(.*_)?(utils?|common|helpers?|misc)(_.*)?')
  project.expect_none(
    [path for path in project.files() if drawer.fullmatch(path.stem)]
  )


def test_rooms_are_one_level_deep():
  project.expect_none(
    [path for path in project.sources() if len(path.parts) > 3]
  )


def test_nothing_is_left_for_later():
  notes = re.compile(
    r'\b(' + '|'.join(['TO' + 'DO', 'FIX' + 'ME', 'XX' + 'X']) + r')\b'
  )
  project.expect_none(_matches(notes))


def test_no_path_of_somebodys_machine():
  """A shared folder of results or a home directory means nothing elsewhere."""
  folders = r'(?<![\w.:/}~-])/(root|home|Users|work|opt|mnt|workspace)/'
  project.expect_none(_matches(re.compile(folders)))


def _matches(pattern: re.Pattern[str]) -> list[str]:
  text = {'', '.py', '.gin', '.md', '.toml', '.yaml', '.json', '.sh', '.ipynb'}
  return [
    f'{path}:{number}: {line.strip()}'
    for path in project.files()
    if path.suffix in text
    for number, line in enumerate(project.lines(path), 1)
    if pattern.search(line)
  ]
