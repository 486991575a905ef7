from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from selfimprove.rollout.decode import Sampling
from selfimprove.rollout.single import Single
from tests.rollout import tiny


def single(*, temperature=1.0, group_size=2, limit=6, eos=tiny.EOS):
  return Single(
    eos_ids=jnp.array(eos, jnp.int32),
    sampling=Sampling(temperature=temperature),
    group_size=group_size,
    max_new_tokens=limit,
  )


def test_the_one_turn_stands_behind_the_prompt():
  rollout = tiny.run(single(), tiny.prompts())
  assert rollout.spans == ((5, 11),)
  assert rollout.finished.shape == (16, 1)
  written = np.asarray(rollout.positions) >= 0
  written[:, :5] = False
  np.testing.assert_array_equal(rollout.loss_mask, written)
  np.testing.assert_array_equal(rollout.turn, np.where(written, 0, -1))


def test_it_is_the_first_attempt_of_a_revision():
  rollout = tiny.run(single(), tiny.prompts())
  revised = tiny.run(tiny.revise(), tiny.prompts())
  np.testing.assert_array_equal(rollout.tokens, revised.tokens[:, :11])
  np.testing.assert_allclose(
    rollout.sampler_logprobs, revised.sampler_logprobs[:, :11], atol=1e-6
  )


def test_samples_of_a_group_and_of_equal_prompts_differ():
  # Eight times the same prompt under different identities, two samples each,
  # no end in sight: 16 different attempts of 6 tokens.
  given = tiny.take(tiny.prompts(), [0] * 8)
  given = type(given)(
    **{**vars(given), 'example_id': jnp.arange(8, dtype=jnp.int32)}
  )
  rollout = tiny.run(single(eos=(99,) * 3), given)
  assert len(set(map(tuple, rollout.tokens[:, 5:].tolist()))) == 16
  assert not np.any(rollout.finished)


def test_first_tokens_are_drawn_as_often_as_the_softmax_says():
  given = tiny.take(tiny.prompts(), [2])
  draws, temperature = 20_000, 1.6
  rollout = tiny.run(
    single(temperature=temperature, group_size=draws, limit=1), given
  )
  logits = tiny.uncached_logits(np.asarray(given.tokens)[0, -4:])[-1]
  expected = draws * np.asarray(jax.nn.softmax(logits / temperature))
  seen = np.bincount(rollout.tokens[:, -1], minlength=tiny.VOCAB)
  assert np.min(expected) > 5
  chi_square = np.sum((seen - expected) ** 2 / expected)
  assert chi_square < 34.5  # 99.9 % quantile of 13 degrees of freedom.
