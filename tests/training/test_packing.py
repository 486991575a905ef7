from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from selfimprove import partitioning
from selfimprove.models.heads import make_critic
from selfimprove.training import packing
from selfimprove.training.score import score, values
from tests.rollout import tiny
from tests.training import tiny as small
from tests.training.short import shortened

GROUP, ROWS = 4, 3
WIDTH = 9
place = jax.jit(functools.partial(packing.first_fit, rows=ROWS, width=WIDTH))


def _check(lengths, row, offset):
  """No two samples share a slot, and none leaves its row."""
  taken = np.zeros((ROWS, WIDTH), int)
  for length, r, o in zip(lengths, row, offset):
    if r < ROWS:
      assert o + length <= WIDTH
      taken[r, o : o + length] += 1
  assert np.max(taken) <= 1


def test_samples_are_placed_side_by_side():
  rng = np.random.default_rng(0)
  placed = 0
  for _ in range(50):
    lengths = rng.integers(0, WIDTH + 1, 5)
    row, offset = map(np.asarray, place(jnp.asarray(lengths, jnp.int32)))
    _check(lengths, row, offset)
    placed += np.all(row < ROWS)
  assert 5 < placed < 45


def test_the_longest_is_placed_first():
  # In their order, 4 + 4, 5 and 5 would leave no row to the 9.
  row, offset = place(jnp.asarray([4, 4, 5, 5, 9], jnp.int32))
  assert row.tolist() == [1, 2, 1, 2, 0]
  assert offset.tolist() == [5, 5, 0, 0, 0]


def test_a_sample_without_room_is_told_apart():
  row, _ = place(jnp.full((5,), WIDTH, jnp.int32))
  assert row.tolist() == [0, 1, 2, ROWS, ROWS]


@functools.cache
def _rollout():
  """Conversations of ragged length, every group of which fits."""
  prompts = tiny.prompts((5, 2, 4, 1))
  sampled = tiny.run(tiny.revise(group_size=GROUP), prompts)
  return shortened(sampled)


def _fits(rollout):
  return packing.fits(
    rollout.positions[:, rollout.prompt_slots :],
    group_size=GROUP,
    rows=ROWS,
  )


def _scored(rollout, packed_rows):
  params = tiny.params(), tiny.params(seed=1)
  return _differentiated(*params, rollout, packed_rows)


@functools.partial(jax.jit, static_argnames='packed_rows')
def _differentiated(params, reference, rollout, packed_rows):
  """Scores of a rollout, and the gradient of a sum that tells slots apart."""

  def total(params):
    found = score(
      tiny.POLICY,
      params,
      rollout,
      needs=('entropy', 'exact_kl'),
      ref_params=reference,
      packed_rows=packed_rows,
    )
    slots = jnp.arange(rollout.tokens.size, dtype=jnp.float32)
    weights = jnp.sin(slots).reshape(rollout.tokens.shape)
    said = found.logprobs + found.stream('entropy') + found.stream('exact_kl')
    return jnp.sum(jnp.where(rollout.loss_mask, weights * said, 0)), found

  return jax.value_and_grad(total, has_aux=True)(params)


def _assert_close(rollout, got, wanted):
  mask = np.asarray(rollout.loss_mask)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a[mask], b[mask], atol=1e-5),
    got[0][1],
    wanted[0][1],
  )
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), got[1], wanted[1]
  )


@pytest.mark.slow
def test_packed_samples_score_as_those_read_alone():
  rollout = _rollout()
  assert np.all(_fits(rollout))
  _assert_close(rollout, _scored(rollout, ROWS), _scored(rollout, 0))


@pytest.mark.slow
def test_packed_samples_score_the_same_on_a_mesh():
  mesh = small.mesh(data=2, model=2)
  with jax.set_mesh(mesh):
    placed = jax.device_put(_rollout(), partitioning.rows(mesh))
    got = jax.device_get(_scored(placed, ROWS))
  _assert_close(_rollout(), got, _scored(_rollout(), 0))


def test_a_sample_does_not_see_those_in_its_row():
  rollout = _rollout()
  row, _ = packing._places(rollout.positions[:, 5:], GROUP, ROWS)
  row = np.asarray(row).reshape(-1)
  # One of two samples of a group that share a row says something else.
  (one, other) = next(
    (i, j)
    for i in range(len(row))
    for j in range(i + 1, len(row))
    if row[i] == row[j] and i // GROUP == j // GROUP
  )
  for changed, same in ((one, other), (other, one)):
    first = int(np.flatnonzero(np.asarray(rollout.loss_mask[changed]))[0])
    token = (rollout.tokens[changed, first] + 1) % tiny.VOCAB
    moved = dataclasses.replace(
      rollout, tokens=rollout.tokens.at[changed, first].set(token)
    )
    before, after = (
      np.asarray(_scored(r, ROWS)[0][1].logprobs) for r in (rollout, moved)
    )
    np.testing.assert_array_equal(before[same], after[same])
    assert np.any(before[changed] != after[changed])


def test_a_batch_that_does_not_fit_is_read_unpacked():
  long = tiny.run(
    tiny.revise(group_size=GROUP, eos=(1,)), tiny.prompts((5, 2, 4, 1))
  )
  assert not np.all(_fits(long))
  _assert_close(long, _scored(long, ROWS), _scored(long, 0))


@pytest.mark.slow
def test_values_of_packed_samples_are_those_of_samples_read_alone():
  rollout, critic = _rollout(), make_critic(tiny.CONFIG)
  params = critic.init(jax.random.key(3))
  kernel = jax.random.normal(jax.random.key(4), (tiny.CONFIG.embed_dim,))
  params['value'] = {'kernel': kernel, 'bias': jnp.float32(0)}
  packed, alone = (
    jax.jit(functools.partial(values, critic, packed_rows=rows))(
      params, rollout
    )
    for rows in (ROWS, 0)
  )
  mask = np.asarray(rollout.loss_mask)
  assert np.std(np.asarray(alone)[mask]) > 0.1
  np.testing.assert_allclose(packed[mask], alone[mask], atol=1e-5)


def test_packing_that_packs_nothing_is_refused():
  with pytest.raises(ValueError, match='packed_rows=4 for groups of 4'):
    _scored(_rollout(), GROUP)


def test_a_stage_refuses_rows_that_are_no_number_of_them():
  with pytest.raises(ValueError, match='packed_rows=-1 but must be an integer'):
    dataclasses.replace(small.stages()[0], packed_rows=-1)
