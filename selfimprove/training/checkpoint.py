"""Checkpoints: asynchronous, atomic; the last, the best and the milestones.

A checkpoint is a directory named by its step that Orbax writes under another
name and renames when it is whole. Removing one renames it first as well, so at
every moment each directory with a number for a name restores fully, whatever
was killed when; leftovers are swept up when the store is next opened.
"""

from __future__ import annotations

import json
import math
import os
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import jax
from orbax.checkpoint import v1 as ocp

from selfimprove.models.layers import UP
from selfimprove.training import state_tree

_LEFTOVER = '.orbax-checkpoint-tmp-removed'
"""Suffix that Orbax ignores when it lists and removes when it cleans up."""

_TRAINED_BY = {
  'critic_params': ' with a critic, such as one of reward_model.gin',
  'ref_params': ' with a reference, such as one of implicit_reward.gin',
}
"""Which runs have the parts of a state that others leave out."""


class CheckpointStore:
  """The checkpoints of one run.

  All processes of a run call every method together.
  """

  def __init__(
    self,
    directory: str | os.PathLike[str],
    *,
    keep_last: int,
    keep_best: int = 0,
    best_metric_mode: Literal['max', 'min'] = 'max',
    before_save: Callable[[], None] = lambda: None,
  ) -> None:
    """Opens or creates a store and sweeps up what a killed run left behind.

    Args:
      directory: where the checkpoints are.
      keep_last: how many of the newest are kept, at least 1.
      keep_best: how many of those with the best metric are kept as well.
      best_metric_mode: whether the best metric is the largest or the smallest.
      before_save: called when a checkpoint is about to be written.

    Raises:
      ValueError: a number or the mode is out of range.
    """
    if keep_last < 1 or keep_best < 0:
      raise ValueError(
        f'keep_last={keep_last} and keep_best={keep_best}: a store keeps at '
        'least 1 last and 0 best checkpoints; raise the number.'
      )
    if best_metric_mode not in ('max', 'min'):
      raise ValueError(
        f"best_metric_mode={best_metric_mode!r} is not 'max' or 'min'."
      )
    self._before_save = before_save
    self._keep_last = keep_last
    self._keep_best = keep_best
    self._sign = 1.0 if best_metric_mode == 'max' else -1.0
    self._orbax = ocp.training.Checkpointer(
      _absolute(directory),
      context=_context(),
      cleanup_tmp_directories=True,
    )

  def save(
    self,
    step: int,
    state: state_tree.Tree,
    *,
    extra: Mapping[str, Any],
    metric: float | None = None,
    milestone: bool = False,
  ) -> bool:
    """Starts to write a checkpoint and returns once the arrays are copied.

    The caller may donate or overwrite the arrays at once. Waits for a save that
    is still being written.

    Args:
      step: name of the checkpoint, at least 0.
      state: pytree of arrays, typed PRNG keys included.
      extra: what else a resumed run must know; survives JSON unchanged.
      metric: quality for `keep_best`; None or not finite is never best.
      milestone: whether it is kept whatever comes later.

    Returns:
      False where this step was saved before: it is left as it is.

    Raises:
      TypeError: a leaf of `state` is not an array.
      ValueError: `extra` does not survive JSON.
    """
    extra = _checked_json(extra)
    named = state_tree.to_named(state)
    self.wait()
    if step in self.steps():
      return False
    self._before_save()
    labels: dict[str, Any] = {'milestone': 1.0} if milestone else {}
    if metric is not None and math.isfinite(metric):
      labels['metric'] = float(metric)
    self._orbax.save_checkpointables_async(
      step,
      {'state': named, 'extra': extra},
      force=True,
      metrics=labels or None,
    )
    return True

  def wait(self) -> None:
    """Blocks until the last save is on disk, then drops superseded ones."""
    self._orbax.wait()
    labels = _labels_by_step(self._orbax)
    last = sorted(labels)[-self._keep_last :]
    best = _best(labels, self._sign)[: self._keep_best]
    kept = {step for step, found in labels.items() if 'milestone' in found}
    for step in labels.keys() - kept - set(last) - set(best):
      self._remove(step)

  def steps(self) -> Sequence[int]:
    """Returns the steps of all whole checkpoints, ascending."""
    self._orbax.wait()
    return sorted(_labels_by_step(self._orbax))

  def latest_step(self) -> int | None:
    """Returns the step of the newest whole checkpoint; None without one."""
    return max(self.steps(), default=None)

  def read_extra(self, step: int | None) -> dict[str, Any]:
    """Reads what was saved beside the state, without the state.

    Args:
      step: of which checkpoint; None for the newest.

    Returns:
      The `extra` of `save`.

    Raises:
      FileNotFoundError: there is no such checkpoint.
    """
    self._orbax.wait()
    path = _step_path(self._orbax, step)
    with _context(partial=True):
      return _load(path, {'extra': None})['extra']

  def restore(
    self, step: int | None, like: state_tree.Tree
  ) -> tuple[state_tree.Tree, dict[str, Any]]:
    """Reads a checkpoint onto the devices that `like` asks for.

    Args:
      step: which one; None for the newest.
      like: pytree of arrays or `jax.ShapeDtypeStruct` with the structure,
        shapes, dtypes and shardings of the result.

    Returns:
      The state and the `extra` it was saved with.

    Raises:
      FileNotFoundError: there is no such checkpoint.
      ValueError: names, shapes or dtypes differ from `like`.
    """
    self._orbax.wait()
    path = _step_path(self._orbax, step)
    wanted = state_tree.to_abstract(like)
    with _context():
      _check_fits(path, _saved_state(path), wanted)
      read = _load(path, {'state': wanted, 'extra': None})
    return state_tree.from_named(read['state'], like), read['extra']

  def close(self) -> None:
    """Waits for the last save and releases the store."""
    self.wait()
    self._orbax.close()

  def __enter__(self) -> CheckpointStore:
    return self

  def __exit__(
    self,
    kind: type[BaseException] | None,
    error: BaseException | None,
    trace: types.TracebackType | None,
  ) -> None:
    self.close()

  def _remove(self, step: int) -> None:
    """Renames, then deletes: a kill in between leaves nothing half whole."""
    path = self._orbax.directory / str(step)
    doomed = path.with_name(path.name + _LEFTOVER)
    if jax.process_index() == 0 and '://' not in str(path) and path.exists():
      path.rename(doomed)
      doomed.rmtree()
    self._orbax.delete(step, missing_ok=True)


def restore_params(
  path: str | os.PathLike[str],
  *,
  step: int | None = None,
  like: state_tree.Tree | None = None,
  part: str = 'params',
) -> state_tree.Tree:
  """The parameters of a checkpoint, without the rest of its state.

  Changes nothing on disk, so that it can look into a run that is training.

  Args:
    path: a store, or the directory of one step in it.
    step: which checkpoint of a store; None for the newest.
    like: structure, shapes and shardings of the parameters; None reads nested
      dictionaries onto the first device.
    part: field of the state: `params`, `critic_params` or `ref_params`.

  Returns:
    That field of the saved state.

  Raises:
    FileNotFoundError: there is no such checkpoint.
    ValueError: the state has no such parameters, or they differ from `like`.
  """
  where = step_path(path, step=step)
  with _context(partial=True):
    saved = _saved_state(where)
    if part not in saved:
      raise ValueError(
        f'Checkpoint {where} holds {sorted(saved)} but no `{part}`; give the '
        f'checkpoint of a training run{_TRAINED_BY.get(part, "")}.'
      )
    if like is None:
      like = state_tree.without_placement(saved[part])
    wanted = state_tree.to_abstract(like)
    if _has_adapters(saved[part]) and not _has_adapters(wanted):
      raise ValueError(
        f'Checkpoint {where} holds LoRA adapters, without the parameters that '
        'they belong to; export its run (python -m selfimprove.export) and '
        'begin with that folder.'
      )
    _check_fits(where, saved[part], wanted)
    read = _load(where, {'state': {part: wanted}})
  return state_tree.from_named(read['state'][part], like)


def read_extra(
  path: str | os.PathLike[str], *, step: int | None = None
) -> dict[str, Any]:
  """What was saved beside the state of a checkpoint.

  Changes nothing on disk.

  Args:
    path: a store, or the directory of one step in it.
    step: which checkpoint of a store; None for the newest.

  Returns:
    The `extra` of `CheckpointStore.save`.

  Raises:
    FileNotFoundError: there is no such checkpoint.
  """
  where = step_path(path, step=step)
  with _context(partial=True):
    return _load(where, {'extra': None})['extra']


def step_path(path: str | os.PathLike[str], *, step: int | None = None) -> str:
  """The directory of one checkpoint.

  Args:
    path: a store, or that directory itself.
    step: which checkpoint of a store; None for the newest.

  Returns:
    An absolute path.

  Raises:
    FileNotFoundError: there is no such checkpoint.
  """
  where = _absolute(path)
  if ocp.is_orbax_checkpoint(where):
    return where
  return _step_path(_opened(where), step)


def _absolute(directory: str | os.PathLike[str]) -> str:
  """The form that Orbax wants; bucket addresses are absolute already."""
  name = os.fspath(directory)
  return name if '://' in name else os.path.abspath(name)


def _context(*, partial: bool = False) -> ocp.Context:
  """Orbax options; `partial` reads the asked-for part of a state."""
  registry = ocp.handlers.local_registry()
  # Without this a dictionary of numbers is stored as arrays.
  registry.add(ocp.handlers.JsonHandler, checkpointable_name='extra')
  context = ocp.Context()
  context.checkpointables.registry = registry
  context.pytree.loading.partial_load = partial
  return context


def _opened(directory: str) -> ocp.training.Checkpointer:
  """The store at `directory`, which is not created where it is missing."""
  if '://' not in directory and not os.path.isdir(directory):
    raise FileNotFoundError(f'There is no checkpoint at {directory}.')
  return ocp.training.Checkpointer(directory, context=_context())


def _step_path(store: ocp.training.Checkpointer, step: int | None) -> str:
  steps = sorted(checkpoint.step for checkpoint in store.checkpoints)
  if not steps or step not in (None, *steps):
    raise FileNotFoundError(
      f'There is no checkpoint of step {step} in {store.directory}; '
      f'it has steps {steps}.'
      if steps
      else f'There is no checkpoint in {store.directory} yet.'
    )
  return str(store.directory / str(steps[-1] if step is None else step))


def _saved_state(path: str) -> Any:
  """Names, shapes and dtypes of a saved state."""
  try:
    saved = ocp.checkpointables_metadata(path).metadata['state']
  except Exception as error:
    raise _damaged(path) from error
  if saved is None:  # Where its own files cannot be read.
    raise _damaged(path)
  return saved


def _load(path: str, wanted: Any) -> Any:
  """What is asked for; files that are cut off raise all kinds of things."""
  try:
    return ocp.load_checkpointables(path, wanted)
  except Exception as error:
    raise _damaged(path) from error


def _damaged(path: str) -> ValueError:
  return ValueError(
    f'Checkpoint {path} is damaged and cannot be read; give another --step, or '
    'delete its folder to go on from the one before.'
  )


def _labels_by_step(
  store: ocp.training.Checkpointer,
) -> dict[int, Mapping[str, float]]:
  """What decides about keeping: `metric` and `milestone`, where given."""
  found = {}
  for checkpoint in store.checkpoints:
    labels: Any = checkpoint.metrics
    found[checkpoint.step] = labels or {}
  return found


def _best(labels: Mapping[int, Mapping[str, float]], sign: float) -> list[int]:
  """Steps that have a metric, best first, and the newest first of equals."""
  known = {
    n: found['metric'] for n, found in labels.items() if 'metric' in found
  }
  return sorted(known, key=lambda step: (sign * known[step], step))[::-1]


def _check_fits(path: str, saved: Any, wanted: Any) -> None:
  difference = state_tree.first_difference(saved, wanted)
  if difference is not None:
    raise ValueError(
      f'Checkpoint {path} does not fit this run: {difference}; use the '
      'configuration it was written with, or start in another directory.'
    )


def _has_adapters(tree: Any) -> bool:
  """Whether arrays of a low-rank side path are among the leaves."""
  return any(path[-1].key == UP for path, _ in jax.tree.leaves_with_path(tree))


def _checked_json(extra: Mapping[str, Any]) -> dict[str, Any]:
  """A copy of `extra` made by way of JSON."""
  try:
    copy = json.loads(json.dumps(dict(extra), allow_nan=False))
  except (TypeError, ValueError) as error:
    raise ValueError(f'`extra` is not JSON: {error}.') from error
  if copy != dict(extra):
    raise ValueError(
      f'`extra` does not survive JSON: {dict(extra)} comes back as {copy}; use '
      'strings as keys and lists for tuples.'
    )
  return copy
