"""Measures a trained model: `python -m selfimprove.evaluate --workdir=...`."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import Any

import jax
from absl import flags

from selfimprove import command, configuration
from selfimprove.data import pass_rates, pipeline
from selfimprove.evaluation import attempts
from selfimprove.evaluation.intervals import Measurement
from selfimprove.evaluation.metrics import majority_at_k, pass_at_k
from selfimprove.evaluation.report import metrics_table, write_json
from selfimprove.evaluation.scaling import by_budget
from selfimprove.experiment import check_judged, make_judge, make_streams
from selfimprove.ops.keys import named_key
from selfimprove.trained import Trained, open_workdir
from selfimprove.training import agreement, buckets, processes
from selfimprove.training.buckets import Files
from selfimprove.training.checkpoint import step_path


def define_flags(values: flags.FlagValues) -> None:
  """Defines the flags of this command.

  Args:
    values: where they go.
  """
  command.define_distributed_flags(values)
  flags.DEFINE_string('workdir', None, 'Folder of the run.', flag_values=values)
  flags.DEFINE_integer(
    'step', None, 'Checkpoint; default the newest.', flag_values=values
  )
  flags.DEFINE_string(
    'split', 'test', 'Split that is evaluated.', flag_values=values
  )
  flags.DEFINE_integer(
    'samples',
    8,
    'Samples per problem for pass@k and majority@k; 1 for none.',
    lower_bound=1,
    flag_values=values,
  )
  flags.DEFINE_float(
    'temperature',
    1.0,
    'Of those samples, above 0; that of the attempts is in the config.',
    lower_bound=0.0,
    flag_values=values,
  )
  flags.DEFINE_integer(
    'attempts',
    0,
    'Attempts at a problem, each told to correct the one before; 0 for as many '
    'as in the config.',
    lower_bound=0,
    flag_values=values,
  )
  flags.DEFINE_multi_string(
    'gin_bindings',
    [],
    "Bindings that override the run's config.",
    flag_values=values,
  )
  flags.DEFINE_string(
    'pass_rates',
    None,
    'JSON lines to write: how often the samples of each problem were right; '
    'filters.Difficulty reads them.',
    flag_values=values,
  )
  flags.DEFINE_string(
    'output',
    None,
    'JSON file; default evaluation_<split>.json in --workdir.',
    flag_values=values,
  )


def evaluate(
  trained: Trained,
  *,
  split: str,
  samples: int,
  temperature: float,
  count: int = 0,
  rates_path: str | None = None,
) -> dict[str, Measurement]:
  """All metrics of a model on a split, with 95 % intervals.

  Args:
    trained: the model.
    split: of its task.
    samples: per problem, for pass@k and majority@k; 1 for neither.
    temperature: of those samples, > 0; attempts have that of the config.
    count: attempts at a problem; 0 for as many as in the config.
    rates_path: file that gets the share of right samples of each problem.

  Returns:
    Measurements by name; those of one task of a mixture end with its name.

  Raises:
    ValueError: several samples are asked for at a temperature of 0, at which
      they would all be the same.
  """
  if samples > 1 and temperature <= 0:
    raise ValueError(
      f'temperature={temperature} makes all {samples} samples of a problem the '
      'same; give one above 0, or --samples=1 for no pass@k.'
    )
  how = trained.experiment.evaluation
  if count:
    how = how.with_attempts(count)
  table = agreement.together(
    lambda: pipeline.load(trained.experiment.task, split)
  )
  speaks = jax.process_index() == 0
  if speaks and (sentence := pipeline.left_out(table, split=split)):
    print(sentence, file=sys.stderr)
  tried = _attempts(trained, table, how.rollout)
  measured = attempts.measure(tried)
  if samples > 1:
    rollout = how.sampled(samples=samples, temperature=temperature)
    sampled = _attempts(trained, table, rollout)
    measured.update(_of_samples(sampled))
  else:
    sampled = tried
  if rates_path and speaks:
    right = sampled.correct[:, :, -1]
    pass_rates.write(
      rates_path,
      rows=table.fields,
      rates=right.mean(axis=1).tolist(),
      samples=right.shape[1],
    )
  return measured | _by_source(tried, table, trained.experiment.task)


def _by_source(
  tried: attempts.Attempts, table: pipeline.Table, task: Any
) -> dict[str, Measurement]:
  """The metrics of attempts for each task of a mixture."""
  if not (field := getattr(task, 'field', '')):
    return {}
  sources = [fields[field] for fields in table.fields]
  return {
    f'{name} {source}': found
    for source in dict.fromkeys(sources)
    for name, found in attempts.measure(
      tried.where([source == other for other in sources])
    ).items()
  }


def _attempts(
  trained: Trained, table: pipeline.Table, rollout: Any
) -> attempts.Attempts:
  """Attempts at all problems of a table."""
  experiment = trained.experiment
  check_judged(experiment.evaluation.reward, table)
  collect = attempts.make_collect(
    trained.policy,
    rollout=rollout,
    reward=experiment.evaluation.reward,
    judge=make_judge(experiment.task.vocabulary, table, trained.mesh),
    streams=make_streams(experiment.models()),
    table=table,
    batch_size=max(1, experiment.evaluation.batch_size // rollout.group_size),
    mesh=trained.mesh,
  )
  key = named_key(jax.random.key(experiment.seed), 'evaluate')
  return collect({'policy': trained.params, **trained.others}, key)


def _of_samples(tried: attempts.Attempts) -> dict[str, Measurement]:
  """pass@k and majority@k of the last attempts, for k = 1, 2, 4, ..."""
  last, samples = tried.correct[:, :, -1], tried.correct.shape[1]
  answers = [[turns[-1] for turns in group] for group in tried.answers]
  sizes = sorted({2**i for i in range(samples.bit_length())} | {samples})
  found: dict[str, Measurement] = {}
  for k in (k for k in sizes if k <= samples):
    found[f'pass@{k}'] = pass_at_k(last, k=k)
    if k > 2:  # With two votes the first decides: majority@1.
      found[f'majority@{k}'] = majority_at_k(answers, last, k=k)
  if tried.correct.shape[2] > 1:
    found.update(by_budget(tried.answers, tried.correct))
  return found


def main(options: flags.FlagValues) -> None:
  """Prints the table and writes the JSON that the flags ask for.

  Args:
    options: parsed flags.

  Raises:
    ConfigError: there is no such run.
  """
  if not options.workdir:
    raise configuration.ConfigError(
      'No --workdir given; name the folder of a run.'
    )
  with (
    processes.joined(
      options.distributed, timeout_seconds=options.distributed_timeout
    ),
    buckets.files(options.workdir) as files,
  ):
    _main(options, files)


def _facts(options: flags.FlagValues, files: Files) -> dict[str, str]:
  """What all processes must find in the workdir, if there is a run."""
  path = os.path.join(files.folder, 'config.gin')
  if not os.path.isfile(path):
    return {'the config': '', 'the checkpoint': ''}
  with open(path, encoding='utf-8') as file:
    lines = [file.read(), *options.gin_bindings]
  folder = os.path.join(options.workdir, 'checkpoints')
  return {
    'the config': '\n'.join(lines),
    'the checkpoint': step_path(folder, step=options.step),
  }


def _main(options: flags.FlagValues, files: Files) -> None:
  facts = agreement.together(lambda: _facts(options, files))
  agreement.check_same({**agreement.versions(), **facts})
  trained = open_workdir(
    options.workdir,
    step=options.step,
    bindings=options.gin_bindings,
    files=files,
  )
  trained.experiment.save_failures(files.folder)
  with contextlib.closing(trained.experiment), processes.bound():
    measured = evaluate(
      trained,
      split=options.split,
      samples=options.samples,
      temperature=options.temperature,
      count=options.attempts,
      rates_path=options.pass_rates,
    )
  if jax.process_index():
    return
  print(_table(measured))
  if options.pass_rates:
    print(f'Pass rates written to {options.pass_rates}')
  name = f'evaluation_{options.split}.json'
  write_json(options.output or os.path.join(files.folder, name), measured)
  print(f'Written to {options.output or os.path.join(options.workdir, name)}')


def _table(measured: dict[str, Measurement]) -> str:
  """One line per metric, which stays readable with many metrics."""
  rows = {name: {'% [95 % interval]': m} for name, m in measured.items()}
  return metrics_table(rows)


if __name__ == '__main__':
  command.start(define_flags, main)
