"""A cloud of folders, and the scripts run against it."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import shlex
import shutil
import signal
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
SCRIPTS = ROOT / 'tpu_scripts'

# All that the scripts may use, here and on workers.
TOOLS = """
awk basename bash cat chmod cp curl cut date dirname env flock git grep gzip
head ls mkdir mktemp mv rm sed setsid sleep sort tail tar tee tr true wc
"""

CURL = """#!/usr/bin/env bash
# The metadata server: the last argument is the address.
case ${!#} in
  */agent-worker-number) printf %s "$WORKER" ;;
  */tpu-env)
    ((SLICES > 1)) || exit 0
    printf "ZONE: 'x'\\nMEGASCALE_NUM_SLICES: '%s'\\n" "$SLICES"
    printf "MEGASCALE_SLICE_ID: '%s'\\n" "$SLICE" ;;
esac
"""

# Notes its arguments; then what the file `behaviour` of the worker says.
PYTHON = """#!/usr/bin/env bash
printf '%s\\0' "$@" >"$HOME/argv"
env >"$HOME/environment"
[[ $1 != -c ]] || exit 0
if [[ $2 == venv ]]; then
  mkdir -p "$3/bin" && cp "$0" "$3/bin/python"
  exit
fi
[[ $2 == selfimprove.train ]] || exit 0
echo 'step 1'
trap 'echo "checkpoint written"; exit 0' TERM
[[ ! -f $HOME/behaviour ]] || source "$HOME/behaviour"
exec 8<>"$HOME/quiet"
while true; do read -rt 60 -u 8 || true; done
"""

WORLD = {
  'slices': [1],
  'states': [],
  'type': 'v5litepod-16',
  'failures': {},
  'unreachable': [],
}


class Cloud:
  """A fake cloud in a folder."""

  def __init__(self, folder: pathlib.Path):
    self.folder = folder
    self.world = dict(WORLD)
    for name in ('tools', 'there', 'here', 'home'):
      (folder / name).mkdir()
    for tool in TOOLS.split():
      found = shutil.which(tool)
      if not found:
        pytest.skip(f'needs {tool}')
      (folder / 'tools' / tool).symlink_to(found)
    self._executable('there/curl', CURL)
    self._executable('there/python3.12', PYTHON)
    fake = pathlib.Path(__file__).with_name('fake_gcloud.py')
    gcloud = f'#!/bin/sh\nexec {sys.executable} -IS {fake} "$@"\n'
    self._executable('here/gcloud', gcloud)
    self._executable('there/gcloud', gcloud)

  def _executable(self, name: str, text: str) -> None:
    path = self.folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)

  def be(self, **world) -> None:
    """Changes the world, and makes homes for its workers."""
    self.world.update(world)
    (self.folder / 'world.json').write_text(json.dumps(self.world))
    for home in self.homes():
      if not home.exists():
        home.mkdir()
        os.mkfifo(home / 'quiet')  # Waiting at it costs nothing.

  def homes(self) -> list[pathlib.Path]:
    """The homes of all workers."""
    return [
      self.folder / f'worker{node}.{worker}'
      for node, workers in enumerate(self.world['slices'])
      for worker in range(workers)
    ]

  def set_up(self) -> None:
    """What setup.sh leaves on the workers."""
    for home in self.homes():
      (home / 'selfimprove').mkdir()
      (home / 'selfimprove' / 'VERSION').write_text('v1-dirty\n')
      (home / 'selfimprove' / 'tpu_scripts').symlink_to(SCRIPTS)
      name = home.relative_to(self.folder) / 'selfimprove_venv/bin/python'
      self._executable(str(name), PYTHON)

  def environment(self, **more: str) -> dict[str, str]:
    """What the scripts see."""
    return {
      'PATH': f'{self.folder / "here"}:{self.folder / "tools"}',
      'HOME': str(self.folder / 'home'),
      'FAKE_CLOUD': str(self.folder),
      'TPU_NAME': 'score',
      'TPU_ZONE': 'us-east5-a',
      'TPU_PROJECT': 'my-project',
      'TPU_SETTINGS': '/dev/null',
      **more,
    }

  def run(self, script: str, *arguments: str, **more: str):
    """A finished run of a script."""
    return subprocess.run(
      [SCRIPTS / f'{script}.sh', *arguments],
      env=self.environment(**more),
      stdin=subprocess.DEVNULL,
      capture_output=True,
      text=True,
      timeout=120,
    )

  def ok(self, script: str, *arguments: str, **more: str) -> str:
    """What a script printed that ended well."""
    done = self.run(script, *arguments, **more)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr

  def refusal(self, script: str, *arguments: str, **more: str) -> str:
    """The one sentence with which a script refused."""
    done = self.run(script, *arguments, **more)
    assert done.returncode == 1, done.stdout + done.stderr
    errors = done.stderr.splitlines()
    assert [line.startswith('Error: ') for line in errors][-1:] == [True]
    assert sum(line.startswith('Error: ') for line in errors) == 1, errors
    return errors[-1]

  def calls(self) -> list[list[str]]:
    """The argument lists of gcloud so far."""
    path = self.folder / 'calls'
    if not path.exists():
      return []
    return [json.loads(line) for line in path.read_text().splitlines()]

  def argv(self, home: pathlib.Path) -> list[str]:
    """What Python was given last on a worker."""
    return (home / 'argv').read_text().split('\0')[:-1]

  def close(self) -> None:
    """Ends what runs on the workers."""
    for path in self.folder.glob('worker*/selfimprove_runs/*/pid'):
      if not path.with_name('exit_status').exists():
        with contextlib.suppress(ProcessLookupError):
          os.kill(int(path.read_text()), signal.SIGKILL)


def dry(printed: str) -> list[list[str]]:
  """The commands that a dry run printed."""
  return [shlex.split(line) for line in printed.splitlines()]
