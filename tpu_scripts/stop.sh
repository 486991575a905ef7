#!/usr/bin/env bash
# shellcheck disable=SC2154 # read_settings sets flag_*.
# Ends a run on all workers: stop.sh [settings] [--seconds=600] [--force]
#
# The run ends after its step, with a checkpoint. --force kills it when it has
# not ended after so many seconds.

# shellcheck source=tpu_scripts/shared.sh
source "$(dirname "${BASH_SOURCE[0]}")/shared.sh"
read_settings seconds force "$@"
: "${flag_seconds:=600}"
[[ $flag_seconds =~ ^[0-9]{1,5}$ ]] ||
  die "--seconds is '$flag_seconds', which must be a whole number of seconds."
require_active
count_workers
[[ -n $flag_dry_run ]] || say "Asking '$TPU_RUN' to end on $workers workers" \
  "(at most $flag_seconds s) ..."
on_workers "Stopping '$TPU_RUN'" "$(quoted bash "$worker_script" stop \
  "$TPU_RUN" "$flag_seconds" "$flag_force")"
