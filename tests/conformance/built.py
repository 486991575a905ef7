"""Experiments made from the gin files that come with the project, but tiny."""

from __future__ import annotations

import pathlib
import re

from selfimprove import configuration
from selfimprove.experiment import Experiment

ROOT = pathlib.Path(__file__).parents[2]

BASE = (
  'gin_configs/base.gin',
  'gin_configs/models/tiny.gin',
)

SUMS = (
  'tasks.answer_first.problems = 512',
  'tasks.answer_first.operands = 2',
)

# Answers that come with a judgement, for algorithms that learn to judge.
JUDGED = (
  f"TRAIN_FILE = '{ROOT}/tests/conformance/judged.jsonl'",
  'VOCABULARY = @vocabularies.CharVocabulary()',
  "vocabularies.CharVocabulary.characters = '0123456789=?'",
  'MAX_PROMPT_TOKENS = 3',
  'MAX_ANSWER_TOKENS = 3',
)

TINY = (
  'config.TransformerConfig.embed_dim = 8',
  'config.TransformerConfig.num_heads = 2',
  'config.TransformerConfig.num_kv_heads = 2',
  'config.TransformerConfig.head_dim = 4',
  'config.TransformerConfig.mlp_dim = 16',
  'PROMPTS_PER_STEP = 16',
)

# What an algorithm may ask for besides model and task; given if it does.
ASKED = {
  'STEPS': 'STEPS = 2',
  'INSTRUCTION': "INSTRUCTION = '?'",
  'HINT_OPENING': "HINT_OPENING = '?'",
  'HINT_CLOSING': "HINT_CLOSING = '='",
}

STEPS = ("STEP_END = '='", 'MAX_STEPS = 2')


def algorithm_files() -> list[str]:
  """The algorithms that come with the project, by their paths from the root."""
  found = sorted((ROOT / 'gin_configs' / 'algorithms').glob('*.gin'))
  return [str(path.relative_to(ROOT)) for path in found]


def task_of(file: str) -> str:
  """The task that the header of an algorithm asks for, or the default one."""
  text = (ROOT / file).read_text(encoding='utf-8')
  found = re.search(r'\((tasks/\w+\.gin)\)', text)
  return f'gin_configs/{found[1] if found else "tasks/answer_first.gin"}'


def task_bindings(file: str) -> tuple[str, ...]:
  """What makes that task small, and names its file."""
  task = task_of(file)
  if 'answer_first' in task:
    return SUMS
  return JUDGED + (STEPS if 'steps' in task else ())


def build(file: str, *bindings: str, asked: bool = True) -> Experiment:
  """The experiment of an algorithm file, with the macros that it asks for."""
  task = task_of(file)
  given = [*TINY, *task_bindings(file), *bindings]
  missing = dict(ASKED) if asked else {}
  while True:
    try:
      return configuration.build(
        Experiment, files=[*BASE, task, file], bindings=given
      )
    except configuration.ConfigError as error:
      name = next((n for n in missing if n in str(error)), None)
      if name is None:
        raise
      given.append(missing.pop(name))
