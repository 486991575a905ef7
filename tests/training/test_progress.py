from __future__ import annotations

import io

from selfimprove.training.progress import Progress


class _Terminal(io.StringIO):
  def isatty(self):
    return True


class _Clock:
  def __init__(self):
    self.now = 0.0

  def __call__(self):
    return self.now


def _run(stream, *, steps, seconds_per_step, **options):
  clock = _Clock()
  progress = Progress(
    steps, stream=stream, clock=clock, shown=('reward/t2',), **options
  )
  for step in range(options.get('start', 0) + 1, steps + 1):
    clock.now += seconds_per_step
    metrics = {'reward/t2': step / 100, 'hidden': 7.0}
    progress.update(step, metrics, stage='stage II')
  progress.close()
  return stream.getvalue()


def test_a_log_file_gets_few_lines_and_the_last_step():
  text = _run(io.StringIO(), steps=100, seconds_per_step=1.0, every_seconds=30)
  lines = text.splitlines()
  # At steps 1, 31, 61 and 91, and at the end.
  assert [line.split(',')[0] for line in lines] == [
    f'stage II: step {step}/100' for step in (1, 31, 61, 91, 100)
  ]


def test_the_last_line_is_not_repeated():
  text = _run(io.StringIO(), steps=1, seconds_per_step=1.0)
  assert len(text.splitlines()) == 1


def test_a_line_has_rate_time_left_and_the_chosen_metrics():
  text = _run(io.StringIO(), steps=400, seconds_per_step=0.5, every_seconds=30)
  # After step 61 = 30.5 s: 2 steps/s, (400 - 61) / 2 = 169.5 s left.
  line = text.splitlines()[1]
  wanted = 'stage II: step 61/400, 2 steps/s, 0:02:50 left, reward/t2=0.61'
  assert line == wanted


def test_a_resumed_run_does_not_count_old_steps_into_its_rate():
  text = _run(io.StringIO(), steps=60, seconds_per_step=2.0, start=50)
  assert 'step 51/60, 0.5 steps/s, 0:00:18 left' in text


def test_a_terminal_gets_one_line_that_is_drawn_over():
  text = _run(_Terminal(), steps=20, seconds_per_step=1.0)
  assert text.count('\n') == 1
  assert '\r' in text
  assert '20/20' in text
  assert 'stage II' in text
  assert 'reward/t2=0.2' in text
  assert 'hidden' not in text


def test_messages_have_lines_of_their_own():
  for stream in (io.StringIO(), _Terminal()):
    progress = Progress(10, stream=stream)
    progress.say('Step 3: all groups are tied.')
    progress.close()
    assert 'Step 3: all groups are tied.\n' in stream.getvalue()
