from __future__ import annotations

import re
import signal
import subprocess
import sys
import time

import pytest

from selfimprove.training import processes
from selfimprove.training.processes import JoinError


@pytest.mark.parametrize(
  ('text', 'place'),
  [
    ('auto', None),
    ('10.0.0.1:1234,0,2', ('10.0.0.1:1234', 0, 2)),
    (' [::1]:80,3,4 ', ('[::1]:80', 3, 4)),
  ],
)
def test_a_place_is_an_address_an_id_and_a_count(text, place):
  assert processes.parse(text) == place


@pytest.mark.parametrize(
  ('text', 'sentence'),
  [
    ('10.0.0.1:1234', 'is neither `auto` nor HOST:PORT,process_id,num_'),
    ('10.0.0.1,0,2', 'is neither `auto` nor'),
    ('Auto', "--distributed='Auto' is neither"),
    ('a:1,2,2', 'process 2 of 2 does not exist; ids go from 0 to 1.'),
    ('a:1,0,0', 'process 0 of 0 does not exist'),
  ],
)
def test_another_text_is_refused(text, sentence):
  with pytest.raises(JoinError, match=re.escape(sentence)):
    processes.parse(text)


def test_a_run_of_one_process_joins_nobody():
  with processes.joined(''):
    pass


@pytest.mark.parametrize('address', ['127.0.0.1:1', '127.0.0.1:99999'])
def test_a_coordinator_that_is_not_there_is_named(address):
  began = time.monotonic()
  with (
    pytest.raises(JoinError, match=f'cannot reach process 0 at {address} '),
    processes.joined(f'{address},1,2', timeout_seconds=1),
  ):
    pass
  assert time.monotonic() - began < 10


def test_an_error_that_is_nobodys_death_is_left_alone():
  with pytest.raises(ValueError, match='other'), processes.bound():
    raise ValueError('other')


# Nothing of JAX: what matters is how the process ends.
_SPEAKS = """
import os, sys
from selfimprove.training.processes import _LastWords
words = _LastWords()
words.set('one')
words.set('Error: two; %s "$x" `ls`')
print('ready', flush=True)
sys.stdin.readline()
words.forget()
"""


@pytest.mark.parametrize(
  ('ends', 'said'),
  [
    (lambda p: p.kill(), 'Error: two; %s "$x" `ls`\n'),
    (lambda p: p.send_signal(signal.SIGABRT), 'Error: two; %s "$x" `ls`\n'),
    (lambda p: (p.stdin.write('\n'), p.stdin.flush()), ''),
  ],
)
@pytest.mark.multiprocess
def test_the_last_words_are_said_after_an_end_without_goodbye(ends, said):
  with subprocess.Popen(
    [sys.executable, '-c', _SPEAKS],
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  ) as process:
    assert process.stdout.readline() == 'ready\n'
    ends(process)
    assert process.stderr.read() == said
