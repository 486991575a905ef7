"""The rollout of the demo, as its gin files describe it, is one program."""

from __future__ import annotations

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from selfimprove import configuration
from selfimprove.experiment import Experiment
from selfimprove.models.transformer import make_policy
from selfimprove.rollout.revise import Revise
from selfimprove.types import Prompts
from tests.house import project

pytestmark = pytest.mark.slow  # Its compilation.

DEMO = str(project.root / 'experiments/score_self_correction/run.gin')
PROMPTS = 16


@pytest.fixture(scope='module')
def demo():
  """The compiled rollout of the last stage, and its arguments."""
  experiment = configuration.build(Experiment, files=[DEMO])
  stage = experiment.stages[-1]
  how = stage.algorithm.rollout
  assert isinstance(how, Revise)
  policy = make_policy(experiment.model)
  width = experiment.task.max_prompt_tokens
  given = Prompts(
    tokens=jnp.full((PROMPTS, width), 3, jnp.int32),
    mask=jnp.ones((PROMPTS, width), bool),
    example_id=jnp.arange(PROMPTS, dtype=jnp.int32),
    answer=jnp.zeros((PROMPTS, 1), jnp.int32),
    answer_mask=jnp.zeros((PROMPTS, 1), bool),
    extra={},
  )
  # Numbers of a record are leaves: on the device before the program is called.
  how = jax.tree.map(jnp.asarray, how)
  key = jax.random.key(0)
  arguments = (how, policy.init(key), given, key)
  program = jax.jit(lambda how, *args: how(policy, *args))
  return program, arguments


@pytest.fixture(scope='module')
def hlo(demo):
  program, arguments = demo
  return program.lower(*arguments).compile().as_text()


def computations(hlo):
  """Name -> body of each computation of an HLO module."""
  blocks = re.findall(
    r'^(?:ENTRY )?%?([\w.\-]+) \(.*?\) -> .*? \{\n(.*?)^\}', hlo, re.M | re.S
  )
  return dict(blocks)


def callees(body):
  return re.findall(r'(?:calls|to_apply|body|condition)=%?([\w.\-]+)', body)


def multiplies(name, bodies):
  """Whether a computation holds a matrix product, at any depth."""
  body = bodies[name]
  return bool(re.search(r'\bdot\(|matmul|gemm', body)) or any(
    multiplies(inner, bodies) for inner in callees(body) if inner in bodies
  )


def test_there_is_one_loop_for_each_attempt(hlo):
  bodies = computations(hlo)
  loops = re.findall(r'\bwhile\(.*?body=%?([\w.\-]+)', hlo)
  # Loops without a matrix product make random numbers.
  decode = [loop for loop in loops if multiplies(loop, bodies)]
  assert len(decode) == 2
  # Neither is within the other: both are called by the entry.
  entry = re.search(r'^ENTRY .*?^\}', hlo, re.M | re.S).group()
  for loop in decode:
    assert re.search(rf'body=%?{re.escape(loop)}\b', entry)


def test_nothing_goes_over_the_host(hlo):
  calls = set(re.findall(r'custom_call_target="([^"]+)"', hlo))
  assert not [c for c in calls if re.search('callback|python|host', c, re.I)]
  for name in ('infeed', 'outfeed', 'send', 'recv'):
    assert not re.search(rf'\b{name}(-done)?\(', hlo), name


def test_a_callback_would_be_found():
  def shout(x):
    return jax.pure_callback(np.sin, jax.ShapeDtypeStruct((), jnp.float32), x)

  text = jax.jit(shout).lower(jnp.float32(1)).compile().as_text()
  with pytest.raises(AssertionError):
    test_nothing_goes_over_the_host(text)


def test_it_runs_without_a_transfer(demo):
  program, arguments = demo
  program(*arguments)
  with jax.transfer_guard('disallow'):
    rollout = jax.block_until_ready(program(*arguments))
  attempts = arguments[0].max_new_tokens
  assert [stop - start for start, stop in rollout.spans] == list(attempts)


def test_other_numbers_do_not_compile_it_anew(demo, caplog):
  program, (how, *rest) = demo
  program(how, *rest)
  colder = dataclasses.replace(how.sampling, temperature=jnp.asarray(0.5))
  with jax.log_compiles(), caplog.at_level('WARNING', 'jax'):
    program(dataclasses.replace(how, sampling=colder), *rest)
  assert 'ompil' not in caplog.text
