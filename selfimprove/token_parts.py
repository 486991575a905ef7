"""Tokens of a batch side by side with those that are on the same devices.

Rows are divided over some devices and their slots over others. What is done to
each token by itself can then be done to one array of parts, whatever rows they
came from, and no token has to move for it.
"""

from __future__ import annotations

from typing import NamedTuple

from jaxtyping import Array, Shaped

from selfimprove import partitioning


class Parts(NamedTuple):
  """How the tokens of [b c ...] arrays are divided.

  Attributes:
    rows: equal parts along the first axis.
    columns: equal parts along the second.
    layout: in which the array is; one of `partitioning.LAYOUTS`.
  """

  rows: int
  columns: int
  layout: str

  @classmethod
  def of(cls, layout: str, count: int) -> Parts:
    """Those of so many rows on the mesh in context.

    Args:
      layout: one of `partitioning.LAYOUTS`.
      count: of rows.
    """
    layout = partitioning.layout_of_rows(layout, count)
    return cls(*partitioning.grid(layout), layout=layout)

  def missing(self, columns: int) -> int:
    """How many slots must be added to so many, for all parts to be equal."""
    return -columns % self.columns

  def apart(
    self, x: Shaped[Array, 'b c ...'], *names: str | None
  ) -> Shaped[Array, 'parts n ...']:
    """`x` with the tokens of each part in a row of their own.

    Args:
      x: of which rows and columns divide into the parts.
      *names: logical names of its other axes.
    """
    rest = x.shape[2:]
    if self.columns > 1:
      shape = (self.rows, -1, self.columns, x.shape[1] // self.columns, *rest)
      x = x.reshape(shape).swapaxes(1, 2)
    x = x.reshape(self.rows * self.columns, -1, *rest)
    return partitioning.constrain(x, 'flat', None, *names, rules=self._rules())

  def together(
    self, x: Shaped[Array, 'parts n ...'], *names: str | None, rows: int
  ) -> Shaped[Array, 'b c ...']:
    """Undoes `apart`.

    Args:
      x: what it made.
      *names: logical names of the axes behind the first two.
      rows: of what it was given.
    """
    rest = x.shape[2:]
    if self.columns > 1:
      x = x.reshape(self.rows, self.columns, rows // self.rows, -1, *rest)
      x = x.swapaxes(1, 2)
    x = x.reshape(rows, -1, *rest)
    return partitioning.constrain(
      x, 'rows', 'tokens', *names, rules=self._rules()
    )

  def _rules(self) -> partitioning.Rules:
    return partitioning.LAYOUTS[self.layout]
