"""One verifier for a mixture of tasks, chosen row by row."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from selfimprove.rewards import pool


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class BySource:
  """The verdict of the verifier that a field of the row names.

  Attributes:
    verifiers: by the value of the field.
    field: of the data row.
  """

  verifiers: Mapping[str, pool.Verifier]
  field: str = 'source'

  def __post_init__(self) -> None:
    if not self.verifiers:
      raise ValueError('verifiers is empty; name one per source.')
    sent = {name: pool.importable(fn) for name, fn in self.verifiers.items()}
    object.__setattr__(self, 'verifiers', sent)

  @property
  def names(self) -> tuple[str, ...]:
    """Returns the sources, in their order; metrics are counted for each."""
    return tuple(self.verifiers)

  def name(self, reference: Mapping[str, Any]) -> str:
    """Returns the source of a row.

    Args:
      reference: data row.

    Raises:
      ValueError: the row names no verifier.
    """
    name = reference.get(self.field)
    if name not in self.verifiers:
      raise ValueError(
        f'The field {self.field!r} of the row is {name!r}, and there are '
        f'verifiers for {sorted(self.verifiers)}; add one, or correct the row.'
      )
    return str(name)

  def prepare(self) -> None:
    """Prepares those verifiers that ask for it."""
    for verifier in self.verifiers.values():
      getattr(verifier, 'prepare', lambda: None)()

  def check(self, reference: Mapping[str, Any]) -> None:
    """Has the row's verifier check it, if that does so.

    Args:
      reference: data row.

    Raises:
      ValueError: the row names no verifier, or that cannot judge by it.
    """
    verifier = self.verifiers[self.name(reference)]
    getattr(verifier, 'check', lambda _: None)(reference)

  def __call__(self, attempt: str, reference: Mapping[str, Any]) -> float:
    """Returns the verdict.

    Args:
      attempt: what the model wrote.
      reference: data row.

    Raises:
      ValueError: the row names no verifier.
    """
    return self.verifiers[self.name(reference)](attempt, reference)
