#!/usr/bin/env bash
# Asks for a TPU and waits until it is there: create.sh [settings] [-- <gcloud>]
#
# Run again it goes on waiting. What follows -- is passed on to gcloud compute
# tpus queued-resources create.

# shellcheck source=tpu_scripts/shared.sh
source "$(dirname "${BASH_SOURCE[0]}")/shared.sh"
takes_rest=yes
read_settings '' '' "$@"
needed type 'what to create, as v5litepod-16'

request() {
  local -a options=("--accelerator-type=$TPU_TYPE"
    "--runtime-version=$TPU_RUNTIME")
  if [[ $TPU_SLICES == 1 ]]; then
    options+=("--node-id=$TPU_NAME")
  else
    options+=("--node-count=$TPU_SLICES" "--node-prefix=$TPU_NAME")
  fi
  [[ $TPU_CAPACITY == on-demand ]] || options+=("--$TPU_CAPACITY")
  [[ $TPU_CONNECT == external ]] || options+=(--internal-ips)
  [[ -z $TPU_NETWORK ]] || options+=("--network=$TPU_NETWORK")
  [[ -z $TPU_SUBNETWORK ]] || options+=("--subnetwork=$TPU_SUBNETWORK")
  [[ -z $TPU_SERVICE_ACCOUNT ]] ||
    options+=("--service-account=$TPU_SERVICE_ACCOUNT")
  [[ -z $TPU_VALID_UNTIL ]] ||
    options+=("--valid-until-duration=$TPU_VALID_UNTIL")
  call compute tpus queued-resources create "$TPU_NAME" "${where[@]}" \
    "${options[@]}" --async --quiet "${rest[@]}" ||
    explain "Asking for $TPU_NAME"
}

wait_until_active() {
  local begin=$SECONDS
  while true; do
    describe
    case $state in
      ACTIVE) break ;;
      FAILED | SUSPENDED | SUSPENDING) lost "$state" ;;
      '') die "$TPU_NAME is gone from the queue: somebody deleted it; run" \
        'create.sh again.' ;;
    esac
    ((SECONDS - begin < TPU_WAIT_MINUTES * 60)) ||
      die "$TPU_NAME is still $state after $TPU_WAIT_MINUTES minutes; it stays" \
        'in the queue: run create.sh again to go on waiting (--wait_minutes=),' \
        'or delete.sh to give up.'
    say "$(date +%H:%M:%S) $TPU_NAME is $state," \
      "$(((SECONDS - begin) / 60)) of $TPU_WAIT_MINUTES minutes"
    sleep "$TPU_POLL_SECONDS"
  done
}

describe
if [[ -n $flag_dry_run || -z $state ]]; then
  request
else
  [[ -z $type_there || $type_there == "$TPU_TYPE" ]] ||
    die "TPU_TYPE is '$TPU_TYPE', but $TPU_NAME is there already and is a" \
      "$type_there; take another --name=, or run delete.sh first."
  say "$TPU_NAME is already in the queue or there: $state"
fi
wait_until_active
expect_slices
count_workers
[[ -n $flag_dry_run ]] ||
  say "$TPU_NAME is ACTIVE with $workers workers; next: setup.sh"
