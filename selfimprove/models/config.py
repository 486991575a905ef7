"""The shape of a decoder, and the options in which families differ."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class TransformerConfig:
  """A decoder-only transformer.

  Attributes:
    vocab_size: rows of the embedding table.
    num_layers: blocks.
    embed_dim: width of the residual stream.
    num_heads: query heads.
    num_kv_heads: key-value heads; divides `num_heads`.
    head_dim: size of a head; need not be `embed_dim / num_heads`.
    mlp_dim: width of the gated feed-forward layer.
    activation: `silu` (SwiGLU) or `gelu_tanh` (GeGLU).
    norm_eps: added to the mean square in RMSNorm.
    norm_offset: added to the stored scale of RMSNorm (1 in Gemma).
    post_norms: norms behind attention and feed-forward too (Gemma 2, 3).
    rope_theta: base of the rotary frequencies.
    local_rope_theta: base in sliding-window layers; None for `rope_theta`.
    qkv_bias: bias on query, key and value projections (Qwen2).
    qk_norm: RMSNorm on each query and key head (Qwen3, Gemma 3).
    query_scale: factor on the queries; None for `head_dim ** -0.5`.
    attention_soft_cap: c in c*tanh(x/c) on attention logits (Gemma 2).
    final_soft_cap: the same on the output logits (Gemma 2).
    sliding_window: tokens that a local layer sees, itself included.
    global_every: with a sliding window, every n-th layer sees everything; 1
      means all layers, 0 none.
    tied_embeddings: the embedding table is also the output matrix.
    embed_scale: factor on the embeddings (sqrt(embed_dim) in Gemma).
    dtype: of activations and the cache, `float32` or `bfloat16`.
    param_dtype: of stored parameters.
    remat: recompute each block in the backward pass.
  """

  vocab_size: int
  num_layers: int
  embed_dim: int
  num_heads: int
  num_kv_heads: int
  head_dim: int
  mlp_dim: int
  activation: str = 'silu'
  norm_eps: float = 1e-6
  norm_offset: float = 0.0
  post_norms: bool = False
  rope_theta: float = 10_000.0
  local_rope_theta: float | None = None
  qkv_bias: bool = False
  qk_norm: bool = False
  query_scale: float | None = None
  attention_soft_cap: float | None = None
  final_soft_cap: float | None = None
  sliding_window: int | None = None
  global_every: int = 0
  tied_embeddings: bool = True
  embed_scale: float = 1.0
  dtype: str = 'float32'
  param_dtype: str = 'float32'
  remat: bool = False

  def __post_init__(self) -> None:
    if self.num_heads % self.num_kv_heads:
      raise ValueError(
        f'num_heads={self.num_heads} is not a multiple of '
        f'num_kv_heads={self.num_kv_heads}; each key-value head serves a '
        'whole number of query heads.'
      )
    if self.head_dim % 2:
      raise ValueError(
        f'head_dim={self.head_dim} is odd; rotary positions turn pairs, so '
        'choose an even head size.'
      )
    for name in ('dtype', 'param_dtype'):
      if getattr(self, name) not in ('float32', 'bfloat16'):
        raise ValueError(
          f'{name}={getattr(self, name)!r} is not supported; use float32 or '
          'bfloat16.'
        )

  def windows(self) -> tuple[int | None, ...]:
    """Returns how many tokens each layer sees, None for all."""
    if self.sliding_window is None:
      return (None,) * self.num_layers
    every = self.global_every
    return tuple(
      None if every and (i + 1) % every == 0 else self.sliding_window
      for i in range(self.num_layers)
    )
