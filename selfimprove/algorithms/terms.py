"""Summands of a loss, per token: fillers of `Term.fn`.

All are to be minimised. Tokens outside `loss_mask` are made harmless before the
exponentials: an aggregate can drop an infinite value, but not the NaN that
differentiating it makes.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from selfimprove import types
from selfimprove.algorithms import ratios
from selfimprove.algorithms.base import Term, TermFn
from selfimprove.ops import divergences, losses
from selfimprove.types import Experience, Scores


@types.record
class PolicyGradient:
  """REINFORCE (`ops.losses.reinforce`)."""

  def __call__(
    self, experience: Experience, scores: Scores
  ) -> Float[Array, 'b t']:
    """Returns the policy-gradient loss of each token."""
    return losses.reinforce(scores.logprobs, experience.advantages)


@types.record
class ClippedSurrogate:
  """A ratio whose incentive ends (`ops.losses.clipped`): PPO's loss.

  Attributes:
    clip_low: how far below 1 the ratio is rewarded, in (0, 1].
    clip_high: how far above 1 the ratio is rewarded, above 0.
    ratio: of tokens or of sequences, and to what.
  """

  clip_low: float | Array = 0.2
  clip_high: float | Array = 0.2
  ratio: ratios.RatioFn = ratios.TokenRatio()

  def __call__(
    self, experience: Experience, scores: Scores
  ) -> Float[Array, 'b t']:
    """Returns the clipped policy-gradient loss of each token."""
    return losses.clipped(
      self.ratio(experience, scores),
      experience.advantages,
      clip_low=self.clip_low,
      clip_high=self.clip_high,
    )


@types.record
class DualClip:
  """Another loss, capped where it punishes (`ops.losses.dual_clipped`).

  Attributes:
    fn: the loss of a ratio.
    cap: largest ratio at which a token is punished, above 1.
  """

  fn: TermFn
  cap: float | Array = 3.0

  def __call__(
    self, experience: Experience, scores: Scores
  ) -> Float[Array, 'b t']:
    """Returns the capped loss of each token."""
    values = self.fn(experience, scores)
    return losses.dual_clipped(values, experience.advantages, cap=self.cap)


@types.record
class ClippedWeight:
  """REINFORCE with a bounded weight (`ops.losses.cispo`): CISPO.

  Needs `old_logprobs`.

  Attributes:
    clip_low: how far the weight falls below 1; 1 is no lower bound.
    clip_high: how far the weight rises above 1, above 0.
  """

  clip_low: float | Array = 1.0
  clip_high: float | Array = 0.28

  def __call__(
    self, experience: Experience, scores: Scores
  ) -> Float[Array, 'b t']:
    """Returns the policy-gradient loss of each token."""
    return losses.cispo(
      _on_loss(scores.logprobs, experience),
      _on_loss(experience.stream('old_logprobs'), experience),
      experience.advantages,
      clip_low=self.clip_low,
      clip_high=self.clip_high,
    )


@types.record
class Imitation:
  """Negative log-likelihood (`ops.losses.likelihood`)."""

  def __call__(
    self, experience: Experience, scores: Scores
  ) -> Float[Array, 'b t']:
    """Returns the negative log-likelihood of each token."""
    del experience  # Which tokens to imitate is in its `loss_mask`.
    return losses.likelihood(scores.logprobs)


@types.record
class ReferenceKL:
  """Divergence from the reference, estimated; needs `ref_logprobs`.

  Attributes:
    estimator: `ops.divergences.k2` or `k3`, or another function of logprobs and
      reference logprobs whose gradient vanishes where they are equal.
  """

  estimator: Callable[[Array, Array], Array] = types.static(
    default=divergences.k3
  )

  def __post_init__(self) -> None:
    # Configuration systems and type checkers wrap functions.
    if inspect.unwrap(self.estimator) is inspect.unwrap(divergences.k1):
      raise ValueError(
        'ReferenceKL got estimator k1: as a loss its gradient does not '
        'contain the reference, so it anchors nothing; use k2 or k3, or '
        'subtract k1 from the reward.'
      )

  def __call__(
    self, experience: Experience, scores: Scores
  ) -> Float[Array, 'b t']:
    """Returns the estimated divergence at each token."""
    ref_logprobs = jax.lax.stop_gradient(experience.stream('ref_logprobs'))
    return self.estimator(
      _on_loss(scores.logprobs, experience),
      _on_loss(ref_logprobs, experience),
    )


@types.record
class ExactKL:
  """Divergence from the reference over the vocabulary; needs `exact_kl`."""

  def __call__(
    self, experience: Experience, scores: Scores
  ) -> Float[Array, 'b t']:
    """Returns the divergence of each next-token distribution."""
    del experience  # The stream was computed against the reference already.
    return scores.stream('exact_kl')


@types.record
class EntropyBonus:
  """Minus the entropy: a positive weight rewards it; needs `entropy`."""

  def __call__(
    self, experience: Experience, scores: Scores
  ) -> Float[Array, 'b t']:
    """Returns minus the entropy of each next-token distribution."""
    del experience  # Entropy is a property of the policy alone.
    return -scores.stream('entropy')


def _on_loss(
  values: Float[Array, 'b t'], experience: Experience
) -> Float[Array, 'b t']:
  return jnp.where(experience.rollout.loss_mask, values, 0)


def check_terms(terms: Mapping[str, Term], *, attempts: int) -> None:
  """Refuses terms that speak of other attempts than there are.

  Args:
    terms: of an algorithm, by name.
    attempts: of its rollout.

  Raises:
    ValueError: a term has not one coefficient per attempt, or its `turns` name
      no attempt, or one that does not exist.
  """
  for name, term in terms.items():
    shape = jnp.shape(jnp.asarray(term.weight))
    if shape not in ((), (attempts,)):
      raise ValueError(
        f'Term {name!r} has a weight of shape {shape} for {attempts} attempts; '
        'give one number for all, or one per attempt.'
      )
    turns = range(attempts) if term.turns is None else term.turns
    if not turns or not set(turns) <= set(range(attempts)):
      raise ValueError(
        f'Term {name!r} has turns={tuple(turns)}, but the attempts are '
        f'{tuple(range(attempts))}; name at least one of them, or None for all.'
      )
