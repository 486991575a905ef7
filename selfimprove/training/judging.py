"""Verdicts from the host on rollouts that lie on the devices of many hosts."""

from __future__ import annotations

from collections.abc import Callable

import jax
import numpy as np
from jax.sharding import Mesh

from selfimprove import placement
from selfimprove.algorithms.base import HostReward
from selfimprove.training import agreement
from selfimprove.types import Rollout

Judge = Callable[[HostReward, Rollout], np.ndarray]
"""(reward, rollout on the devices) -> f32[b turns] of all rows, on the host."""


def divided(judge: Judge, mesh: Mesh) -> Judge:
  """A judge of which every process does a part.

  Args:
    judge: (reward, rollout on the host) -> f32[b turns], row by row.
    mesh: over whose batch axes rollouts are divided.

  Returns:
    The judge that all processes call together. Each judges the rows that are
    its own, and all get all verdicts, or one error.
  """

  def whole(reward: HostReward, rollout: Rollout) -> np.ndarray:
    if jax.process_count() == 1:
      return judge(reward, jax.device_get(rollout))
    count = rollout.tokens.shape[0]
    rows = placement.own_rows(mesh, count)
    mine = placement.read_rows(rollout, rows)
    found = agreement.together(lambda: judge(reward, mine))
    return agreement.joined_rows(found, rows, count=count)

  return whole
