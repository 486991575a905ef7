from __future__ import annotations

import os
import pathlib
import subprocess
import sys

import pytest

from selfimprove.data import tensorflow_host

ROOT = pathlib.Path(__file__).parents[2]


def run(code, **environment):
  """What a fresh process wrote to its stderr, TensorFlow's settings unset."""
  clean = {k: v for k, v in os.environ.items() if not k.startswith('TF_')}
  return subprocess.run(
    [sys.executable, '-W', 'error', '-c', code],
    env=clean | environment,
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=True,
  ).stderr


@pytest.mark.slow
def test_importing_the_tasks_prints_nothing():
  assert run('import selfimprove.data.tasks') == ''


def test_tensorflow_sees_the_host_only():
  visible = tensorflow_host.tf.config.get_visible_devices()
  assert {device.device_type for device in visible} == {'CPU'}


def test_lines_that_say_something_are_shown(capfd):
  with tensorflow_host.without_chatter():
    os.write(2, b'I0000 00:00:1.0 1 port.cc:153] oneDNN is on.\n')
    os.write(2, b'W0000 00:00:1.0 1 disk.cc:1] The disk is full.\n')
    os.write(2, b'2025-01-01 00:00:00.1: I stub.cc:1] No driver.\n')
  assert capfd.readouterr().err == (
    'W0000 00:00:1.0 1 disk.cc:1] The disk is full.\n'
  )


def test_an_exception_still_shows_what_was_written(capfd):
  def fails():
    os.write(2, b'E0000 00:00:1.0 1 a.cc:1] Wrong library.\n')
    raise ImportError

  with pytest.raises(ImportError), tensorflow_host.without_chatter():
    fails()
  assert 'Wrong library' in capfd.readouterr().err
  os.write(2, b'again\n')
  assert capfd.readouterr().err == 'again\n'


def test_everything_is_shown_on_request(capfd, monkeypatch):
  monkeypatch.setenv('TF_CPP_MIN_LOG_LEVEL', '0')
  with tensorflow_host.without_chatter():
    os.write(2, b'I0000 00:00:1.0 1 port.cc:153] oneDNN is on.\n')
  assert 'oneDNN' in capfd.readouterr().err


def test_a_running_accelerator_is_an_error_with_a_remedy(monkeypatch):
  def running(devices, kind):
    raise RuntimeError('Visible devices cannot be modified')

  config = tensorflow_host.tf.config
  monkeypatch.setattr(config, 'set_visible_devices', running)
  with pytest.raises(RuntimeError, match=r"set_visible_devices\(\[\], 'GPU'\)"):
    tensorflow_host.keep_on_host()
