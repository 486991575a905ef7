from __future__ import annotations

import jax
import numpy as np

from selfimprove import partitioning, placement
from selfimprove.training import agreement, judging
from tests.training import tiny


def _rollout(mesh):
  made = tiny.revise()(
    tiny.POLICY,
    tiny.POLICY.init(jax.random.key(0)),
    tiny.prompts(8),
    jax.random.key(1),
  )
  return jax.device_put(made, partitioning.rows(mesh))


def _judge(reward, rollout):
  assert isinstance(rollout.tokens, np.ndarray)
  return reward * rollout.tokens[:, -2:].astype(np.float32)


def test_one_process_judges_all_rows():
  mesh = tiny.mesh(4)
  rollout = _rollout(mesh)
  found = judging.divided(_judge, mesh)(2.0, rollout)
  np.testing.assert_array_equal(found, 2.0 * np.asarray(rollout.tokens[:, -2:]))


def test_each_of_several_processes_judges_its_own_rows(monkeypatch):
  mesh = tiny.mesh(4)
  rollout = _rollout(mesh)
  rows = np.asarray([3, 4, 30])
  monkeypatch.setattr(jax, 'process_count', lambda: 2)
  monkeypatch.setattr(placement, 'own_rows', lambda mesh, count: rows)
  monkeypatch.setattr(agreement, 'together', lambda call: call())
  monkeypatch.setattr(
    agreement, 'joined_rows', lambda found, rows, count: (found, rows, count)
  )
  found, theirs, count = judging.divided(_judge, mesh)(1.0, rollout)
  np.testing.assert_array_equal(found, np.asarray(rollout.tokens)[rows, -2:])
  assert theirs is rows
  assert count == 32
