from __future__ import annotations

import pytest

from selfimprove import configuration
from selfimprove.rewards.answers import Numeric, exact_text
from selfimprove.rewards.by_source import BySource
from selfimprove.rewards.mathematics import MathAnswer
from selfimprove.rewards.verifiers import HostVerifier
from tests.rewards import misbehaving

_VERIFIERS = {
  'words': misbehaving.logged(exact_text),  # As gin wraps functions.
  'numbers': Numeric(),
  'algebra': MathAnswer(),
}


def _row(source, answer='5'):
  return {'source': source, 'answer': answer}


def test_each_row_is_judged_by_its_own_verifier():
  host = HostVerifier(fn=BySource(verifiers=_VERIFIERS), workers=1)
  rewards = host.judge(
    [['it is 5', '5']] * 2 + [['x+x', '2x']],
    [_row('words'), _row('numbers'), _row('algebra', '2x')],
  )
  assert rewards.tolist() == [[0.0, 1.0], [1.0, 1.0], [1.0, 1.0]]
  host.close()


def test_calls_are_counted_and_timed_for_each_source():
  verifiers = {'good': misbehaving.length, 'bad': misbehaving.act}
  host = HostVerifier(
    fn=BySource(verifiers=verifiers, field='kind'), workers=1, fallback=0.0
  )
  host.judge(
    [['a', 'a'], ['nan', 'right']], [{'kind': 'good'}, {'kind': 'bad'}]
  )
  metrics = host.metrics()
  assert metrics['reward/verifier_calls'] == 4
  assert metrics['reward/verifier_calls_good'] == 2
  assert metrics['reward/verifier_failures_good'] == 0
  assert metrics['reward/verifier_failures_bad'] == 1
  timing = host.timing()
  assert timing['verifier/cached_good'] == timing['verifier/cached'] == 1
  assert timing['verifier/seconds'] == pytest.approx(
    timing['verifier/seconds_good'] + timing['verifier/seconds_bad']
  )
  host.close()


def test_a_source_without_a_verifier_is_named():
  host = HostVerifier(
    fn=BySource(verifiers=_VERIFIERS), workers=1, fallback=0.0
  )
  # Whatever the fallback: it is the configuration that is wrong.
  with pytest.raises(
    ValueError, match=r"'source' of the row is 'code'.*'words"
  ):
    host.judge([['5']], [_row('code')])


def test_no_verifiers_and_those_that_cannot_be_sent_are_refused():
  with pytest.raises(ValueError, match='verifiers is empty'):
    BySource(verifiers={})
  with pytest.raises(ValueError, match='top level of an importable module'):
    BySource(verifiers={'x': lambda attempt, reference: 1.0})


_GIN = """
from __gin__ import dynamic_registration
from selfimprove.rewards import answers
from selfimprove.rewards import by_source
from selfimprove.rewards import mathematics
from selfimprove.rewards import verifiers
verifiers.HostVerifier.fn = @by_source.BySource()
verifiers.HostVerifier.workers = 1
verifiers.HostVerifier.timeout_reward = 0.0
by_source.BySource.verifiers = {
  'words': @answers.exact_text,
  'algebra': @mathematics.MathAnswer(),
}
mathematics.MathAnswer.ways = ('boxed',)
"""


def test_a_mixture_can_be_written_in_gin(tmp_path):
  path = tmp_path / 'mixture.gin'
  path.write_text(_GIN)
  host = configuration.build(HostVerifier, files=[str(path)])
  rewards = host.judge(
    [['5', '6'], [r'\boxed{5}', '5']], [_row('words'), _row('algebra')]
  )
  assert rewards.tolist() == [[1.0, 0.0], [1.0, 0.0]]
  host.close()
