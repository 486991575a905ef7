from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from selfimprove.rollout.decode import Sampling
from selfimprove.rollout.demonstrations import Demonstrate, NoisyRevisions
from selfimprove.rollout.single import Single
from tests.rollout import tiny

END = 1
ALTERNATIVES = (2, 3, 5, 6, 8)
PROBLEMS = 600


def shown(how, given, seed=0):
  rollout = tiny.run(how, given, seed)
  # What the policy wrote is compared with numpy below, not traced.
  return jax.tree.map(np.asarray, rollout)


def many():
  """Prompts whose answers begin with an alternative, 1 to 3 ids long."""
  rng = np.random.default_rng(1)
  given = tiny.prompts(tuple(rng.integers(1, 6, PROBLEMS)))
  lengths = rng.integers(1, 4, PROBLEMS)
  first = rng.choice(ALTERNATIVES, (PROBLEMS, 1))
  rest = rng.choice([9, 11, 12], (PROBLEMS, 2))
  return dataclasses.replace(
    given,
    answer=jnp.array(np.concatenate([first, rest], axis=1), jnp.int32),
    answer_mask=jnp.array(np.arange(3)[None] < lengths[:, None]),
  )


def noisy(**kwargs):
  return NoisyRevisions(
    eos_ids=jnp.array([END, 4], jnp.int32),
    instruction=jnp.array(tiny.INSTRUCTION, jnp.int32),
    alternatives=jnp.array(ALTERNATIVES, jnp.int32),
    **kwargs,
  )


def turns_of(rollout):
  """Both turns of each row as tuples of ids, trained or not."""
  return [
    tuple(
      tuple(rollout.tokens[row][rollout.turn[row] == turn].tolist())
      for turn in (0, 1)
    )
    for row in range(len(rollout.tokens))
  ]


def answers_of(given):
  """Reference answers with the first end behind them, once per row."""
  return [
    (*np.asarray(ids)[np.asarray(mask)].tolist(), END)
    for ids, mask in zip(given.answer, given.answer_mask, strict=True)
    for _ in range(2)
  ]


def moved(ids, steps):
  """`ids` with the first moved along the alternatives."""
  place = ALTERNATIVES.index(ids[0]) + steps
  return (ALTERNATIVES[place % len(ALTERNATIVES)], *ids[1:])


@pytest.fixture(scope='module')
def given():
  return many()


@pytest.fixture(scope='module')
def rollout(given):
  return shown(noisy(), given)


def within(share, probability, count):
  """Whether a frequency is within four standard errors of a probability."""
  error = np.sqrt(probability * (1 - probability) / count)
  return abs(share - probability) < 4 * error


def test_a_demonstration_is_the_answer_and_the_first_end():
  given = tiny.prompts()
  how = Demonstrate(eos_ids=jnp.array([END, 4], jnp.int32), group_size=2)
  rollout = shown(how, given)
  for row, answer in enumerate(answers_of(given)):
    mask = rollout.loss_mask[row]
    assert tuple(rollout.tokens[row][mask].tolist()) == answer
    assert mask[5 : 5 + len(answer)].all()
  assert rollout.finished.all()
  assert rollout.spans == ((5, 9),)
  np.testing.assert_array_equal(rollout.loss_mask, rollout.turn == 0)
  assert not rollout.sampler_logprobs.any()
  np.testing.assert_array_equal(rollout.temperature, np.ones(16))


def test_a_problem_without_an_answer_shows_the_end_alone():
  given = tiny.prompts()
  given = dataclasses.replace(
    given, answer_mask=jnp.zeros_like(given.answer_mask)
  )
  rollout = shown(Demonstrate(eos_ids=jnp.array([END], jnp.int32)), given)
  assert rollout.tokens[:, 5:].tolist() == [[END, 0, 0, 0]] * 8
  assert rollout.loss_mask.sum() == 8


@pytest.mark.parametrize('kind', ['demonstration', 'revision'])
def test_positions_are_contiguous_in_every_row(kind, given, rollout):
  if kind == 'demonstration':
    how = Demonstrate(eos_ids=jnp.array([END], jnp.int32))
    rollout = shown(how, given)
  for positions in rollout.positions:
    real = positions[positions >= 0]
    np.testing.assert_array_equal(real, np.arange(len(real)))


def test_even_rows_teach_both_turns_and_odd_rows_the_second(rollout):
  even, odd = np.arange(2 * PROBLEMS) % 2 == 0, np.arange(2 * PROBLEMS) % 2 == 1
  np.testing.assert_array_equal(
    rollout.loss_mask[even], rollout.turn[even] >= 0
  )
  np.testing.assert_array_equal(rollout.loss_mask[odd], rollout.turn[odd] == 1)
  assert np.any(rollout.turn[odd] == 0)


def test_no_untrained_token_has_a_sampler_log_probability(rollout):
  assert not np.any(rollout.sampler_logprobs[~rollout.loss_mask])


def test_the_instruction_stands_between_the_turns(rollout):
  (_, start), (stop, _) = rollout.spans
  between = rollout.tokens[:, start:stop]
  np.testing.assert_array_equal(
    between, np.broadcast_to(tiny.INSTRUCTION, between.shape)
  )
  assert not rollout.loss_mask[:, start:stop].any()


def test_odd_rows_begin_as_the_policy_samples(given, rollout):
  how = Single(
    eos_ids=jnp.array([END, 4], jnp.int32),
    sampling=Sampling(),
    group_size=2,
    max_new_tokens=4,
  )
  sampled = shown(how, given)
  np.testing.assert_array_equal(
    rollout.tokens[1::2, :9], sampled.tokens[1::2, :9]
  )
  np.testing.assert_array_equal(
    rollout.finished[1::2, 0], sampled.finished[1::2, 0]
  )
  assert 0 < rollout.finished[1::2, 0].mean() < 1


def test_first_turns_of_even_rows_are_spoilt_as_often_as_asked(given, rollout):
  turns, answers = turns_of(rollout), answers_of(given)
  jumps = np.zeros(len(ALTERNATIVES), int)
  for row in range(0, len(turns), 2):
    first, answer = turns[row][0], answers[row]
    # Only the first token may differ, and only within the alternatives.
    steps = [s for s in range(5) if moved(answer, s) == first]
    assert len(steps) == 1
    jumps[steps[0]] += 1
  assert within(1 - jumps[0] / PROBLEMS, 0.35, PROBLEMS)
  # Each of the other four alternatives equally often.
  for count in jumps[1:]:
    assert within(count / PROBLEMS, 0.35 / 4, PROBLEMS)


def kinds_of(turns, answers):
  """What each second turn is; rows in which that is ambiguous are left out."""
  kinds = []
  for (first, second), answer in zip(turns, answers, strict=True):
    movable = first[0] in ALTERNATIVES
    options = {
      'truth': answer,
      'copy': first,
      'up': moved(first, 1) if movable else first,
      'down': moved(first, -1) if movable else first,
    }
    assert second in options.values()
    if len(set(options.values())) == 4:
      kinds.append(next(k for k, v in options.items() if v == second))
  return kinds


def test_second_turns_are_truth_near_miss_or_copy_as_often_as_asked(
  given, rollout
):
  kinds = kinds_of(turns_of(rollout), answers_of(given))
  count = len(kinds)
  assert count > 300
  for kind, probability in (
    ('truth', 0.25),
    ('up', 0.15),
    ('down', 0.15),
    ('copy', 0.45),
  ):
    assert within(kinds.count(kind) / count, probability, count), kind


def test_probabilities_of_nought_and_one_are_certainties(given):
  how = noisy(spoil_first=0.0, truth=0.0, near_miss=0.0)
  rollout = shown(how, given)
  for (first, second), answer, row in zip(
    turns_of(rollout), answers_of(given), range(2 * PROBLEMS), strict=True
  ):
    assert second == first
    assert row % 2 or first == answer
  # A copy of an attempt that was cut short is cut short as well.
  np.testing.assert_array_equal(rollout.finished[:, 0], rollout.finished[:, 1])
  rollout = shown(noisy(spoil_first=1.0, truth=1.0, near_miss=0.0), given)
  for (first, second), answer, row in zip(
    turns_of(rollout), answers_of(given), range(2 * PROBLEMS), strict=True
  ):
    assert second == answer
    assert row % 2 or first != answer
  assert rollout.finished[:, 1].all()


def test_a_first_token_without_alternatives_is_left_alone(given):
  # An attempt may even be an end alone: its near miss is that end.
  how = noisy(truth=0.0, near_miss=1.0)
  rollout = shown(how, given)
  turns = turns_of(rollout)
  seen = [t for t in turns if t[0][0] not in ALTERNATIVES]
  assert len(seen) > 100
  assert any(len(first) == 1 for first, _ in seen)
  assert all(first == second for first, second in seen)
  assert all(f != s for f, s in turns if f[0] in ALTERNATIVES)


@pytest.mark.slow
def test_a_row_does_not_change_with_its_neighbours(given, rollout):
  order = [17, 3, 250]
  some = shown(noisy(), tiny.take(given, order))
  rows = [2 * p + i for p in order for i in range(2)]
  for name in ('tokens', 'positions', 'loss_mask', 'finished'):
    np.testing.assert_array_equal(
      getattr(some, name), getattr(rollout, name)[rows]
    )


def test_another_key_shows_other_revisions(given, rollout):
  other = shown(noisy(), given, seed=1)
  changed = np.any(other.tokens != rollout.tokens, axis=1)
  assert changed[::2].mean() > 0.4
  assert changed[1::2].mean() > 0.9


@pytest.mark.parametrize(
  'how',
  [
    {'group_size': 3},
    {'group_size': 0},
    {'truth': 0.6, 'near_miss': 0.5},
    {'truth': -0.1},
    {'spoil_first': 1.1},
  ],
)
def test_shares_that_are_none_are_refused(how):
  with pytest.raises(ValueError, match=f'{next(iter(how))}='):
    noisy(**how)
