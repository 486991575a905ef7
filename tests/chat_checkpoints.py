"""Small checkpoints of chat models, as their library saves them."""

from __future__ import annotations

import pathlib

from tests.data import chat_models
from tests.models.test_parity import FAMILIES, make_theirs

STYLES = {'qwen2': 'chatml', 'qwen3': 'chatml', 'llama': 'llama'}


def save(torch, transformers, folder: pathlib.Path, family: str) -> None:
  """Writes a decoder that has never learned, its tokenizer and template."""
  name, options, _ = FAMILIES[family]
  options = {**options, 'vocab_size': 512}
  make_theirs(torch, transformers, name, options).save_pretrained(folder)
  chat_models.write(folder, STYLES.get(family, 'gemma'))
