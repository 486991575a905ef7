"""Answers: `python -m selfimprove.generate --workdir=... --prompt=...`.

Prints every attempt of every sample.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from selfimprove import command, configuration
from selfimprove.data import vocabularies
from selfimprove.ops.keys import named_key
from selfimprove.rewards.texts import attempt_texts
from selfimprove.trained import Trained, open_workdir
from selfimprove.types import Prompts


def define_flags(values: flags.FlagValues) -> None:
  """Defines the flags of this command.

  Args:
    values: where they go.
  """
  flags.DEFINE_string('workdir', None, 'Folder of the run.', flag_values=values)
  flags.DEFINE_integer(
    'step', None, 'Checkpoint; default the newest.', flag_values=values
  )
  flags.DEFINE_multi_string(
    'prompt', [], 'Prompts, as in the task.', flag_values=values
  )
  flags.DEFINE_integer(
    'samples',
    1,
    'Conversations per prompt.',
    lower_bound=1,
    flag_values=values,
  )
  flags.DEFINE_float(
    'temperature',
    0.0,
    '0 is greedy.',
    lower_bound=0.0,
    flag_values=values,
  )
  flags.DEFINE_integer('seed', 0, 'Of the sampling.', flag_values=values)


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
  rollout = how.sampled(samples=samples, temperature=temperature)
  batch = _prompts(_encode(prompts, trained))
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


def _encode(texts: list[str], trained: Trained) -> list[np.ndarray]:
  if not all(texts):
    raise ValueError('A prompt is empty; write at least one token.')
  encoded = []
  for ids in trained.experiment.task.prompt_ids(texts):
    if isinstance(ids, ValueError):
      raise ids
    encoded.append(ids)
  return encoded


def _prompts(ids: list[np.ndarray]) -> Prompts:
  """Left-padded prompts that have no reference answers."""
  width = max(len(row) for row in ids)
  tokens = np.zeros((len(ids), width), np.int32)
  mask = np.zeros((len(ids), width), bool)
  for i, row in enumerate(ids):
    tokens[i, width - len(row) :], mask[i, width - len(row) :] = row, True
  return Prompts(
    tokens=jnp.asarray(tokens),
    mask=jnp.asarray(mask),
    example_id=jnp.arange(len(ids), dtype=jnp.int32),
    answer=jnp.zeros((len(ids), 1), jnp.int32),
    answer_mask=jnp.zeros((len(ids), 1), bool),
    extra={},
  )


def main(options: flags.FlagValues) -> None:
  """Prints the attempts that the flags ask for.

  Args:
    options: parsed flags.

  Raises:
    ConfigError: there is no such run.
  """
  if not (options.workdir and options.prompt):
    raise configuration.ConfigError(
      'Give the --workdir of a run and at least one --prompt.'
    )
  trained = open_workdir(options.workdir, step=options.step)
  texts = generate(
    trained,
    options.prompt,
    samples=options.samples,
    temperature=options.temperature,
    seed=options.seed,
  )
  for prompt, conversations in zip(options.prompt, texts, strict=True):
    for conversation in conversations:
      print(f'prompt     {prompt}')
      for i, text in enumerate(conversation):
        print(f'attempt {i + 1}  {text}')


if __name__ == '__main__':
  command.start(define_flags, main)
