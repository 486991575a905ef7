"""Optimizer states and reference parameters in the memory of the host."""

from __future__ import annotations

import functools

import jax
import numpy as np
import optax
import pytest

from selfimprove import partitioning
from selfimprove.training import step as steps
from selfimprove.training.state import (
  OFFLOADED,
  Models,
  Optimizers,
  abstract_state,
  check_offload,
  init_state,
)
from tests.training import tiny

OPTIMIZERS = Optimizers(optax.adam(1e-2))


def kinds(tree):
  return {x.sharding.memory_kind for x in jax.tree.leaves(tree) if x.ndim}


def after_two_steps(offload):
  models, mesh = Models(tiny.POLICY, offload=offload), tiny.mesh(fsdp=2)
  like = abstract_state(models, OPTIMIZERS, mesh, with_reference=True)
  shardings = jax.tree.map(lambda x: x.sharding, like)
  init = functools.partial(
    init_state, models, OPTIMIZERS, seed=0, with_reference=True
  )
  plan = steps.Plan(minibatches=2)
  step = jax.jit(
    functools.partial(steps.step, models, OPTIMIZERS, plan=plan),
    out_shardings=(shardings, None, None),
    donate_argnums=(1,),
  )
  with jax.set_mesh(mesh):
    state = jax.jit(init, out_shardings=shardings)()
    prompts = jax.device_put(tiny.prompts(), partitioning.rows(mesh))
    for _ in range(2):
      state, _, _ = step(tiny.algorithm(), state, prompts)
  return state


@pytest.mark.slow
def test_what_is_offloaded_stays_there_and_changes_nothing():
  there, here = after_two_steps(OFFLOADED), after_two_steps(())
  assert kinds((there.opt_state, there.ref_params)) == {'pinned_host'}
  assert kinds((there.params, here.opt_state)) == {'device'}
  jax.tree.map(np.testing.assert_array_equal, there, here)


def test_what_cannot_be_offloaded_is_refused():
  assert check_offload(['reference']) == ('reference',)
  with pytest.raises(ValueError, match="'params'; give some of optimizer"):
    check_offload(['params'])
