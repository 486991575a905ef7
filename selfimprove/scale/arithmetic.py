"""Operations and traffic of single instructions."""

from __future__ import annotations

import functools
import math
import re

import numpy as np

from selfimprove.scale.hlo import Computation, Module, Op, Shape

FREE = frozenset(
  {
    'parameter',
    'constant',
    'get-tuple-element',
    'tuple',
    'bitcast',
    'after-all',
    'partition-id',
    'replica-id',
    'opt-barrier',
    'copy-done',
    'async-done',
    'async-update',
    'slice-done',
  }
)
"""Opcodes that move nothing."""
_SPLASH = re.compile(r'splash_mha_(fwd|dkv|dq)')
# Queries times keys and weights times values; going back, the weights again
# and the products for each gradient.
_SPLASH_PRODUCTS = {'fwd': 2, 'dkv': 4, 'dq': 3}
_READS_A_PART = ('dynamic-slice', 'slice', 'gather')
_PASSES_ON = ('bitcast', 'convert', 'copy', 'reshape', 'transpose')


def flops(op: Op, computation: Computation) -> float:
  """Operations of a matrix product, a multiply-add counted as two.

  Args:
    op: any instruction; those that are no products count as nothing.
    computation: that it is in, which knows the shapes of its operands.

  Returns:
    The number; of a kernel of our own, what it was said to take.
  """
  if op.opcode == 'dot':
    left = computation.ops[op.operands[0]].shapes[0]
    axes = _numbers(op.rest, 'lhs_contracting_dims')
    return 2.0 * op.shapes[0].size * math.prod(left.dims[a] for a in axes)
  if op.opcode == 'convolution':
    return _convolution(op, computation)
  if op.opcode == 'custom-call':
    said = re.search(r'"cost_estimate":\{[^}]*?"flops":"?(\d+)', op.rest)
    return float(said[1]) if said else _attention(op, computation)
  return 0.0


def _attention(op: Op, computation: Computation) -> float:
  """Products of a splash kernel, of which the compiler knows nothing."""
  kind = _SPLASH.search(op.op_name)
  wide = [
    shape.dims
    for name in op.operands
    if name in computation.ops
    for shape in computation.ops[name].shapes
    if len(shape.dims) in (3, 4) and shape.dtype in ('bf16', 'f32')
  ]
  if not kind or len(wide) < 2:
    return 0.0
  # One row on a chip has no axis of rows.
  (*rows, heads, length, size), (*_, slots, _) = wide[0], wide[1]
  # Query i of the last `length` slots sees all before it, blocks or not.
  seen = slots - (length - 1) / 2
  each = 2.0 * math.prod(rows) * heads * length * size
  return _SPLASH_PRODUCTS[kind[1]] * each * seen


def _convolution(op: Op, computation: Computation) -> float:
  """Products of a convolution; padding and dilation are no work."""
  labels = re.search(r'dim_labels=(\w+)_(\w+)->(\w+)', op.rest)
  assert labels is not None, op.rest
  left, right, out = labels.groups()
  source = computation.ops[op.operands[0]].shapes[0].dims
  kernel = computation.ops[op.operands[1]].shapes[0].dims
  result = op.shapes[0].dims
  window = re.search(r'window=\{([^}]*)\}', op.rest)
  fields = dict(re.findall(r'(\w+)=([\dx_\-]+)', window[1] if window else ''))
  total = 2.0 * result[out.index('b')] * result[out.index('f')]
  total *= kernel[right.index('i')]
  for axis in range(len(left) - 2):
    number = str(axis)
    field = lambda key, default, axis=axis: (  # noqa: E731
      fields[key].split('x')[axis] if key in fields else default
    )
    low = field('pad', '0_0').split('_')[0]
    total *= _valid(
      source[left.index(number)],
      kernel[right.index(number)],
      result[out.index(number)],
      int(field('stride', '1')),
      int(low),
      int(field('lhs_dilate', '1')),
      int(field('rhs_dilate', '1')),
    )
  groups = re.search(r'batch_group_count=(\d+)', op.rest)
  return total / int(groups[1]) if groups else total


@functools.lru_cache(maxsize=4096)
def _valid(
  source: int,
  kernel: int,
  result: int,
  stride: int,
  low: int,
  left: int,
  right: int,
) -> int:
  """Pairs of places in kernel and result that meet an element."""
  place = np.arange(result)[:, None] * stride - low
  place = place + np.arange(kernel)[None, :] * right
  hit = (place >= 0) & (place % left == 0) & (place // left < source)
  return int(hit.sum())


def traffic(op: Op, computation: Computation, module: Module) -> float:
  """Bytes that an instruction reads from HBM and writes to it.

  A fusion that slices an operand reads the slice, one that updates a part of
  it writes that part.

  Args:
    op: any instruction.
    computation: that it is in.
    module: with the computations that a fusion calls.

  Returns:
    Bytes.
  """
  if op.opcode in FREE:
    return 0.0
  if op.opcode == 'fusion':
    name = op.called['calls'][0]
    inner = module.computations[name]
    total = _written(op, inner, module)
    for operand, parameter in zip(op.operands, inner.parameters, strict=False):
      source = computation.ops.get(operand)
      if source is not None and source.shapes and source.shapes[0].in_hbm:
        whole = source.shapes[0].bytes
        total += min(whole, _read(inner, parameter, whole, module))
    return total
  if op.opcode in _READS_A_PART:
    return 2 * op.bytes
  if op.opcode in ('dynamic-update-slice', 'scatter'):
    update = computation.ops.get(op.operands[1])
    return 2 * (update.bytes if update else 0.0)
  if op.opcode.endswith('-start') and op.opcode.startswith(('copy', 'slice')):
    # The result holds source and destination; either may be outside of HBM.
    shapes = [s for s in op.shapes[:2] if s.in_hbm]
    moved = min((s.bytes for s in op.shapes[:2]), default=0.0)
    return moved * len(shapes)
  read = sum(
    computation.ops[name].bytes
    for name in op.operands
    if name in computation.ops
  )
  return read + op.bytes


def _read(
  inner: Computation, parameter: str, whole: float, module: Module
) -> float:
  """Bytes of a parameter that a fused computation reads."""
  total = 0.0
  for user, index in inner.users.get(parameter, ()):
    if user.opcode in _READS_A_PART and index == 0:
      total += user.shapes[0].bytes
    elif user.opcode in ('dynamic-update-slice', 'scatter') and index == 0:
      continue  # Updated in place.
    elif user.opcode == 'bitcast':
      total += _read(inner, user.name, whole, module)
    elif user.opcode == 'fusion':
      nested = module.computations[user.called['calls'][0]]
      if index < len(nested.parameters):
        given = nested.parameters[index]
        total += _read(nested, given, whole, module)
        if _is_given_on(nested, given):
          total += _read(inner, user.name, whole, module)
    else:
      return whole
  return total


def _is_given_on(nested: Computation, parameter: str) -> bool:
  """Whether a computation returns a parameter in another shape."""
  op = nested.root
  while op.opcode == 'bitcast' and op.operands[0] in nested.ops:
    op = nested.ops[op.operands[0]]
  return op.name == parameter and op is not nested.root


def _written(op: Op, inner: Computation, module: Module) -> float:
  """Bytes that a fusion writes."""
  root = inner.root
  parts = [root]
  if root.opcode == 'tuple':
    parts = [inner.ops[name] for name in root.operands]
  total = 0.0
  for part, shape in zip(parts, op.shapes, strict=False):
    if shape.in_hbm:
      total += _update(part, inner, module, shape)
  return total


def _update(op: Op, inner: Computation, module: Module, shape: Shape) -> float:
  while op.opcode in _PASSES_ON and op.operands and op.operands[0] in inner.ops:
    op = inner.ops[op.operands[0]]
  if op.opcode == 'dynamic-update-slice':
    return inner.ops[op.operands[1]].shapes[0].bytes
  if op.opcode == 'fusion':
    nested = module.computations[op.called['calls'][0]]
    if nested.root.opcode != 'tuple':
      return _update(nested.root, nested, module, shape)
  return shape.bytes


def _numbers(text: str, name: str) -> tuple[int, ...]:
  found = re.search(name + r'=\{([\d,]*)\}', text)
  return tuple(int(n) for n in found[1].split(',') if n) if found else ()
