"""A reader of the text of compiled programs: what is in them, and how often.

The compiler's own analysis counts the body of a loop once. This one knows how
often it runs, and tells the parts of a program apart by the names of scopes.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Iterator, Mapping

_BYTES = {'pred': 1, 'token': 0, 'c64': 8, 'c128': 16, 'opaque': 0}
_SHAPE = re.compile(r'([a-z]\w*)\[([\d,]*)\](?:\{([^}]*)\})?')
_HEADER = re.compile(r'^(ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{$')
_END = re.compile(r'^\}(, execution_thread="[^"]*")?$')
_OP = re.compile(r'^\s+(ROOT )?%?([\w.\-]+) = (.*)$')
_CALLED = re.compile(
  r'\b(calls|body|condition|to_apply|branch_computations|'
  r'true_computation|false_computation|called_computations)='
  r'(\{[^}]*\}|%?[\w.\-]+)'
)
_OFF_CHIP_MEMORY = re.compile(r'S\((\d+)\)')


@dataclasses.dataclass(frozen=True)
class Shape:
  """An array as the compiler laid it out.

  Attributes:
    dtype: such as `bf16`.
    dims: sizes.
    in_hbm: whether it lives in the memory of the chip, not in a faster one.
    layout: order of axes and tiles, as text.
  """

  dtype: str
  dims: tuple[int, ...]
  in_hbm: bool = True
  layout: str = ''

  @property
  def size(self) -> int:
    """Elements."""
    return math.prod(self.dims)

  @property
  def itemsize(self) -> float:
    """Bytes of an element."""
    if self.dtype in _BYTES:
      return _BYTES[self.dtype]
    digits = re.search(r'\d+', self.dtype)
    return int(digits[0]) / 8 if digits else 4

  @property
  def bytes(self) -> float:
    """Bytes of the elements."""
    return self.size * self.itemsize

  @property
  def padded_bytes(self) -> float:
    """Bytes with the padding of the two minor axes to whole tiles."""
    tile = re.search(r'T\((\d+)(?:,(\d+))?\)', self.layout)
    order = [int(i) for i in re.findall(r'\d+', self.layout.split(':')[0])]
    if not tile or len(order) != len(self.dims) or not order:
      return self.bytes
    sizes = [int(size) for size in tile.groups() if size]
    dims = list(self.dims)
    for axis, size in zip(order, reversed(sizes), strict=False):
      dims[axis] = -(-dims[axis] // size) * size
    return math.prod(dims) * self.itemsize


@dataclasses.dataclass(frozen=True)
class Op:
  """One instruction.

  Attributes:
    name: unique in its computation.
    opcode: such as `fusion`.
    shapes: of its result; several for a tuple.
    operands: names of other instructions of the computation.
    rest: everything behind the operands, as text.
    root: whether it is the result of the computation.
    inside: what stands between the parentheses.
  """

  name: str
  opcode: str
  shapes: tuple[Shape, ...]
  operands: tuple[str, ...]
  rest: str
  root: bool
  inside: str

  @property
  def called(self) -> dict[str, tuple[str, ...]]:
    """Names of computations by role: `body`, `calls`, ..."""
    found = {}
    for role, names in _CALLED.findall(self.rest.split(', metadata=')[0]):
      found[role] = tuple(re.findall(r'[\w.\-]+', names))
    return found

  @property
  def op_name(self) -> str:
    """Where it comes from, as JAX names it; empty if that was lost."""
    found = re.search(r'op_name="([^"]*)"', self.rest)
    return found[1] if found else ''

  @property
  def cycles(self) -> int | None:
    """The compiler's estimate of its duration; None where it gives none."""
    found = re.search(r'"estimated_cycles":"(\d+)"', self.rest)
    return int(found[1]) if found else None

  @property
  def bytes(self) -> float:
    """Bytes of its result that are in HBM."""
    return sum(shape.bytes for shape in self.shapes if shape.in_hbm)


@dataclasses.dataclass(frozen=True)
class Computation:
  """Instructions in the order in which they run.

  Attributes:
    name: of the computation.
    ops: by name, in order.
  """

  name: str
  ops: Mapping[str, Op]

  @functools.cached_property
  def parameters(self) -> tuple[str, ...]:
    """Names of the parameters, by number."""
    found = [op for op in self.ops.values() if op.opcode == 'parameter']
    return tuple(op.name for op in sorted(found, key=lambda o: int(o.inside)))

  @functools.cached_property
  def root(self) -> Op:
    """Its result."""
    last = list(self.ops.values())[-1]
    return next((op for op in self.ops.values() if op.root), last)

  @functools.cached_property
  def users(self) -> Mapping[str, tuple[tuple[Op, int], ...]]:
    """Name -> who reads it, and as which operand."""
    found: dict[str, list[tuple[Op, int]]] = {}
    for op in self.ops.values():
      for i, name in enumerate(op.operands):
        found.setdefault(name, []).append((op, i))
    return {name: tuple(users) for name, users in found.items()}


@dataclasses.dataclass(frozen=True)
class Module:
  """A compiled program.

  Attributes:
    computations: by name.
    entry: name of that which is called.
  """

  computations: Mapping[str, Computation]
  entry: str


def parse(text: str) -> Module:
  """The program that a text describes.

  Args:
    text: `compiled.as_text()`.

  Returns:
    Its computations.

  Raises:
    ValueError: there is no entry computation.
  """
  computations: dict[str, Computation] = {}
  entry, name, ops = '', '', dict[str, Op]()
  for line in _whole_lines(text):
    if _END.match(line) and name:
      computations[name] = Computation(name, ops)
      name = ''
    elif header := _HEADER.match(line):
      name, ops = header[2], {}
      entry = name if header[1] else entry
    elif name and (found := _OP.match(line)):
      op = _op(found[2], found[3], root=bool(found[1]))
      ops[op.name] = op
  if not entry:
    raise ValueError(
      f'No entry computation in {text[:80]!r}; give the text of a compiled '
      'program, `compiled.as_text()`.'
    )
  return Module(computations, entry)


def _whole_lines(text: str) -> Iterator[str]:
  """Lines of a program; what a kernel has in further lines is put together."""
  instruction = ''
  for line in text.splitlines():
    starts = _HEADER.match(line) or _OP.match(line)
    if instruction.count('{') == instruction.count('}'):
      starts = starts or not line or _END.match(line)
    if instruction and not starts:
      instruction = f'{instruction} {line}'
      continue
    if instruction:
      yield instruction
    instruction = line if _OP.match(line) else ''
    if not instruction:
      yield line
  if instruction:
    yield instruction


def _op(name: str, text: str, *, root: bool) -> Op:
  type_end = _closing(text) if text[0] == '(' else text.index(' ')
  shapes, after = text[:type_end], text[type_end:].lstrip()
  opcode, _, behind = after.partition('(')
  end = _closing('(' + behind) - 1
  inside, rest = behind[: end - 1], behind[end:]
  return Op(
    name=name,
    opcode=opcode.strip(),
    shapes=_shapes(shapes),
    operands=tuple(re.findall(r'%([\w.\-]+)', inside)),
    rest=rest,
    root=root,
    inside=inside.strip(),
  )


def _closing(text: str) -> int:
  """Index behind the parenthesis that closes the first one."""
  depth = 0
  for i, letter in enumerate(text):
    depth += (letter == '(') - (letter == ')')
    if not depth:
      return i + 1
  return len(text)


def _shapes(text: str) -> tuple[Shape, ...]:
  shapes = []
  for dtype, dims, layout in _SHAPE.findall(text):
    space = _OFF_CHIP_MEMORY.search(layout)
    shapes.append(
      Shape(
        dtype=dtype,
        dims=tuple(int(d) for d in dims.split(',') if d),
        in_hbm=not space,
        layout=layout,
      )
    )
  return tuple(shapes)


def trips(op: Op, module: Module) -> int:
  """How often the body of a loop runs, at most.

  A loop that may end sooner has its limit in its condition all the same; its
  counter begins at 0.

  Args:
    op: a `while`.
    module: that it is in.

  Returns:
    The number; 1 if no limit can be found.
  """
  known = re.search(r'known_trip_count":\{"n":"(\d+)"', op.rest)
  if known:
    return int(known[1])
  condition = module.computations[op.called['condition'][0]]
  limits = []
  for inner in _with_nested(condition, module):
    if inner.opcode == 'compare' and 'direction=LT' in inner.rest:
      limits += _constants(inner, condition, module)
  return -(-max(limits, default=1) // _step(condition, op, module))


def _step(condition: Computation, op: Op, module: Module) -> int:
  """What the counter of a loop grows by; 1 where the text does not say."""
  body = module.computations[op.called['body'][0]]
  for compare in condition.ops.values():
    counter = condition.ops.get(next(iter(compare.operands), ''))
    if compare.opcode != 'compare' or counter is None:
      continue
    index = re.search(r'index=(\d+)', counter.rest)
    if index is None or int(index[1]) >= len(body.root.operands):
      continue
    grown = body.ops.get(body.root.operands[int(index[1])])
    if grown is not None and grown.opcode == 'add':
      for term in (body.ops.get(name) for name in grown.operands):
        if term is not None and _is_integer(term):
          return max(1, int(term.inside))
  return 1


def _with_nested(computation: Computation, module: Module) -> list[Op]:
  ops = []
  for op in computation.ops.values():
    ops.append(op)
    for name in op.called.get('calls', ()):
      ops += _with_nested(module.computations[name], module)
  return ops


def _constants(
  compare: Op, condition: Computation, module: Module
) -> list[int]:
  """Integers that a comparison of the condition may compare with."""
  nested = _with_nested(condition, module)
  named = {op.name: op for op in nested}
  values = []
  for name in compare.operands:
    op = named.get(name)
    if (
      op is not None
      and op.opcode == 'parameter'
      and name not in (condition.ops)
    ):
      # Of a fusion: whatever constants it is given.
      for fusion in condition.ops.values():
        values += [
          int(condition.ops[o].inside)
          for o in fusion.operands
          if fusion.opcode == 'fusion' and _is_integer(condition.ops.get(o))
        ]
    elif _is_integer(op):
      assert op is not None
      values.append(int(op.inside))
  return values


def _is_integer(op: Op | None) -> bool:
  return (
    op is not None
    and op.opcode == 'constant'
    and bool(re.fullmatch(r'-?\d+', op.inside))
  )
