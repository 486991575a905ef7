"""What every test runs under.

Eight fake CPU devices, strict broadcasting, warnings as errors (see
`pyproject.toml`), and the shapes in signatures checked at run time.
"""

from __future__ import annotations

import gc
import importlib.metadata
import os

# Before JAX is imported, and inherited by the processes that tests start.
os.environ['JAX_PLATFORMS'] = 'cpu'
# The suite compiles far more than it computes: machine code need not be fast.
_flags = [
  '--xla_force_host_platform_device_count=8',
  '--xla_backend_optimization_level=0',
  '--xla_llvm_disable_expensive_passes=true',
]
# A third less to compile. An unknown flag ends the process, and newer releases
# no longer know this one.
if importlib.metadata.version('jaxlib').startswith('0.10.'):
  _flags.append('--xla_cpu_use_fusion_emitters=false')
if _flags[0] not in os.environ.get('XLA_FLAGS', ''):
  os.environ['XLA_FLAGS'] = ' '.join((os.environ.get('XLA_FLAGS', ''), *_flags))
# TensorFlow, which only reads data here, logs its build flags at import.
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')

import jax
import jaxtyping
import pytest

import tests.typecheck  # noqa: F401, found by name below

jax.config.update('jax_numpy_rank_promotion', 'raise')

# Tracing makes millions of small objects that live on; looking for cycles among
# them so often as Python does takes a seventh of the suite's time.
gc.set_threshold(50_000, 20, 100)

# Not `types`: JAX rebuilds its records with arbitrary leaves.
_checked_rooms = ('ops', 'models', 'rollout', 'rewards', 'algorithms')
jaxtyping.install_import_hook(
  [f'selfimprove.{room}' for room in _checked_rooms], 'tests.typecheck.checked'
)


def pytest_configure(config: pytest.Config) -> None:
  """Keeps compiled programs between runs of the suite.

  JAX writes entries in place, so that a reader could meet half a file: each
  worker has a folder of its own, and processes that tests start (and kill) do
  not inherit it.
  """
  if not hasattr(config, 'cache'):
    return  # `-p no:cacheprovider`
  worker = os.environ.get('PYTEST_XDIST_WORKER', 'main')
  folder = config.cache.mkdir(f'compiled-by-jax-{worker}')
  jax.config.update('jax_compilation_cache_dir', str(folder))
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.1)
