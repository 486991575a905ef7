"""Attempts that a scorer of reasoning-gym may be shown.

Some of its scorers give an attempt to `eval`, or to SymPy's parser, which does
the same: a model could write programs into its reward. What follows lets
through what an answer can look like and nothing that does anything.
"""

from __future__ import annotations

import ast
import re
import warnings

LITERALS = frozenset(
  {'binary_matrix', 'n_queens', 'spiral_matrix', 'string_insertion'}
)
"""Generators whose scorer evaluates an attempt, to find a list."""

ARITHMETIC = frozenset({'countdown', 'puzzle24'})
"""Generators whose scorer evaluates an attempt of numbers."""

FORMULAS = frozenset(
  {
    'intermediate_integration',
    'polynomial_multiplication',
    'simple_integration',
  }
)
"""Generators whose scorer evaluates an attempt of symbols."""

_LITERAL_NODES = (
  ast.Expression,
  ast.Constant,
  ast.List,
  ast.Tuple,
  ast.Name,
  ast.Load,
  ast.UnaryOp,
  ast.USub,
)
_ARITHMETIC = re.compile(r'[\d\s+\-*/().]*', re.ASCII)
_FORMULA = re.compile(r'[\w\s+\-*/().,]*', re.ASCII)
_NAME = re.compile(r'[A-Za-z_]\w*', re.ASCII)
# SymPy's N, S, O, Q and E can be called; x (1 + y) is a product nowhere.
_LETTER_CALL = re.compile(r'(?<![A-Za-z0-9_])[A-Za-z_][\s)]*\(', re.ASCII)
_FUNCTIONS = frozenset(
  {'sin', 'cos', 'tan', 'sec', 'csc', 'cot', 'sinh', 'cosh', 'tanh'}
  | {'asin', 'acos', 'atan', 'asinh', 'acosh', 'atanh'}
  | {'exp', 'log', 'sqrt', 'Abs', 'pi'}
)
_LONGEST_NUMBER = 15
_LARGEST_EXPONENT = 100


def is_harmless(attempt: str, *, generator: str) -> bool:
  """Whether the scorer of a generator may be shown an attempt.

  Args:
    attempt: what the model wrote.
    generator: name of the generator.

  Returns:
    True if the scorer evaluates nothing, or if this attempt does nothing.
  """
  if generator in LITERALS:
    return _is_literal(attempt)
  if generator in ARITHMETIC:
    return bool(_ARITHMETIC.fullmatch(attempt)) and _is_small(attempt)
  if generator in FORMULAS:
    known = all(
      len(name) == 1 or name in _FUNCTIONS for name in _NAME.findall(attempt)
    ) and not _LETTER_CALL.search(attempt)
    return bool(_FORMULA.fullmatch(attempt)) and known and _is_small(attempt)
  return True


def _is_literal(attempt: str) -> bool:
  """Whether `eval` finds a list of constants and names, or fails."""
  tree = _parsed(attempt)
  if isinstance(tree, bool):
    return tree
  return all(isinstance(node, _LITERAL_NODES) for node in ast.walk(tree))


def _is_small(attempt: str) -> bool:
  """Whether numbers and powers can be written out, and nothing is called on."""
  if any(len(n) > _LONGEST_NUMBER for n in re.findall(r'\d+', attempt)):
    return False
  tree = _parsed(attempt)
  if isinstance(tree, bool):
    return tree
  return not any(
    isinstance(node, ast.Attribute)
    or (
      isinstance(node, ast.BinOp)
      and isinstance(node.op, ast.Pow)
      and (_has_power(node.left) or not _is_exponent(node.right))
    )
    for node in ast.walk(tree)
  )


def _has_power(tree: ast.expr) -> bool:
  return any(isinstance(node, ast.Pow) for node in ast.walk(tree))


def _is_exponent(tree: ast.expr) -> bool:
  nodes = list(ast.walk(tree))
  operators = [node.op for node in nodes if isinstance(node, ast.BinOp)]
  numbers = [node.value for node in nodes if isinstance(node, ast.Constant)]
  return not any(
    isinstance(operator, ast.Pow | ast.Mult) for operator in operators
  ) and all(
    isinstance(number, int | float) and abs(number) <= _LARGEST_EXPONENT
    for number in numbers
  )


def _parsed(attempt: str) -> ast.Expression | bool:
  """The expression; True where there is none, False where it is too deep."""
  try:
    with warnings.catch_warnings():
      warnings.simplefilter('ignore')  # `1 (2)`: "perhaps a missing comma".
      return ast.parse(attempt.strip(), mode='eval')
  except (SyntaxError, ValueError):
    return True
  except (RecursionError, MemoryError):
    return False
