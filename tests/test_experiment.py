"""What an experiment refuses before anything is computed."""

from __future__ import annotations

import dataclasses

import jax
import pytest

from selfimprove.configuration import ConfigError
from selfimprove.experiment import ForeignTextWarning, MeshShape
from selfimprove.models.lora import LoRA
from tests.conformance import built

RLOO = 'gin_configs/algorithms/rloo.gin'


@pytest.mark.parametrize(
  ('file', 'tokens'),
  [(RLOO, 2), ('gin_configs/algorithms/sft.gin', 2)],
)
def test_attempts_too_short_for_an_answer_are_refused(file, tokens):
  # Two digits and EOS; supervised attempts are made when it is measured.
  with pytest.raises(ConfigError, match='2 tokens cannot hold the 3 of an'):
    built.build(file, f'ATTEMPT_TOKENS = {tokens}')
  built.build(file, f'ATTEMPT_TOKENS = {tokens + 1}')


def test_one_short_attempt_of_two_is_refused():
  with pytest.raises(ConfigError, match='ATTEMPT_TOKENS'):
    built.build(
      'gin_configs/algorithms/multi_turn.gin',
      'revise.Revise.max_new_tokens = (%ATTEMPT_TOKENS, 2)',
    )


def test_a_model_without_a_logit_for_every_token_is_refused():
  experiment = built.build(RLOO)
  model = experiment.model
  assert model.vocab_size == 15  # Twelve characters and three special ids.
  wider = dataclasses.replace(model, vocab_size=16)  # Padding is no harm.
  dataclasses.replace(experiment, model=wider)
  fewer = dataclasses.replace(model, vocab_size=14)
  with pytest.raises(ValueError, match=r'vocab_size=14, but .* has 15 ids'):
    dataclasses.replace(experiment, model=fewer)


def test_a_mesh_that_does_not_fit_gives_way_to_replicas():
  assert len(jax.devices()) == 8
  fits = MeshShape(fsdp=2, model=2).make_or_replicate()
  one = {'data': 1, 'fsdp': 1, 'sequence': 1, 'model': 1}
  assert dict(fits.shape) == one | {'data': 2, 'fsdp': 2, 'model': 2}
  other = MeshShape(data=1, fsdp=16).make_or_replicate()
  assert dict(other.shape) == one | {'data': 8}


def test_adapters_that_fit_nothing_are_refused_before_anything_is_read():
  experiment = built.build(RLOO)
  assert experiment.models().adapters is None
  lora = LoRA(rank=2, alpha=1.0, targets='.*query')
  adapted = dataclasses.replace(experiment, lora=lora)
  assert adapted.models().adapters is not None
  other = dataclasses.replace(lora, targets='.*q_proj')
  with pytest.raises(ValueError, match=r'matches none of attention/key, '):
    dataclasses.replace(experiment, lora=other)
  with pytest.raises(ValueError, match='this run has no adapters'):
    dataclasses.replace(experiment, adapters_from='somewhere')


def test_problems_in_other_tokens_than_the_checkpoints_are_warned_of(tmp_path):
  experiment = built.build(RLOO)
  (tmp_path / 'tokenizer.json').write_text('{}')
  with pytest.warns(ForeignTextWarning, match='has a tokenizer, and the probl'):
    dataclasses.replace(experiment, init_from=str(tmp_path))
