from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from selfimprove.rollout import assemble, decode
from selfimprove.types import Policy
from tests.rollout import scripted, tiny

KEY = jax.random.key(3)


def bits(keys):
  return np.asarray(jax.random.key_data(keys)).tolist()


def test_a_row_key_depends_on_key_example_and_sample_number_alone():
  prompts = tiny.prompts()
  keys = bits(decode.row_keys(KEY, prompts, 3))
  order = [5, 0, 3]
  picked = bits(decode.row_keys(KEY, tiny.take(prompts, order), 3))
  assert picked == [keys[3 * p + i] for p in order for i in range(3)]
  wider = bits(decode.row_keys(KEY, prompts, 5))
  assert keys == [wider[5 * p + i] for p in range(8) for i in range(3)]


def test_no_two_samples_share_a_key():
  keys = bits(decode.row_keys(KEY, tiny.prompts(), 5))
  other = bits(decode.row_keys(jax.random.key(4), tiny.prompts(), 5))
  assert len(set(map(tuple, keys + other))) == 2 * 8 * 5


@functools.partial(jax.jit, static_argnames='limit')
def compiled(lengths, eos, limit):
  return decode.decode(
    scripted.POLICY,
    lengths,
    scripted.context(lengths),
    jax.random.split(KEY, lengths.shape[0]),
    first_slot=0,
    max_new_tokens=limit,
    eos_ids=eos,
    how=decode.Sampling(),
  )


def attempt(lengths, limit, *, eos=(scripted.EOS, 99)):
  return compiled(jnp.array(lengths), jnp.array(eos), limit)


@pytest.mark.parametrize(
  ('lengths', 'calls'),
  [
    # The first token comes from the prefill, each further one from a call.
    ((3, 1, 4), 3),
    ((1, 1, 1), 0),
    ((2, 9, 2), 8),
    # Nobody ends: all 10 slots are filled.
    ((99, 99, 99), 9),
    ((1, 99, 1), 9),
  ],
)
def test_the_loop_stops_when_the_last_row_has_ended(lengths, calls):
  assert int(attempt(lengths, 10).cache) == calls


def test_a_row_is_empty_behind_its_end():
  written = attempt((3, 1, 5), 10).written
  word, eos = scripted.WORD, scripted.EOS
  assert written.tokens.tolist() == [
    [word, word, eos, *[0] * 7],
    [eos, *[0] * 9],
    [word, word, word, word, eos, *[0] * 5],
  ]
  assert written.positions.tolist() == [
    [0, 1, 2, *[-1] * 7],
    [0, *[-1] * 9],
    [0, 1, 2, 3, 4, *[-1] * 5],
  ]


def test_log_probabilities_are_zero_behind_the_end():
  written = tiny.run(tiny.revise(), tiny.prompts())
  empty = np.asarray(written.positions) < 0
  assert np.any(empty)
  assert not np.any(np.asarray(written.sampler_logprobs)[empty])


def test_an_attempt_is_finished_by_eos_in_its_last_slot_but_not_by_the_limit():
  result = attempt((4, 5, 2), 4)
  assert result.written.finished.tolist() == [True, False, True]
  # Only the row that ended before the others has its EOS in the cache.
  assert result.pending_position.tolist() == [3, 3, -1]
  assert result.pending.tolist() == [scripted.EOS, scripted.WORD, 0]


def test_one_slot_is_a_whole_attempt():
  result = attempt((1, 2, 1), 1)
  eos, word = scripted.EOS, scripted.WORD
  assert result.written.finished.tolist() == [True, False, True]
  assert result.written.tokens.tolist() == [[eos], [word], [eos]]
  assert int(result.cache) == 0


def test_any_of_the_eos_ids_ends_an_attempt():
  ids = (scripted.EOS, scripted.WORD)
  result = attempt((3, 1, 2), 4, eos=ids)
  assert result.written.finished.tolist() == [True] * 3
  assert int(result.cache) == 0


def test_the_next_position_is_behind_the_last_token():
  written = attempt((3, 1, 9), 4).written
  start = jnp.array([5, 0, 2], jnp.int32)
  assert decode.next_position(start, written).tolist() == [8, 1, 6]


def test_a_prompt_is_read_once_for_all_samples_of_its_group():
  read = []

  def apply(params, tokens, positions, cache):
    read.append(tokens.shape)
    return tiny.POLICY.apply(params, tokens, positions, cache)

  watched = Policy(**{**tiny.POLICY._asdict(), 'apply': apply})
  how = tiny.revise(group_size=4)
  jax.eval_shape(
    functools.partial(how, watched), tiny.params(), tiny.prompts(), KEY
  )
  # Prompts; a step of the first loop; EOS and instruction; of the second loop.
  assert read == [(8, 5), (32, 1), (32, 4), (32, 1)]


def test_prefill_gives_the_logits_of_each_prompt_read_alone():
  prompts = tiny.prompts()
  read = functools.partial(decode.prefill, tiny.POLICY, group_size=2, slots=1)
  got = jax.jit(read)(tiny.params(), prompts)
  for row, length in enumerate(tiny.PROMPT_LENGTHS):
    alone = tiny.uncached_logits(np.asarray(prompts.tokens)[row, -length:])
    for copy in (2 * row, 2 * row + 1):
      np.testing.assert_allclose(got.logits[copy], alone[-1], atol=1e-5)
      assert int(got.position[copy]) == length


def test_extension_gives_the_logits_of_the_whole_text_read_anew():
  prompts, inserted = tiny.prompts(), jnp.array(tiny.INSTRUCTION)

  @jax.jit
  def extended(params):
    start = decode.prefill(tiny.POLICY, params, prompts, group_size=1, slots=9)
    first = decode.decode(
      tiny.POLICY,
      params,
      start,
      decode.row_keys(KEY, prompts, 1),
      first_slot=0,
      max_new_tokens=6,
      eos_ids=jnp.array(tiny.EOS),
      how=decode.Sampling(),
    )
    told = decode.insertion(first.written, start.position, inserted)
    after = decode.extend(tiny.POLICY, params, first, told)
    return first.written, after, told.positions

  written, after, positions = extended(tiny.params())
  lengths = np.sum(np.asarray(written.positions) >= 0, axis=1)
  assert len(set(lengths.tolist())) >= 3
  for row, prompt in enumerate(tiny.PROMPT_LENGTHS):
    text = np.concatenate(
      [
        np.asarray(prompts.tokens)[row, -prompt:],
        np.asarray(written.tokens)[row, : lengths[row]],
        np.asarray(inserted),
      ]
    )
    anew = tiny.uncached_logits(text)[-1]
    np.testing.assert_allclose(after.logits[row], anew, atol=1e-5)
    assert int(after.position[row]) == len(text)
    assert positions[row].tolist() == list(range(len(text) - 3, len(text)))


@pytest.mark.parametrize('cut', [False, True])
def test_what_closes_a_turn_is_put_behind_turns_that_lack_it(cut):
  # EOS 7 with which the second turn ends is not the one that closes it.
  tokens = jnp.array([[4, 1, 0, 0], [4, 5, 7, 0], [4, 5, 6, 2], [0, 0, 0, 0]])
  lengths = jnp.array([2, 3, 4, 0])
  mask = jnp.arange(4)[None, :] < lengths[:, None]
  start = jnp.array([3, 0, 5, 2])
  written = assemble.write(tokens, mask, start)
  ids, closing = jnp.array([8, 9]), jnp.array([6, 1] if cut else [1])
  told = decode.insertion(written, start, ids, closing)
  extra = len(closing)
  own = [-1] * extra
  assert told.tokens.tolist() == [
    [*([0] * extra), 8, 9],
    *([[*closing.tolist(), 8, 9]] * 3),
  ]
  assert told.positions.tolist() == [
    [*own, 5, 6],
    *(list(range(n, n + extra + 2)) for n in (3, 9, 2)),
  ]
  plain = decode.insertion(written, start, ids)
  none = decode.insertion(written, start, ids, closing[:0])
  assert plain.tokens.tolist() == none.tokens.tolist() == [[8, 9]] * 4
  assert plain.positions.tolist() == [[5, 6], [3, 4], [9, 10], [2, 3]]
  assert none.positions.tolist() == plain.positions.tolist()


@pytest.mark.parametrize(
  'how',
  [
    {'temperature': -0.1},
    {'temperature': math.inf},
    {'temperature': math.nan},
    {'top_k': 0},
    {'top_p': 0.0},
    {'top_p': 1.1},
  ],
)
def test_sampling_out_of_range_is_refused(how):
  ((name, value),) = how.items()
  with pytest.raises(ValueError, match=f'{name}={value} is not '):
    decode.Sampling(**how)


def test_sampling_may_be_traced():
  how = decode.Sampling(temperature=0.5, top_p=0.9)
  traced = jax.jit(lambda how: how.temperature * how.top_p)(how)
  assert float(traced) == pytest.approx(0.45)
