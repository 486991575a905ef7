"""Malformed configs: each is understood or refused in a sentence."""

from __future__ import annotations

import random

import pytest

from selfimprove import configuration
from selfimprove.command import USER_ERRORS
from selfimprove.experiment import Experiment
from selfimprove.models import hf_config
from selfimprove.models.config import TransformerConfig
from tests.fuzz import junk

LLAMA = {
  'model_type': 'llama',
  'vocab_size': 64,
  'hidden_size': 32,
  'intermediate_size': 48,
  'num_hidden_layers': 2,
  'num_attention_heads': 4,
  'num_key_value_heads': 2,
  'hidden_act': 'silu',
  'rms_norm_eps': 1e-5,
  'rope_theta': 10_000.0,
  'tie_word_embeddings': True,
  'torch_dtype': 'float32',
  'rope_scaling': {
    'rope_type': 'llama3',
    'factor': 8.0,
    'low_freq_factor': 1.0,
    'high_freq_factor': 4.0,
    'original_max_position_embeddings': 64,
  },
}
GEMMA = {
  **LLAMA,
  'rope_scaling': None,
  'hidden_act': None,
  'hidden_activation': 'gelu_pytorch_tanh',
  'query_pre_attn_scalar': 8,
  'head_dim': 8,
  'sliding_window': 8,
  'attn_logit_softcapping': 50.0,
  'final_logit_softcapping': 30.0,
  'layer_types': ['sliding_attention', 'full_attention'],
}
FILES = (
  'gin_configs/base.gin',
  'gin_configs/models/tiny.gin',
  'gin_configs/tasks/answer_first.gin',
  'gin_configs/algorithms/score.gin',
)
NAMES = (
  'SEED',
  'PROMPTS_PER_STEP',
  'GROUP_SIZE',
  'LEARNING_RATE',
  'MICROBATCHES',
  'TEMPERATURE',
  'KL_WEIGHT',
  'ALPHA',
  'STAGE_ONE_STEPS',
  'INSTRUCTION',
  'ATTEMPT_TOKENS',
  'TASK',
  'MODEL',
  'STAGES',
  'REWARD',
  'experiment.Experiment.init_from',
  'experiment.MeshShape.data',
  'loop.Schedule.evaluate_every',
  'tasks.answer_first.operands',
  'stages.Stage.no_such_field',
  'NO_SUCH_MACRO',
)
CONFIGS = {
  'llama': LLAMA,
  'qwen2': {**LLAMA, 'model_type': 'qwen2', 'rope_scaling': None},
  'qwen3': {
    **LLAMA,
    'model_type': 'qwen3',
    'rope_scaling': None,
    'head_dim': 8,
  },
  'gemma2': {**GEMMA, 'model_type': 'gemma2'},
  'gemma3_text': {**GEMMA, 'model_type': 'gemma3_text'},
  'gemma3, older': {
    **GEMMA,
    'model_type': 'gemma3_text',
    'layer_types': None,
    'sliding_window_pattern': 2,
  },
}


pytestmark = pytest.mark.slow  # Thousands of cases.


def _outcome(function, *args, **options):
  """What a function makes, or what it says to its user."""
  try:
    return function(*args, **options), ''
  except USER_ERRORS as error:
    return None, str(error)


@pytest.mark.parametrize('family', CONFIGS)
def test_a_malformed_config_is_understood_or_refused_in_a_sentence(family):
  rng = random.Random(family)
  assert hf_config.to_transformer(CONFIGS[family])
  outcomes = {True: 0, False: 0}
  for _ in range(600):
    fields = junk.changed(rng, CONFIGS[family])
    made, said = _outcome(hf_config.to_transformer, fields)
    assert isinstance(made, TransformerConfig) or junk.is_a_sentence(said), (
      fields,
      said,
    )
    outcomes[made is not None] += 1
  assert min(outcomes.values()) > 30  # Neither is the only one that is tested.


@pytest.mark.parametrize('seed', range(4))
def test_a_malformed_binding_is_understood_or_refused_in_a_sentence(seed):
  rng = random.Random(seed)
  understood = 0
  for _ in range(100):
    binding = f'{rng.choice(NAMES)} = {junk.value(rng)!r}'
    made, said = _outcome(
      configuration.build,
      Experiment,
      files=FILES,
      bindings=["INSTRUCTION = '?'", binding],
    )
    understood += made is not None
    assert made or (junk.is_a_sentence(said) and 'object' not in said), (
      binding,
      said,
    )
  assert 0 < understood < 40
