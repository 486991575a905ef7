"""Host memory and rate of importing a checkpoint of a published size.

    python benchmarks/import_checkpoint.py --size=qwen2.5-1.5b

Writes random weights in bf16 as sharded safetensors into a scratch folder,
imports them in a fresh process for each dtype of the parameters, and deletes
them. Linux only: the peak is what the kernel saw (VmHWM). Devices are CPUs, so
that the imported weights themselves are host memory and part of the peak; the
rest is what importing needs besides.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

from selfimprove import partitioning
from selfimprove.models import hf, hf_config, presets
from selfimprove.models.transformer import make_policy
from selfimprove.training.state import abstract_params

BAR = 1.3
"""Peak over the size of the weights in memory."""

HERE = pathlib.Path(__file__).resolve().parent
CONDITIONS = ('bfloat16', 'float32')


def theirs(fields: Mapping[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
  """Name and shape of each tensor of a checkpoint.

  Args:
    fields: of its `config.json`.

  Yields:
    One pair per tensor.
  """
  config = hf_config.to_transformer(fields)
  params = jax.eval_shape(make_policy(config).init, jax.random.key(0))
  for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]:
    keys = tuple(key.key for key in path)
    place, layered = hf.places(config)[keys], keys[0] == 'layers'
    shape = leaf.shape[1:] if layered else leaf.shape
    if place.layout == 'flat':
      shape = (int(np.prod(shape)),)
    if place.layout == 'transposed':
      inputs = 2 if keys[-2] == 'out' else 1
      shape = (int(np.prod(shape[inputs:])), int(np.prod(shape[:inputs])))
    for layer in range(config.num_layers) if layered else (None,):
      yield place.name.format(layer), shape


def write(
  folder: pathlib.Path, fields: Mapping[str, Any], *, max_bytes: int = 1 << 29
) -> int:
  """Writes a checkpoint of random weights in bf16.

  Args:
    folder: that is written into.
    fields: of its `config.json`.
    max_bytes: of a file; a tensor that is larger has one to itself.

  Returns:
    Bytes of all tensors.
  """
  config = json.dumps({**fields, 'torch_dtype': 'bfloat16'})
  (folder / 'config.json').write_text(config, encoding='utf-8')
  rng, index, shard, total = np.random.default_rng(0), {}, {}, 0

  def flush() -> None:
    file = f'model-{len({*index.values()}) + 1:05}.safetensors'
    save_file(shard, folder / file, metadata={'format': 'pt'})
    index.update(dict.fromkeys(shard, file))
    shard.clear()

  for name, shape in theirs(fields):
    values = rng.standard_normal(shape, np.float32) * np.float32(0.02)
    tensor = values.astype(ml_dtypes.bfloat16)
    if shard and sum(t.nbytes for t in shard.values()) + tensor.nbytes > (
      max_bytes
    ):
      flush()
    shard[name] = tensor
    total += tensor.nbytes
  flush()
  text = json.dumps({'metadata': {'total_size': total}, 'weight_map': index})
  (folder / hf.INDEX_FILE).write_text(text, encoding='utf-8')
  return total


def kernel_bytes(field: str) -> int:
  """Returns a field of this process's memory, such as VmRSS, in bytes."""
  status = pathlib.Path('/proc/self/status').read_text(encoding='utf-8')
  line = next(x for x in status.splitlines() if x.startswith(f'{field}:'))
  return int(line.split()[1]) * 1024


def measure(folder: pathlib.Path, param_dtype: str) -> dict[str, Any]:
  """Imports a checkpoint into this process.

  Args:
    folder: of the checkpoint.
    param_dtype: of the parameters.

  Returns:
    Bytes before and at the peak, of the weights in memory, and seconds, the
    compiling of a program per kind of layer array included.
  """
  config = hf_config.from_folder(folder=folder, param_dtype=param_dtype)
  mesh = partitioning.make_mesh(devices=jax.devices()[:1])
  like = abstract_params(make_policy(config), mesh)
  jax.block_until_ready(jax.numpy.zeros(1))
  # From here on the peak is counted anew.
  pathlib.Path('/proc/self/clear_refs').write_text('5', encoding='utf-8')
  before = kernel_bytes('VmRSS')
  began, cpu_began = time.perf_counter(), time.process_time()
  params = jax.block_until_ready(hf.load(folder, config, like=like))
  seconds = time.perf_counter() - began
  cpu_seconds = time.process_time() - cpu_began
  return {
    'param_dtype': param_dtype,
    'before_bytes': before,
    'peak_bytes': kernel_bytes('VmHWM'),
    'after_bytes': kernel_bytes('VmRSS'),
    'weight_bytes': sum(leaf.nbytes for leaf in jax.tree.leaves(params)),
    'seconds': seconds,
    'cpu_seconds': cpu_seconds,
  }


def summarize(row: Mapping[str, Any], stored: int) -> dict[str, Any]:
  """A measurement with what is concluded from it.

  Args:
    row: of `measure`.
    stored: bytes of the tensors in the files.

  Returns:
    The row, the peak over the weights in memory and over those stored, the rate
    in stored bytes, and whether the bar is met.
  """
  peak = row['peak_bytes'] - row['before_bytes']
  ratio = peak / row['weight_bytes']
  return {
    **row,
    'stored_bytes': stored,
    'ratio': ratio,
    'ratio_to_stored': peak / stored,
    'gigabytes_per_second': stored / row['seconds'] / 1e9,
    'bar': BAR,
    'met': ratio < BAR,
  }


def table(rows: Sequence[Mapping[str, Any]]) -> str:
  """Returns the results as text for a person."""
  lines = [
    'parameters  stored GB  in memory GB  peak GB  peak / memory  '
    'peak / stored  seconds  CPU s  GB/s'
  ]
  for row in rows:
    peak = row['peak_bytes'] - row['before_bytes']
    lines.append(
      f'{row["param_dtype"]:10} {row["stored_bytes"] / 1e9:10.2f}'
      f' {row["weight_bytes"] / 1e9:13.2f} {peak / 1e9:8.2f}'
      f' {row["ratio"]:13.2f}x {row["ratio_to_stored"]:13.2f}x'
      f' {row["seconds"]:8.1f} {row["cpu_seconds"]:6.1f}'
      f' {row["gigabytes_per_second"]:5.2f}'
      f'  {"met" if row["met"] else "MISSED"} (< {BAR}x)'
    )
  return '\n'.join(lines)


def in_fresh_process(folder: str, param_dtype: str) -> dict[str, Any]:
  """Returns what `measure` says in a process of its own."""
  done = subprocess.run(
    [
      *(sys.executable, '-W', 'ignore', __file__),
      *(f'--measure={folder}', f'--param_dtype={param_dtype}'),
    ],
    env=os.environ | {'JAX_PLATFORMS': 'cpu', 'PYTHONPATH': str(HERE.parent)},
    capture_output=True,
    text=True,
    check=False,
  )
  if done.returncode:
    tail = '\n'.join(done.stderr.splitlines()[-15:])
    raise RuntimeError(f'The import ended with {done.returncode}:\n{tail}')
  return json.loads(done.stdout.splitlines()[-1])


def parse_flags(arguments: Sequence[str] | None) -> argparse.Namespace:
  """Returns the flags of the command; None reads the command line."""
  parser = argparse.ArgumentParser(
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument('--size', default='qwen2.5-1.5b', choices=presets.NAMES)
  parser.add_argument(
    '--scratch', default=None, help='where there is room; default the system`s'
  )
  parser.add_argument(
    '--output',
    type=pathlib.Path,
    default=HERE / 'results' / 'import_checkpoint.json',
  )
  parser.add_argument('--measure', type=pathlib.Path, help=argparse.SUPPRESS)
  parser.add_argument('--param_dtype', help=argparse.SUPPRESS)
  return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
  """Measures, prints the table and writes the file.

  Args:
    arguments: flags; None for those of the command line.
  """
  flags = parse_flags(arguments)
  if flags.measure:
    print(json.dumps(measure(flags.measure, flags.param_dtype)))
    return
  with tempfile.TemporaryDirectory(dir=flags.scratch) as folder:
    print(f'Writing random weights of {flags.size} ...', flush=True)
    stored = write(pathlib.Path(folder), presets.fields(name=flags.size))
    rows = []
    for param_dtype in CONDITIONS:
      print(f'Importing as {param_dtype} ...', flush=True)
      row = in_fresh_process(folder, param_dtype)
      rows.append(summarize(row, stored))
  print('\n' + table(rows))
  content = {
    'size': flags.size,
    'jax': jax.__version__,
    'cores': len(os.sched_getaffinity(0)),
    'page_cache': 'warm: the files had just been written',
    'rows': rows,
  }
  flags.output.parent.mkdir(parents=True, exist_ok=True)
  flags.output.write_text(json.dumps(content, indent=1) + '\n')
  print(f'\nAll measurements: {flags.output}')


if __name__ == '__main__':
  main()
