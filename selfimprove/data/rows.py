"""A checked problem, and what happens to one that fails its checks."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import numpy as np
from jaxtyping import Int


@dataclasses.dataclass(frozen=True, eq=False)
class Row:
  """One problem.

  Attributes:
    fields: prompt, answer and whatever else came with them, as text and plain
      Python values.
    prompt_ids: token ids of the prompt.
    answer_ids: token ids of the answer, without EOS.
    extra_ids: token ids of further fields that the task names.
  """

  fields: Mapping[str, Any]
  prompt_ids: Int[np.ndarray, 's']
  answer_ids: Int[np.ndarray, 'a']
  extra_ids: Mapping[str, Int[np.ndarray, 'n']] = dataclasses.field(
    default_factory=dict
  )


class BadRowError(ValueError):
  """A row that breaks a rule; the message says where, which and what to do.

  Attributes:
    key: field and rule, the name under which dropped rows are counted.
  """

  def __init__(
    self, *, where: str, field: str | None, rule: str, detail: str
  ) -> None:
    place = where if field is None else f'{where}, field {field!r}'
    super().__init__(f'{place}: {detail}.')
    self.key = f'{field or "row"}: {rule}'


OnBadRow = Callable[[BadRowError], None]
"""What to do with a bad row: raise, or return to leave it out and count it."""


def refuse(bad_row: BadRowError) -> NoReturn:
  """Stops at the first bad row.

  Args:
    bad_row: what is wrong, and where.

  Raises:
    BadRowError: always.
  """
  raise bad_row


def drop(bad_row: BadRowError) -> None:
  """Leaves the bad row out; it is counted in `Table.dropped`.

  Args:
    bad_row: what is wrong, and where.
  """
  del bad_row


def text_of(fields: Mapping[str, Any], field: str, *, where: str) -> str:
  """The text of a field.

  Args:
    fields: the row.
    field: which one.
    where: file and line, or the like.

  Returns:
    A string that is not blank.

  Raises:
    BadRowError: the field is missing, is not a string, or is blank.
  """
  if field not in fields:
    raise BadRowError(
      where=where,
      field=field,
      rule='missing',
      detail=f'is missing; the row has {sorted(fields)}, add it or rename one',
    )
  value = fields[field]
  if not isinstance(value, str):
    raise BadRowError(
      where=where,
      field=field,
      rule='not a string',
      detail=f'{value!r} is not a string; put it in quotes',
    )
  if not value.strip():
    raise BadRowError(
      where=where,
      field=field,
      rule='empty',
      detail=f'{value!r} is empty; write some text or remove the row',
    )
  return value


def ids_of(
  text: str,
  field: str,
  *,
  where: str,
  encode: Callable[[str], Int[np.ndarray, 'tokens']],
) -> Int[np.ndarray, 'tokens']:
  """The token ids of a field's text.

  Args:
    text: what the field holds.
    field: its name.
    where: file and line, or the like.
    encode: text to ids; ValueError where the vocabulary cannot write it.

  Returns:
    int32 ids.

  Raises:
    BadRowError: a character is not in the vocabulary.
  """
  try:
    return encode(text)
  except ValueError as error:
    raise BadRowError(
      where=where, field=field, rule='unknown character', detail=str(error)
    ) from error


def check_length(
  tokens: int, field: str, *, where: str, limit: int, setting: str
) -> None:
  """Refuses a field that does not fit.

  Args:
    tokens: how many the field has.
    field: its name.
    where: file and line, or the like.
    limit: the most it may have, at least 1.
    setting: what the user calls the limit.

  Raises:
    BadRowError: there are no tokens, or more than `limit`.
  """
  if tokens == 0:
    raise BadRowError(
      where=where,
      field=field,
      rule='empty',
      detail='has no tokens; write some text or remove the row',
    )
  if tokens > limit:
    raise BadRowError(
      where=where,
      field=field,
      rule='too many tokens',
      detail=(
        f'{tokens} tokens are more than {setting}={limit}; shorten it or raise '
        f'{setting}'
      ),
    )
