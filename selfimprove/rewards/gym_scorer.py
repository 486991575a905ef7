"""Verdicts of the scorers of reasoning-gym, for `verifiers.HostVerifier`.

Only the standard library is imported here; a worker process imports the package
when it is given its scorer, and keeps the generators that it has met.
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import functools
import io
import re
import warnings
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from selfimprove import answer_text
from selfimprove.rewards.gym_guards import is_harmless

Where = Literal['whole', 'last_line', 'tags', 'boxed']
"""Where in an attempt its answer stands."""

_FIELDS = ('generator', 'parameters', 'entry')
_TAGS = re.compile(r'<answer>(.*?)</answer>', re.DOTALL)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scorer:
  """The score that the generator of a problem gives an attempt.

  An attempt that the generator's scorer cannot read gets 0, and so does one
  that its scorer would execute (see `gym_guards`).

  Attributes:
    where: `whole` takes the attempt without white space around it; `last_line`
      its last line that is not blank; `tags` what is between the last
      <answer> and </answer>; `boxed` what is in its last box, as LaTeX has it.
      An attempt without what is asked for gets 0.
    minimum: a score below it becomes 0, in [0, 1]. The package gives parts of
      a point to answers that are close, long or well-formed; with 1 only what
      is right counts.
  """

  where: Where = 'whole'
  minimum: float = 0.0

  def __post_init__(self) -> None:
    if self.where not in ('whole', 'last_line', 'tags', 'boxed'):
      raise ValueError(
        f"where is {self.where!r}; use 'whole', 'last_line', 'tags' or 'boxed'."
      )
    if not 0 <= self.minimum <= 1:
      raise ValueError(f'minimum is {self.minimum}; use a number in [0, 1].')

  def __setstate__(self, state: dict[str, Any]) -> None:
    # In a worker, before its first call: that one's time is for a verdict.
    _package()
    self.__dict__.update(state)

  def __call__(self, attempt: str, reference: Mapping[str, Any]) -> float:
    """Returns the score.

    Args:
      attempt: what the model wrote.
      reference: data row of `data.gym.reasoning_gym`.

    Returns:
      A number, in [0, 1] as far as the package keeps to it.

    Raises:
      ValueError: the row is of another task.
      RuntimeError: the scorer fails on the row's own answer.
    """
    missing = [field for field in _FIELDS if field not in reference]
    if missing:
      raise ValueError(
        f'The row has no field {missing[0]!r}, so no generator of '
        'reasoning-gym can judge it; give the run the task '
        'gym.reasoning_gym, or another reward.'
      )
    answer = answer_in(attempt, where=self.where)
    generator = reference['generator']
    if answer is None or not is_harmless(answer, generator=generator):
      return 0.0
    dataset = _dataset(generator, reference['parameters'])
    entry = ast.literal_eval(reference['entry'])
    score = _score(dataset, answer, entry)
    return score if score >= self.minimum else 0.0


def answer_in(attempt: str, *, where: Where) -> str | None:
  r"""The answer that an attempt gives.

  Args:
    attempt: what the model wrote.
    where: see `Scorer`.

  Returns:
    The answer without white space around it; None where there is none.

  >>> answer_in(r'It is \boxed{\frac{1}{2}}.', where='boxed')
  '\\frac{1}{2}'
  """
  if where == 'whole':
    return attempt.strip()
  if where == 'last_line':
    lines = attempt.strip().splitlines()
    return lines[-1].strip() if lines else None
  if where == 'tags':
    found = _TAGS.findall(attempt)
    return found[-1].strip() if found else None
  return answer_text.boxed(attempt)


def _score(dataset: Any, answer: str, entry: dict[str, Any]) -> float:
  try:
    with _quiet():
      return float(dataset.score_answer(answer, entry))
  except Exception as error:
    # Some scorers raise on what they cannot read. That the problem is not to
    # blame shows in its own answer.
    try:
      with _quiet():
        dataset.score_answer(entry['answer'], entry)
    except Exception:
      raise RuntimeError(
        'reasoning-gym cannot score the reference answer '
        f'{entry["answer"]!r:.100} of {entry["question"]!r:.100}'
      ) from error
    return 0.0


def _package() -> Any:
  try:
    import reasoning_gym
  except ImportError as error:
    raise ImportError(
      'The scorers of reasoning-gym need that package; install it with: pip '
      "install 'selfimprove[reasoning]'"
    ) from error
  return reasoning_gym


@functools.lru_cache(maxsize=64)
def _dataset(generator: str, parameters: str) -> Any:
  """The generator, whose scorers read its configuration."""
  with _quiet():
    return _package().create_dataset(
      generator, **ast.literal_eval(parameters), seed=0, size=1
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
  with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
    warnings.simplefilter('ignore')
    yield
