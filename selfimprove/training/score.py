"""What a policy says about the tokens of a rollout (teacher forcing)."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Shaped

from selfimprove import partitioning
from selfimprove.ops import divergences, logprobs
from selfimprove.token_parts import Parts
from selfimprove.training import packing
from selfimprove.types import Critic, Params, Policy, Rollout, Scores

CHUNK_SIZE = 1024
"""Tokens whose logits exist at one time on each part of the mesh that has rows
of its own; bounds memory, changes no result."""


def score(
  policy: Policy,
  params: Params,
  rollout: Rollout,
  *,
  needs: Sequence[str] = (),
  ref_params: Params | None = None,
  chunk_size: int = CHUNK_SIZE,
  packed_rows: int = 0,
) -> Scores:
  """Log-probabilities of a rollout's tokens, and what else is needed.

  They are those of softmax(logits / temperature of the row): the distribution
  that was sampled, before truncation. A prompt is read once for its whole
  group. Logits exist for `chunk_size` tokens at a time and are recomputed in
  the backward pass.

  Args:
    policy: the model.
    params: its parameters; gradients flow to them.
    rollout: the tokens.
    needs: streams to compute; of them `entropy` and `exact_kl` concern this
      function, the others are left to others.
    ref_params: the reference of `exact_kl`; no gradient reaches it.
    chunk_size: tokens whose logits exist at one time, on each part of the mesh
      that has rows of its own, times the devices that share the vocabulary.
    packed_rows: rows into which the samples of a group are packed while the
      networks read them; 0 for a row each.

  Returns:
    Scores, 0 in the slots of the prompt.
  """
  read = functools.partial(
    predictors, policy, rollout=rollout, packed_rows=packed_rows
  )
  hidden = {'policy': read(params)}
  if 'exact_kl' in needs:
    frozen = jax.lax.stop_gradient(ref_params)
    hidden['reference'] = read(frozen)

  def measure(inputs: Mapping[str, Array]) -> dict[str, Array]:
    scale = inputs['temperature'][:, None]
    logits = policy.unembed(params, inputs['policy']) / scale
    out = {'logprobs': logprobs.selected_logprobs(logits, inputs['targets'])}
    if 'entropy' in needs:
      out['entropy'] = logprobs.entropy(logits)
    if 'exact_kl' in needs:
      reference = policy.unembed(frozen, inputs['reference']) / scale
      out['exact_kl'] = divergences.exact_kl(logits, reference)
    return out

  # Devices that share the vocabulary hold as many logits for more tokens.
  chunk_size *= partitioning.parts_of_vocabulary()
  streams = _over_tokens(measure, hidden, rollout, chunk_size)
  return Scores(logprobs=streams.pop('logprobs'), streams=streams)


def values(
  critic: Critic | None,
  params: Params,
  rollout: Rollout,
  *,
  packed_rows: int = 0,
) -> Float[Array, 'b t']:
  """Values of the states in which the tokens of a rollout were written.

  Args:
    critic: the value function.
    params: its parameters; gradients flow to them.
    rollout: the tokens.
    packed_rows: rows into which the samples of a group are packed while the
      networks read them; 0 for a row each.

  Returns:
    For each token the value of what stands before it; 0 in the prompt.

  Raises:
    ValueError: there is no critic.
  """
  if critic is None:
    raise ValueError(
      'The algorithm needs `values` and the run has no critic; bind '
      'stages.Stage.critic_optimizer.'
    )
  hidden = predictors(critic, params, rollout, packed_rows=packed_rows)
  pad = ((0, 0), (rollout.prompt_slots, 0))
  return jnp.pad(critic.value(params, hidden), pad)


def values_behind(
  critic: Critic, params: Params, rollout: Rollout
) -> Float[Array, 'b t']:
  """What a critic says behind each token, once the token has been read.

  `values` is what it says before a token is written. A classifier of whole
  sequences gives its score behind their last token.

  Args:
    critic: the classifier.
    params: its parameters; gradients flow to them.
    rollout: the tokens.

  Returns:
    One number per token; 0 in the prompt, arbitrary in empty slots.
  """
  start = rollout.prompt_slots
  _, hidden = critic.follow(
    params,
    _prompts(rollout),
    rollout.tokens[:, start:],
    rollout.positions[:, start:],
  )
  return jnp.pad(critic.value(params, hidden), ((0, 0), (start, 0)))


def predictors(
  policy: Policy | Critic,
  params: Params,
  rollout: Rollout,
  *,
  packed_rows: int = 0,
) -> Float[Array, 'b c d']:
  """The hidden state that predicts each token behind the prompt.

  Args:
    policy: the model, or a critic.
    params: its parameters.
    rollout: the tokens; the c slots behind its prompt are predicted.
    packed_rows: rows into which the samples of a group are packed while the
      networks read them; 0 for a row each.

  Returns:
    For each slot the hidden state of the slot before it.
  """
  start, group = rollout.prompt_slots, rollout.group_size
  # The last token predicts nothing; it is read, for lengths that are powers of
  # two fit kernels and devices, and one less does not.
  of_prompts, hidden = packing.read(
    policy,
    params,
    _prompts(rollout),
    rollout.tokens[:, start:],
    rollout.positions[:, start:],
    rows=packed_rows,
  )
  first = jnp.repeat(of_prompts[:, -1:], group, axis=0)
  return jnp.concatenate([first, hidden[:, :-1]], axis=1)


def _prompts(
  rollout: Rollout,
) -> tuple[Int[Array, 'p start'], Int[Array, 'p start']]:
  """Tokens and positions of the prompts, once for each group."""
  start, group = rollout.prompt_slots, rollout.group_size
  return rollout.tokens[::group, :start], rollout.positions[::group, :start]


def _over_tokens(
  measure: Callable[[Mapping[str, Array]], dict[str, Array]],
  hidden: Mapping[str, Float[Array, 'b c d']],
  rollout: Rollout,
  chunk_size: int,
) -> dict[str, Float[Array, 'b t']]:
  """`measure` of every token behind the prompt, chunk by chunk."""
  targets = rollout.tokens[:, rollout.prompt_slots :]
  slots = targets.shape[1]
  parts = Parts.of('tensor_parallel', targets.shape[0])
  temperature = jnp.repeat(rollout.temperature[:, None], slots, axis=1)
  inputs = {**hidden, 'targets': targets, 'temperature': temperature}
  flat = {name: _flat(x, parts) for name, x in inputs.items()}
  out = logprobs.chunked_map(
    measure, flat, chunk_size=chunk_size, parts=parts.rows * parts.columns
  )
  pad = ((0, 0), (rollout.prompt_slots, 0))
  return {k: jnp.pad(_by_row(x, parts, targets), pad) for k, x in out.items()}


def _flat(x: Array, parts: Parts) -> Shaped[Array, 'n ...']:
  """Tokens of [b c ...]; those of each part are neighbours."""
  missing = parts.missing(x.shape[1])
  if missing:
    widths = [(0, 0), (0, missing)] + [(0, 0)] * (x.ndim - 2)
    x = jnp.pad(x, widths, mode='edge')
  names = (None,) * (x.ndim - 2)
  return parts.apart(x, *names).reshape(-1, *x.shape[2:])


def _by_row(x: Array, parts: Parts, targets: Int[Array, 'b c']) -> Array:
  """Undoes `_flat` of an array like `targets`."""
  rows, slots = targets.shape
  x = x.reshape(parts.rows * parts.columns, -1)
  return parts.together(x, rows=rows)[:, :slots]
