#!/usr/bin/env bash
# Gives a TPU back, with everything on its disks: delete.sh [settings] [--yes]
#
# It asks first; --yes answers.

# shellcheck source=tpu_scripts/shared.sh
source "$(dirname "${BASH_SOURCE[0]}")/shared.sh"
read_settings '' yes "$@"
confirm() {
  local answer
  [[ -t 0 ]] || die "Deleting $TPU_NAME needs" \
    'a yes, and there is no terminal to ask on; give --yes.'
  read -rp "Delete $TPU_NAME ($state, ${#nodes[@]} slices) in $TPU_ZONE of\
 $TPU_PROJECT, with its logs? [y/N] " answer || true
  [[ $answer =~ ^[yY](es)?$ ]] || die "Nothing was deleted; $TPU_NAME goes on" \
    'costing what it costs.'
}

describe
[[ -n $state ]] || die "There is no TPU '$TPU_NAME' in $TPU_ZONE of" \
  "$TPU_PROJECT, so nothing was deleted; correct --name=, --zone= or --project=."
[[ -n $flag_dry_run || -n $flag_yes ]] || confirm
call compute tpus queued-resources delete "$TPU_NAME" "${where[@]}" --force \
  --quiet || explain "Deleting $TPU_NAME"
[[ -n $flag_dry_run ]] || say "$TPU_NAME is deleted."
