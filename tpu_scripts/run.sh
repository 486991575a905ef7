#!/usr/bin/env bash
# Starts a run on all workers: run.sh [settings] -- --gin_file=... --workdir=...
#
# What follows -- are the flags of python -m selfimprove.train. The run goes on
# when this ends; status.sh, logs.sh and stop.sh take the same --run=.

# shellcheck source=tpu_scripts/shared.sh
source "$(dirname "${BASH_SOURCE[0]}")/shared.sh"
takes_rest=yes
read_settings '' '' "$@"
# What an argument of a run must not hold: tokens of well-known services.
secret='(hf_|ghp_|sk-|ya29\.|AIza|AKIA)[A-Za-z0-9_-]{16,}|PRIVATE KEY'

check_gin_file() {
  [[ $1 != /* && /$1/ != */../* && -f $repository/$1 ]] ||
    die "--gin_file is '$1', which is no file of this checkout: paths begin at" \
      'the top of the repository and stay in it; correct it, as' \
      '--gin_file=experiments/score_math/run.gin.'
  ! git -C "$repository" rev-parse --git-dir >/dev/null 2>&1 || is_sent "$1" ||
    die "--gin_file is '$1', which git does not track, so that setup.sh did" \
      "not bring it to the workers; run git add -f -- $(quoted "$1") and setup.sh."
}

# Whether setup.sh sends a path: git tracks it, or a link or submodule above it.
is_sent() {
  local path=$1 found
  while [[ $path != . ]]; do
    IFS= read -rd '' found < <(git --literal-pathspecs -C "$repository" \
      ls-files -z -- "$path") || true
    [[ $found != "$path" ]] || return 0
    path=$(dirname -- "$path")
  done
  return 1
}

check_arguments() {
  local word gin_files=0 workdir=''
  ((${#rest[@]})) || die 'Nothing to run: the flags of selfimprove.train come' \
    'after a lone --, as run.sh --name=... -- --gin_file=... --workdir=gs://...'
  for word in "${rest[@]}"; do
    [[ ! $word =~ $secret ]] || die "An argument looks like a secret (it" \
      "begins with '${word:0:6}'), and others can read command lines; give it" \
      'to setup.sh --secrets=.'
    case $word in
      --gin_file=*)
        gin_files=$((gin_files + 1))
        check_gin_file "${word#*=}" ;;
      --workdir=*) workdir=${word#*=} ;;
      --distributed*) die "'$word' is set by run.sh itself; leave it out." ;;
      -gin?f* | --gin?f* | --ginf*)
        die "'$word' names no gin file; the flag is --gin_file=<path>, with =." ;;
      -work* | --work*)
        die "'$word' names no folder; the flag is" \
          '--workdir=gs://<bucket>/<folder>, with =.' ;;
    esac
  done
  ((gin_files)) || die 'No --gin_file=<path> after --; a run is a gin file,' \
    'as --gin_file=experiments/score_math/run.gin.'
  check_workdir "$workdir" \
    ' (all workers write to it, and the disk of a TPU ends with it)'
}

remote() { quoted bash "$worker_script" "$@"; }

check_arguments
require_active
count_workers
[[ -n $flag_dry_run ]] || say "Asking $workers workers whether they are free ..."
on_workers 'Nothing was started' "$(remote ready "$TPU_SLICES")"
if ! (on_workers 'Starting' \
  "$(remote start "$TPU_RUN" "${train_command[@]}" "${rest[@]}")"); then
  # Those that did start would wait for the others.
  say "Stopping '$TPU_RUN' where it did start ..."
  (on_workers 'Stopping' "$(remote stop "$TPU_RUN" 60 yes)") || true
  die "'$TPU_RUN' did not start on all workers and was stopped; correct what" \
    'is said above and run this again.'
fi
[[ -n $flag_dry_run ]] || say "'$TPU_RUN' runs on $workers workers, which is" \
  'independent of this terminal; look with logs.sh and status.sh, end with' \
  'stop.sh'
