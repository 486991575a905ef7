"""What a run begins with: parameters from where its config says."""

from __future__ import annotations

from collections.abc import Callable

import jax
from jax.sharding import Mesh

from selfimprove.models import hf, hf_config
from selfimprove.models.config import TransformerConfig
from selfimprove.ops.keys import named_key
from selfimprove.training import state_tree
from selfimprove.training.checkpoint import restore_params
from selfimprove.training.state import abstract_params
from selfimprove.types import Params, Policy

Read = Callable[[], Params]


def reader(
  path: str, model: TransformerConfig, policy: Policy, mesh: Mesh
) -> Read | None:
  """The function that reads the parameters of a checkpoint.

  Args:
    path: of a run or of a Hugging Face model; empty for none.
    model: shape of the policy.
    policy: whose parameters they are.
    mesh: where they go.

  Returns:
    () -> parameters; None if the seed is to make them.
  """
  if not path:
    return None

  def read() -> Params:
    like = abstract_params(policy, mesh)
    if hf.is_checkpoint(path):
      hf_config.check_same(path, model)
      return hf.load(path, model, like=like)
    return restore_params(path, like=like)

  return read


def base_params(
  policy: Policy, mesh: Mesh, *, seed: int, read: Read | None
) -> Params:
  """The parameters beside which adapters are trained.

  They are not in checkpoints: whoever opens one asks for them again.

  Args:
    policy: whose parameters they are.
    mesh: over which they are laid out.
    seed: of the run.
    read: gives them; None makes them from the seed.

  Returns:
    Parameters of the policy.
  """
  like = abstract_params(policy, mesh)
  shardings = jax.tree.map(lambda leaf: leaf.sharding, like)
  if read is not None:
    # They come from a checkpoint, on one device perhaps.
    return jax.device_put(read(), shardings)
  key = named_key(jax.random.key(seed), 'params')
  return jax.jit(policy.init, out_shardings=shardings)(key)


def check_base(saved: str | None, base: Params) -> str:
  """Refuses a base that adapters were not trained beside.

  Args:
    saved: fingerprint in their checkpoint; None if there is no checkpoint.
    base: what the config gives now.

  Returns:
    Its fingerprint.

  Raises:
    ValueError: it is another one.
  """
  found = state_tree.fingerprint(base)
  if saved not in (None, found):
    raise ValueError(
      f'The checkpoint holds adapters of a base with fingerprint {saved}, but '
      f'`init_from` and the seed give one with {found}; give back the '
      'parameters that the run began with.'
    )
  return found
