from __future__ import annotations

import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from selfimprove.training.checkpoint import CheckpointStore, restore_params

_ROOT = pathlib.Path(__file__).parents[2]


def _state(value):
  params = {'dense': {'kernel': jnp.full((2, 4), value, jnp.float32)}}
  return {
    'step': jnp.int32(value),
    'params': params,
    'opt_state': optax.adam(0.1).init(params),
    'key': jax.random.fold_in(jax.random.key(0), value),
  }


def _saved_steps(directory, saves, **options):
  """The steps on disk after saving (step, metric) pairs."""
  with CheckpointStore(directory, **options) as store:
    for step, metric in saves:
      store.save(step, {'x': jnp.float32(step)}, extra={}, metric=metric)
    store.wait()
    return list(store.steps())


def test_a_state_is_restored_bit_for_bit(tmp_path):
  state = _state(3)
  with CheckpointStore(tmp_path, keep_last=1) as store:
    store.save(3, state, extra={'stage': 'II', 'seen': [1, 2.5]})
  with CheckpointStore(tmp_path, keep_last=1) as store:
    back, extra = store.restore(None, jax.eval_shape(lambda: state))
  assert extra == {'stage': 'II', 'seen': [1, 2.5]}
  assert jax.tree.structure(back) == jax.tree.structure(state)
  raw = jax.random.key_data
  np.testing.assert_array_equal(raw(back.pop('key')), raw(state.pop('key')))
  jax.tree.map(np.testing.assert_array_equal, back, state)
  dtypes = [[leaf.dtype for leaf in jax.tree.leaves(x)] for x in (back, state)]
  assert dtypes[0] == dtypes[1]


@pytest.mark.parametrize('end', ['donated', 'deleted'])
def test_arrays_may_go_as_soon_as_save_returns(tmp_path, end):
  overwrite = jax.jit(lambda x: x * 0 - 1, donate_argnums=0)
  big = jnp.arange(4_000_000, dtype=jnp.float32)
  like = jax.eval_shape(lambda: {'w': big})
  with CheckpointStore(tmp_path, keep_last=1) as store:
    store.save(1, {'w': big}, extra={})
    if end == 'donated':
      jax.block_until_ready(overwrite(big))
    else:
      big.delete()
    back, _ = store.restore(1, like)
  np.testing.assert_array_equal(back['w'], np.arange(4e6, dtype=np.float32))


def test_host_arrays_may_be_overwritten_as_soon_as_save_returns(tmp_path):
  array = np.arange(1_000_000, dtype=np.float32)
  with CheckpointStore(tmp_path, keep_last=1) as store:
    store.save(1, {'w': array}, extra={})
    array[:] = -1
    back, _ = store.restore(1, {'w': array})
  np.testing.assert_array_equal(back['w'], np.arange(1e6, dtype=np.float32))


def test_the_last_and_the_best_checkpoints_are_kept(tmp_path):
  saves = [(1, 0.9), (2, 0.1), (3, 0.8), (4, None), (5, 0.2), (6, float('nan'))]
  # Last two: 5, 6. Best two: 1 and 3; a missing metric or NaN is never best.
  steps = _saved_steps(tmp_path, saves, keep_last=2, keep_best=2)
  assert steps == [1, 3, 5, 6]


def test_the_best_may_be_the_smallest(tmp_path):
  saves = [(1, 3.0), (2, 1.0), (3, 2.0)]
  steps = _saved_steps(
    tmp_path, saves, keep_last=1, keep_best=1, best_metric_mode='min'
  )
  assert steps == [2, 3]


def test_of_equally_good_checkpoints_the_newest_is_best(tmp_path):
  saves = [(1, 1.0), (2, 1.0), (3, 0.0)]
  assert _saved_steps(tmp_path, saves, keep_last=1, keep_best=1) == [2, 3]


def test_metrics_are_known_after_a_restart(tmp_path):
  _saved_steps(tmp_path, [(1, 5.0), (2, 1.0)], keep_last=1, keep_best=1)
  saves = [(3, 2.0), (4, 3.0)]
  assert _saved_steps(tmp_path, saves, keep_last=1, keep_best=1) == [1, 4]


def test_without_a_metric_there_is_no_best(tmp_path):
  saves = [(1, None), (2, None)]
  assert _saved_steps(tmp_path, saves, keep_last=1, keep_best=1) == [2]


def test_milestones_are_kept_and_known_after_a_restart(tmp_path):
  for steps in ((1, 2), (3, 4), (5,)):
    with CheckpointStore(tmp_path, keep_last=1) as store:
      for step in steps:
        store.save(
          step, {'x': jnp.float32(step)}, extra={}, milestone=step in (1, 3)
        )
  with CheckpointStore(tmp_path, keep_last=1) as store:
    assert store.steps() == [1, 3, 5]


def test_a_step_is_saved_once(tmp_path):
  with CheckpointStore(tmp_path, keep_last=2) as store:
    assert store.save(1, {'x': jnp.float32(1)}, extra={})
    assert not store.save(1, {'x': jnp.float32(2)}, extra={})
    back, _ = store.restore(1, {'x': jnp.float32(0)})
  assert back['x'] == 1


def test_an_empty_store_has_no_steps(tmp_path):
  with CheckpointStore(tmp_path / 'new', keep_last=1) as store:
    assert store.latest_step() is None
    with pytest.raises(FileNotFoundError, match='no checkpoint in'):
      store.restore(None, {'x': jnp.float32(0)})


def test_a_missing_step_names_the_steps_there_are(tmp_path):
  with CheckpointStore(tmp_path, keep_last=2) as store:
    store.save(4, {'x': jnp.float32(1)}, extra={})
    with pytest.raises(FileNotFoundError, match=r'it has steps \[4\]'):
      store.restore(3, {'x': jnp.float32(0)})


def test_another_shape_is_one_sentence_with_leaf_and_both_shapes(tmp_path):
  other = _state(1)
  other['params']['dense']['kernel'] = jnp.zeros((2, 5))
  with CheckpointStore(tmp_path, keep_last=1) as store:
    store.save(1, _state(1), extra={})
    with pytest.raises(ValueError, match='does not fit this run') as caught:
      store.restore(1, other)
  sentence = 'leaf `params/dense/kernel` is float32[2, 4] there and'
  assert sentence + ' float32[2, 5] here' in str(caught.value)


def test_another_optimizer_is_one_sentence_with_the_leaf(tmp_path):
  other = _state(1) | {'opt_state': optax.sgd(0.1).init({})}
  with CheckpointStore(tmp_path, keep_last=1) as store:
    store.save(1, _state(1), extra={})
    with pytest.raises(ValueError, match='leaf `opt_state/0/count` is int32'):
      store.restore(1, other)


@pytest.mark.parametrize('extra', [{1: 2}, {'a': (1, 2)}, {'a': float('nan')}])
def test_extra_that_json_would_change_is_refused(tmp_path, extra):
  with (
    CheckpointStore(tmp_path, keep_last=1) as store,
    pytest.raises(ValueError, match='`extra`'),
  ):
    store.save(1, {'x': jnp.float32(1)}, extra=extra)


def test_settings_out_of_range_are_refused(tmp_path):
  with pytest.raises(ValueError, match='keep_last=0'):
    CheckpointStore(tmp_path, keep_last=0)
  with pytest.raises(ValueError, match="'largest' is not 'max' or 'min'"):
    CheckpointStore(tmp_path, keep_last=1, best_metric_mode='largest')


@pytest.mark.parametrize(
  ('before', 'after'), [((1, 1), (4, 2)), ((4, 2), (2, 2))]
)
def test_a_checkpoint_is_restored_onto_another_mesh(tmp_path, before, after):
  def placed(shape):
    devices = np.asarray(jax.devices()[: shape[0] * shape[1]]).reshape(shape)
    mesh = Mesh(devices, ('data', 'model'))
    return NamedSharding(mesh, PartitionSpec('data', 'model'))

  values = jnp.arange(64.0).reshape(8, 8)
  like = jax.ShapeDtypeStruct((8, 8), jnp.float32, sharding=placed(after))
  with CheckpointStore(tmp_path, keep_last=1) as store:
    store.save(1, {'w': jax.device_put(values, placed(before))}, extra={})
    back, _ = store.restore(1, {'w': like})
  assert back['w'].sharding == placed(after)
  np.testing.assert_array_equal(back['w'], values)


def test_params_are_read_from_a_store_or_from_one_step(tmp_path):
  with CheckpointStore(tmp_path, keep_last=2) as store:
    store.save(1, _state(1), extra={})
    store.save(2, _state(2), extra={})
  newest = restore_params(tmp_path)
  assert jax.tree.structure(newest) == jax.tree.structure(_state(2)['params'])
  np.testing.assert_array_equal(newest['dense']['kernel'], np.full((2, 4), 2))
  for older in (
    restore_params(tmp_path / '1'),
    restore_params(tmp_path, step=1),
  ):
    np.testing.assert_array_equal(older['dense']['kernel'], np.full((2, 4), 1))


def test_params_of_another_model_are_refused(tmp_path):
  with CheckpointStore(tmp_path, keep_last=1) as store:
    store.save(1, _state(1), extra={})
  like = {'dense': {'kernel': jax.ShapeDtypeStruct((3, 4), jnp.float32)}}
  with pytest.raises(ValueError, match='leaf `dense/kernel` is float32'):
    restore_params(tmp_path, like=like)


def test_reading_params_makes_no_directory(tmp_path):
  with pytest.raises(FileNotFoundError, match='no checkpoint at'):
    restore_params(tmp_path / 'missing')
  assert not (tmp_path / 'missing').exists()


def test_a_state_without_params_says_what_it_holds(tmp_path):
  with CheckpointStore(tmp_path, keep_last=1) as store:
    store.save(1, {'x': jnp.float32(1)}, extra={})
  with pytest.raises(ValueError, match=r"holds \['x'\] but no `params`"):
    restore_params(tmp_path)


def test_reading_params_leaves_a_save_in_progress_alone(tmp_path):
  with CheckpointStore(tmp_path, keep_last=1) as store:
    store.save(1, _state(1), extra={})
  half = tmp_path / '2.orbax-checkpoint-tmp'
  half.mkdir()
  restore_params(tmp_path)
  assert half.exists()


def test_leftovers_are_ignored_and_swept_up_on_the_next_start(tmp_path):
  with CheckpointStore(tmp_path, keep_last=1) as store:
    store.save(1, {'x': jnp.float32(1)}, extra={})
  half = tmp_path / '2.orbax-checkpoint-tmp'
  removed = tmp_path / '0.orbax-checkpoint-tmp-removed'
  for leftover in (half, removed):
    leftover.mkdir()
    (leftover / 'file').write_text('half')
  with CheckpointStore(tmp_path, keep_last=1) as store:
    assert list(store.steps()) == [1]
    store.save(3, {'x': jnp.float32(3)}, extra={})
  assert sorted(os.listdir(tmp_path)) == ['3']


def test_no_file_of_a_checkpoint_is_a_pickle(tmp_path):
  with CheckpointStore(tmp_path, keep_last=1) as store:
    store.save(1, _state(1), extra={'a': 1}, metric=1.0)
  files = [path for path in tmp_path.rglob('*') if path.is_file()]
  assert files
  # Protocols 2 to 5 begin with these bytes.
  starts = [file.read_bytes()[:2] for file in files]
  assert not {bytes([0x80, protocol]) for protocol in range(2, 6)} & {*starts}


@pytest.mark.multiprocess
def test_a_kill_during_a_save_leaves_only_whole_checkpoints(tmp_path):
  seed = random.SystemRandom().randrange(2**32)
  delays = random.Random(seed)
  interrupted = 0
  for _ in range(6):
    script = [sys.executable, '-m', 'tests.training.saves_forever', tmp_path]
    with subprocess.Popen(script, stdout=subprocess.PIPE, cwd=_ROOT) as process:
      assert process.stdout.readline() == b'ready\n'
      process.stdout.readline()  # The first save has begun.
      time.sleep(delays.uniform(0.0, 0.6))
      process.send_signal(signal.SIGKILL)
    interrupted += any('tmp' in name for name in os.listdir(tmp_path))
    _assert_whole(tmp_path, f'seed {seed}')
  assert interrupted, f'no kill hit a save (seed {seed}): nothing was tested'


def _assert_whole(directory, message):
  like = {name: jnp.zeros((64, 1024)) for name in 'abcdef'}
  with CheckpointStore(directory, keep_last=2, keep_best=1) as store:
    for step in store.steps():
      state, extra = store.restore(step, like)
      assert extra == {'step': step}, message
      for leaf in jax.tree.leaves(state):
        np.testing.assert_array_equal(leaf, float(step), message)


def test_a_checkpoint_that_was_cut_off_is_named(tmp_path):
  with CheckpointStore(tmp_path, keep_last=1, keep_best=0) as store:
    store.save(3, {'params': {'w': jnp.ones((64, 64))}}, extra={}, metric=None)
    store.wait()
  for path in (tmp_path / '3').rglob('*'):
    if path.is_file() and 'state' in path.parts:
      path.write_bytes(path.read_bytes()[:20])
  with pytest.raises(ValueError, match=r'3 is damaged.*another --step'):
    restore_params(tmp_path)
