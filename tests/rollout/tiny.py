"""A small decoder, ragged prompts and the layouts of a rollout."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from selfimprove.models.config import TransformerConfig
from selfimprove.models.transformer import make_policy
from selfimprove.rollout.decode import Sampling
from selfimprove.rollout.revise import Revise
from selfimprove.types import Prompts

VOCAB = 14
# Of 14 about equally likely ids three end an attempt: lengths are ragged.
EOS = (1, 7, 13)
INSTRUCTION = (12, 3, 12)
LIMITS = (6, 5)
PROMPT_LENGTHS = (5, 2, 4, 1, 5, 3, 2, 4)

CONFIG = TransformerConfig(
  vocab_size=VOCAB,
  num_layers=2,
  embed_dim=16,
  num_heads=4,
  num_kv_heads=2,
  head_dim=8,
  mlp_dim=32,
  tied_embeddings=False,  # Tied ones, untrained, say the same word for ever.
)
POLICY = make_policy(CONFIG)


@functools.cache
def params(seed=0):
  """Parameters with which the next token depends on the whole past."""
  return jax.jit(POLICY.init)(jax.random.key(seed))


def prompts(lengths=PROMPT_LENGTHS, *, slots=5, seed=0):
  """Left-padded prompts; the padding is an id like any other."""
  rng = np.random.default_rng(seed)
  count = len(lengths)
  tokens = rng.integers(0, VOCAB, (count, slots))
  mask = np.arange(slots)[None, :] >= slots - np.array(lengths)[:, None]
  answer = rng.integers(2, VOCAB, (count, 3))
  return Prompts(
    tokens=jnp.array(np.where(mask, tokens, 9), jnp.int32),
    mask=jnp.array(mask),
    example_id=jnp.arange(100, 100 + count, dtype=jnp.int32),
    answer=jnp.array(answer, jnp.int32),
    answer_mask=jnp.array(np.arange(3)[None] < 1 + np.arange(count)[:, None]),
    extra={},
  )


def take(tree, rows):
  """The given rows of every array of `tree`."""
  return jax.tree.map(lambda x: x[jnp.array(rows)], tree)


def revise(*, temperature=1.0, group_size=2, eos=EOS, **kwargs):
  """Attempt and revision with the instruction above."""
  return Revise(
    eos_ids=jnp.array(eos, jnp.int32),
    instruction=jnp.array(INSTRUCTION, jnp.int32),
    sampling=Sampling(temperature=temperature, **kwargs),
    group_size=group_size,
    max_new_tokens=LIMITS,
  )


@functools.cache
def _jitted():
  return jax.jit(lambda how, *args: how(POLICY, *args))


def run(how, given, seed=0, weights=None):
  """The rollout of `how` on the prompts `given`, compiled once per shape."""
  weights = params() if weights is None else weights
  return _jitted()(how, weights, given, jax.random.key(seed))


def own_tokens(rollout, row):
  """Ids of the real tokens of a row, and the slot of each."""
  slots = np.flatnonzero(np.asarray(rollout.positions[row]) >= 0)
  return np.asarray(rollout.tokens[row])[slots], slots


@functools.cache
def _full_logits():
  def forward(weights, tokens):
    positions = jnp.arange(tokens.shape[1], dtype=jnp.int32)
    positions = jnp.broadcast_to(positions[None], tokens.shape)
    hidden, _ = POLICY.apply(weights, tokens, positions, None)
    return POLICY.unembed(weights, hidden)

  return jax.jit(forward)


def uncached_logits(tokens, seed=0):
  """Logits behind each token of one text: no cache, no padding, no group."""
  # Filled up behind the text, which causality hides from it: one compilation.
  filled = np.zeros((1, 32), np.int32)
  filled[0, : len(tokens)] = tokens
  return np.asarray(_full_logits()(params(seed), filled))[0, : len(tokens)]
