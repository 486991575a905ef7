"""What the documents say of the code is what the code says of itself."""

from __future__ import annotations

import pathlib
import re

from docs import algorithm_table

ROOT = pathlib.Path(__file__).parents[2]


def test_the_table_of_algorithms_is_what_the_gin_files_say():
  page = algorithm_table.PAGE.read_text(encoding='utf-8')
  _, rest = page.split(algorithm_table.BEGIN)
  shown = rest.split(algorithm_table.END)[0]
  assert shown == algorithm_table.table(), 'run `make docs`'


def test_every_metric_that_is_logged_is_explained():
  text = (ROOT / 'docs' / 'metrics.md').read_text(encoding='utf-8')
  source = '\n'.join(
    path.read_text(encoding='utf-8')
    for path in (ROOT / 'selfimprove').rglob('*.py')
  )
  logged = re.findall(
    r"metrics\[f?'([a-z]+/[a-z_]+)|'((?:policy|grad|eval)/[a-z_]+)':", source
  )
  names = {one or other for one, other in logged}
  assert len(names) > 8
  # `rollout/length_t` is written `rollout/length_t<n>` in the document.
  assert [name for name in sorted(names) if name not in text] == []
