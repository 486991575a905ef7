"""Commands run inside the test process, on runs of seconds."""

from __future__ import annotations

import itertools
import json
import os
import pathlib
import subprocess
import sys

import pytest
from absl import flags

from selfimprove import command

ROOT = pathlib.Path(__file__).parents[1]

FILES = (
  '--gin_file=gin_configs/base.gin',
  '--gin_file=gin_configs/models/tiny.gin',
)
SUMS = '--gin_file=gin_configs/tasks/answer_first.gin'
JSONL = '--gin_file=gin_configs/tasks/jsonl.gin'


def algorithm(name: str) -> str:
  """The flag that chooses an algorithm."""
  return f'--gin_file=gin_configs/algorithms/{name}.gin'


def bind(*bindings: str) -> list[str]:
  """The flags of bindings."""
  return [f'--gin_bindings={binding}' for binding in bindings]


TINY_MODEL = bind(
  'config.TransformerConfig.embed_dim = 8',
  'config.TransformerConfig.num_heads = 2',
  'config.TransformerConfig.num_kv_heads = 2',
  'config.TransformerConfig.head_dim = 4',
  'config.TransformerConfig.mlp_dim = 16',
  'PROMPTS_PER_STEP = 8',
  'experiment.Evaluation.batch_size = 16',
)

# Plain multi-turn RL, so that one program trains.
TINY_RUN = (
  *FILES,
  SUMS,
  algorithm('multi_turn'),
  *TINY_MODEL,
  *bind(
    'tasks.answer_first.problems = 256',
    'tasks.answer_first.operands = 2',
    'ATTEMPT_TOKENS = 4',
    'GROUP_SIZE = 4',
    'STEPS = 2',
    "INSTRUCTION = '?'",
  ),
)


def letters(
  folder: pathlib.Path, recipe: str, *bindings: str, length: int
) -> tuple[str, ...]:
  """Flags of a run whose attempts are sometimes right by chance.

  There are few letters: the last one of a word is the answer. The problems, all
  words of a length, are written to the folder.
  """
  words = [''.join(found) for found in itertools.product('ab', repeat=length)]
  rows = [{'prompt': f'{word}?', 'answer': word[-1]} for word in words]
  lines = ''.join(json.dumps(row) + '\n' for row in rows)
  (folder / 'letters.jsonl').write_text(lines, encoding='utf-8')
  return (
    *FILES,
    JSONL,
    algorithm(recipe),
    *TINY_MODEL,
    *bind(
      f"TRAIN_FILE = '{folder}/letters.jsonl'",
      'VOCABULARY = @vocabularies.CharVocabulary()',
      "vocabularies.CharVocabulary.characters = 'ab?'",
      'MAX_PROMPT_TOKENS = 8',
      'MAX_ANSWER_TOKENS = 1',
      'ATTEMPT_TOKENS = 2',
      *bindings,
    ),
  )


def run(module, *arguments: str) -> None:
  """Does what `python -m <module> <arguments>` does, in this process."""
  values = flags.FlagValues()
  module.define_flags(values)
  values(['command', *map(str, arguments)])
  command.finish(module.main, values)


def refusal(module, *arguments: str) -> str:
  """The sentence with which a command refuses; it must be just one line."""
  with pytest.raises(SystemExit) as caught:
    run(module, *arguments)
  sentence = caught.value.code
  assert isinstance(sentence, str)  # So that the exit status is 1.
  assert sentence.startswith('Error: ')
  assert '\n' not in sentence
  assert len(sentence) < 500
  return sentence


def start(module: str, *arguments: str) -> subprocess.Popen[str]:
  """A real process of a command, on one device as a user's laptop has."""
  environment = {
    **os.environ,
    'XLA_FLAGS': '',
    'PYTHONPATH': str(ROOT),
    'PYTHONWARNINGS': 'default',
  }
  return subprocess.Popen(
    [sys.executable, '-m', f'selfimprove.{module}', *map(str, arguments)],
    cwd=ROOT,
    env=environment,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )
