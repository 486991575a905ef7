from __future__ import annotations

import os
import signal
import threading

import pytest

from selfimprove.training.signals import stop_on_signals


def _send(number):
  os.kill(os.getpid(), number)


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_a_signal_turns_the_request_on(number):
  with stop_on_signals() as request:
    assert not request.requested
    _send(number)
    assert request.requested
    assert request.reason == number.name


def test_a_second_interrupt_does_not_wait():
  with stop_on_signals() as request:
    _send(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
      _send(signal.SIGINT)
    assert request.requested


def test_one_interrupt_after_a_termination_still_waits():
  with stop_on_signals() as request:
    _send(signal.SIGTERM)
    _send(signal.SIGTERM)
    _send(signal.SIGINT)
    assert request.reason == 'SIGTERM'


def _handlers():
  return [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)]


def test_the_old_handlers_come_back_after_an_error():
  before, inside = _handlers(), []

  def fails():
    with stop_on_signals():
      inside.extend(_handlers())
      raise RuntimeError('step')

  with pytest.raises(RuntimeError, match='step'):
    fails()
  assert before[0] not in inside
  assert before[1] not in inside
  assert _handlers() == before


def test_in_another_thread_it_warns_and_changes_nothing():
  before = signal.getsignal(signal.SIGTERM)
  seen = []

  def work():
    with (
      pytest.warns(RuntimeWarning, match='main thread only'),
      stop_on_signals() as request,
    ):
      seen.append((request.requested, signal.getsignal(signal.SIGTERM)))

  thread = threading.Thread(target=work)
  thread.start()
  thread.join()
  assert seen == [(False, before)]
