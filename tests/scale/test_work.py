"""What a run asks for, against counts by hand."""

from __future__ import annotations

import types

import numpy as np
import pytest

from selfimprove.models.config import TransformerConfig
from selfimprove.scale import work
from selfimprove.training.step import Plan

CONFIG = TransformerConfig(
  vocab_size=10,
  num_layers=3,
  embed_dim=8,
  num_heads=4,
  num_kv_heads=2,
  head_dim=6,
  mlp_dim=16,
  dtype='bfloat16',
)
LAYER = 2 * 8 * 4 * 6 + 2 * 8 * 2 * 6 + 3 * 8 * 16
# 4 prompts of 5 slots, 8 samples each, attempts of 7 and 3 with 2 between.
ROLLOUT = types.SimpleNamespace(
  tokens=np.zeros((32, 17)),
  group_size=8,
  prompt_slots=5,
  spans=((5, 12), (14, 17)),
)


def stage(at_once=0):
  return types.SimpleNamespace(plan=Plan(prompts_at_once=at_once))


def mesh(**sizes):
  return {'data': 1, 'fsdp': 1, 'sequence': 1, 'model': 1} | sizes


def test_one_chip_reads_all_weights_and_the_whole_cache_for_a_token():
  found = work.decode_bytes(CONFIG, stage(), ROLLOUT, mesh())
  cache = 3 * 2 * (2 * 6) * (32 * 12 + 4 * 5)
  token = 2 * (3 * LAYER + 8 * 10 + cache)
  assert found == {'decode_0': 7 * token, 'decode_9': 3 * token}


def test_chips_share_weights_over_model_and_rows_over_the_rest():
  found = work.decode_bytes(CONFIG, stage(), ROLLOUT, mesh(fsdp=4, model=2))
  # A prompt for the eight samples of each of four.
  cache = 3 * 2 * 6 * (8 * 12 + 1 * 5)
  token = 2 * ((3 * LAYER + 8 * 10) / 2 + cache)
  assert found['decode_0'] == pytest.approx(7 * token)


def test_samples_in_turns_read_the_weights_for_every_turn():
  found = work.decode_bytes(CONFIG, stage(at_once=1), ROLLOUT, mesh())
  cache = 3 * 2 * (2 * 6) * (8 * 12 + 5)
  token = 2 * (3 * LAYER + 8 * 10 + cache)
  assert found['decode_0'] == 4 * 7 * token
