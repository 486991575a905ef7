"""What sampling and updating send over a mesh, read from compiled programs."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import optax
import pytest

from selfimprove import partitioning
from selfimprove.models.config import TransformerConfig
from selfimprove.models.transformer import make_policy
from selfimprove.rollout.decode import Sampling
from selfimprove.rollout.revise import Revise
from selfimprove.scale import topology
from selfimprove.scale.collectives import kind_of
from selfimprove.scale.hlo import parse
from selfimprove.training import step as steps
from selfimprove.training.state import Models, Optimizers, abstract_state
from selfimprove.types import Prompts
from tests.models import hlo
from tests.training import tiny

# A size tells what an array is: a layer is smaller than the embedding table,
# and that than the logits of a device.
CONFIG = TransformerConfig(
  vocab_size=1024,
  num_layers=3,
  embed_dim=64,
  num_heads=8,
  num_kv_heads=4,
  head_dim=16,
  mlp_dim=192,
  attention='xla',  # Kernels pad so few tokens to many times as many.
  remat='full',
)
PROMPTS, GROUP, PROMPT_SLOTS, LIMITS = 8, 4, 24, (20, 12)
ROWS, CACHE = PROMPTS * GROUP, (sum(LIMITS) + 2, 16)
TPU = pytest.param('v5e:2x4', marks=pytest.mark.tpu)
MESHES = [
  {'data': 2, 'fsdp': 2, 'model': 2},
  {'fsdp': 4, 'model': 2},
  {'fsdp': 2, 'sequence': 2, 'model': 2},
]


def devices(platform):
  if platform == 'cpu':
    return jax.devices()
  if not topology.has_compiler():
    pytest.skip('The compiler for TPUs is not installed (jax[tpu]).')
  return topology.devices(platform)


def arguments(mesh, state):
  """An algorithm, prompts, samples and rewards, as shapes on the mesh."""

  def on(sharding, tree):
    return jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(
        jnp.shape(x), jnp.result_type(x), sharding=sharding
      ),
      tree,
    )

  algorithm = dataclasses.replace(
    tiny.algorithm(),
    rollout=Revise(
      eos_ids=jnp.asarray([tiny.EOS]),
      instruction=jnp.asarray([6, 5]),
      sampling=Sampling(),
      group_size=GROUP,
      max_new_tokens=LIMITS,
    ),
  )
  prompts = Prompts(
    tokens=jnp.zeros((PROMPTS, PROMPT_SLOTS), jnp.int32),
    mask=jnp.ones((PROMPTS, PROMPT_SLOTS), bool),
    example_id=jnp.zeros(PROMPTS, jnp.int32),
    answer=jnp.zeros((PROMPTS, 1), jnp.int32),
    answer_mask=jnp.ones((PROMPTS, 1), bool),
    extra={},
  )
  rows, whole = partitioning.rows(mesh), partitioning.replicated(mesh)
  algorithm, prompts = on(whole, algorithm), on(rows, prompts)
  sample = functools.partial(steps.sample, Models(make_policy(CONFIG)))
  rollout = on(rows, jax.eval_shape(sample, algorithm, state, prompts))
  rewards = on(rows, jnp.zeros((ROWS, 2)))
  return algorithm, prompts, rollout, rewards


@functools.cache
def compiled(program, platform, sizes, **changes):
  """The text of one program on one mesh."""
  mesh = partitioning.make_mesh(devices=devices(platform), **dict(sizes))
  config = dataclasses.replace(CONFIG, **changes)
  models, optimizers = Models(make_policy(config)), Optimizers(optax.adam(1.0))
  state = abstract_state(models, optimizers, mesh, with_reference=True)
  # Outside the mesh, on which nothing can run if it is only described.
  algorithm, prompts, rollout, rewards = arguments(mesh, state)
  with jax.set_mesh(mesh):
    if program == 'sample':
      run = jax.jit(functools.partial(steps.sample, models))
      lowered = run.lower(algorithm, state, prompts)
    else:
      learn = functools.partial(
        steps.learn, models, optimizers, plan=steps.Plan()
      )
      shardings = jax.tree.map(lambda x: x.sharding, state)
      run = jax.jit(learn, out_shardings=(shardings, None, None))
      lowered = run.lower(algorithm, state, rollout, rewards)
    return lowered.compile().as_text()


def kernel(sizes):
  """Elements of the largest matrix of a layer on one device, gathered."""
  return CONFIG.embed_dim * CONFIG.mlp_dim // sizes['model']


def table(sizes):
  """Elements of the embedding table on one device, gathered."""
  return CONFIG.embed_dim * CONFIG.vocab_size // sizes['model']


def stacked(found, sizes):
  """Arrays that are those of all layers at once."""
  smallest = CONFIG.embed_dim * CONFIG.num_kv_heads * CONFIG.head_dim
  return [
    r
    for r in found
    if CONFIG.num_layers in r.dims
    and r.size >= CONFIG.num_layers * smallest // sizes['model']
  ]


def check_sample(module, sizes):
  sent = hlo.shapes(hlo.collectives(module))
  assert kernel(sizes) <= max(r.size for r in sent) <= table(sizes)
  assert not stacked(sent, sizes)
  # Parameters are copied once: none is sent in the loops over tokens.
  in_loops = hlo.shapes(hlo.in_loops(module))
  assert not [r for r in in_loops if r.size >= kernel(sizes)]
  # The cache is on the devices of its rows and heads, and nowhere else.
  made = hlo.shapes(hlo.instructions(module))
  caches = [r.size for r in made if r.dims[-2:] == CACHE]
  whole = ROWS * CONFIG.num_kv_heads * CACHE[0] * CACHE[1]
  assert max(caches) == whole // 8


def check_learn(module, sizes):
  sent = hlo.shapes(hlo.collectives(module))
  # Hidden states that are divided along tokens are sent once, to be shifted.
  hidden = ROWS * sum(LIMITS, start=2) * CONFIG.embed_dim
  most = hidden // sizes.get('data', 1) // sizes['fsdp']
  most = table(sizes) if 'sequence' not in sizes else max(most, table(sizes))
  assert kernel(sizes) <= max(r.size for r in sent) <= most
  assert not stacked(sent, sizes)
  # Logits are divided over all devices, and nothing is larger than they.
  logits = ROWS * sum(LIMITS, start=2) * CONFIG.vocab_size
  made = hlo.shapes(hlo.instructions(module))
  assert max(r.size for r in made) <= logits // 8


def ids(sizes):
  return 'x'.join(f'{name}{size}' for name, size in sizes.items())


@pytest.mark.slow
@pytest.mark.parametrize('sizes', MESHES, ids=ids)
@pytest.mark.parametrize('platform', ['cpu', TPU])
def test_sampling_sends_each_parameter_once_and_no_cache(platform, sizes):
  text = compiled('sample', platform, tuple(sizes.items()))
  check_sample(parse(text), sizes)


@pytest.mark.slow
@pytest.mark.parametrize('platform', ['cpu', TPU])
def test_a_token_is_drawn_with_its_logits_where_they_are(platform):
  sizes, vocab = MESHES[1], 64 * 74
  text = compiled('sample', platform, tuple(sizes.items()), vocab_size=vocab)
  sent = [op for op in hlo.in_loops(parse(text)) if kind_of(op)]
  # A block of a row at most, and there are 64.
  rows = ROWS // sizes['fsdp']
  assert max(r.size for r in hlo.shapes(sent)) <= rows * vocab // 64


@pytest.mark.slow
@pytest.mark.parametrize('sizes', MESHES, ids=ids)
@pytest.mark.parametrize('platform', ['cpu', TPU])
def test_an_update_gathers_a_layer_at_a_time_and_no_logits(platform, sizes):
  text = compiled('learn', platform, tuple(sizes.items()))
  check_learn(parse(text), sizes)


def summed_forward(module):
  """Sums over devices in layers of the forward pass: of activations."""
  return [
    op
    for op in hlo.in_loops(module)
    if kind_of(op) in ('all-reduce', 'reduce-scatter')
    and 'Block' in op.op_name
    and 'transpose(' not in op.op_name
  ]


@pytest.mark.slow
def test_rows_that_are_divided_over_all_devices_send_no_activations():
  sizes = tuple(MESHES[0].items())
  split = parse(compiled('learn', 'cpu', sizes))
  whole = parse(
    compiled('learn', 'cpu', sizes, training_layout='fully_sharded')
  )
  assert summed_forward(split)
  assert not summed_forward(whole)
  assert not stacked(hlo.shapes(hlo.collectives(whole)), MESHES[0])


@pytest.mark.slow
@pytest.mark.parametrize('training', ['tensor_parallel', 'fully_sharded'])
def test_prompts_and_samples_fetch_a_layer_once_and_send_its_slope_once(
  training,
):
  sizes = MESHES[0]
  text = compiled('learn', 'cpu', (*sizes.items(),), training_layout=training)
  whole = kernel(sizes) * (
    sizes['model'] if training != 'tensor_parallel' else 1
  )
  sent = {'all-gather': 0, 'all-reduce': 0}
  for op in hlo.in_loops(parse(text)):
    kind = kind_of(op)
    if kind in sent:
      sent[kind] += sum(shape.size == whole for shape in op.shapes)
  # Gate, up and down: by the reference, by the policy, and on the way back.
  assert sent == {'all-gather': 9, 'all-reduce': 3}


@pytest.mark.slow
@pytest.mark.parametrize('training', ['tensor_parallel', 'fully_sharded'])
def test_a_token_is_drawn_with_parameters_where_they_are(training):
  policy = make_policy(dataclasses.replace(CONFIG, training_layout=training))
  sizes = MESHES[0]
  mesh = partitioning.make_mesh(**sizes)
  params = jax.eval_shape(policy.init, jax.random.key(0))
  with jax.set_mesh(mesh):
    # As a rollout has them: copied once, before its loop.
    ready = jax.jit(policy.decode_params).lower(
      jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
        params,
        partitioning.shardings(policy.logical_axes(), params, mesh),
      )
    )
    placed = jax.tree.map(
      lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
      ready.out_info,
      ready.compile().output_shardings,
    )
    tokens = jax.ShapeDtypeStruct(
      (ROWS, 1), jnp.int32, sharding=partitioning.rows(mesh)
    )
    text = jax.jit(policy.apply).lower(placed, tokens, tokens).compile()
  sent = hlo.shapes(hlo.collectives(parse(text.as_text())))
  assert not [shape for shape in sent if shape.size >= kernel(sizes)]


@pytest.mark.tpu
def test_an_update_with_the_kernel_for_tpus_compiles_over_all_axes():
  text = compiled(
    'learn', 'v5e:2x4', tuple(MESHES[2].items()), attention='splash'
  )
  # Forward, forward again, and back to queries and to keys.
  assert text.count('custom_call_target="tpu_custom_call"') >= 4
  check = [op for op in hlo.instructions(parse(text)) if 'splash' in op.name]
  assert check


def test_the_reader_finds_collectives_their_shapes_and_loops():
  text = """
%body.1 (p: (s32[])) -> (s32[]) {
  %all-gather.3 = bf16[8,16]{1,0} all-gather(%x), dimensions={0}
}
ENTRY %main (a: f32[2]) -> f32[2] {
  %ag = (f32[2,4]{1,0}, f32[8,4]{1,0}) all-gather-start(%a), dimensions={0}
  %w = (s32[]) while(%t), condition=%cond.1, body=%body.1
  ROOT %r = f32[2]{0} add(%a, %a)
}
"""
  module = parse(text)
  assert [
    (kind_of(op), shape.dtype, shape.dims, shape.bytes)
    for op in hlo.collectives(module)
    for shape in op.shapes
  ] == [
    ('all-gather', 'bf16', (8, 16), 256),
    ('all-gather', 'f32', (2, 4), 32),
    ('all-gather', 'f32', (8, 4), 128),
  ]
  in_loops = hlo.shapes(hlo.in_loops(module))
  assert [shape.dims for shape in in_loops] == [(8, 16)]
