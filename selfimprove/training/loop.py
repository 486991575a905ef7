"""The loop: stages, evaluation, checkpoints, and a clean end."""

from __future__ import annotations

import dataclasses
import difflib
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import jax
from jax.sharding import Mesh

from selfimprove.training import (
  agreement,
  collect,
  collecting,
  initial,
  judging,
  programs,
)
from selfimprove.training.checkpoint import CheckpointStore
from selfimprove.training.conditions import metric_names
from selfimprove.training.detectors import Monitor
from selfimprove.training.finite import check_finite
from selfimprove.training.metrics import MetricsWriter, to_scalars
from selfimprove.training.progress import Progress
from selfimprove.training.signals import StopRequest
from selfimprove.training.stages import Cursor, Stage, holds_reference
from selfimprove.training.state import (
  Models,
  TrainState,
  abstract_state,
  init_optimizer,
  init_state,
  policy_params,
)
from selfimprove.training.step import trained
from selfimprove.training.timing import PhaseTimers
from selfimprove.types import Params, Prompts

Evaluate = Callable[[TrainState], Mapping[str, float]]
"""(state) -> metrics `eval/...` on held-out problems."""


class StoppedByDetectorError(RuntimeError):
  """A failure detector whose action is to stop has found something."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Schedule:
  """What happens every so many steps.

  Attributes:
    evaluate_every: steps between evaluations, which conditions and detectors
      see; 0 evaluates only at the end of each stage.
    checkpoint_every: steps between checkpoints; 0 saves only at the end of
      each stage.
    best_metric: evaluation metric by which `keep_best` ranks checkpoints.
    best_metric_mode: whether its best value is the largest or the smallest.
    keep_stage_ends: whether the checkpoint at the end of each stage is kept
      whatever comes later; `Experiment.keep_last` and `keep_best` are besides.
  """

  evaluate_every: int = 0
  checkpoint_every: int = 0
  best_metric: str = 'eval/acc_last'
  best_metric_mode: Literal['max', 'min'] = 'max'
  keep_stage_ends: bool = True


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
  """Everything that the loop works with; made by the entry point.

  Attributes:
    models: the networks.
    stages: in order.
    batch: (stage, position) -> its next prompts, host arrays.
    judge: reads rollouts for rewards on the host.
    evaluate: measures the networks on held-out problems.
    mesh: devices.
    seed: of the run.
    schedule: when to evaluate and save.
    store: checkpoints.
    writer: metric files.
    progress: what the user sees.
    monitor: failure detectors.
    stop: whether somebody asked the run to stop.
    timers: seconds per phase.
    data: what tells the training problems from others; JSON.
    base: what tells the base of adapters from others; `train` finds it.
    warned: metrics that are known to be missing.
  """

  models: Models
  stages: Sequence[Stage]
  batch: Callable[[Stage, int], Prompts]
  judge: judging.Judge
  evaluate: Evaluate
  mesh: Mesh
  seed: int
  schedule: Schedule
  store: CheckpointStore
  writer: MetricsWriter
  progress: Progress
  monitor: Monitor
  stop: StopRequest
  timers: PhaseTimers
  data: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  base: str | None = None
  warned: set[str] = dataclasses.field(default_factory=set)


def train(
  run: Run,
  *,
  init_params: initial.Read | None = None,
  init_adapters: initial.Read | None = None,
) -> TrainState:
  """The state at the end of the stages, or where the run was asked to stop.

  Goes on from the newest checkpoint if there is one: N steps in one go and any
  number of interrupted ones end with the same parameters and metrics.

  Args:
    run: what to work with.
    init_params: gives the parameters to begin with, and is not called by a run
      that goes on, unless they are the base of adapters; None initialises them
      from the seed.
    init_adapters: gives adapters to begin with; None likewise.

  Returns:
    The last state, which has been saved.

  Raises:
    NonFiniteError: a loss term or gradient was not finite.
    StoppedByDetectorError: a failure detector said so.
    ValueError: the checkpoint was trained on other problems or beside another
      base, or a stage waits for a metric that no evaluation shows it.
  """
  _check_conditions(run)
  with jax.set_mesh(run.mesh):
    run, state, cursor = _begin(run, init_params, init_adapters)
    if cursor.stage == len(run.stages):
      run.progress.say(
        f'This run is already done, at step {int(state.step)}; nothing is left '
        'to train.'
      )
    while cursor.stage < len(run.stages) and not _asked(run).requested:
      state, cursor = _run_stage(run, state, cursor)
    _save(run, state, cursor, {})
    run.store.wait()
    stop = _asked(run)
    if stop.requested:
      run.progress.say(
        f'Stopped by {stop.reason} after step {int(state.step)}, which is '
        'saved; the same command goes on from there.'
      )
  return state


def _asked(run: Run) -> StopRequest:
  """Whether any process was asked to stop: all of them leave after one step."""
  return agreement.stop_request(run.stop)


def _check_conditions(run: Run) -> None:
  """Refuses conditions on evaluations that the schedule does not ask for."""
  for stage in run.stages:
    for name in sorted(metric_names(stage.advance)):
      if name.startswith('eval/') and not run.schedule.evaluate_every:
        raise ValueError(
          f'Stage {stage.name!r} advances by {name!r}, but nothing is '
          'evaluated before its end; set loop.Schedule.evaluate_every.'
        )


def _begin(
  run: Run, init_params: initial.Read | None, init_adapters: initial.Read | None
) -> tuple[Run, TrainState, Cursor]:
  """The newest checkpoint, or the state before the first step."""
  latest = run.store.latest_step()
  extra: dict[str, Any] = {}
  if latest is not None:
    extra = run.store.read_extra(latest)
    _check_data(run, extra.get('data', {}))
  base = None
  if run.models.adapters is not None:
    base = initial.base_params(
      run.models.policy, run.mesh, seed=run.seed, read=init_params
    )
    found = initial.check_base(extra.get('base'), base)
    run = dataclasses.replace(run, base=found)
  if latest is None:
    run.writer.resume(-1)
    params = init_params() if base is None and init_params else base
    state = _fresh_state(run, params, init_adapters and init_adapters())
    return run, state, Cursor()
  cursor = Cursor(**extra['cursor'])
  stage = run.stages[min(cursor.stage, len(run.stages) - 1)]
  if cursor.stage and not cursor.stage_step:
    # The optimizer that was saved is that of the stage which had just ended.
    stage = run.stages[cursor.stage - 1]
  like = dataclasses.replace(_like(run, stage), frozen={})
  state, _ = run.store.restore(latest, like)
  state = dataclasses.replace(state, frozen=base or {})
  run.monitor.load(extra['monitor'])
  run.writer.resume(latest)
  run.progress.say(f'Resumed from the checkpoint of step {latest}.')
  return run, state, cursor


def _check_data(run: Run, before: Mapping[str, Any]) -> None:
  """Refuses to go on with other problems: no order of theirs is the same."""
  if before != run.data:
    was, now = (
      ', '.join(f'{name} {value}' for name, value in data.items()) or 'unknown'
      for data in (before, run.data)
    )
    raise ValueError(
      f'The training problems have changed since the checkpoint ({was}; now '
      f'{now}); give those of the run, or use another --workdir.'
    )


def _fresh_state(
  run: Run, init_params: Params | None, init_adapters: Params | None = None
) -> TrainState:
  """The state before the first step, laid out over the mesh."""
  first = run.stages[0]
  like = dataclasses.replace(_like(run, first), buffer={}, frozen={})

  def make(params: Params | None, adapters: Params | None) -> TrainState:
    state = init_state(
      run.models,
      first.optimizers,
      seed=run.seed,
      params=params,
      adapters=adapters,
      with_reference=holds_reference(run.stages, run.models),
    )
    return dataclasses.replace(state, frozen={})

  shardings = jax.tree.map(lambda leaf: leaf.sharding, like)
  compiled = jax.jit(make, out_shardings=shardings)
  if run.models.adapters is not None:
    # The base stays where it is: what goes through a program is copied.
    state = compiled(init_params, init_adapters)
    return dataclasses.replace(state, frozen=init_params)
  if init_params is not None:
    # They come from a checkpoint, on one device perhaps.
    init_params = jax.device_put(init_params, shardings.params)
  return compiled(init_params, None)


def _run_stage(
  run: Run, state: TrainState, cursor: Cursor
) -> tuple[TrainState, Cursor]:
  """Steps until the stage is over or the run was asked to stop."""
  stage, index = run.stages[cursor.stage], cursor.stage
  if not cursor.stage_step:
    state = _enter(run, stage, state)
  made = programs.Build(
    models=run.models,
    stage=stage,
    mesh=run.mesh,
    state_shardings=jax.tree.map(lambda x: x.sharding, state),
    judge=run.judge,
  )
  collects = stage.algorithm.collect is not None
  program = collecting.build(made) if collects else programs.build(made)
  run.progress.say(
    f'Stage {stage.name} begins: its first step compiles the program and takes '
    'longer than others.'
  )
  while cursor.stage == index and not _asked(run).requested:
    state, cursor = _step(run, stage, program, state, cursor)
  return state, cursor


def _enter(run: Run, stage: Stage, state: TrainState) -> TrainState:
  """The state at the beginning of a stage: its optimizers, its reference."""
  like = _like(run, stage)
  buffer = {} if like.buffer == {} else collect.empty(like.buffer)
  shardings = jax.tree.map(
    lambda leaf: leaf.sharding,
    dataclasses.replace(like, buffer={}, frozen={}),
  )

  def enter(state: TrainState) -> TrainState:
    return dataclasses.replace(
      state,
      opt_state=init_optimizer(stage.optimizer, state.params),
      critic_opt_state=init_optimizer(
        stage.critic_optimizer, state.critic_params
      ),
    )

  if holds_reference(run.stages, run.models):
    state = dataclasses.replace(state, ref_params=stage.reference(state))
  frozen = state.frozen
  state = dataclasses.replace(state, buffer={}, frozen={})
  state = jax.jit(enter, out_shardings=shardings)(state)
  return dataclasses.replace(state, buffer=buffer, frozen=frozen)


def _like(run: Run, stage: Stage) -> TrainState:
  """Shapes, dtypes and shardings of the state during a stage."""
  like = abstract_state(
    run.models,
    stage.optimizers,
    run.mesh,
    with_reference=holds_reference(run.stages, run.models),
  )
  if stage.algorithm.collect is None:
    return like
  buffer = collect.abstract_buffer(
    run.models.policy,
    stage.algorithm,
    jax.eval_shape(functools.partial(policy_params, run.models), like),
    run.batch(stage, 0),
    run.mesh,
  )
  return dataclasses.replace(like, buffer=buffer)


def _step(
  run: Run,
  stage: Stage,
  program: programs.StepFn,
  state: TrainState,
  cursor: Cursor,
) -> tuple[TrainState, Cursor]:
  """One update and all that follows from it."""
  done = int(state.step) + 1
  batch = functools.partial(run.batch, stage)
  state, raw, codes = program(state, batch, run.timers)
  check_finite(
    done,
    codes,
    terms=stage.algorithm.terms,
    params=trained(state, stage.optimizers),
  )
  metrics = to_scalars(raw)
  run.writer.write(done, metrics, labels={'stage': stage.name})
  schedule, measured = run.schedule, dict[str, float]()
  if _is_due(schedule.evaluate_every, done):
    measured = _evaluate(run, stage, state, done)
  cursor = cursor.after_step(stage, {**metrics, **measured})
  ended = not cursor.stage_step
  if ended:
    measured = measured or _evaluate(run, stage, state, done)
    shown = ', '.join(f'{k} {v:.3f}' for k, v in sorted(measured.items()))
    run.progress.say(f'Stage {stage.name} ended at step {done}: {shown}')
  _observe(run, stage, done, metrics, measured)
  if ended or _is_due(schedule.checkpoint_every, done):
    _save(run, state, cursor, measured)
  tokens = metrics['rollout/tokens']
  run.writer.write_timing(done, run.timers.end_step(tokens=tokens))
  run.progress.update(done, {**metrics, **measured}, stage=stage.name)
  return state, cursor


def _is_due(every: int, done: int) -> bool:
  """Whether something that happens every so many steps happens now."""
  return every > 0 and done % every == 0


def _evaluate(
  run: Run, stage: Stage, state: TrainState, done: int
) -> dict[str, float]:
  """Held-out metrics."""
  with run.timers.phase('evaluate'):
    measured = dict(run.evaluate(state))
  run.writer.write(done, measured, labels={'stage': stage.name})
  return measured


def _observe(
  run: Run,
  stage: Stage,
  done: int,
  metrics: Mapping[str, float],
  measured: Mapping[str, float],
) -> None:
  """Shows what the failure detectors find, and stops if one says so."""
  seen = {**metrics, **measured}
  for finding in run.monitor.observe(done, seen):
    if finding.action == 'stop':
      raise StoppedByDetectorError(finding.sentence)
    run.progress.say(f'Warning: {finding.sentence}')
  if measured:
    _warn_of_missing(run, stage, seen)


def _warn_of_missing(run: Run, stage: Stage, seen: Mapping[str, float]) -> None:
  """Says once which metrics something waits for that are not logged."""
  wanted = dict.fromkeys(run.monitor.unobserved(), 'a detector')
  advance = f'the end of stage {stage.name}'
  wanted |= dict.fromkeys(metric_names(stage.advance), advance)
  wanted[run.schedule.best_metric] = 'the choice of the best checkpoint'
  for name in sorted(wanted.keys() - seen.keys() - run.warned):
    run.warned.add(name)
    near = difflib.get_close_matches(name, seen, n=1, cutoff=0)
    run.progress.say(
      f'Warning: {wanted[name]} waits for {name!r}, which has not been logged '
      f'so far; the nearest name is {near[0]!r}.'
    )


def _save(
  run: Run, state: TrainState, cursor: Cursor, measured: Mapping[str, float]
) -> None:
  """Starts to write a checkpoint; the base of adapters is not in it."""
  named = {} if run.base is None else {'base': run.base}
  with run.timers.phase('checkpoint'):
    run.store.save(
      int(state.step),
      dataclasses.replace(state, frozen={}),
      extra={
        **named,
        'cursor': dataclasses.asdict(cursor),
        'monitor': run.monitor.state(),
        'data': dict(run.data),
      },
      metric=measured.get(run.schedule.best_metric),
      # A stage has ended where the next one has not begun.
      milestone=run.schedule.keep_stage_ends
      and cursor.stage > 0
      and not cursor.stage_step,
    )
