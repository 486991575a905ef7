from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from selfimprove.rollout import contexts
from selfimprove.training.score import score
from selfimprove.types import Text
from tests.training import tiny

OPENING, CLOSING = [6], [6, 6]


def _hinted(hint):
  return contexts.Hinted(
    hint=hint,
    opening=jnp.asarray(OPENING, jnp.int32),
    closing=jnp.asarray(CLOSING, jnp.int32),
  )


def _rows(tokens, mask):
  return [np.asarray(t)[np.asarray(m)].tolist() for t, m in zip(tokens, mask)]


def test_a_hint_stands_behind_its_prompt_without_a_gap():
  prompts = tiny.prompts(3)
  shown = _hinted(contexts.AnswerPrefix(length=1))(prompts)
  plain = _rows(prompts.tokens, prompts.mask)
  answers = _rows(prompts.answer, prompts.answer_mask)
  assert _rows(shown.tokens, shown.mask) == [
    prompt + OPENING + answer[:1] + CLOSING
    for prompt, answer in zip(plain, answers)
  ]
  assert bool(jnp.all(shown.mask[:, -1]))  # Padded on the left.


def test_a_field_of_the_task_may_be_the_hint():
  text = Text(
    tokens=jnp.asarray([[2, 3], [4, 0], [5, 5]]),
    mask=jnp.asarray([[True, True], [True, False], [True, True]]),
  )
  prompts = dataclasses.replace(tiny.prompts(3), extra={'hint': text})
  shown = _hinted(contexts.FieldHint())(prompts)
  plain = _rows(prompts.tokens, prompts.mask)
  hints = [[2, 3], [4], [5, 5]]
  assert _rows(shown.tokens, shown.mask) == [
    prompt + OPENING + hint + CLOSING for prompt, hint in zip(plain, hints)
  ]


def test_the_beginning_of_a_field_may_be_the_hint():
  text = Text(
    tokens=jnp.asarray([[2, 3, 6], [4, 0, 0]]),
    mask=jnp.asarray([[True, True, True], [True, False, False]]),
  )
  prompts = dataclasses.replace(tiny.prompts(2), extra={'solution': text})
  shown = _hinted(contexts.FieldPrefix(length=2))(prompts)
  plain = _rows(prompts.tokens, prompts.mask)
  assert _rows(shown.tokens, shown.mask) == [
    prompt + OPENING + hint + CLOSING
    for prompt, hint in zip(plain, [[2, 3], [4]])
  ]


def test_a_field_that_the_task_does_not_give_is_named():
  with pytest.raises(KeyError, match=r"no text 'hint'.*extra_tokens"):
    contexts.FieldHint()(tiny.prompts(3))


@functools.cache
def _sampled():
  """Two-attempt samples behind a hint, and where they were sampled."""
  params, prompts = tiny.POLICY.init(jax.random.key(0)), tiny.prompts(3)
  context = _hinted(contexts.AnswerPrefix(length=2))
  inner, key = tiny.revise(), jax.random.key(1)
  outer = contexts.InContext(rollout=inner, context=context)
  moved = tiny.sampled(outer, params, prompts, key)
  seen = tiny.sampled(
    inner, params, jax.jit(lambda how, given: how(given))(context, prompts), key
  )
  return params, prompts, moved, seen


@pytest.mark.slow
def test_attempts_stand_behind_the_prompt_that_they_were_meant_for():
  _, prompts, moved, seen = _sampled()
  width, wide = moved.prompt_slots, seen.prompt_slots
  assert width == prompts.tokens.shape[1] < wide
  np.testing.assert_array_equal(
    moved.tokens[:, :width], jnp.repeat(prompts.tokens, 4, axis=0)
  )
  for name in ('tokens', 'loss_mask', 'turn', 'sampler_logprobs'):
    np.testing.assert_array_equal(
      getattr(moved, name)[:, width:], getattr(seen, name)[:, wide:]
    )
    assert not np.any(np.asarray(moved.loss_mask)[:, :width])
  assert bool(jnp.all(moved.off_context))
  assert not bool(jnp.any(seen.off_context))
  assert [b - a for a, b in moved.spans] == [b - a for a, b in seen.spans]
  # Positions count the real tokens of the row, as if there were no hint.
  for positions in np.asarray(moved.positions):
    real = positions[positions >= 0]
    assert real.tolist() == list(range(len(real)))


def test_the_sampler_logprobs_are_those_of_the_hinted_context():
  params, _, moved, seen = _sampled()
  behind_hint = score(tiny.POLICY, params, seen).logprobs
  np.testing.assert_allclose(
    np.asarray(behind_hint)[np.asarray(seen.loss_mask)],
    np.asarray(moved.sampler_logprobs)[np.asarray(moved.loss_mask)],
    atol=1e-5,
  )
  # Scored without the hint they are others: the ratio is not 1.
  alone = score(tiny.POLICY, params, moved).logprobs
  gap = jnp.abs(alone - moved.sampler_logprobs)[moved.loss_mask]
  assert float(jnp.mean(gap)) > 1e-2
