"""Costs read from compiled programs, against counts by hand and unrolled."""

from __future__ import annotations

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from selfimprove.models.config import TransformerConfig
from selfimprove.models.transformer import make_policy
from selfimprove.rollout.decode import Sampling
from selfimprove.rollout.single import Single
from selfimprove.scale import cost, hlo
from selfimprove.scale.chips import CHIPS
from selfimprove.scale.collectives import Network
from selfimprove.types import Prompts

NETWORK = Network(CHIPS['v5e'], np.arange(8)[:, None])


def costs(function, *operands):
  text = jax.jit(function).lower(*operands).compile().as_text()
  return cost.of_program(hlo.parse(text), NETWORK)


def total(function, *operands):
  return sum(one.flops for one in costs(function, *operands).values())


def array(*shape):
  return jax.ShapeDtypeStruct(shape, jnp.float32)


def test_a_product_is_two_operations_per_multiply_add():
  flops = total(lambda x, y: x @ y, array(128, 256), array(256, 512))
  assert flops == 2 * 128 * 256 * 512


def test_a_batched_product_is_counted_once_per_batch():
  flops = total(
    lambda x, y: jnp.einsum('bij,bjk->bik', x, y),
    array(6, 32, 64),
    array(6, 64, 48),
  )
  assert flops == 2 * 6 * 32 * 64 * 48


def scanned(x, weights):
  return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, weights)[0]


@pytest.mark.parametrize('layers', [1, 8, 32])
def test_the_body_of_a_scan_counts_as_often_as_it_runs(layers):
  flops = total(scanned, array(64, 64), array(layers, 64, 64))
  assert flops == layers * 2 * 64**3


def test_loops_in_loops_multiply():
  def nested(x, weights):
    return jax.lax.fori_loop(0, 5, lambda _, x: scanned(x, weights), x)

  assert total(nested, array(64, 64), array(7, 64, 64)) == 35 * 2 * 64**3


def test_a_loop_that_may_end_sooner_counts_to_its_limit():
  def loop(x, w):
    more = lambda state: (state[0] < 20) & ~jnp.all(state[1] > 9)  # noqa: E731
    body = lambda state: (state[0] + 1, state[1] @ w)  # noqa: E731
    return jax.lax.while_loop(more, body, (0, x))[1]

  assert total(loop, array(64, 64), array(64, 64)) == 20 * 2 * 64**3


WINDOWED = """
%body (p: (f32[8,8], u32[])) -> (f32[8,8], u32[]) {
  %p = (f32[8,8], u32[]) parameter(0)
  %x = f32[8,8]{1,0} get-tuple-element(%p), index=0
  %i = u32[] get-tuple-element(%p), index=1
  %two = u32[] constant(2)
  %next = u32[] add(%i, %two)
  %dot = f32[8,8]{1,0} dot(%x, %x), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  ROOT %t = (f32[8,8], u32[]) tuple(%dot, %next)
}

%more (p: (f32[8,8], u32[])) -> pred[] {
  %p = (f32[8,8], u32[]) parameter(0)
  %i = u32[] get-tuple-element(%p), index=1
  %limit = u32[] constant(7)
  ROOT %less = pred[] compare(%i, %limit), direction=LT
}

ENTRY %main (x: f32[8,8]) -> (f32[8,8], u32[]) {
  %x = f32[8,8]{1,0} parameter(0)
  %zero = u32[] constant(0)
  %t = (f32[8,8], u32[]) tuple(%x, %zero)
  ROOT %w = (f32[8,8], u32[]) while(%t), condition=%more, body=%body
}
"""  # noqa: E501


def test_a_counter_may_grow_by_more_than_one():
  # As loops do that the compiler makes of a product and what it sends: 0, 2,
  # 4 and 6 are below 7.
  (one,) = cost.of_program(hlo.parse(WINDOWED), NETWORK).values()
  assert one.flops == 4 * 2 * 8**3


def config(layers, **changes):
  sizes = {
    'vocab_size': 128,
    'num_layers': layers,
    'embed_dim': 64,
    'num_heads': 4,
    'num_kv_heads': 2,
    'head_dim': 16,
    'mlp_dim': 128,
  }
  return TransformerConfig(**{**sizes, **changes})


def gradient(model):
  """Costs of loss and gradient of a decoder."""
  policy = make_policy(model)
  params = jax.eval_shape(policy.init, jax.random.key(0))
  tokens = jax.ShapeDtypeStruct((4, 32), jnp.int32)

  def loss(params, tokens):
    positions = jnp.broadcast_to(jnp.arange(32)[None, :], tokens.shape)
    hidden, _ = policy.apply(params, tokens, positions, None)
    return jnp.sum(policy.unembed(params, hidden))

  found = costs(jax.grad(loss), params, tokens).values()
  return sum(one.flops for one in found), sum(one.bytes for one in found)


@pytest.mark.slow
def test_the_estimate_grows_linearly_in_layers():
  two, four, eight = (gradient(config(n, remat='full')) for n in (2, 4, 8))
  for a, b, c in zip(two, four, eight, strict=True):
    assert (c - b) / (b - a) == pytest.approx(2, rel=0.05)
    assert b > 1.3 * a


@pytest.mark.slow
def test_a_scan_over_layers_costs_what_unrolled_layers_cost():
  scanned_flops, _ = gradient(config(6))
  unrolled_flops, _ = gradient(config(6, scan_layers=False))
  assert scanned_flops == pytest.approx(unrolled_flops, rel=0.05)


@functools.cache
def sampled(tokens):
  """Costs of sampling so many tokens."""
  policy = make_policy(config(2))
  params = jax.eval_shape(policy.init, jax.random.key(0))
  rollout = Single(
    eos_ids=(1,), sampling=Sampling(), group_size=2, max_new_tokens=tokens
  )
  prompts = Prompts(
    tokens=jnp.zeros((2, 8), jnp.int32),
    mask=jnp.ones((2, 8), bool),
    example_id=jnp.arange(2),
    answer=jnp.zeros((2, 1), jnp.int32),
    answer_mask=jnp.zeros((2, 1), bool),
    extra={},
  )
  return costs(
    functools.partial(rollout, policy), params, prompts, jax.random.key(0)
  )


@pytest.mark.slow
def test_decoding_grows_linearly_in_its_weights_work():
  # Attention over a longer cache grows with the square; a fixed part of each
  # step, the products with weights, is by far the larger here.
  flops = [sampled(n)['decode_0'].flops for n in (17, 33, 65)]
  assert (flops[2] - flops[1]) / (flops[1] - flops[0]) == pytest.approx(
    2, rel=0.3
  )


@pytest.mark.slow
def test_scopes_tell_the_parts_of_a_program_apart():
  parts = sampled(17)
  assert parts['prefill'].flops > 0
  assert parts['decode_0'].carried_bytes > 0
  assert parts['prefill'].carried_bytes == 0


KERNEL = """HloModule jit_f, is_scheduled=true

ENTRY %main (p: f32[8,8]) -> f32[8,8] {
  %p = f32[8,8]{1,0} parameter(0)
  %kernel = f32[8,8]{1,0} custom-call(%p), custom_call_target="tpu_custom_call", frontend_attributes={kernel_metadata={
"block_q": 256
}}, metadata={op_name="jit(f)/phase.prefill/kernel"}
  ROOT %dot = f32[8,8]{1,0} dot(%kernel, %p), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}
"""  # noqa: E501


def test_a_kernel_of_several_lines_does_not_end_the_program():
  module = hlo.parse(KERNEL)
  entry = module.computations[module.entry]
  assert [*entry.ops] == ['p', 'kernel', 'dot']
  assert entry.ops['kernel'].op_name == 'jit(f)/phase.prefill/kernel'
  found = cost.of_program(module, NETWORK)
  assert sum(one.flops for one in found.values()) == 2 * 8**3


def test_a_program_ends_where_its_own_brace_is():
  # XLA says on which thread a computation runs; a kernel may have lines that
  # are nothing but a brace.
  text = KERNEL.replace('"block_q": 256\n', '"blocks": {\n"q": 256\n}\n')
  other = (
    '%elsewhere (p: f32[8]) -> f32[8] {\n'
    '  ROOT %p = f32[8]{0} parameter(0)\n'
    '}, execution_thread="sparsecore"\n\n'
  )
  module = hlo.parse(text.replace('ENTRY', f'{other}ENTRY'))
  assert [*module.computations] == ['elsewhere', 'main']
  assert [*module.computations['main'].ops] == ['p', 'kernel', 'dot']


STEPS = """HloModule jit_f, is_scheduled=true

%gather.1 (p: bf16[64,8]) -> bf16[512,8] {
  %p = bf16[64,8]{1,0} parameter(0)
  ROOT %g = bf16[512,8]{1,0} all-gather(%p), channel_id=5, replica_groups={{0,1,2,3,4,5,6,7}}, dimensions={0}
}

%async_collective_fusion.2 (q: bf16[64,8]) -> bf16[512,8] {
  %q = bf16[64,8]{1,0} parameter(0)
  ROOT %h = bf16[512,8]{1,0} all-gather(%q), channel_id=5, replica_groups={{0,1,2,3,4,5,6,7}}, dimensions={0}
}

ENTRY %main (x: bf16[64,8]) -> bf16[512,8] {
  %x = bf16[64,8]{1,0} parameter(0)
  %async-collective-start.1 = bf16[512,8]{1,0} fusion(%x), kind=kCustom, calls=%gather.1
  %fusion.3 = bf16[512,8]{1,0} fusion(%x), kind=kOutput, calls=%async_collective_fusion.2
  ROOT %async-collective-done.1 = bf16[512,8]{1,0} fusion(%x), kind=kCustom, calls=%gather.1
}
"""  # noqa: E501


def test_a_collective_in_several_steps_is_one():
  (one,) = cost.of_program(hlo.parse(STEPS), NETWORK).values()
  ((kind, taken),) = one.collectives.items()
  assert kind == 'all-gather bf16[512, 8]'
  assert taken.count == 1
  assert taken.bytes == 512 * 8 * 2
  # What it writes is not moved by what it runs beside.
  assert not one.bytes


def test_a_collective_that_goes_on_in_a_loop_is_one():
  steps = STEPS[: STEPS.index('ENTRY')]
  start, middle, _ = re.findall(r'  (?:ROOT )?(%\S+ = .*fusion\(%x\).*)', STEPS)
  loop = WINDOWED.replace('  %dot', f'  {middle}\n  %dot')
  loop = loop.replace('  %zero', f'  {start}\n  %zero')
  (one,) = cost.of_program(hlo.parse(steps + loop), NETWORK).values()
  ((_, taken),) = one.collectives.items()
  assert taken.count == 1


def test_what_a_fusion_turns_into_another_shape_is_read():
  text = """
%turned (w: f32[8,8]) -> f32[64] {
  %w = f32[8,8]{1,0} parameter(0)
  ROOT %flat = f32[64]{0} bitcast(%w)
}

%summed (v: f32[8,8]) -> f32[] {
  %v = f32[8,8]{1,0} parameter(0)
  %inner = f32[64]{0} fusion(%v), kind=kLoop, calls=%turned
  ROOT %sum = f32[] reduce(%inner), dimensions={0}
}

ENTRY %main (x: f32[8,8]) -> f32[] {
  %x = f32[8,8]{1,0} parameter(0)
  ROOT %y = f32[] fusion(%x), kind=kLoop, calls=%summed
}
"""
  (one,) = cost.of_program(hlo.parse(text), NETWORK).values()
  assert one.bytes == 64 * 4 + 4


def test_a_reduction_that_scatters_is_half_of_one_that_does_not():
  def seconds(emitter):
    text = STEPS.replace('all-gather(', 'all-reduce(')
    text = text.replace('kind=kCustom', f'kind=kCustom, emitter="{emitter}"')
    text = text.replace('async-collective-start', 'fusion')
    (one,) = cost.of_program(hlo.parse(text), NETWORK).values()
    ((kind, taken),) = one.collectives.items()
    # Nothing runs beside it.
    assert one.exposed_seconds == taken.seconds
    return kind.split()[0], taken.seconds

  whole, scattered = seconds('Ring'), seconds('AllReduceScatterFusion')
  assert (whole[0], scattered[0]) == ('all-reduce', 'reduce-scatter')
  assert scattered[1] == whole[1] / 2


@pytest.mark.parametrize(('rows', 'axis'), [(2, '2,'), (1, '1,'), (1, '')])
def test_attention_kernels_count_what_their_queries_see(rows, axis):
  # A table of blocks comes first, as in the compiler's texts.
  text = KERNEL.replace(
    '  %kernel',
    '  %blocks = s8[1,2,2]{2,1,0} parameter(1)\n'
    f'  %q = bf16[{axis}4,8,16]{{3,2,1,0}} parameter(2)\n'
    f'  %k = bf16[{axis}1,24,16]{{3,2,1,0}} parameter(3)\n  %kernel',
    1,
  )
  text = text.replace('custom-call(%p)', 'custom-call(%blocks, %q, %k, %k)')
  text = text.replace('prefill/kernel', 'prefill/splash_mha_fwd_residuals')
  module = hlo.parse(text)
  found = cost.of_program(module, NETWORK)
  # Two products for rows of 4 heads of size 16; the last 8 of 24 places see 17
  # to 24 places.
  wanted = 2 * 2 * rows * 4 * 16 * sum(range(17, 25)) + 2 * 8**3
  assert sum(one.flops for one in found.values()) == wanted


def test_a_line_through_two_costs_reaches_the_third():
  a, b, c = (
    costs(scanned, array(64, 64), array(n, 64, 64)) for n in (2, 4, 10)
  )
  made = cost.combine(a, b, share=4.0)
  assert sum(x.flops for x in made.values()) == sum(x.flops for x in c.values())
