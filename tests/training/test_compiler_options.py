from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from selfimprove import partitioning, train
from selfimprove.training import compiler_options
from selfimprove.training.programs import Build
from selfimprove.training.state import Models
from tests import commands
from tests.training import tiny


def test_pairs_become_names_and_values_with_dashes_or_without():
  found = compiler_options.parsed(['a=1', ' --b=x=y '])
  assert found == {'a': '1', 'b': 'x=y'}


@pytest.mark.parametrize('pair', ['a', 'a=', '=1', ''])
def test_what_is_no_pair_is_refused(pair):
  with pytest.raises(ValueError, match='is not a name and a value; give some'):
    compiler_options.parsed([pair])


def build(**changes):
  stage = dataclasses.replace(tiny.stages()[0], **changes)
  whole = partitioning.replicated(tiny.mesh())
  return Build(
    models=Models(tiny.POLICY),
    stage=stage,
    mesh=tiny.mesh(),
    state_shardings=whole,
    judge=lambda *_: None,
  )


def programs(made):
  """One that samples and one that learns, with next to nothing to do."""
  sample = lambda models, x, plan: x  # noqa: E731
  step = lambda models, optimizers, _, x, plan: (x, x, x)  # noqa: E731
  x = jnp.zeros(8)
  return made.sampled(sample).lower(x), made.compiled(step).lower(x, x)


def test_the_compiler_is_given_them_for_all_programs_of_a_stage():
  for lowered in programs(build()):
    lowered.compile()
  for lowered in programs(build(compiler_options=('xla_not_there=1',))):
    with pytest.raises(jax.errors.JaxRuntimeError, match='xla_not_there'):
      lowered.compile()


def test_a_stage_refuses_what_is_no_pair():
  with pytest.raises(ValueError, match="compiler_options='xla' is not a name"):
    build(compiler_options=('xla',))


@pytest.mark.slow
@pytest.mark.parametrize(
  'option', ['xla_nonsense=true', 'xla_cpu_enable_fast_math=maybe']
)
def test_a_run_says_which_option_the_compiler_does_not_take(option, tmp_path):
  said = commands.refusal(
    train,
    *commands.TINY_RUN,
    *commands.bind(f"stages.Stage.compiler_options = ('{option}',)"),
    f'--workdir={tmp_path}',
  )
  assert option.partition('=')[0] in said
  assert said.endswith('; correct compiler_options.')
