"""An algorithm is a gin file: no code asks for its name."""

from __future__ import annotations

import ast
import re

from tests.house import project


def test_gin_files_are_short():
  sizes = {
    path: len(project.lines(path))
    for path in project.files()
    if path.suffix == '.gin' and path.parts[0] == 'gin_configs'
  }
  project.expect_none([item for item in sizes.items() if item[1] > 60])


def test_no_code_compares_the_name_of_an_algorithm():
  comparisons = [
    f'{path}:{node.lineno}: {ast.unparse(node)}'
    for path in project.sources()
    for node in ast.walk(project.syntax(path))
    if isinstance(node, ast.Compare) and _asks_for_an_algorithm(node)
  ]
  project.expect_none(comparisons)


def _asks_for_an_algorithm(node: ast.Compare) -> bool:
  operands = [node.left, *node.comparators]
  named = re.compile(r'(.*\.)?algo(rithm)?([._]?name)?')
  asks = any(named.fullmatch(ast.unparse(operand)) for operand in operands)
  return asks and any(_holds_a_string(operand) for operand in operands)


def _holds_a_string(node: ast.expr) -> bool:
  return any(
    isinstance(part, ast.Constant) and isinstance(part.value, str)
    for part in ast.walk(node)
  )


def test_no_argument_switches_an_algorithm_on():
  algorithms = {
    path.stem
    for path in project.files()
    if path.match('gin_configs/algorithms/*.gin')
  }
  switches = {f'{verb}_{name}' for name in algorithms for verb in _verbs}
  used = [
    f'{path}:{node.lineno}: {node.arg}'
    for path in project.sources()
    for node in ast.walk(project.syntax(path))
    if isinstance(node, ast.arg) and node.arg in switches
  ]
  project.expect_none(used)


_verbs = ('use', 'is', 'enable', 'with')
