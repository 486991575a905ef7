from __future__ import annotations

import dataclasses
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from selfimprove import partitioning
from selfimprove.rollout import revise
from selfimprove.training.score import score
from tests.rollout import tiny

FIRST, SECOND = (5, 11), (14, 19)


@pytest.fixture(scope='module')
def sampled():
  return tiny.run(tiny.revise(), tiny.prompts())


def lengths(rollout, turn):
  return np.sum(np.asarray(rollout.turn) == turn, axis=1)


def assert_same(rollout, other, rows=slice(None)):
  """The same samples; log-probabilities to rounding."""
  for name in ('tokens', 'positions', 'turn', 'loss_mask', 'finished'):
    np.testing.assert_array_equal(
      getattr(rollout, name), np.asarray(getattr(other, name))[rows], name
    )
  np.testing.assert_allclose(
    rollout.sampler_logprobs,
    np.asarray(other.sampler_logprobs)[rows],
    atol=1e-5,
  )


def test_attempts_end_at_different_lengths_in_both_turns(sampled):
  # What the tests below rely on.
  assert sampled.spans == (FIRST, SECOND)
  for turn in (0, 1):
    assert len(set(lengths(sampled, turn).tolist())) >= 4
    assert 0 < np.mean(sampled.finished[:, turn]) < 1


def test_the_instruction_stands_between_the_attempts_and_is_not_trained(
  sampled,
):
  between = slice(FIRST[1], SECOND[0])
  assert sampled.tokens[:, between].tolist() == [list(tiny.INSTRUCTION)] * 16
  assert not np.any(sampled.loss_mask[:, between])
  assert np.all(sampled.turn[:, between] == -1)
  assert not np.any(sampled.sampler_logprobs[:, between])


def test_the_prompt_is_not_rewritten_nor_trained(sampled):
  prompts = tiny.prompts()
  np.testing.assert_array_equal(
    sampled.tokens[:, :5], np.repeat(prompts.tokens, 2, axis=0)
  )
  assert not np.any(sampled.loss_mask[:, :5])
  np.testing.assert_array_equal(
    sampled.positions[:, :5] >= 0, np.repeat(prompts.mask, 2, axis=0)
  )


def test_positions_count_the_tokens_of_a_row_across_its_gaps(sampled):
  for row in range(16):
    real = np.asarray(sampled.positions[row])
    real = real[real >= 0]
    np.testing.assert_array_equal(real, np.arange(len(real)))


def test_every_attempt_ends_with_its_only_eos_or_at_its_limit(sampled):
  for turn, (start, stop) in enumerate(sampled.spans):
    for row in range(16):
      mask = np.asarray(sampled.loss_mask[row, start:stop])
      ids = np.asarray(sampled.tokens[row, start:stop])[mask]
      assert not np.any(np.isin(ids[:-1], tiny.EOS))
      ended = ids[-1] in tiny.EOS
      assert bool(sampled.finished[row, turn]) == ended
      assert ended or len(ids) == stop - start


def test_greedy_attempts_are_the_argmax_without_a_cache():
  rollout = tiny.run(tiny.revise(temperature=0.0), tiny.prompts())
  for turn in (0, 1):
    assert len(set(lengths(rollout, turn).tolist())) >= 2
  for row in range(16):
    text, slots = tiny.own_tokens(rollout, row)
    best = np.argmax(tiny.uncached_logits(text), axis=-1)
    trained = np.flatnonzero(np.asarray(rollout.loss_mask[row])[slots])
    np.testing.assert_array_equal(best[trained - 1], text[trained])


def test_greedy_draws_are_certain():
  rollout = tiny.run(tiny.revise(temperature=0.0), tiny.prompts())
  assert not np.any(rollout.sampler_logprobs)
  np.testing.assert_array_equal(rollout.temperature, np.ones(16))
  np.testing.assert_array_equal(rollout.tokens[::2], rollout.tokens[1::2])


@pytest.mark.slow
@pytest.mark.parametrize('order', [[6, 1], [3, 6], [7, 2, 5, 0, 1, 6, 3, 4]])
def test_a_sample_does_not_change_with_its_neighbours(sampled, order):
  rollout = tiny.run(tiny.revise(), tiny.take(tiny.prompts(), order))
  rows = [2 * p + i for p in order for i in range(2)]
  assert_same(rollout, sampled, rows)


def test_samples_stay_when_the_group_grows(sampled):
  larger = tiny.run(tiny.revise(group_size=5), tiny.prompts())
  rows = [5 * p + i for p in range(8) for i in range(2)]
  assert_same(sampled, larger, rows)


def test_a_shared_prefill_gives_the_tokens_of_a_repeated_one(
  sampled, monkeypatch
):
  keys = revise.row_keys(jax.random.key(0), tiny.prompts(), 2)
  # A repeated prompt is sample 0 of its own group: lend it the shared key.
  monkeypatch.setattr(revise, 'row_keys', lambda *_: keys)
  repeated = tiny.take(tiny.prompts(), np.repeat(np.arange(8), 2))
  how = tiny.revise(group_size=1)
  # Anew: the compiled program of this shape would hold the other keys.
  run = jax.jit(lambda *args: how(tiny.POLICY, *args))
  assert_same(sampled, run(tiny.params(), repeated, jax.random.key(0)))


def test_wider_padding_changes_no_sample(sampled):
  given = tiny.prompts()
  wider = dataclasses.replace(
    given,
    tokens=jnp.pad(given.tokens, ((0, 0), (3, 0)), constant_values=8),
    mask=jnp.pad(given.mask, ((0, 0), (3, 0))),
  )
  rollout = tiny.run(tiny.revise(), wider)
  np.testing.assert_array_equal(rollout.tokens[:, 8:], sampled.tokens[:, 5:])
  np.testing.assert_allclose(
    rollout.sampler_logprobs[:, 8:], sampled.sampler_logprobs[:, 5:], atol=1e-5
  )


CLOSING = 7
"""One of the three ids that end an attempt."""


@pytest.fixture(scope='module')
def closed():
  how = tiny.revise()
  return tiny.run(
    dataclasses.replace(how, closing=jnp.array([CLOSING])), tiny.prompts()
  )


def test_an_attempt_that_did_not_end_with_the_closing_id_is_given_it(closed):
  cut, other, own = 0, 0, 0
  for row in range(16):
    mask = np.asarray(closed.turn[row]) == 0
    last = np.asarray(closed.tokens[row])[mask][-1]
    slots = slice(FIRST[1], FIRST[1] + 4)
    place = closed.positions[row, slots].tolist()
    begin = int(np.max(np.asarray(closed.positions[row])[mask])) + 1
    if last == CLOSING:
      own += 1
      assert closed.tokens[row, slots].tolist() == [0, *tiny.INSTRUCTION]
      assert place == [-1, *range(begin, begin + 3)]
    else:
      cut, other = cut + (last not in tiny.EOS), other + (last in tiny.EOS)
      assert closed.tokens[row, slots].tolist() == [CLOSING, *tiny.INSTRUCTION]
      assert place == list(range(begin, begin + 4))
  assert min(cut, other, own) > 0


def test_what_closes_an_attempt_is_read_and_not_trained(closed):
  between = slice(FIRST[1], FIRST[1] + 4)
  assert not np.any(closed.loss_mask[:, between])
  assert np.all(closed.turn[:, between] == -1)
  assert not np.any(closed.sampler_logprobs[:, between])
  for row in range(16):
    real = np.asarray(closed.positions[row])
    real = real[real >= 0]
    np.testing.assert_array_equal(real, np.arange(len(real)))


def test_first_attempts_do_not_depend_on_what_closes_them(sampled, closed):
  first = slice(0, FIRST[1])
  np.testing.assert_array_equal(
    closed.tokens[:, first], sampled.tokens[:, first]
  )


def test_closed_conversations_are_scored_as_they_were_sampled(closed):
  scored = score(tiny.POLICY, tiny.params(), closed).logprobs
  mask = np.asarray(closed.loss_mask)
  np.testing.assert_allclose(
    np.asarray(scored)[mask],
    np.asarray(closed.sampler_logprobs)[mask],
    atol=1e-5,
  )


def test_closed_conversations_read_anew_from_their_tokens_say_the_same(closed):
  # No cache, no gaps, no groups: the tokens of the row alone.
  for row in range(16):
    text, slots = tiny.own_tokens(closed, row)
    logits = tiny.uncached_logits(text)
    logprobs = jax.nn.log_softmax(logits, axis=-1)
    trained = np.flatnonzero(np.asarray(closed.loss_mask[row])[slots])
    np.testing.assert_allclose(
      np.asarray(logprobs)[trained - 1, text[trained]],
      np.asarray(closed.sampler_logprobs[row])[slots[trained]],
      atol=1e-5,
    )


def test_nothing_that_closes_is_the_rollout_without_it(sampled):
  how = dataclasses.replace(tiny.revise(), closing=jnp.zeros((0,), jnp.int32))
  assert_same(sampled, tiny.run(how, tiny.prompts()))


def is_split(x):
  return not x.sharding.is_fully_replicated


@pytest.mark.slow
@pytest.mark.parametrize(
  ('data', 'fsdp', 'model'), [(1, 1, 1), (8, 1, 1), (4, 1, 2), (2, 2, 2)]
)
def test_samples_do_not_change_with_the_mesh(sampled, data, fsdp, model):
  devices = jax.devices()[: data * fsdp * model]
  mesh = partitioning.make_mesh(
    data=data, fsdp=fsdp, model=model, devices=devices
  )
  layout = partitioning.shardings(
    tiny.POLICY.logical_axes(), tiny.params(), mesh
  )
  params = jax.device_put(tiny.params(), layout)
  given = jax.device_put(tiny.prompts(), partitioning.rows(mesh))
  query = params['layers']['attention']['query']['kernel']
  assert is_split(query) == (fsdp * model > 1)
  assert len(given.tokens.sharding.device_set) == len(devices)
  assert is_split(given.tokens) == (data * fsdp > 1)
  with jax.set_mesh(mesh):
    run = jax.jit(lambda how, *args: how(tiny.POLICY, *args))
    rollout = run(tiny.revise(), params, given, jax.random.key(0))
    assert_same(jax.device_get(rollout), sampled)


@pytest.mark.multiprocess
def test_samples_do_not_change_with_a_restart(sampled):
  script = (
    'from tests.rollout import tiny; '
    'print(tiny.run(tiny.revise(), tiny.prompts()).tokens.tolist())'
  )
  again = subprocess.run(
    [sys.executable, '-c', script], capture_output=True, text=True, check=True
  )
  assert again.stdout.strip() == str(sampled.tokens.tolist())


def test_the_key_of_the_step_changes_the_samples(sampled):
  other = tiny.run(tiny.revise(), tiny.prompts(), seed=1)
  assert np.mean(np.any(other.tokens != sampled.tokens, axis=1)) > 0.8


def test_eos_ids_and_instruction_are_arguments_of_the_compiled_program(
  sampled, caplog
):
  given = tiny.prompts()
  told = dataclasses.replace(tiny.revise(), instruction=jnp.array([8, 8, 2]))
  ends, hotter = tiny.revise(eos=(0, 5, 8)), tiny.revise(temperature=2.0)
  with jax.log_compiles(), caplog.at_level('WARNING', 'jax'):
    after, other, hot = (tiny.run(how, given) for how in (ends, told, hotter))
  assert 'Compiling' not in caplog.text
  assert np.any(lengths(sampled, 0) != lengths(after, 0))
  # Another set of ends changes where a text stops, not what it says.
  both = (sampled.turn[:, :11] == 0) & (after.turn[:, :11] == 0)
  np.testing.assert_array_equal(
    sampled.tokens[:, :11][both], after.tokens[:, :11][both]
  )
  assert other.tokens[:, 11:14].tolist() == [[8, 8, 2]] * 16
  assert np.any(other.tokens[:, 14:] != sampled.tokens[:, 14:])
  assert np.any(hot.tokens != sampled.tokens)


def test_the_second_attempt_has_random_numbers_of_its_own():
  # Without a word on the text, equal numbers would give equal attempts.
  silent = jax.tree.map(jnp.zeros_like, tiny.params())
  same = 0
  for seed in range(4):
    how = tiny.revise(eos=(99,) * 3)
    rollout = tiny.run(how, tiny.prompts(), seed, silent)
    same += np.sum(rollout.tokens[:, 5:10] == rollout.tokens[:, 14:19])
  # 320 pairs of 14 ids: 22.9 equal ones expected, standard deviation 4.6.
  assert 5 < same < 42


@pytest.mark.slow
def test_a_third_attempt_goes_on_where_the_second_ended():
  longer = dataclasses.replace(tiny.revise(), max_new_tokens=(4, 5, 3))
  three = tiny.run(longer, tiny.prompts())
  assert [end - start for start, end in three.spans] == [4, 5, 3]
  assert three.finished.shape[1] == 3
  assert set(np.unique(three.turn)) == {-1, 0, 1, 2}
  for positions in np.asarray(three.positions):
    real = positions[positions >= 0]
    assert real.tolist() == list(range(len(real)))
  # The first two are those of a rollout that ends there.
  shorter = dataclasses.replace(longer, max_new_tokens=(4, 5))
  two = tiny.run(shorter, tiny.prompts())
  width = two.tokens.shape[1]
  np.testing.assert_array_equal(three.tokens[:, :width], two.tokens)
  scored = score(tiny.POLICY, tiny.params(), three).logprobs
  mask = np.asarray(three.loss_mask)
  np.testing.assert_allclose(
    np.asarray(scored)[mask],
    np.asarray(three.sampler_logprobs)[mask],
    atol=1e-5,
  )


def test_fewer_than_two_attempts_are_no_revision():
  with pytest.raises(ValueError, match=r'one limit per attempt.*single'):
    dataclasses.replace(tiny.revise(), max_new_tokens=(4,))
