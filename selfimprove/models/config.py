"""The shape of a decoder, and the options in which families differ."""

from __future__ import annotations

import dataclasses

from selfimprove.models.rope import RopeScaling, YarnScaling
from selfimprove.partitioning import DECODE_LAYOUTS, TRAINING_LAYOUTS

ACTIVATIONS = ('silu', 'gelu_tanh')
DTYPES = ('float32', 'bfloat16')
REMAT = (
  'none',
  'full',
  'attention',
  'attention_inputs',
  'attention_dots',
  'most_dots',
  'mlp_dots',
  'dots',
  'offload_dots',
)
ATTENTION = ('auto', 'xla', 'splash', 'cudnn')
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
    out_bias: bias on the projection out of the heads.
    qk_norm: RMSNorm on each query and key head (Qwen3, Gemma 3).
    query_scale: factor on the queries; None for `head_dim ** -0.5`.
    attention_soft_cap: c in c*tanh(x/c) on attention logits (Gemma 2).
    final_soft_cap: the same on the output logits (Gemma 2).
    sliding_window: tokens that a local layer sees, itself included.
    global_every: with a sliding window, every n-th layer sees everything; 1
      means all layers, 0 none.
    global_first: with a sliding window, the first n layers see everything.
    tied_embeddings: the embedding table is also the output matrix.
    embed_scale: factor on the embeddings (sqrt(embed_dim) in Gemma).
    dtype: of activations and the cache, `float32` or `bfloat16`.
    param_dtype: of stored parameters.
    remat: what of each block the backward pass recomputes: `none`, or `full`
      for all; `attention` keeps what kernels of attention mixed,
      `attention_inputs` queries, keys and values too, `attention_dots` also
      the product behind attention, `most_dots` also one of the feed-forward
      (its gate); `mlp_dots` keeps both wide products of the feed-forward, and
      of attention what was mixed, keys and values; `dots` keeps all products,
      and `offload_dots` has these in the memory of the host.
    attention: what computes it where all tokens are read at once: `xla`;
      `splash`, the kernel for TPUs; `cudnn`, that for NVIDIA GPUs; or `auto`
      for the platform's own where it applies and is not mostly padding.
      Decoding is always by `xla`.
    training_layout: how layers lie over the mesh while texts are read and
      learned from: `tensor_parallel` splits heads and feed-forward over
      `model`; `fully_sharded` splits the rows over it instead and gathers a
      layer whole, which sends less where tokens are many. Rows that do not
      divide over the devices divide their tokens over those that are left.
    decode_layout: how parameters lie over the mesh while tokens are drawn:
      `gathered` has 1/model of them on each device, in `dtype`, copied there
      once for a rollout; `stationary` leaves them divided over `fsdp` too and
      sends activations instead.
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
  rope_scaling: RopeScaling | YarnScaling | None = None
  qkv_bias: bool = False
  out_bias: bool = False
  qk_norm: bool = False
  query_scale: float | None = None
  attention_soft_cap: float | None = None
  final_soft_cap: float | None = None
  sliding_window: int | None = None
  global_every: int = 0
  global_first: int = 0
  tied_embeddings: bool = True
  embed_scale: float = 1.0
  dtype: str = 'float32'
  param_dtype: str = 'float32'
  remat: str = 'none'
  attention: str = 'auto'
  training_layout: str = 'tensor_parallel'
  decode_layout: str = 'gathered'
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
    self._check_windows()

  def _check_windows(self) -> None:
    for name in ('global_every', 'global_first'):
      value = getattr(self, name)
      if value < 0:
        raise ValueError(
          f'{name}={value} is negative; give n for every n-th layer, or for '
          'the first n, or 0 for none.'
        )
      if value and self.sliding_window is None:
        raise ValueError(
          f'{name}={value} has no effect without a sliding window; set '
          f'sliding_window or leave {name} at 0.'
        )
    if self.sliding_window and isinstance(self.rope_scaling, YarnScaling):
      raise ValueError(
        'rope_scaling is a YarnScaling and there is a sliding window; their '
        'combination is not supported: leave one of them out.'
      )

  def _check_numbers(self) -> None:
    for name in (*_SIZES, *_POSITIVE_IF_SET):
      value = getattr(self, name)
      if value is None and name in _POSITIVE_IF_SET:
        continue
      if not value > 0:
        raise ValueError(f'{name}={value} is not positive; give one above 0.')

  def _check_names(self) -> None:
    known = {
      'activation': ACTIVATIONS,
      'dtype': DTYPES,
      'param_dtype': DTYPES,
      'attention': ATTENTION,
      'remat': REMAT,
      'training_layout': TRAINING_LAYOUTS,
      'decode_layout': DECODE_LAYOUTS,
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
    every, first = self.global_every, self.global_first
    return tuple(
      None
      if i < first or (every and (i + 1) % every == 0)
      else self.sliding_window
      for i in range(self.num_layers)
    )

  def scale_of_queries(self) -> float:
    """Returns the factor on the queries, that of YaRN included."""
    scale = self.query_scale or self.head_dim**-0.5
    if isinstance(self.rope_scaling, YarnScaling):
      # They scale queries and keys alike; cached keys are spared it here.
      scale *= self.rope_scaling.attention_factor**2
    return scale
