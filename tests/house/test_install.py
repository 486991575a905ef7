"""A plain install brings what the library imports, and no accelerator."""

from __future__ import annotations

import ast
import functools
import importlib.metadata
import re
import sys
import tomllib
from collections.abc import Mapping

from packaging.requirements import Requirement

from tests.house import project

_metadata = tomllib.loads(
  (project.root / 'pyproject.toml').read_text(encoding='utf-8')
)['project']


def _name(text: str) -> str:
  return re.sub(r'[-_.]+', '-', text).lower()


def _requirements(lines: list[str]) -> dict[str, Requirement]:
  return {_name(Requirement(line).name): Requirement(line) for line in lines}


def test_every_dependency_has_a_lower_bound_and_no_upper_one():
  extras = _metadata['optional-dependencies'].values()
  for lines in [_metadata['dependencies'], *extras]:
    for requirement in _requirements(lines).values():
      assert [s.operator for s in requirement.specifier] == ['>='], requirement


def test_every_dependency_has_its_reason():
  """One dependency a line, and a comment behind it."""
  text = (project.root / 'pyproject.toml').read_text(encoding='utf-8')
  block = text[text.index('\ndependencies = [') :].split('\n]')[0]
  bare = [line for line in block.splitlines()[2:] if ' # ' not in line]
  project.expect_none(bare)


def test_what_the_library_imports_is_declared_and_the_reverse():
  declared = _requirements(_metadata['dependencies']).keys()
  optional = {
    name
    for lines in _metadata['optional-dependencies'].values()
    for name in _requirements(lines)
  }
  imported = {
    distribution
    for path in project.sources()
    for module in _imports(path)
    for distribution in _distributions(module)
  }
  assert imported - declared - optional == set()
  assert declared - imported == set()


def _imports(path) -> set[str]:
  modules = set()
  for node in ast.walk(project.syntax(path)):
    if isinstance(node, ast.Import):
      modules |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom) and node.module:
      modules |= {node.module}
  ours = {*sys.stdlib_module_names, 'selfimprove'}
  return {module for module in modules if module.split('.')[0] not in ours}


def _distributions(module: str) -> set[str]:
  known = _installed().get(module.split('.')[0], [module])
  return {_name(name) for name in known}


@functools.cache
def _installed() -> Mapping[str, list[str]]:
  return importlib.metadata.packages_distributions()


def test_a_plain_install_brings_no_accelerator():
  installed, wanted = set(), list(_metadata['dependencies'])
  while wanted:
    requirement = Requirement(wanted.pop())
    name = _name(requirement.name)
    if name in installed or not _applies(requirement):
      continue
    installed.add(name)
    wanted += importlib.metadata.requires(name) or []
  heavy = re.compile(r'torch|libtpu|(nvidia|cuda|jax-cuda|jax-rocm)\b.*')
  assert 'tensorflow' in installed, 'the walk did not get anywhere'
  project.expect_none([name for name in installed if heavy.fullmatch(name)])


def _applies(requirement: Requirement) -> bool:
  marker = requirement.marker
  return marker is None or marker.evaluate({'extra': ''})
