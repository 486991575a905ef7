"""Experiments made from the gin files that come with the project, but tiny."""

from __future__ import annotations

from docs import algorithm_table
from docs.algorithm_table import ROOT, task_of
from selfimprove.experiment import Experiment

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

STEPS = ("STEP_END = '='", 'MAX_STEPS = 2')


def task_bindings(file: str) -> tuple[str, ...]:
  """What makes that task small, and names its file."""
  task = task_of(file)
  if 'answer_first' in task:
    return SUMS
  return JUDGED + (STEPS if 'steps' in task else ())


def build(file: str, *bindings: str, asked: bool = True) -> Experiment:
  """The experiment of an algorithm file, with the macros that it asks for."""
  return algorithm_table.build(
    file,
    *TINY,
    *task_bindings(file),
    *bindings,
    asked=algorithm_table.ASKED if asked else {},
  )
