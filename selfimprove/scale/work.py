"""The arithmetic that a run asks for, whatever a compiler makes of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from selfimprove.models.config import TransformerConfig
from selfimprove.training.stages import Stage


def forward_flops(
  config: TransformerConfig,
  *,
  tokens: float,
  pairs: float,
  unembedded: float,
) -> float:
  """Operations of reading tokens once.

  Args:
    config: shape of the decoder.
    tokens: that are read.
    pairs: of a token and one that it sees, itself included.
    unembedded: tokens whose logits are made.

  Returns:
    2 per parameter of the layers and token, 4 per head, its size and pair, 2
    per parameter of the output matrix and logit.

  Source: arXiv 2001.08361, section 2.1, with attention and logits apart.
  """
  d, k = config.embed_dim, config.head_dim
  heads, layer = config.num_heads, _layer_size(config)
  return (
    2.0 * config.num_layers * layer * tokens
    + 4.0 * config.num_layers * heads * k * pairs
    + 2.0 * d * config.vocab_size * unembedded
  )


def of_stage(
  config: TransformerConfig, stage: Stage, rollout: Any
) -> dict[str, float]:
  """Operations of the parts of a step, over all chips.

  Slots are counted as tokens; recomputed layers are not counted again.

  Args:
    config: shape of the decoder.
    stage: with its algorithm and plan.
    rollout: shapes of its samples.

  Returns:
    Name of a part, as `cost.of_program` gives it -> operations.
  """
  rows, slots = rollout.tokens.shape
  groups, s = rows // rollout.group_size, rollout.prompt_slots
  written = slots - s
  prompt = groups * s * (s + 1) / 2
  sampled = rows * (written * s + written * (written + 1) / 2)
  read = forward_flops(
    config,
    tokens=groups * s + rows * written,
    pairs=prompt + sampled,
    unembedded=rows * written,
  )
  body = read - 2.0 * config.embed_dim * config.vocab_size * rows * written
  needs = stage.algorithm.needs
  found: dict[str, float] = {
    'old_logprobs': read,
    'ref_logprobs': read,
    'values': body,
    'prefill': forward_flops(
      config, tokens=groups * s, pairs=prompt, unembedded=groups
    ),
  }
  times = 3.0 + ('exact_kl' in needs)
  found['update'] = 0.0
  if stage.optimizer is not None:
    found['update'] = stage.epochs * times * read
  if stage.critic_optimizer is not None:
    found['critic'] = stage.epochs * 3.0 * body
  for start, end in rollout.spans:
    n = end - start
    found[f'decode_{start - s}'] = forward_flops(
      config,
      tokens=rows * n,
      pairs=rows * (n * start + n * (n + 1) / 2),
      unembedded=rows * n,
    )
  return found


def _layer_size(config: TransformerConfig) -> int:
  """Elements of the matrices of a layer."""
  heads = 2 * (config.num_heads + config.num_kv_heads) * config.head_dim
  return config.embed_dim * (heads + 3 * config.mlp_dim)


def decode_bytes(
  config: TransformerConfig,
  stage: Stage,
  rollout: Any,
  mesh_shape: Mapping[str, int],
) -> dict[str, float]:
  """Bytes that a chip has to read to draw the tokens of each attempt.

  For every token all weights but the table of embeddings, and the whole cache:
  its empty slots are read too. What is in the chip's fast memory already need
  not be, so that this is a little too much for very small models.

  Args:
    config: shape of the decoder.
    stage: with its plan.
    rollout: shapes of its samples.
    mesh_shape: mesh axis -> devices along it.

  Returns:
    Name of a part, such as `decode_0` -> bytes.
  """
  d, k, kv = config.embed_dim, config.head_dim, config.num_kv_heads
  layer = _layer_size(config)
  size = 2.0 if config.dtype == 'bfloat16' else 4.0
  model, fsdp = mesh_shape['model'], mesh_shape['fsdp']
  weights = size * (config.num_layers * layer + d * config.vocab_size) / model
  if config.decode_layout == 'stationary':
    weights /= fsdp
  group, start = rollout.group_size, rollout.prompt_slots
  groups = rollout.tokens.shape[0] // group
  parts = stage.plan.parts_to_sample(groups)
  across = mesh_shape['data'] * fsdp * mesh_shape['sequence']
  rows = groups // parts * group / across
  slots = rows * (rollout.tokens.shape[1] - start)
  slots += max(1.0, rows / group) * start
  split = model if kv % model == 0 else 1
  cache = 2.0 * size * config.num_layers * kv * k * slots / split
  return {
    f'decode_{begin - start}': parts * (end - begin) * (weights + cache)
    for begin, end in rollout.spans
  }
