"""Stands in for gcloud: records its arguments, and plays a TPU of folders.

Each worker is a folder: its home. What is sent there by ssh is run there by a
real bash, with a `curl` that knows the metadata of the worker.
"""

import json
import os
import pathlib
import sys

FOLDER = pathlib.Path(os.environ['FAKE_CLOUD'])
ARGV = sys.argv[1:]


def option(name, default=''):
  """The value of a flag."""
  found = [a.split('=', 1)[1] for a in ARGV if a.startswith(f'--{name}=')]
  return found[-1] if found else default


def chosen(homes):
  """The homes that --node and --worker name."""
  node, worker = option('node', '0'), option('worker', '0')
  return [
    (labels, home)
    for labels, home in homes
    if node in ('all', labels[0]) and worker in ('all', labels[1])
  ]


def run(world, homes):
  """Runs the command on workers, all at once as gcloud does."""
  import subprocess  # Only here: most calls are quicker without.

  started = []
  for (node, worker), home in chosen(homes):
    if f'{node}.{worker}' in world['unreachable']:
      continue
    environment = {
      'HOME': str(home),
      'PATH': f'{FOLDER / "there"}:{FOLDER / "tools"}',
      'FAKE_CLOUD': str(FOLDER),
      'SLICE': node,
      'SLICES': str(world.get('metadata_slices', len(world['slices']))),
      'WORKER': worker,
    }
    command = ['bash', '-c', option('command')]
    started.append(subprocess.Popen(command, cwd=home, env=environment))
  return max([process.wait() for process in started], default=0)


def copy(homes):
  """Copies a file to workers."""
  source, target = ARGV[3], ARGV[4].split(':')[1]
  for _, home in chosen(homes):
    (home / target).write_bytes(pathlib.Path(source).read_bytes())
    (home / target).chmod(os.stat(source).st_mode)


def main():
  """Answers as the world says."""
  with open(FOLDER / 'calls', 'a') as file:
    file.write(json.dumps(['gcloud', *ARGV]) + '\n')
  path = FOLDER / 'world.json'
  world = json.loads(path.read_text())
  homes = [
    ((str(node), str(worker)), FOLDER / f'worker{node}.{worker}')
    for node, workers in enumerate(world['slices'])
    for worker in range(workers)
  ]
  what = ' '.join(ARGV[2:4] if ARGV[0] == 'compute' else ARGV[:2])
  if ARGV[:3] == ['compute', 'tpus', 'queued-resources']:
    what = ARGV[3]
    del ARGV[3]
  for word, sentence in world['failures'].items():
    if word == what:
      sys.exit(sentence)
  if what == 'describe':
    state = world['states'].pop(0) if world['states'] else 'ACTIVE'
    path.write_text(json.dumps(world))
    if not state:
      sys.exit('ERROR: (gcloud...) NOT_FOUND: Resource was not found')
    names = [ARGV[3]]
    if len(homes) and len(world['slices']) > 1:
      names = [f'{ARGV[3]}-{node}' for node in range(len(world['slices']))]
    print(f'{state}|{";".join(names)}|{world["type"]}')
  elif what == 'tpu-vm describe':
    node = ARGV[4].rsplit('-', 1)[-1] if len(world['slices']) > 1 else 0
    print(world['slices'][int(node)])
  elif what == 'ssh':
    sys.exit(run(world, homes))
  elif what == 'scp':
    copy(homes)


if __name__ == '__main__':
  main()
