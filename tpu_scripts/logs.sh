#!/usr/bin/env bash
# Shows the log of a run as it grows: logs.sh [settings] [--node=0] [--worker=0]
#   [--lines=100] [--no_follow]
#
# The node is the slice. --worker=all shows the last lines of all workers of
# all slices. Ctrl-C ends the looking, not the run.

# shellcheck source=tpu_scripts/shared.sh
source "$(dirname "${BASH_SOURCE[0]}")/shared.sh"
read_settings 'node worker lines' no_follow "$@"
: "${flag_node:=0}" "${flag_worker:=0}" "${flag_lines:=100}"
[[ $flag_node =~ ^[0-9]{1,3}$ && $flag_node -lt $TPU_SLICES ]] ||
  die "--node is '$flag_node', which must be a slice, 0 to" \
    "$((TPU_SLICES - 1)); correct it or --slices=."
[[ $flag_worker =~ ^([0-9]+|all)$ ]] ||
  die "--worker is '$flag_worker', which must be the number of a worker or all."
[[ $flag_lines =~ ^[0-9]{1,6}$ ]] ||
  die "--lines is '$flag_lines', which must be a whole number."

follow=yes
[[ -z $flag_no_follow ]] || follow=''
require_active
if [[ $flag_worker == all ]]; then
  follow='' # They would speak at once, and gcloud asks 64 at a time.
  count_workers
else
  which=("--node=$flag_node" "--worker=$flag_worker")
  workers=1
fi
trap 'say "The run goes on; end it with stop.sh --run=$TPU_RUN."; exit 130' INT
on_workers "The log of '$TPU_RUN'" "$(quoted bash "$worker_script" log \
  "$TPU_RUN" "$flag_lines" "$follow")"
