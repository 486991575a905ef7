import pytest

from benchmarks import sandbox as benchmark
from selfimprove.rewards import sandbox


@pytest.mark.slow
def test_the_speed_is_that_of_right_verdicts():
  if sandbox.weakness('namespaces') is not None:
    pytest.skip('no sandbox here')
  speed = benchmark.measure('namespaces', workers=1, verdicts=6)
  assert speed['verdicts_per_second'] > 0
  assert speed['milliseconds_alone'] > 0
