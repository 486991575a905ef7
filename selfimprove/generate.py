"""Answers a prompt: `python -m selfimprove.generate --workdir=... --prompt=...`.

Prints every attempt of every sample, the correction instruction between them.
"""

from __future__ import annotations

import dataclasses
import sys

import jax
import numpy as np
from absl import app, flags

from selfimprove import configuration
from selfimprove.data import vocabularies
from selfimprove.ops.keys import named_key
from selfimprove.rewards.texts import attempt_texts
from selfimprove.trained import Trained, open_workdir
from selfimprove.types import Prompts

_WORKDIR = flags.DEFINE_string('workdir', None, 'Folder of the run.')
_STEP = flags.DEFINE_integer('step', None, 'Checkpoint; default the newest.')
_PROMPT = flags.DEFINE_multi_string('prompt', [], 'Prompts, as in the task.')
_SAMPLES = flags.DEFINE_integer('samples', 1, 'Conversations per prompt.')
_TEMPERATURE = flags.DEFINE_float('temperature', 0.0, '0 is greedy.')
_SEED = flags.DEFINE_integer('seed', 0, 'Of the sampling.')


def generate(
  trained: Trained,
  prompts: list[str],
  *,
  samples: int,
  temperature: float,
  seed: int,
) -> list[list[list[str]]]:
  """Attempts at prompts.

  Args:
    trained: the model.
    prompts: texts in the form of its task.
    samples: conversations per prompt, at least 1.
    temperature: 0 is greedy.
    seed: of the sampling.

  Returns:
    Texts by prompt, sample and attempt.

  Raises:
    ValueError: a prompt is empty or cannot be written in the vocabulary.
  """
  how, vocabulary = trained.experiment.evaluation, _vocabulary(trained)
  rollout = dataclasses.replace(
    how.rollout,
    group_size=samples,
    sampling=dataclasses.replace(how.rollout.sampling, temperature=temperature),
  )
  batch = _prompts([_encode(text, vocabulary) for text in prompts])
  sample = jax.jit(
    lambda how, params, prompts, key: how(trained.policy, params, prompts, key)
  )
  key = named_key(jax.random.key(seed), 'generate')
  done = jax.device_get(sample(rollout, trained.params, batch, key))
  texts = attempt_texts(
    done, lambda ids: vocabularies.decode(ids, vocabulary=vocabulary)
  )
  return [texts[i * samples : (i + 1) * samples] for i in range(len(prompts))]


def _vocabulary(trained: Trained) -> vocabularies.Vocabulary:
  return trained.experiment.task.vocabulary


def _encode(text: str, vocabulary: vocabularies.Vocabulary) -> np.ndarray:
  if not text:
    raise ValueError('A prompt is empty; write at least one token.')
  return vocabularies.encode(text, vocabulary=vocabulary)


def _prompts(ids: list[np.ndarray]) -> Prompts:
  """Left-padded prompts that have no reference answers."""
  width = max(len(row) for row in ids)
  tokens = np.zeros((len(ids), width), np.int32)
  mask = np.zeros((len(ids), width), bool)
  for i, row in enumerate(ids):
    tokens[i, width - len(row) :], mask[i, width - len(row) :] = row, True
  return Prompts(
    tokens=tokens,
    mask=mask,
    example_id=np.arange(len(ids), dtype=np.int32),
    answer=np.zeros((len(ids), 1), np.int32),
    answer_mask=np.zeros((len(ids), 1), bool),
  )


def main(argv: list[str]) -> None:
  """Parses flags and prints the attempts."""
  del argv
  try:
    if not (_WORKDIR.value and _PROMPT.value):
      raise configuration.ConfigError(
        'Give the --workdir of a run and at least one --prompt.'
      )
    trained = open_workdir(_WORKDIR.value, step=_STEP.value)
    texts = generate(
      trained,
      _PROMPT.value,
      samples=_SAMPLES.value,
      temperature=_TEMPERATURE.value,
      seed=_SEED.value,
    )
    for prompt, conversations in zip(_PROMPT.value, texts, strict=True):
      for conversation in conversations:
        print(f'prompt     {prompt}')
        for i, text in enumerate(conversation):
          print(f'attempt {i + 1}  {text}')
  except (configuration.ConfigError, ValueError, FileNotFoundError) as error:
    sys.exit(f'Error: {error}')


if __name__ == '__main__':
  app.run(main)
