"""Whether a reward model was right: what it is evaluated by.

They stand where the reward of an evaluation stands, so that its accuracy is
that of the reward model; they read streams of the networks that are trained.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import jax.numpy as jnp
from jaxtyping import Array, Float

from selfimprove import types
from selfimprove.ops import masks
from selfimprove.types import Prompts, Rollout

Streams = Mapping[str, Float[Array, 'b t']]


class LabelsFn(Protocol):
  """What is right, as the data states it (`given.Labelled`)."""

  def __call__(
    self, rollout: Rollout, prompts: Prompts
  ) -> Float[Array, 'b turns']:
    """Returns 1 for right and 0 for wrong, per attempt."""


class ScoreFn(Protocol):
  """The score of a whole row."""

  @property
  def needs(self) -> tuple[str, ...]:
    """Names of the streams that it reads."""

  def __call__(self, rollout: Rollout, streams: Streams) -> Float[Array, 'b']:
    """Returns one score per row, above 0 for what is held to be right."""


@types.record
class CriticScore:
  """What the critic says where the last token is still to be written."""

  @property
  def needs(self) -> tuple[str, ...]:
    """Names of the streams that it reads."""
    return ('values',)

  def __call__(self, rollout: Rollout, streams: Streams) -> Float[Array, 'b']:
    """Returns one score per row."""
    turns = len(rollout.spans)
    said = masks.take_at_ends(streams['values'], rollout.turn, turns=turns)
    return said[:, -1]


@types.record
class LogRatioScore:
  """Σₜ log π(yₜ)/π_ref(yₜ): the implicit reward, whatever its β."""

  @property
  def needs(self) -> tuple[str, ...]:
    """Names of the streams that it reads."""
    return ('old_logprobs', 'ref_logprobs')

  def __call__(self, rollout: Rollout, streams: Streams) -> Float[Array, 'b']:
    """Returns one score per row."""
    ratio = streams['old_logprobs'] - streams['ref_logprobs']
    return jnp.sum(jnp.where(rollout.loss_mask, ratio, 0), axis=1)


@types.record
class PairRanked:
  """1.0 for both rows of a pair whose first row has the higher score.

  Attributes:
    score: of rows.
  """

  score: ScoreFn = CriticScore()

  @property
  def needs(self) -> tuple[str, ...]:
    """Names of the streams that it reads."""
    return self.score.needs

  def verdicts(
    self, rollout: Rollout, prompts: Prompts, streams: Streams
  ) -> Float[Array, 'b 1']:
    """Returns the verdicts."""
    del prompts
    pairs = self.score(rollout, streams).reshape(-1, 2)
    right = pairs[:, 0] > pairs[:, 1]
    return jnp.repeat(right, 2)[:, None].astype(jnp.float32)


@types.record
class OutcomeGuessed:
  """1.0 where the sign of the score is that of the label.

  Attributes:
    labels: (rollout, prompts) -> f32[b turns], 1 for right and 0 for wrong.
    score: of rows.
  """

  labels: LabelsFn
  score: ScoreFn = CriticScore()

  @property
  def needs(self) -> tuple[str, ...]:
    """Names of the streams that it reads."""
    return self.score.needs

  def verdicts(
    self, rollout: Rollout, prompts: Prompts, streams: Streams
  ) -> Float[Array, 'b 1']:
    """Returns the verdicts."""
    right = self.labels(rollout, prompts)[:, -1] > 0.5
    same = (self.score(rollout, streams) > 0) == right
    return same[:, None].astype(jnp.float32)


@types.record
class FirstErrorFound:
  """1.0 where the first step that is called wrong is the first wrong one.

  A step is called wrong if the critic's log-odds behind it are not above 0. An
  answer without a wrong step is judged rightly if none is called wrong.

  Source: arXiv 2412.06559 (ProcessBench), its accuracy.
  Differs: no.

  Attributes:
    labels: (rollout, prompts) -> f32[b turns], of steps (`judged.Steps`).
  """

  labels: LabelsFn

  @property
  def needs(self) -> tuple[str, ...]:
    """Names of the streams that it reads."""
    return ('values',)

  def verdicts(
    self, rollout: Rollout, prompts: Prompts, streams: Streams
  ) -> Float[Array, 'b 1']:
    """Returns the verdicts."""
    turns = len(rollout.spans)
    ones = jnp.ones_like(streams['values'])
    there = masks.take_at_ends(ones, rollout.turn, turns=turns) > 0
    said = masks.take_at_ends(
      masks.behind(streams['values']), rollout.turn, turns=turns
    )
    wrong = there & (self.labels(rollout, prompts) < 0.5)
    called = there & (said <= 0)
    # Without any the first is behind the last.
    first = lambda x: jnp.where(x.any(axis=1), jnp.argmax(x, axis=1), turns)  # noqa: E731
    return (first(wrong) == first(called))[:, None].astype(jnp.float32)
