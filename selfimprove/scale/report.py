"""Rows about programs as text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_SIDES = {'flops': 'compute', 'hbm': 'memory', 'ici': 'links'}


def sentence(row: dict[str, Any]) -> str:
  """A program in one line, for whoever waits.

  Args:
    row: of a whole program.

  Returns:
    What it takes, and the advice where it does not fit.
  """
  fits = 'fits' if row['fits'] else 'does NOT fit'
  seconds = row['seconds_estimate']
  return (
    f'{row["program"]}: {row["hbm_gib_per_chip"]:.4g} of '
    f'{row["hbm_gib_of_chip"]:g} GiB, {fits}'
    f'{"" if seconds is None else f"; {seconds:.4g} s"} '
    f'(compiled in {row["compile_seconds"]:.0f} s)'
    f'{row["advice"] and ": " + row["advice"]}'
  )


def table(rows: Sequence[dict[str, Any]]) -> str:
  """A table in Markdown.

  Args:
    rows: as `measure.rows` makes them.

  Returns:
    Text with a line per row, and what each program that does not fit needs.
  """
  lines = [
    '| config | topology | mesh | program | GiB / chip | fits | s | roofline s '
    '| bound | MFU | tokens/s/chip | links GiB |',
    '|---|---|---|---|---|---|---|---|---|---|---|---|',
  ]
  for row in rows:
    traffic = sum((row.get('collective_gib') or {}).values())
    rate = row.get('tokens_per_second_per_chip')
    times = '? | ? | ? | ?'
    if row['seconds_estimate'] is not None:
      times = (
        f'{row["seconds_estimate"]:.3g} | {row["roofline_seconds"]:.3g} '
        f'| {_SIDES[row["bound"]]} | {row["mfu_estimate"]:.0%}'
      )
    lines.append(
      f'| {row["config"]} | {row["topology"]} | {row["mesh"]} '
      f'| {row["program"]} | {row["hbm_gib_per_chip"]:.3g} '
      f'| {"yes" if row["fits"] else "**no**"} '
      f'| {times} | {"" if rate is None else format(rate, ".4g")} '
      f'| {traffic:.3g} |'
    )
  advice = [
    f'- {row["program"]} on {row["topology"]}: {row["advice"]}'
    for row in rows
    if row.get('advice')
  ]
  return '\n'.join([*lines, *([''] if advice else []), *advice])


def ranking(found: Sequence[Any]) -> str:
  """The results of a search, best first.

  Args:
    found: what `search.search` returned.

  Returns:
    A table in Markdown.
  """
  lines = [
    '| mesh | microbatches | remat | GiB / chip | fits | s | how |',
    '|---|---|---|---|---|---|---|',
  ]
  for one in found:
    row, seconds = one.row, one.row['seconds_estimate']
    lines.append(
      f'| {row["mesh"]} | {row["microbatches"]} | {row["remat"]} '
      f'| {row["hbm_gib_per_chip"]:.3g} | {"yes" if row["fits"] else "**no**"} '
      f'| {"?" if seconds is None else format(seconds, ".3g")} '
      f'| {row["how"]} |'
    )
  return '\n'.join(lines)
