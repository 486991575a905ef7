"""A bucket that is a folder behind the library that reads real ones."""

from __future__ import annotations

import os
import pathlib

import pytest
from etils.epath import backend as backends
from etils.epath import gpath

RUN = 'gs://mine/run'


class Folder(backends._OsPathBackend):
  """A bucket that is a folder, in which nothing can be appended to.

  Attributes:
    root: of the folder.
    read: addresses in the order in which they were read.
    written: the same of what was written.
  """

  def __init__(self, root: pathlib.Path) -> None:
    self.root = root
    self.read: list[str] = []
    self.written: list[str] = []

  def here(self, path):
    """The path of an address on this machine."""
    return os.fspath(path).replace('gs://', f'{self.root}/')

  def open(self, path, mode):
    """A file; which one is noted."""
    assert 'a' not in mode
    noted = self.written if 'w' in mode else self.read
    noted.append(os.fspath(path))
    return super().open(self.here(path), mode)

  def exists(self, path):
    """Whether something has the address."""
    return super().exists(self.here(path))

  def isdir(self, path):
    """Whether the address is that of a folder."""
    return super().isdir(self.here(path))

  def listdir(self, path):
    """Names in a folder."""
    return super().listdir(self.here(path))

  def makedirs(self, path, **options):
    """Makes a folder."""
    super().makedirs(self.here(path), **options)


def install(monkeypatch: pytest.MonkeyPatch, root: pathlib.Path) -> Folder:
  """A bucket to which addresses lead until the patch is undone."""
  made = Folder(root)
  of_folders = gpath._GPath._backend
  monkeypatch.setattr(
    gpath._GPath,
    '_backend',
    property(
      lambda path: (
        made if os.fspath(path).startswith('gs:') else of_folders.fget(path)
      )
    ),
  )
  return made
