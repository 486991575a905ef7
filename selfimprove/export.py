"""Exports a trained policy: `python -m selfimprove.export --workdir=...`.

The folder that it writes is a Hugging Face checkpoint, which `transformers`
loads, or with --adapters one of adapters alone, which `peft` loads.
"""

from __future__ import annotations

import fnmatch
import glob
import os
import shutil

from absl import flags

from selfimprove import command, configuration, hub
from selfimprove.models import hf, hf_config, peft
from selfimprove.models.lora import merge
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
  flags.DEFINE_bool(
    'adapters',
    False,
    'Write the LoRA adapters alone, for `peft`; default merges them.',
    flag_values=values,
  )


def export(trained: Trained, output: str, *, source: str) -> None:
  """Writes a checkpoint: trained weights, and config and text of `source`.

  Weights are in the dtype in which those of `source` are stored; adapters are
  merged into them.

  Args:
    trained: the model.
    output: folder; new or empty.
    source: checkpoint of the same decoder.

  Raises:
    ValueError: `source` is of another decoder, or `output` is in use.
  """
  _check_new(output)
  model, source = trained.experiment.model, hub.local_folder(source)
  hf_config.check_same(source, model)
  os.makedirs(output, exist_ok=True)
  for name in sorted(os.listdir(source)):
    path = os.path.join(source, name)
    told = any(fnmatch.fnmatch(name, pattern) for pattern in _COPIED)
    if told and os.path.isfile(path):
      shutil.copy(path, output)
  _copy_templates(source, output)
  hf_config.write_text_part(output)
  stored = hf_config.stored_dtype(hf_config.read_config(source))
  hf.save(output, model, merge(trained.params), dtype=stored)


def export_adapters(trained: Trained, output: str, *, source: str) -> None:
  """Writes the adapters of a run for `peft`, in f32.

  Args:
    trained: the model.
    output: folder; new or empty.
    source: checkpoint that the run began with, which `peft` notes.

  Raises:
    ValueError: the run has no adapters, or `output` is in use.
  """
  lora = trained.experiment.lora
  if lora is None:
    raise ValueError(
      'The run has trained all parameters and has no adapters; export it '
      'without --adapters.'
    )
  _check_new(output)
  base, revision = hub.name_and_revision(source)
  peft.save(
    output,
    trained.experiment.model,
    lora,
    trained.adapters,
    base=base,
    revision=revision,
  )


def _copy_templates(source: str, output: str) -> None:
  """Copies the chat templates that have a name."""
  folder = os.path.join(source, hub.TEMPLATES_FOLDER)
  for path in sorted(glob.glob(os.path.join(glob.escape(folder), '*.jinja'))):
    if os.path.isfile(path):
      os.makedirs(os.path.join(output, hub.TEMPLATES_FOLDER), exist_ok=True)
      shutil.copy(path, os.path.join(output, hub.TEMPLATES_FOLDER))


def _check_new(output: str) -> None:
  if os.path.isdir(output) and os.listdir(output):
    raise ValueError(f'{output} is not empty; name a new folder.')


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
  write = export_adapters if options.adapters else export
  write(trained, options.output, source=source)
  print(f'Written to {options.output}')


if __name__ == '__main__':
  command.start(define_flags, main)
