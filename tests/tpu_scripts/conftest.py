"""The cloud that the scripts are run against."""

from __future__ import annotations

import pytest

from tests.tpu_scripts.cloud import Cloud


@pytest.fixture
def cloud(tmp_path):
  """A cloud with one ACTIVE worker."""
  made = Cloud(tmp_path)
  made.be()
  yield made
  made.close()
