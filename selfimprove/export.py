"""Exports a trained policy: `python -m selfimprove.export --workdir=...`.

The folder that it writes is a Hugging Face checkpoint, which `transformers` and
vLLM load.
"""

from __future__ import annotations

import json
import os
import shutil

from absl import flags

from selfimprove import command, configuration
from selfimprove.models import hf, hf_config
from selfimprove.trained import Trained, open_workdir


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
  """Writes a checkpoint with the trained weights and what else `source` has.

  Args:
    trained: the model.
    output: folder; new or empty.
    source: checkpoint of the same decoder, whose other files are copied.

  Raises:
    ValueError: `source` is of another decoder, or `output` is in use.
  """
  if os.path.isdir(output) and os.listdir(output):
    raise ValueError(f'{output} is not empty; name a new folder.')
  fields = dict(hf_config.read_config(source))
  model = trained.experiment.model
  theirs = hf_config.from_folder(
    folder=source,
    dtype=model.dtype,
    param_dtype=model.param_dtype,
    remat=model.remat,
  )
  if theirs != model:
    raise ValueError(
      f'{source} is of another decoder than the run; name the checkpoint that '
      'the run began with.'
    )
  os.makedirs(output, exist_ok=True)
  for name in sorted(os.listdir(source)):
    path = os.path.join(source, name)
    if os.path.isfile(path) and not _is_weights(name):
      shutil.copy(path, output)
  hf.save(output, model, trained.params)
  fields['dtype'] = model.param_dtype
  fields.pop('torch_dtype', None)
  with open(
    os.path.join(output, hf_config.CONFIG_FILE), 'w', encoding='utf-8'
  ) as file:
    json.dump(fields, file, indent=2, sort_keys=True)


def _is_weights(name: str) -> bool:
  """Weights of the source, in whatever format; they are not these."""
  endings = ('.safetensors', '.bin', '.pt', '.pth', '.index.json', '.gguf')
  return name.endswith(endings)


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
