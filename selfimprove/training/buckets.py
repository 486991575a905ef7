"""A workdir in a bucket: its small files are written here and copied there.

Objects of a bucket cannot be appended to. So a run with `--workdir=gs://...`
writes metrics and the like to a folder of its machine, and copies what has
changed before each checkpoint, every half minute, and at its end. Checkpoints
go to the bucket by themselves. No lock is held there: that two machines do not
train in one workdir is for whoever starts them to see to.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import tempfile
import threading
from collections.abc import Iterator

from etils import epath

_PERIOD = 30.0  # Seconds between copies.
_LEFT = ('.tmp', '.lock')  # Files that mean something on this machine alone.


def is_bucket(workdir: str | os.PathLike[str]) -> bool:
  """Whether a workdir is the address of a bucket, such as `gs://mine/run`."""
  return '://' in os.fspath(workdir)


class Files:
  """The small files of a run.

  Attributes:
    folder: where they are written and read on this machine.
  """

  def __init__(
    self, folder: str, *, bucket: str | os.PathLike[str] | None = None
  ) -> None:
    """Fetches what the bucket has.

    Args:
      folder: on this machine; of a workdir in a bucket an empty one.
      bucket: address of the workdir; None if `folder` is the workdir.
    """
    self.folder = folder
    self._bucket = None if bucket is None else epath.Path(bucket)
    self._copied: dict[pathlib.Path, tuple[int, int]] = {}
    self._one_at_a_time = threading.Lock()
    if self._bucket is not None:
      with _reached(self._bucket):
        self._fetch(self._bucket)

  def sync(self) -> None:
    """Copies what has changed since the last call to the bucket, if any."""
    if self._bucket is None:
      return
    with self._one_at_a_time, _reached(self._bucket):
      for path in sorted(pathlib.Path(self.folder).rglob('*')):
        if path.is_file() and not path.name.endswith(_LEFT):
          self._copy(path, self._bucket)

  def _fetch(self, bucket: epath.Path) -> None:
    """The files themselves; folders hold checkpoints and plots."""
    for found in bucket.iterdir() if bucket.is_dir() else ():
      if not found.is_dir() and not found.name.endswith(_LEFT):
        path = pathlib.Path(self.folder, found.name)
        path.write_bytes(found.read_bytes())
        self._copied[path] = _state(path)

  def _copy(self, path: pathlib.Path, bucket: epath.Path) -> None:
    state = _state(path)
    if self._copied.get(path) == state:
      return
    target = bucket / path.relative_to(self.folder)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(path.read_bytes())
    self._copied[path] = state


@contextlib.contextmanager
def files(workdir: str, *, writes: bool = True) -> Iterator[Files]:
  """The small files of a run while the block runs.

  Args:
    workdir: folder of the run, or its address in a bucket.
    writes: whether what is written here is copied to a bucket; False for those
      who only read.

  Yields:
    The files; `folder` is `workdir` if that is a folder.
  """
  if not is_bucket(workdir):
    yield Files(workdir)
    return
  with tempfile.TemporaryDirectory(prefix='selfimprove-') as folder:
    found = Files(folder, bucket=workdir)
    if not writes:
      yield found
      return
    ended = threading.Event()
    copier = threading.Thread(target=_copy_now_and_then, args=(found, ended))
    copier.start()
    try:
      yield found
    finally:
      ended.set()
      copier.join()
      found.sync()


def has_checkpoint(workdir: str) -> bool:
  """Whether a run has saved anything in a workdir.

  Args:
    workdir: folder of the run, or its address in a bucket.

  Returns:
    True from the first checkpoint on.
  """
  folder = epath.Path(workdir) / 'checkpoints'
  with _reached(folder):
    return folder.is_dir() and any(
      path.name.strip('/').isdigit() for path in folder.iterdir()
    )


@contextlib.contextmanager
def _reached(bucket: epath.Path) -> Iterator[None]:
  """Whatever a storage library raises, as one sentence."""
  try:
    yield
  except OSError:
    raise
  except Exception as error:  # Each library has types of its own.
    raise OSError(
      f'{bucket} cannot be read or written ({type(error).__name__}: '
      f'{error!s:.200}); check the address and the credentials.'
    ) from error


def _copy_now_and_then(found: Files, ended: threading.Event) -> None:
  while not ended.wait(_PERIOD):
    # A bucket that does not answer now is asked again; the last copy, at a
    # checkpoint or the end, is not so forgiving.
    with contextlib.suppress(OSError):
      found.sync()


def _state(path: pathlib.Path) -> tuple[int, int]:
  """What changes when a file does."""
  stat = path.stat()
  return stat.st_mtime_ns, stat.st_size
