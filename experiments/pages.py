"""Pages of the documentation whose tables are made."""

from __future__ import annotations

import os
import pathlib

BEGIN, END = '<!-- tables: begin -->', '<!-- tables: end -->'


def renew(path: str | os.PathLike[str], tables: str) -> None:
  """Writes tables between the marks of a page.

  Args:
    path: of the page; made where there is none.
    tables: Markdown.

  Raises:
    ValueError: the page has no such marks.
  """
  page = pathlib.Path(path)
  text = f'{BEGIN}\n{END}\n'
  if page.exists():
    text = page.read_text(encoding='utf-8')
  if BEGIN not in text or END not in text:
    raise ValueError(
      f'{path} has no lines {BEGIN!r} and {END!r}; put them where the tables '
      'belong.'
    )
  head, tail = text.split(BEGIN)[0], text.split(END)[1]
  page.parent.mkdir(parents=True, exist_ok=True)
  page.write_text(f'{head}{BEGIN}\n\n{tables}\n\n{END}{tail}', encoding='utf-8')
