"""Malformed answers: each gets a verdict, or is saved with a reason."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest

from selfimprove.rewards import answers, mathematics, verifiers
from selfimprove.rewards.code import PassesTests
from selfimprove.rewards.sandbox_limits import Limits
from tests.fuzz import junk

pytestmark = pytest.mark.slow  # Thousands of cases.

GOOD = (
  'So 3 + 4 = 7. The answer is \\boxed{7}.',
  'Therefore $x = \\frac{1}{2}$, that is \\boxed{\\frac{1}{2}}.\n',
  'He has 5 * 3 = <<5*3=15>>15.\n#### 15',
  'The interval is \\boxed{(-\\infty, 2] \\cup \\{3\\}}',
  'Answer: (B)',
)
TARGETS = ('7', r'\frac{1}{2}', '15', r'(-\infty, 2] \cup \{3\}', 'B')


def _attempt(rng: random.Random) -> str:
  kind = rng.random()
  if kind < 0.2:
    return rng.choice(GOOD)
  if kind < 0.7:
    content = junk.damaged(rng, rng.choice(GOOD).encode())
    return content.decode('utf-8', 'replace')
  return f'\\boxed{{{junk.text(rng)}}}' if kind < 0.85 else junk.text(rng)


def _row(rng: random.Random) -> dict:
  row = {'answer': rng.choice(TARGETS)}
  return row if rng.random() < 0.95 else junk.changed(rng, row)


@pytest.mark.parametrize(
  ('fn', 'count'),
  [
    (mathematics.MathAnswer(), 4000),
    (answers.exact_text, 1000),
    (answers.Numeric(), 2000),
  ],
)
def test_every_malformed_answer_has_a_verdict_or_is_saved(tmp_path, fn, count):
  rng = random.Random(count)
  reward = verifiers.HostVerifier(
    fn=fn, workers=2, timeout_seconds=5.0, fallback=-1.0
  )
  file = tmp_path / 'failures.jsonl'
  reward.save_failures(file)
  attempts = [[_attempt(rng)] for _ in range(count)]
  rows = [_row(rng) for _ in range(count)]
  try:
    verdicts = reward.judge(attempts, rows)[:, 0]
    counts = reward.metrics()
  finally:
    reward.close()
  assert {*np.unique(verdicts)} <= {-1.0, 0.0, 1.0}
  assert counts['reward/verifier_calls'] == count
  saved = [json.loads(line) for line in file.read_text().splitlines()]
  # Equal samples are saved once.
  lost = {
    json.dumps([attempt, row], sort_keys=True)
    for (attempt,), row, verdict in zip(attempts, rows, verdicts)
    if verdict == -1.0
  }
  found = {
    json.dumps([one['attempt'], one['reference']], sort_keys=True)
    for one in saved
  }
  assert found == lost
  assert all(len(one['reason']) > 10 for one in saved)
  # What was not touched is right, and little else can be.
  untouched = [
    verdict == 1.0
    for (attempt,), row, verdict in zip(attempts, rows, verdicts)
    if fn != answers.exact_text
    and attempt in GOOD[:1]
    and row == {'answer': '7'}
  ]
  assert all(untouched)
  assert np.mean(verdicts == 1.0) < 0.3


def test_every_malformed_program_has_a_verdict():
  rng = random.Random(5)
  program = b'```python\ndef add(a, b):\n    return a + b\n```'
  rows = [
    {'test_list': ['assert add(1, 2) == 3'], 'code': 'def add(a, b): ...'}
  ] * 150
  verifier = PassesTests(limits=Limits(wall_seconds=5.0))
  try:
    verdicts = [
      verifier(junk.damaged(rng, program).decode('utf-8', 'replace'), row)
      for row in rows
    ]
    assert verifier(program.decode(), rows[0]) == 1.0
  finally:
    verifier.close()
  assert {*verdicts} == {0.0, 1.0}  # Some damage is none.
