from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from selfimprove.training import lock


def test_a_workdir_is_made_and_free_again_after_the_block(tmp_path):
  for _ in range(2):
    with lock.exclusive(tmp_path / 'new'):
      assert (tmp_path / 'new').is_dir()


def test_a_workdir_in_use_is_refused_and_another_is_not(tmp_path):
  with lock.exclusive(tmp_path / 'a'):
    with (
      pytest.raises(lock.InUseError, match=r'training in .*/a; wait'),
      lock.exclusive(tmp_path / 'a'),
    ):
      pass
    with lock.exclusive(tmp_path / 'b'):
      pass


def test_an_error_frees_the_workdir(tmp_path):
  with pytest.raises(KeyError), lock.exclusive(tmp_path):
    raise KeyError
  with lock.exclusive(tmp_path):
    pass


@pytest.mark.multiprocess
def test_a_killed_process_holds_nothing(tmp_path):
  code = (
    'import sys, time\n'
    'from selfimprove.training import lock\n'
    'with lock.exclusive(sys.argv[1]):\n'
    '  print("held", flush=True)\n'
    '  time.sleep(600)\n'
  )
  script = [sys.executable, '-c', code, str(tmp_path)]
  with subprocess.Popen(script, stdout=subprocess.PIPE) as process:
    assert process.stdout.readline() == b'held\n'
    with pytest.raises(lock.InUseError), lock.exclusive(tmp_path):
      pass
    process.send_signal(signal.SIGKILL)
    process.wait()
  with lock.exclusive(tmp_path):
    pass
