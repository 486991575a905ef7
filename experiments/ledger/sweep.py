"""The runs of the ledger in their order, over processes that share nothing."""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import functools
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence

from experiments import runs
from experiments.ledger import arms, work

# One core a process: XLA's own threads would only get in each other's way.
_FLAGS = '--xla_cpu_multi_thread_eigen=false'


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
  """One run.

  Attributes:
    task: name.
    arm: name, or `work.BASE`.
    seed: of the run.
    rate: learning rate; None for `work.BASE`.
  """

  task: str
  arm: str
  seed: int
  rate: float | None = None

  def __str__(self) -> str:
    rate = '' if self.rate is None else f', learning rate {self.rate:g}'
    return f'{self.task}: {self.arm}, seed {self.seed}{rate}'


def done(workdir: str, job: Job) -> bool:
  """Whether a run is remembered.

  Args:
    workdir: of the ledger.
    job: the run.

  Returns:
    True if its row is there.
  """
  return work.is_done(
    workdir, arms.TASKS[job.task], job.arm, seed=job.seed, rate=job.rate
  )


def perform(workdir: str, job: Job) -> work.Row:
  """The row of a run, trained and measured where it is not remembered.

  Args:
    workdir: of the ledger.
    job: the run.

  Returns:
    Its row.
  """
  task = arms.TASKS[job.task]
  if job.rate is None:
    return work.base_row(workdir, task, seed=job.seed)
  (arm,) = (arm for arm in arms.ARMS if arm.name == job.arm)
  return work.arm_row(workdir, task, arm, seed=job.seed, rate=job.rate)


Perform = Callable[[Sequence[Job]], tuple[dict[Job, work.Row], list[str]]]
"""(runs) -> rows of those that came to an end, sentences about others."""


@contextlib.contextmanager
def processes(
  workdir: str,
  *,
  count: int,
  make: Callable[[str, Job], work.Row] = perform,
) -> Iterator[Perform]:
  """A function that performs runs, several at a time.

  Args:
    workdir: of the ledger.
    count: processes, at least 1.
    make: (workdir, run) -> row; of the top level of a module.

  Yields:
    The function; it shows its progress on standard error.
  """
  context = multiprocessing.get_context('spawn')
  cores = sorted(os.sched_getaffinity(0))
  numbers = context.Queue()
  for number in range(count):
    numbers.put(cores[number % len(cores)])
  with (
    _flags_of_processes(),
    concurrent.futures.ProcessPoolExecutor(
      count,
      mp_context=context,
      initializer=_begin,
      initargs=(workdir, numbers),
    ) as pool,
  ):

    def run(jobs: Sequence[Job]) -> tuple[dict[Job, work.Row], list[str]]:
      safely = functools.partial(_safely, make, workdir)
      return _gather(pool, safely, workdir, jobs)

    try:
      yield run
    except BaseException:
      # Runs that have not begun must not hold up the end.
      # Waited for here: the pool's own end forgets that they were cancelled.
      pool.shutdown(wait=True, cancel_futures=True)
      raise


@contextlib.contextmanager
def _flags_of_processes() -> Iterator[None]:
  """Processes that begin meanwhile inherit XLA's flags for one core."""
  before = os.environ.get('XLA_FLAGS')
  os.environ['XLA_FLAGS'] = f'{before or ""} {_FLAGS}'
  try:
    yield
  finally:
    if before is None:
      del os.environ['XLA_FLAGS']
    else:
      os.environ['XLA_FLAGS'] = before


def _gather(
  pool: concurrent.futures.Executor,
  safely: Callable[[Job], tuple[work.Row | None, str, bool]],
  workdir: str,
  jobs: Sequence[Job],
) -> tuple[dict[Job, work.Row], list[str]]:
  futures = {pool.submit(safely, job): job for job in jobs}
  rows, failures, began = {}, [], time.monotonic()
  new = sum(not done(workdir, job) for job in jobs)
  finished = 0
  for future in concurrent.futures.as_completed(futures):
    job, (row, reason, fresh) = futures[future], future.result()
    if row is None:
      failures.append(f'{job}: {reason}')
    else:
      rows[job] = row
    finished += fresh
    if fresh:
      spent = time.monotonic() - began
      left = spent / finished * (new - finished) / 60
      accuracy = f'accuracy {row["accuracy"]:.3f}' if row else reason
      print(
        f'[{finished}/{new}, {left:.0f} min left] {job}: {accuracy}',
        file=sys.stderr,
        flush=True,
      )
  # Where a table is ordered by them, the order of completion must not show.
  return {job: rows[job] for job in jobs if job in rows}, failures


def _begin(workdir: str, numbers: 'multiprocessing.Queue[int]') -> None:
  """A process with a core, a log file, and the programs of the others."""
  core = numbers.get()
  os.sched_setaffinity(0, {core})
  os.makedirs(workdir, exist_ok=True)
  log = os.open(
    os.path.join(workdir, f'process_{core}.log'),
    os.O_WRONLY | os.O_CREAT | os.O_APPEND,
  )
  os.dup2(log, 2)
  import jax

  runs.share_programs(os.path.join(workdir, 'compiled'))
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.0)


def _safely(
  make: Callable[[str, Job], work.Row], workdir: str, job: Job
) -> tuple[work.Row | None, str, bool]:
  """A row, or why there is none; and whether it was made just now."""
  fresh = not done(workdir, job)
  try:
    return make(workdir, job), '', fresh
  except Exception as error:  # A diverged run must not end the sweep.
    return None, f'{type(error).__name__}: {error}', fresh
