from __future__ import annotations

import json
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from selfimprove.algorithms import base
from selfimprove.rewards.answers import Numeric, exact_text
from selfimprove.rewards.by_source import BySource
from selfimprove.rewards.code import PassesTests
from selfimprove.rewards.mathematics import MathAnswer
from selfimprove.rewards.pool import Failure
from selfimprove.rewards.verdict_cache import Outcome
from selfimprove.rewards.verifiers import (
  ExactMatch,
  HostVerifier,
  VerifierError,
)
from tests.rewards import misbehaving
from tests.rewards.written import prompts, rollout

_EOS, _END, _PAD = 1, 2, 0


def _verdict(ids, answer, *, finished=True, eos_ids=(_EOS,), pad=_PAD):
  sample = rollout([[ids, [_EOS]]], finished=[[finished, True]], pad=pad)
  if eos_ids is not None:
    eos_ids = jnp.asarray(eos_ids, jnp.int32)
  verifier = ExactMatch(eos_ids=eos_ids)
  return float(verifier(sample, prompts([answer], pad=pad))[0, 0])


@pytest.mark.parametrize(
  ('ids', 'verdict'),
  [
    ([5, 6, _EOS], 1.0),
    ([5, 7, _EOS], 0.0),
    ([6, 5, _EOS], 0.0),
    ([5, _EOS], 0.0),  # A prefix of the answer.
    ([5, 6, 6, _EOS], 0.0),  # The answer and more.
    ([5, 6, _PAD, _EOS], 0.0),  # A written pad id is no padding.
    ([_EOS], 0.0),
    ([_EOS, 5, 6, _EOS], 0.0),  # Only the final EOS is left out.
  ],
)
def test_an_attempt_is_right_iff_its_ids_are_the_answer(ids, verdict):
  assert _verdict(ids, [5, 6]) == verdict


def test_an_answer_as_wide_as_the_array_is_compared_whole():
  assert _verdict([5, 6, 7, _EOS], [5, 6, 7]) == 1.0
  assert _verdict([5, 6, 8, _EOS], [5, 6, 7]) == 0.0


def test_a_truncated_attempt_is_wrong_even_if_its_ids_agree():
  assert _verdict([5, 6], [5, 6], finished=False) == 0.0
  assert _verdict([5, 6], [5, 6], finished=True) == 1.0


def test_any_of_several_eos_ids_ends_an_attempt():
  assert _verdict([5, 6, _END], [5, 6], eos_ids=(_EOS, _END)) == 1.0
  assert _verdict([5, 6, _END], [5, 6], eos_ids=(_EOS,)) == 0.0


def test_a_row_without_a_token_exact_answer_is_never_right():
  assert _verdict([_EOS], []) == 0.0


def test_padding_ids_decide_nothing():
  # Padding that looks like the answer, the EOS, or another id.
  for pad in (0, _EOS, 5, 6, 9):
    assert _verdict([5, 6, _EOS], [5, 6], pad=pad) == 1.0
    assert _verdict([5, _EOS], [5, 6], pad=pad) == 0.0


def test_each_attempt_is_judged_by_its_own_ids_and_its_group_by_its_prompt():
  right, wrong = [5, 6, _EOS], [7, _EOS]
  samples = rollout(
    [[right, wrong], [wrong, right], [right, wrong], [wrong, wrong]],
    group_size=2,
  )
  rewards = ExactMatch(eos_ids=(_EOS,))(samples, prompts([[5, 6], [7]]))
  # Rows 0 and 1 belong to the answer 5 6, rows 2 and 3 to the answer 7.
  assert rewards.tolist() == [[1, 0], [0, 1], [0, 1], [1, 1]]
  assert rewards.dtype == jnp.float32


def test_without_eos_ids_the_last_token_of_a_finished_attempt_ends_it():
  assert _verdict([5, 6, _END], [5, 6], eos_ids=None) == 1.0
  assert _verdict([5, 6, 7, _END], [5, 6], eos_ids=None) == 0.0
  assert _verdict([5, 6], [5, 6], eos_ids=None, finished=False) == 0.0


def test_eos_ids_are_data_and_do_not_recompile():
  sample = rollout([[[5, 6, _EOS], [5, 6, _END]]])
  traced = []

  @jax.jit
  def judge(verifier):
    traced.append(verifier)
    return verifier(sample, prompts([[5, 6]]))

  rewards = [
    judge(ExactMatch(eos_ids=jnp.asarray([ids], jnp.int32))).tolist()
    for ids in (_EOS, _END)
  ]
  assert rewards == [[[1.0, 0.0]], [[0.0, 1.0]]]
  assert len(traced) == 1


def test_prompts_of_another_rollout_are_refused():
  samples = rollout([[[5], [5]]] * 2)
  with pytest.raises(ValueError, match='2 rows for 1 prompts'):
    ExactMatch(eos_ids=(_EOS,))(samples, prompts([[5]]))


def test_a_host_verifier_judges_each_attempt_against_its_row():
  verifier = HostVerifier(fn=Numeric(), workers=2)
  rewards = verifier.judge(
    [['is 5', '6'], ['0', 'x'], ['1/2', '7']],
    [{'answer': '5'}, {'answer': '0'}, {'answer': '0.5'}],
  )
  np.testing.assert_array_equal(rewards, [[1, 0], [1, 0], [1, 0]])
  assert rewards.dtype == np.float32


def test_the_first_attempt_without_a_verdict_raises_and_is_named():
  verifier = HostVerifier(fn=misbehaving.act, workers=1)
  row = {'answer': 'five'}
  message = (
    r"^Verifier 'act' returned nan, which is not a finite number "
    r"\(attempt 'nan', reference \{'answer': 'five'\}\); correct the verifier "
    r'or the row, or give `HostVerifier` a `fallback` reward\.$'
  )
  with pytest.raises(VerifierError, match=message) as caught:
    verifier.judge([['right', 'nan'], ['raise', 'loop']], [row, {}])
  assert caught.value.attempt == 'nan'
  assert caught.value.reference == row


def test_a_message_is_short_and_its_error_whole():
  long = 'nan' + ' ' * 300
  error = VerifierError('act', 'returned nan', long, {'answer': '5'})
  assert len(str(error)) < 500
  assert error.attempt == long


def test_a_fallback_is_the_reward_and_is_counted_and_said(caplog):
  verifier = HostVerifier(
    fn=misbehaving.act, workers=1, timeout_seconds=1.0, fallback=-0.5
  )
  with caplog.at_level(logging.WARNING):
    rewards = verifier.judge([['right', 'raise'], ['loop', 'nan']], [{}, {}])
  np.testing.assert_array_equal(rewards, [[1.0, -0.5], [-0.5, -0.5]])
  assert verifier.metrics() == {
    'reward/verifier_calls': 4.0,
    'reward/verifier_failures': 3.0,
    'reward/verifier_timeouts': 1.0,
  }
  assert len(caplog.records) == 3
  assert 'Its reward is -0.5.' in caplog.text


def test_only_what_runs_out_of_time_has_the_timeout_reward():
  verifier = HostVerifier(
    fn=misbehaving.act, workers=1, timeout_seconds=1.0, timeout_reward=-1.0
  )
  rewards = verifier.judge([['loop', 'right']], [{}])
  np.testing.assert_array_equal(rewards, [[-1.0, 1.0]])
  with pytest.raises(VerifierError, match='returned nan'):
    verifier.judge([['loop', 'nan']], [{}])


@pytest.mark.parametrize('fallback', [None, 0.0])
def test_a_sample_without_a_verdict_is_saved(tmp_path, fallback):
  path = tmp_path / 'failures.jsonl'
  verifier = HostVerifier(fn=misbehaving.act, workers=1, fallback=fallback)
  verifier.save_failures(path)
  judge = lambda: verifier.judge(  # noqa: E731
    [['right', 'nan'], ['raise', 'nan']], [{'answer': 'x'}] * 2
  )
  if fallback is None:
    with pytest.raises(VerifierError, match=str(path)) as caught:
      judge()
    assert caught.value.path == path
  else:
    judge()
  rows = [json.loads(line) for line in path.read_text().splitlines()]
  # Without a fallback the first ends it; equal ones are saved once.
  wanted = ['nan'] if fallback is None else ['nan', 'raise']
  assert [row['attempt'] for row in rows] == wanted
  assert rows[0]['verifier'] == 'act'
  assert rows[0]['reference'] == {'answer': 'x'}
  assert 'not a finite number' in rows[0]['reason']


def test_all_failures_of_a_batch_are_saved_and_the_first_is_raised(
  tmp_path, monkeypatch
):
  path = tmp_path / 'failures.jsonl'
  verifier = HostVerifier(fn=misbehaving.act, workers=3)
  verifier.save_failures(path)
  # As of three workers that failed at once, where the order is chance.
  verdicts = [1.0, Failure(reason='a'), Failure(reason='b', timed_out=True)]
  outcomes = [
    Outcome(verdict=verdict, cached=False, seconds=0.0)
    for verdict in [*verdicts, None]
  ]
  monkeypatch.setattr(verifier.calls, 'run', lambda *_, **__: outcomes)
  with pytest.raises(VerifierError, match="'act' a "):
    verifier.judge([['u', 'v', 'w', 'x']], [{}])
  rows = [json.loads(line) for line in path.read_text().splitlines()]
  assert [row['attempt'] for row in rows] == ['v', 'w']
  assert [row['timed_out'] for row in rows] == [False, True]


def test_an_attempt_that_was_cut_off_is_wrong_and_not_judged():
  verifier = HostVerifier(fn=misbehaving.act, workers=1)
  finished = np.array([[True, False], [False, True]])
  rewards = verifier.judge(
    [['right', 'raise'], ['right', 'right']], [{}, {}], finished=finished
  )
  np.testing.assert_array_equal(rewards, [[1, 0], [0, 1]])
  assert verifier.metrics()['reward/verifier_calls'] == 2.0


def test_what_a_cut_off_attempt_gets_can_be_said():
  finished = np.array([[False]])
  judged = HostVerifier(fn=misbehaving.act, workers=1, unfinished=None)
  assert judged.judge([['right']], [{}], finished=finished) == 1.0
  fined = HostVerifier(fn=misbehaving.act, workers=1, unfinished=-1.0)
  assert fined.judge([['right']], [{}], finished=finished) == -1.0


def test_equal_attempts_at_equal_rows_are_judged_once():
  verifier = HostVerifier(fn=misbehaving.own_process, workers=2)
  verifier.judge([['a', 'a'], ['a', 'b']], [{}, {}])
  assert verifier.metrics()['reward/verifier_calls'] == 4.0
  assert verifier.timing()['verifier/cached'] == 2.0
  verifier.judge([['a']], [{}])
  assert verifier.metrics()['reward/verifier_calls'] == 1.0
  assert verifier.timing() == {
    'verifier/cached': 1.0,
    'verifier/seconds': 0.0,
    'verifier/seconds_max': 0.0,
  }


def test_a_host_verifier_has_no_leaves_and_keeps_its_processes_in_a_pytree():
  verifier = HostVerifier(fn=misbehaving.own_process, workers=1)
  rebuilt = jax.tree.map(lambda leaf: leaf, verifier)
  assert jax.tree.leaves(verifier) == []
  assert jax.tree.structure(verifier) == jax.tree.structure(rebuilt)
  assert verifier.judge([['']], [{}]) == rebuilt.judge([['']], [{}])


def test_a_host_verifier_fills_the_reward_slot_of_the_host():
  assert isinstance(HostVerifier(fn=exact_text), base.HostReward)
  assert not isinstance(ExactMatch(eos_ids=(_EOS,)), base.HostReward)


def test_a_closed_host_verifier_can_judge_again():
  verifier = HostVerifier(fn=exact_text, workers=1)
  for _ in range(2):
    assert verifier.judge([['a']], [{'answer': 'a'}]).tolist() == [[1.0]]
    verifier.close()


@pytest.mark.parametrize(
  ('fn', 'good', 'bad', 'message'),
  [
    (
      PassesTests(),
      {'test_list': ['assert f(1) == 1'], 'code': 'f = 0'},
      {'test_list': ['assert f(']},
      'not Python',
    ),
    (MathAnswer(), {'answer': '5'}, {'answer': ' '}, 'holds no answer'),
    (
      BySource(verifiers={'math': MathAnswer(), 'any': exact_text}),
      {'source': 'any'},
      {'source': 'math', 'answer': ''},
      'holds no answer',
    ),
  ],
)
def test_the_first_row_that_cannot_be_judged_is_named(fn, good, bad, message):
  host = HostVerifier(fn=fn)
  host.check([good])
  with pytest.raises(ValueError, match=f'Row 1 of 3 .*{message}'):
    host.check([good, bad, bad])


def test_a_verifier_without_a_check_takes_any_row():
  HostVerifier(fn=exact_text).check([{}])


def test_rows_that_do_not_match_are_refused():
  verifier = HostVerifier(fn=exact_text)
  with pytest.raises(ValueError, match='2 rows of attempts and 1 references'):
    verifier.judge([['a'], ['b']], [{}])
  with pytest.raises(ValueError, match=r'Rows have \[1, 2\] attempts'):
    verifier.judge([['a'], ['b', 'c']], [{}, {}])


@pytest.mark.parametrize('name', ['fallback', 'timeout_reward', 'unfinished'])
def test_a_number_that_is_no_reward_is_refused(name):
  with pytest.raises(ValueError, match=f'{name} is nan'):
    HostVerifier(fn=exact_text, **{name: float('nan')})
