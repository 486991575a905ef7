"""Every example in a docstring of the library runs and is right.

The standard collector passes by functions that a decorator wrapped, and the
runtime type checker wraps all of them: the docstrings are read from the source.
"""

from __future__ import annotations

import ast
import doctest
import importlib

import pytest

from tests.house import project


def _examples():
  for path in project.sources():
    for name, node in project.functions(path):
      docstring = ast.get_docstring(node)
      if docstring and '>>> ' in docstring:
        yield pytest.param(path, docstring, id=name)


@pytest.mark.parametrize(('path', 'docstring'), list(_examples()))
def test_examples_give_what_they_say(path, docstring):
  module = importlib.import_module('.'.join(path.with_suffix('').parts))
  parser = doctest.DocTestParser()
  case = parser.get_doctest(docstring, vars(module), path.stem, str(path), 0)
  report = []
  flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
  runner = doctest.DocTestRunner(optionflags=flags)
  failed, attempted = runner.run(case, out=report.append)
  assert attempted > 0
  assert not failed, ''.join(report)


def test_examples_were_found_in_ops():
  assert any('ops' in str(case.values[0]) for case in _examples())
