"""Workdirs in a bucket, which here is a folder behind the same library."""

from __future__ import annotations

import os
import pathlib

import pytest

from selfimprove.training import buckets
from tests import fake_bucket
from tests.fake_bucket import RUN, Folder


@pytest.fixture
def bucket(monkeypatch, tmp_path):
  return fake_bucket.install(monkeypatch, tmp_path / 'buckets')


def there(bucket, name):
  return pathlib.Path(bucket.root, 'mine', 'run', name)


def test_a_workdir_that_is_a_folder_holds_its_own_files(tmp_path):
  with buckets.files(str(tmp_path)) as files:
    assert files.folder == str(tmp_path)
    files.sync()
  assert not list(tmp_path.iterdir())


def test_what_a_run_writes_is_in_the_bucket_and_comes_back(bucket):
  with buckets.files(RUN) as files:
    first = pathlib.Path(files.folder)
    (first / 'metrics.jsonl').write_text('{"step": 1}\n')
    (first / 'running.lock').touch()
    (first / 'tensorboard').mkdir()
    (first / 'tensorboard' / 'events').write_bytes(b'\x00\xff')
    files.sync()
    assert there(bucket, 'metrics.jsonl').read_text() == '{"step": 1}\n'
    assert there(bucket, 'tensorboard/events').read_bytes() == b'\x00\xff'
    with (first / 'metrics.jsonl').open('a') as file:
      file.write('{"step": 2}\n')
  assert not first.exists()
  assert not there(bucket, 'running.lock').exists()
  with buckets.files(RUN) as files:
    text = pathlib.Path(files.folder, 'metrics.jsonl').read_text()
  assert text == '{"step": 1}\n{"step": 2}\n'


def test_only_what_has_changed_is_copied(bucket):
  with buckets.files(RUN) as files:
    for name in ('a', 'b'):
      pathlib.Path(files.folder, name).write_text(name)
    files.sync()
    pathlib.Path(files.folder, 'b').write_text('longer')
  assert [os.path.basename(path) for path in bucket.written] == ['a', 'b', 'b']
  with buckets.files(RUN):
    pass
  assert len(bucket.written) == 3


def test_who_only_reads_writes_nothing(bucket):
  there(bucket, '').mkdir(parents=True)
  there(bucket, 'config.gin').write_text('a.b = 1')
  with buckets.files(RUN, writes=False) as files:
    found = pathlib.Path(files.folder, 'config.gin')
    assert found.read_text() == 'a.b = 1'
    found.write_text('a.b = 2')
  assert there(bucket, 'config.gin').read_text() == 'a.b = 1'


def _fail():
  with buckets.files(RUN) as files:
    pathlib.Path(files.folder, 'metrics.jsonl').write_text('row')
    raise RuntimeError('on purpose')


def test_a_run_that_fails_leaves_its_files(bucket):
  with pytest.raises(RuntimeError, match='on purpose'):
    _fail()
  assert there(bucket, 'metrics.jsonl').read_text() == 'row'


@pytest.mark.parametrize('workdir', ['gs://mine/run', None])
def test_a_run_has_begun_with_its_first_checkpoint(workdir, bucket, tmp_path):
  folder = tmp_path if workdir is None else there(bucket, '')
  workdir = workdir or str(tmp_path)
  assert not buckets.has_checkpoint(workdir)
  (folder / 'checkpoints' / '3.tmp').mkdir(parents=True)
  assert not buckets.has_checkpoint(workdir)
  (folder / 'checkpoints' / '3').mkdir()
  assert buckets.has_checkpoint(workdir)


def test_a_bucket_that_cannot_be_reached_is_one_sentence(bucket, monkeypatch):
  def fail(self, path):
    raise RuntimeError('no credentials')

  monkeypatch.setattr(Folder, 'isdir', fail)
  with pytest.raises(OSError, match='cannot be read or written'):
    buckets.has_checkpoint(RUN)
