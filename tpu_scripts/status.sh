#!/usr/bin/env bash
# Says how a TPU and a run on it are: status.sh [settings]
#
# Exit status 0: the run is running, or ended with status 0, on all workers.

# shellcheck source=tpu_scripts/shared.sh
source "$(dirname "${BASH_SOURCE[0]}")/shared.sh"
read_settings '' '' "$@"
require_active
count_workers
[[ -n $flag_dry_run ]] || echo "$TPU_NAME is ACTIVE: $TPU_SLICES slices," \
  "$workers workers"
on_workers "Status of '$TPU_RUN'" "$(quoted bash "$worker_script" state \
  "$TPU_RUN")"
