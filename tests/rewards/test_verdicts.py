from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from selfimprove import types
from selfimprove.rewards import verdicts
from tests.algorithms.rollouts import of_turns
from tests.rollout import tiny

PROMPTS = tiny.prompts()  # Nobody reads them.


@types.record
class Given:
  """Labels as they are given."""

  labels: object

  def __call__(self, rollout, prompts):
    return self.labels


def test_a_pair_is_ranked_rightly_if_its_first_row_ends_higher():
  # The last slot is padding, whose value must not count.
  turn = jnp.asarray([[0, 0, -1]] * 6)
  values = jnp.asarray(
    [[0, 2, -9], [5, 1, 9], [0, 1, 9], [0, 2, 0], [0, 1, 0], [0, 1, 0]],
    jnp.float32,
  )
  found = verdicts.PairRanked().verdicts(
    of_turns(turn, ((0, 3),), 2), PROMPTS, {'values': values}
  )
  # A tie is no ranking.
  assert found[:, 0].tolist() == [1, 1, 0, 0, 0, 0]


def test_an_outcome_is_guessed_by_the_sign_of_the_log_ratio():
  turn = jnp.asarray([[-1, 0, 0]] * 4)
  streams = {
    'old_logprobs': jnp.asarray([[9, -1, -1]] * 4, jnp.float32),
    'ref_logprobs': jnp.asarray(
      [[0, -2, -1], [0, 0, 0], [0, -2, -1], [0, 0, 0]], jnp.float32
    ),
  }
  verdict = verdicts.OutcomeGuessed(
    labels=Given(labels=jnp.asarray([[1.0], [0.0], [0.0], [1.0]])),
    score=verdicts.LogRatioScore(),
  )
  assert verdict.needs == ('old_logprobs', 'ref_logprobs')
  found = verdict.verdicts(of_turns(turn, ((0, 3),), 1), PROMPTS, streams)
  assert found[:, 0].tolist() == [1, 1, 0, 0]


def _first_error(labels, odds):
  """Steps of one token each; the log-odds of step i stand in slot i + 1."""
  count = len(labels)
  turn = jnp.asarray([[*range(count), -1, -1]])
  values = jnp.asarray([[9.0, *odds, -9.0]])
  verdict = verdicts.FirstErrorFound(
    labels=Given(labels=jnp.asarray([[*labels, 0]], jnp.float32))
  )
  spans = ((0, turn.shape[1]),) * (count + 1)  # There is room for one more.
  found = verdict.verdicts(
    of_turns(turn, spans, 1), PROMPTS, {'values': values}
  )
  assert found.shape == (1, 1)
  return bool(found[0, 0])


def test_the_first_error_is_found_only_in_its_place():
  assert _first_error([1, 0, 0], [2, -1, 5])
  assert not _first_error([1, 0, 0], [2, 1, -5])
  assert not _first_error([1, 0, 0], [-1, -1, -1])


def test_an_answer_without_error_is_to_be_left_alone():
  assert _first_error([1, 1], [1, 1])
  assert not _first_error([1, 1], [1, -1])


def test_verdicts_of_rows_do_not_depend_on_padding():
  turn = jnp.asarray([[0, 0, 1, 1]])
  values = jnp.asarray([[0.0, 0.0, 3.0, 0.0, -2.0]])
  wide = jnp.pad(turn, ((0, 0), (0, 1)), constant_values=-1)
  verdict = verdicts.FirstErrorFound(
    labels=Given(labels=jnp.asarray([[1.0, 0.0]]))
  )
  found = verdict.verdicts(
    of_turns(wide, ((0, 5),) * 2, 1), PROMPTS, {'values': values}
  )
  far = jnp.pad(wide, ((0, 0), (2, 3)), constant_values=-1)
  again = verdict.verdicts(
    of_turns(far, ((0, 10),) * 2, 1),
    PROMPTS,
    {'values': jnp.pad(values, ((0, 0), (2, 3)), constant_values=7.0)},
  )
  np.testing.assert_array_equal(found, [[1.0]])
  np.testing.assert_array_equal(again, found)
