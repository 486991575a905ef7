"""What docs/data.md says of published data is what the catalogue says."""

from __future__ import annotations

import pathlib

import pytest

from selfimprove.data import catalogue

ROOT = pathlib.Path(__file__).parents[2]
PAGE = (ROOT / 'docs' / 'data.md').read_text(encoding='utf-8')


@pytest.mark.parametrize('name', sorted(catalogue.DATA_SETS))
def test_a_data_set_is_on_the_page_with_licence_and_command(name):
  found = catalogue.DATA_SETS[name]
  line = next(line for line in PAGE.splitlines() if f'`{name}.gin`' in line)
  assert found.licence in line
  assert found.origin in line
  assert found.fetch in PAGE
  assert f'data/{name}' in found.fetch
  assert (ROOT / 'gin_configs' / 'tasks' / f'{name}.gin').is_file()
