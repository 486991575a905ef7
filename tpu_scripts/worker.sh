#!/usr/bin/env bash
# shellcheck disable=SC2329 # Functions are called by name, at the end.
# The side of the workers: `setup.sh` brings it there, the others call it.
#
# Every line that it prints begins with [slice.worker], and one more line,
# `@[slice.worker] done <status>`, says that this was all: who calls counts these.
set -euo pipefail
cd "$HOME"

code=selfimprove
environment=selfimprove_venv
runs=selfimprove_runs
secrets=.selfimprove_secrets

die() {
  printf 'Error: %s\n' "$*"
  exit 1
}

# Attributes of this machine; empty where there is no metadata server.
metadata() {
  curl --silent --fail --max-time 5 --header 'Metadata-Flavor: Google' \
    "http://metadata.google.internal/computeMetadata/v1/instance/attributes/$1" \
    2>/dev/null || true
}

# A line of the attribute tpu-env, as MEGASCALE_NUM_SLICES: '2'.
tpu_env() {
  metadata tpu-env | sed -n "s/^$1: *'\{0,1\}\([^']*\)'\{0,1\} *\$/\1/p"
}

# --- set up -----------------------------------------------------------------

find_python() {
  local python
  for python in python3.13 python3.12 python3.11 python3; do
    if "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
      2>/dev/null; then
      command -v "$python"
      return
    fi
  done
}

make_environment() {
  local python
  python=$(find_python)
  if [[ -n $python ]] && "$python" -m venv "$environment" 2>/dev/null; then
    return
  fi
  # Images of TPUs have Python 3.10; uv brings a newer one.
  echo 'Fetching Python 3.12 with uv ...'
  python3 -m pip install --user --quiet uv ||
    die 'Neither Python >= 3.11 nor pip is on this worker; take a newer' \
      '--runtime=.'
  python3 -m uv venv --quiet --seed --python 3.12 "$environment"
}

install() {
  expect_idle
  rm -rf "$code.old"
  [[ ! -e $code ]] || mv "$code" "$code.old"
  mv "$code.new" "$code"
  rm -rf "$code.old" "$code.tar.gz"
  [[ ! -e $secrets ]] || chmod 600 "$secrets"
  [[ -x $environment/bin/python ]] || make_environment
  echo 'Installing packages ...'
  "$environment/bin/python" -m pip install --quiet --upgrade \
    --disable-pip-version-check --editable "./${code}[tpu,hub]"
  echo "Set up: $(<"$code/VERSION")"
}

# --- the run ----------------------------------------------------------------

# The supervisor of a run holds the lock until the run has ended; a lock ends
# with its process, so that nothing is left behind by a restart.
alive() {
  [[ -e $runs/lock ]] && ! flock --shared --nonblock "$runs/lock" true
}

current() { cat "$runs/current" 2>/dev/null || echo '?'; }

expect_idle() {
  ! alive || die "The run '$(current)' is alive; wait for its end, or run" \
    "stop.sh --run=$(current)."
}

expect_set_up() {
  [[ -x $environment/bin/python && -d $code ]] ||
    die 'This worker is not set up; run setup.sh.'
}

# ready <slices>
ready() {
  expect_set_up
  expect_idle
  local slices
  slices=$(tpu_env MEGASCALE_NUM_SLICES)
  [[ ${slices:-1} == "$1" ]] || die "This worker belongs to ${slices:-1}" \
    "slices and the run to $1; create the TPU with --slices=$1."
  echo ready
}

# start <run> <command ...>
start() {
  local run=$1 folder=$runs/$1
  shift
  expect_set_up
  mkdir -p "$folder"
  exec 9>>"$runs/lock"
  # Who only looks holds the lock for a moment.
  flock --timeout 2 9 || die "The run '$(current)' is alive; wait for its" \
    "end, or run stop.sh --run=$(current)."
  rm -f "$folder/exit_status" "$folder/pid"
  printf '%s\n' "$run" >"$runs/current"
  date -u +%Y-%m-%dT%H:%M:%SZ >"$folder/started"
  printf '%q ' "$@" >"$folder/command"
  # A session of its own, without this terminal and its pipes: neither the end
  # of the connection nor Ctrl-C of who looks at the log reaches it.
  setsid bash "$code/tpu_scripts/worker.sh" supervise "$run" "$@" \
    </dev/null >>"$folder/log" 2>&1 &
  exec 9>&-
  local tries
  for ((tries = 0; tries < 600; tries++)); do
    [[ ! -s $folder/pid ]] || break
    sleep 0.05
  done
  [[ -s $folder/pid ]] || die "The run '$run' did not start; logs.sh shows why."
  echo "started '$run'"
}

# KEY=value lines become variables of the run; no shell reads the values.
load_secrets() {
  local line
  [[ -e $secrets ]] || return 0
  while IFS= read -r line || [[ -n $line ]]; do
    [[ ! $line =~ ^[A-Za-z_][A-Za-z0-9_]*= ]] || export "${line?}"
  done <"$secrets"
}

# supervise <run> <command ...>, with the lock on descriptor 9.
supervise() {
  local folder=$HOME/$runs/$1 status=0
  shift
  load_secrets
  export PATH="$HOME/$environment/bin:$PATH" PYTHONUNBUFFERED=1
  cd "$code"
  printf '=== %s, %s: %s\n' "$(date -u)" "$(cat VERSION)" "$*"
  # A machine that goes down signals everybody: the run ends by itself, and
  # bash does nothing until then. In the foreground, for a `wait` that a signal
  # interrupts can miss the status.
  trap : TERM INT HUP
  # shellcheck disable=SC2016 # The inner bash expands it.
  bash -c 'echo $$ >"$0"; exec "$@"' "$folder/pid" "$@" 9>&- || status=$?
  printf '=== %s: ended with status %s\n' "$(date -u)" "$status"
  printf '%s\n' "$status" >"$folder/exit_status.new"
  mv "$folder/exit_status.new" "$folder/exit_status"
}

# state <run>
state() {
  local folder=$runs/$1 status
  # First, for the supervisor still holds the lock when it has written this.
  if [[ -e $folder/exit_status ]]; then
    status=$(<"$folder/exit_status")
    echo "'$1' ended with status $status"
    [[ $status == 0 ]] || die "last line: $(tail -n 2 "$folder/log" | head -n 1)"
  elif alive && [[ $(current) == "$1" ]]; then
    echo "'$1' is running since $(<"$folder/started")"
  elif [[ -d $folder ]]; then
    die "'$1' is gone without an exit status: the worker was restarted or" \
      "somebody killed it; the same run.sh resumes it."
  elif alive; then
    die "'$1' was never started here; '$(current)' is running."
  else
    die "'$1' was never started here; give --run= as it was given to run.sh."
  fi
}

# log <run> <lines> <follow: yes or empty>
log() {
  local folder=$runs/$1
  [[ -e $folder/log ]] || state "$1"
  if [[ -n $3 ]] && alive && [[ $(current) == "$1" ]]; then
    # It ends with the run.
    tail -n "$2" -F --pid="$(<"$folder/pid")" "$folder/log" 2>/dev/null
    # The supervisor has yet to write with which status.
    flock --shared --timeout 10 "$runs/lock" true || true
  else
    tail -n "$2" "$folder/log"
  fi
  state "$1"
}

# stop <run> <seconds> <force: yes or empty>
stop() {
  local run=$1 waited folder=$runs/$1
  if ! alive || [[ $(current) != "$run" ]]; then
    state "$run" || true
    return 0
  fi
  kill -TERM "$(<"$folder/pid")" 2>/dev/null || true
  for ((waited = 0; waited < $2 * 10; waited++)); do
    alive || break
    sleep 0.1
  done
  if alive && [[ -n $3 ]]; then
    kill -KILL "$(<"$folder/pid")" 2>/dev/null || true
    sleep 0.5
  fi
  ! alive || die "'$run' still runs after $2 s; it ends after its step: wait," \
    "or run stop.sh --force, which loses what came after the last checkpoint."
  echo "stopped '$run'"
}

# upload <run> <gs:// folder>
upload() {
  [[ -e $runs/$1/log ]] || state "$1"
  gcloud storage cp --quiet "$runs/$1/log" "$2/${label//./_}.log" 2>&1 ||
    die "The log could not be written to $2; the service account of the TPU" \
      "needs the role Storage Object User there."
}

# on <command ...>: anything, in the environment and the folder of the code.
on() {
  load_secrets
  export PATH="$HOME/$environment/bin:$PATH"
  cd "$code"
  "$@"
}

if [[ ${1:-} == supervise ]]; then
  "$@"
  exit
fi
slice=$(tpu_env MEGASCALE_SLICE_ID)
worker=$(metadata agent-worker-number)
label=${slice:-0}.${worker:-0}
# Not in a condition, where bash would forget `set -e`.
set +e
(
  set -e
  "$@"
) 2>&1 | while IFS= read -r line || [[ -n $line ]]; do
  printf '[%s] %s\n' "$label" "$line"
done
status=${PIPESTATUS[0]}
echo "@[$label] done $status"
exit "$status"
