"""Learned rewards, from the folders of finished runs or of checkpoints.

Each takes the shape of the network that was trained, because a folder is only
read for arrays; a shape that does not fit is refused with the first difference.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any

from jaxtyping import Array, Int

from selfimprove.experiment import MeshShape
from selfimprove.models import hf, hf_config
from selfimprove.models.config import TransformerConfig
from selfimprove.models.heads import make_critic
from selfimprove.models.transformer import make_policy
from selfimprove.rewards import learned
from selfimprove.training.checkpoint import restore_params, step_path
from selfimprove.training.score import score, values, values_behind
from selfimprove.training.state import abstract_params
from selfimprove.types import Params, Rollout

ALL_DEVICES = MeshShape()

Ids = Int[Array, 'n'] | tuple[int, ...]


def outcome_reward(
  *,
  workdir: str,
  model: TransformerConfig,
  step: int | None = None,
  mesh: MeshShape = ALL_DEVICES,
) -> learned.OutcomeReward:
  """The score of a reward model.

  Args:
    workdir: of a run that trained a critic, as `reward_model.gin` does; or a
      Hugging Face reward model as for `classifier_reward`.
    model: shape of its trunk. A Hugging Face checkpoint says that itself, and
      takes the dtypes from here.
    step: of the checkpoint; None for the newest.
    mesh: over which its parameters are laid out.

  Returns:
    A reward of attempts.

  Raises:
    FileNotFoundError: there is no such checkpoint.
    ValueError: it holds no critic, or one of another shape.
  """
  if hf.is_checkpoint(workdir):
    return classifier_reward(
      folder=workdir,
      dtype=model.dtype,
      param_dtype=model.param_dtype,
      mesh=mesh,
    )
  read, params = _critic(workdir, model, step, mesh)
  return learned.OutcomeReward(read=read, params=params)


def classifier_reward(
  *,
  folder: str,
  dtype: str = 'bfloat16',
  param_dtype: str | None = None,
  mesh: MeshShape = ALL_DEVICES,
) -> learned.OutcomeReward:
  """The score of a Hugging Face reward model, behind the last token.

  It reads the ids that the policy has written: both must have one tokenizer.

  Args:
    folder: of a `...ForSequenceClassification` checkpoint with one label, or
      its name on the hub.
    dtype: of its activations.
    param_dtype: of its parameters; None for what the checkpoint stores.
    mesh: over which its parameters are laid out.

  Returns:
    A reward of attempts.

  Raises:
    FileNotFoundError: there is no such checkpoint.
    ValueError: it tells no score, or cannot be computed.
  """
  model = hf_config.from_folder(
    folder=folder, dtype=dtype, param_dtype=param_dtype, remat='none'
  )
  return learned.OutcomeReward(
    read=_reader_behind(model), params=_classifier(folder, model, mesh)
  )


def process_reward(
  *,
  workdir: str,
  model: TransformerConfig,
  step_ends: Ids,
  step: int | None = None,
  mesh: MeshShape = ALL_DEVICES,
) -> learned.ProcessReward:
  """The probability that all steps are right, by a process reward model.

  Args:
    workdir: of a run that trained one, as `process_reward_model.gin` does.
    model: shape of its trunk.
    step_ends: ids that end a step, as in its training.
    step: of the checkpoint; None for the newest.
    mesh: over which its parameters are laid out.

  Returns:
    A reward of attempts.

  Raises:
    FileNotFoundError: there is no such checkpoint.
    ValueError: it holds no critic, or one of another shape.
  """
  read, params = _critic(workdir, model, step, mesh)
  return learned.ProcessReward(read=read, params=params, step_ends=step_ends)


def step_rewards(
  *,
  workdir: str,
  model: TransformerConfig,
  step_ends: Ids,
  baseline: float = 0.5,
  step: int | None = None,
  mesh: MeshShape = ALL_DEVICES,
) -> learned.StepRewards:
  """Rewards of single steps by a process reward model.

  Args:
    workdir: as for `process_reward`.
    model: shape of its trunk.
    step_ends: ids that end a step, as in its training.
    baseline: subtracted from the probability that a step is right.
    step: of the checkpoint; None for the newest.
    mesh: over which its parameters are laid out.

  Returns:
    A filler of `Algorithm.token_reward`.

  Raises:
    FileNotFoundError: there is no such checkpoint.
    ValueError: it holds no critic, or one of another shape.
  """
  read, params = _critic(workdir, model, step, mesh)
  return learned.StepRewards(
    read=read, params=params, step_ends=step_ends, baseline=baseline
  )


def implicit_rewards(
  *,
  workdir: str,
  model: TransformerConfig,
  beta: float,
  step: int | None = None,
  mesh: MeshShape = ALL_DEVICES,
) -> learned.ImplicitRewards:
  """Rewards of single tokens by an implicit process reward model.

  Args:
    workdir: of a run that trained one, as `implicit_reward.gin` does.
    model: its shape.
    beta: β of its training.
    step: of the checkpoint; None for the newest.
    mesh: over which its parameters are laid out.

  Returns:
    A filler of `Algorithm.token_reward`.

  Raises:
    FileNotFoundError: there is no such checkpoint.
    ValueError: it holds no reference policy, or one of another shape.
  """
  where = _checkpoint(workdir, step)
  return learned.ImplicitRewards(
    read=_reader_of_policy(model),
    params=_params(where, 'params', _policy(model), mesh),
    ref_params=_params(where, 'ref_params', _policy(model), mesh),
    beta=beta,
  )


def _checkpoint(workdir: str, step: int | None) -> str:
  if hf.is_checkpoint(workdir):
    raise ValueError(
      f'{workdir} is a Hugging Face checkpoint, and what judges steps is read '
      'from a run; name the workdir of one, or use outcome_reward.'
    )
  return step_path(os.path.join(workdir, 'checkpoints'), step=step)


def _critic(
  workdir: str, model: TransformerConfig, step: int | None, mesh: MeshShape
) -> tuple[learned.Read, Params]:
  where = _checkpoint(workdir, step)
  params = _params(where, 'critic_params', _made_critic(model), mesh)
  return _reader_of_critic(model), params


# A gin macro builds its object at every use: what is equal is one, so that
# parameters are there once and programs are compiled once.
_once: Callable[..., Any] = functools.lru_cache(maxsize=16)


@_once
def _params(where: str, part: str, network: Any, mesh: MeshShape) -> Params:
  like = abstract_params(network, mesh.make_or_replicate())
  return restore_params(where, like=like, part=part)


@_once
def _classifier(
  folder: str, model: TransformerConfig, mesh: MeshShape
) -> Params:
  like = abstract_params(_made_critic(model), mesh.make_or_replicate())
  return hf.load(folder, model, like=like)


@_once
def _made_critic(model: TransformerConfig) -> Any:
  return make_critic(model)


@_once
def _policy(model: TransformerConfig) -> Any:
  return make_policy(model)


@_once
def _reader_of_critic(model: TransformerConfig) -> learned.Read:
  return functools.partial(values, _made_critic(model))


@_once
def _reader_behind(model: TransformerConfig) -> learned.Read:
  return functools.partial(values_behind, _made_critic(model))


@_once
def _reader_of_policy(model: TransformerConfig) -> learned.Read:
  def read(params: Params, rollout: Rollout) -> Array:
    return score(_policy(model), params, rollout).logprobs

  return read
