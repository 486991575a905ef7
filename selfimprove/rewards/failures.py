"""Attempts that got no verdict, kept for whoever corrects the verifier."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping
from typing import Any

FAILURES_FILE = 'verifier_failures.jsonl'
"""The file in the folder of a run."""


class VerifierError(RuntimeError):
  """An attempt that got no verdict.

  Attributes:
    reason: what happened.
    attempt: the text that was judged, whole.
    reference: the data row it was judged against, whole.
    path: file in which they were saved; None if nobody said where.
  """

  def __init__(
    self,
    name: str,
    reason: str,
    attempt: str,
    reference: Mapping[str, Any],
    *,
    path: pathlib.Path | None = None,
  ) -> None:
    saved = f'; both are whole in {path}' if path else ''
    super().__init__(
      f'Verifier {name!r} {reason.rstrip(".")} (attempt {attempt!r:.200}, '
      f'reference {dict(reference)!r:.200}{saved}); correct the verifier or '
      'the row, or give `HostVerifier` a `fallback` reward.'
    )
    self.reason = reason
    self.attempt = attempt
    self.reference = reference
    self.path = path


class FailureFile:
  """Where samples without a verdict are saved, one JSON object a line.

  Attributes:
    path: the file; None saves nothing.
  """

  def __init__(self) -> None:
    self.path: pathlib.Path | None = None

  def save(
    self,
    *,
    verifier: str,
    reason: str,
    timed_out: bool,
    attempt: str,
    reference: Mapping[str, Any],
  ) -> None:
    """Appends a sample, if there is a file.

    Args:
      verifier: its name.
      reason: what happened.
      timed_out: whether it ran out of time.
      attempt: what the model wrote.
      reference: data row; what JSON has no form for is written as text.
    """
    if self.path is None:
      return
    row = {
      'verifier': verifier,
      'reason': reason,
      'timed_out': timed_out,
      'attempt': attempt,
      'reference': dict(reference),
    }
    self.path.parent.mkdir(parents=True, exist_ok=True)
    with self.path.open('a', encoding='utf-8', newline='\n') as file:
      # One write: a kill cuts at most the last line.
      file.write(json.dumps(row, default=repr) + '\n')
