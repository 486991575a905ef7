"""A run of seconds: a model of a few hundred weights on made-up problems.

All of the loop is real; only the problems, the reward and the clock are small.
"""

from __future__ import annotations

import dataclasses
import functools
import io
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax

from selfimprove import partitioning
from selfimprove import types as nouns
from selfimprove.algorithms import aggregates, credit, terms
from selfimprove.algorithms.base import Algorithm, Term
from selfimprove.data.pipeline import PromptStream, Table
from selfimprove.models.config import TransformerConfig
from selfimprove.models.transformer import make_policy
from selfimprove.rewards import combine, labels
from selfimprove.rollout.decode import Sampling
from selfimprove.rollout.revise import Revise
from selfimprove.training import loop
from selfimprove.training.checkpoint import CheckpointStore
from selfimprove.training.conditions import MetricAtLeast
from selfimprove.training.detectors import Monitor
from selfimprove.training.metrics import MetricsWriter
from selfimprove.training.progress import Progress
from selfimprove.training.signals import StopRequest
from selfimprove.training.stages import Stage, current_policy
from selfimprove.training.state import Models
from selfimprove.training.timing import PhaseTimers

EOS = 1
CONFIG = TransformerConfig(
  vocab_size=7,
  num_layers=1,
  embed_dim=8,
  num_heads=2,
  num_kv_heads=2,
  head_dim=4,
  mlp_dim=8,
)
# Operation by operation, to initialise takes seconds.
POLICY = make_policy(CONFIG)
POLICY = POLICY._replace(init=jax.jit(POLICY.init))


@nouns.record
class Evenness:
  """1.0 where the first token of an attempt is an even number."""

  scale: float = 1.0

  def __call__(self, rollout, prompts):
    firsts = [rollout.tokens[:, first] for first, _ in rollout.spans]
    even = jnp.stack(firsts, axis=1) % 2 == 0
    return self.scale * even.astype(jnp.float32)


def revise(*, group_size=4):
  """Attempt and revision of at most three tokens, EOS included."""
  return Revise(
    eos_ids=jnp.asarray([EOS]),
    instruction=jnp.asarray([6]),
    sampling=Sampling(),
    group_size=group_size,
    max_new_tokens=(3, 3),
  )


@jax.jit
def sampled(rollout, params, prompts, key):
  """What a rollout makes of prompts, with the tiny policy."""
  return rollout(POLICY, params, prompts, key)


def algorithm(
  *,
  kl=(10.0, 0.01),
  alpha=0.0,
  turn_weights=(0.0, 1.0),
  kl_fn=None,
  needs=('exact_kl',),
  reward=None,
  baseline=None,
):
  """SCoRe's stage I unless told otherwise."""
  return Algorithm(
    rollout=revise(),
    reward=reward or Evenness(),
    combine=combine.ProgressBonus(alpha=alpha, turn_weights=turn_weights),
    label=labels.KeepAll(),
    credit=credit.TurnLocal(baseline=baseline or credit.LeaveOneOut()),
    terms={
      'policy': Term(
        fn=terms.PolicyGradient(), aggregate=aggregates.SequenceMean()
      ),
      'kl': Term(
        fn=kl_fn or terms.ExactKL(),
        aggregate=aggregates.SequenceMean(),
        weight=kl,
      ),
    },
    needs=needs,
  )


def stage_two(**changes):
  """SCoRe's stage II."""
  return algorithm(
    **{'kl': (0.01, 0.01), 'alpha': 10.0, 'turn_weights': (1.0, 1.0)} | changes
  )


@functools.cache
def stages(*, prompts=4):
  """Three stages with different optimizers, ends and references.

  Stage II is over after two of its four steps, by its condition; stage III
  measures itself against what stage II has made.
  """
  every = MetricAtLeast(metric='rollout/tokens', threshold=0.0, patience=2)
  return (
    Stage(
      name='one',
      algorithm=algorithm(),
      optimizer=optax.adam(3e-3),
      steps=3,
      prompts_per_step=prompts,
    ),
    Stage(
      name='two',
      algorithm=stage_two(),
      optimizer=optax.sgd(3e-2, momentum=0.9),
      steps=4,
      prompts_per_step=prompts,
      advance=every,
    ),
    Stage(
      name='three',
      algorithm=stage_two(),
      optimizer=optax.adam(3e-3),
      steps=2,
      prompts_per_step=prompts,
      microbatches=2,
      reference=current_policy,
    ),
  )


def shared_programs(build):
  """`programs.build` that makes the program of one `Stage` object once."""
  built = {}

  def build_once(made):
    key = id(made.stage)
    if key not in built:  # The stage is kept, so that its id is too.
      built[key] = made.stage, build(made)
    return built[key][1]

  return build_once


def table(rows=12):
  """Problems of one to three tokens."""
  rng = np.random.default_rng(0)
  tokens = rng.integers(2, 6, (rows, 3)).astype(np.int32)
  mask = np.arange(3)[None, :] >= rng.integers(0, 3, rows)[:, None]
  return Table(
    fields=tuple({'prompt': str(i), 'answer': 'x'} for i in range(rows)),
    prompt_ids=np.where(mask, tokens, 0),
    prompt_mask=mask,
    answer_ids=tokens[:, :2],
    answer_mask=np.ones((rows, 2), bool),
    dropped={},
  )


def prompts(count=4):
  """The first batch, on the device."""
  stream = PromptStream(table(max(12, count)), prompts_per_step=count)
  return jax.tree.map(jnp.asarray, stream.batch(0))


def mesh(data=1, fsdp=1, model=1):
  """A mesh over as many of the fake devices as it needs."""
  devices = jax.devices()[: data * fsdp * model]
  return partitioning.make_mesh(
    data=data, fsdp=fsdp, model=model, devices=devices
  )


def run(workdir, stages, *, stop_after=None, evaluate=None, **changes):
  """What `loop.train` needs; asked to stop during step `stop_after`."""
  stop = StopRequest()
  streams = {
    stage.prompts_per_step: PromptStream(
      table(), prompts_per_step=stage.prompts_per_step
    )
    for stage in stages
  }

  def batch(stage, position):
    if position // stage.prompts_per_step + 1 == stop_after:
      stop.requested, stop.reason = True, 'SIGTERM'
    return streams[stage.prompts_per_step].batch(position)

  said = io.StringIO()
  made = loop.Run(
    models=Models(POLICY),
    stages=stages,
    batch=batch,
    judge=lambda reward, rollout: reward.judge(rollout, None),
    evaluate=evaluate or (lambda at: {'eval/acc_last': _mean(at.params)}),
    mesh=mesh(),
    seed=5,
    schedule=loop.Schedule(checkpoint_every=2),
    store=CheckpointStore(workdir / 'checkpoints', keep_last=1, keep_best=1),
    writer=MetricsWriter(workdir),
    progress=Progress(9, stream=said),
    monitor=Monitor(()),
    stop=stop,
    timers=PhaseTimers(),
  )
  return types.SimpleNamespace(
    run=dataclasses.replace(made, **changes), said=said
  )


def train(workdir, stages, **changes):
  """The last state of a run, and what the user was shown."""
  made = run(workdir, stages, **changes)
  try:
    return loop.train(made.run), made.said.getvalue()
  finally:
    made.run.writer.close()
    made.run.store.close()


def _mean(params):
  return float(sum(jnp.mean(leaf) for leaf in jax.tree.leaves(params)))
