"""The shape of a decoder, and the options in which families differ."""

from __future__ import annotations

import dataclasses

ACTIVATIONS = ('silu', 'gelu_tanh')
DTYPES = ('float32', 'bfloat16')
_SIZES = (
  'vocab_size',
  'num_layers',
  'embed_dim',
  'num_heads',
  'num_kv_heads',
  'head_dim',
  'mlp_dim',
)
_POSITIVE_IF_SET = (
  'rope_theta',
  'local_rope_theta',
  'query_scale',
  'attention_soft_cap',
  'final_soft_cap',
  'sliding_window',
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RopeScaling:
  """How slow rotary frequencies are divided for longer contexts (Llama 3.1).

  A frequency that makes at least `high_frequency_factor` turns within the
  original context is kept, one that makes at most `low_frequency_factor` is
  divided by `factor`, and between them the two are mixed linearly in turns.

  Attributes:
    factor: by how much the context grew, >= 1.
    low_frequency_factor: turns below which a frequency is divided.
    high_frequency_factor: turns above which it is kept; the greater one.
    original_context: tokens of the context of pre-training.
  """

  factor: float
  low_frequency_factor: float
  high_frequency_factor: float
  original_context: int

  def __post_init__(self) -> None:
    low, high = self.low_frequency_factor, self.high_frequency_factor
    if not 0 < low < high:
      raise ValueError(
        f'low_frequency_factor={low} and high_frequency_factor={high} bound '
        'the mixed frequencies from below and above; give 0 < low < high.'
      )


def evenly_scaled(factor: float) -> RopeScaling:
  """Every rotary frequency divided by `factor`: linear scaling.

  Args:
    factor: by how much the context grew, >= 1.

  Returns:
    A scaling whose bounds no frequency reaches.
  """
  return RopeScaling(
    factor=factor,
    low_frequency_factor=1e29,
    high_frequency_factor=1e30,
    original_context=1,
  )


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
    rope_scaling: stretches the frequencies of layers that see everything.
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
    scan_layers: one compiled block for all layers in training; False unrolls
      them, which is a little faster and takes longer to compile with depth.
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
  rope_scaling: RopeScaling | None = None
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
  scan_layers: bool = True

  def __post_init__(self) -> None:
    self._check_numbers()
    self._check_names()
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
    if self.sliding_window is None and self.global_every:
      raise ValueError(
        f'global_every={self.global_every} has no effect without a sliding '
        'window; set sliding_window or leave global_every at 0.'
      )

  def _check_numbers(self) -> None:
    for name in (*_SIZES, *_POSITIVE_IF_SET):
      value = getattr(self, name)
      if value is None and name in _POSITIVE_IF_SET:
        continue
      if not value > 0:
        raise ValueError(f'{name}={value} is not positive; give one above 0.')
    if self.global_every < 0:
      raise ValueError(
        f'global_every={self.global_every} is negative; give n for every n-th '
        'layer, or 0 for none.'
      )

  def _check_names(self) -> None:
    known = {
      'activation': ACTIVATIONS,
      'dtype': DTYPES,
      'param_dtype': DTYPES,
    }
    for name, choices in known.items():
      if getattr(self, name) not in choices:
        raise ValueError(
          f'{name}={getattr(self, name)!r} is not supported; use '
          f'{" or ".join(choices)}.'
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
