"""The arithmetic that a run asks for, whatever a compiler makes of it."""

from __future__ import annotations

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
  heads, kv = config.num_heads, config.num_kv_heads
  layer = 2 * d * heads * k + 2 * d * kv * k + 3 * d * config.mlp_dim
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
