"""Exports a trained policy: `python -m selfimprove.export --workdir=...`.

The folder that it writes is a Hugging Face checkpoint, which `transformers`
loads.
"""

from __future__ import annotations

import fnmatch
import os
import shutil

from absl import flags

from selfimprove import command, configuration, hub
from selfimprove.models import hf, hf_config
from selfimprove.trained import Trained, open_workdir

# What belongs to a model; a folder may hold more, which is nobody's business.
_COPIED = (
  'config.json',
  'generation_config.json',
  'tokenizer*.json',
  'tokenizer.model',
  'vocab.json',
  'merges.txt',
  'special_tokens_map.json',
  'added_tokens.json',
  'chat_template.*',
  'LICENSE*',
  'NOTICE*',
)


def define_flags(values: flags.FlagValues) -> None:
  """Defines the flags of this command.

  Args:
    values: where they go.
  """
  flags.DEFINE_string('workdir', None, 'Folder of the run.', flag_values=values)
  flags.DEFINE_integer(
    'step', None, 'Checkpoint; default the newest.', flag_values=values
  )
  flags.DEFINE_string(
    'output', None, 'Folder that is written.', flag_values=values
  )
  flags.DEFINE_string(
    'source',
    None,
    'Checkpoint whose config and tokenizer go with the weights; default the '
    'one that the run began with.',
    flag_values=values,
  )


def export(trained: Trained, output: str, *, source: str) -> None:
  """Writes a checkpoint: trained weights, and config and text of `source`.

  Weights are in the dtype in which those of `source` are stored.

  Args:
    trained: the model.
    output: folder; new or empty.
    source: checkpoint of the same decoder.

  Raises:
    ValueError: `source` is of another decoder, or `output` is in use.
  """
  if os.path.isdir(output) and os.listdir(output):
    raise ValueError(f'{output} is not empty; name a new folder.')
  model, source = trained.experiment.model, hub.local_folder(source)
  hf_config.check_same(source, model)
  os.makedirs(output, exist_ok=True)
  for name in sorted(os.listdir(source)):
    path = os.path.join(source, name)
    told = any(fnmatch.fnmatch(name, pattern) for pattern in _COPIED)
    if told and os.path.isfile(path):
      shutil.copy(path, output)
  hf_config.write_text_part(output)
  stored = hf_config.stored_dtype(hf_config.read_config(source))
  hf.save(output, model, trained.params, dtype=stored)


def main(options: flags.FlagValues) -> None:
  """Writes what the flags ask for.

  Args:
    options: parsed flags.

  Raises:
    ConfigError: a flag is missing, or there is nothing to export from.
  """
  for name in ('workdir', 'output'):
    if not options[name].value:
      raise configuration.ConfigError(f'No --{name} given; name a folder.')
  trained = open_workdir(options.workdir, step=options.step)
  source = options.source or trained.experiment.init_from
  if not source or not hf.is_checkpoint(source):
    raise configuration.ConfigError(
      'The run did not begin with a Hugging Face checkpoint; name one of the '
      'same decoder with --source.'
    )
  export(trained, options.output, source=source)
  print(f'Written to {options.output}')


if __name__ == '__main__':
  command.start(define_flags, main)
