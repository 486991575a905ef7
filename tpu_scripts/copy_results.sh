#!/usr/bin/env bash
# shellcheck disable=SC2154 # read_settings sets flag_*.
# Copies results and logs of a run here: copy_results.sh [settings]
#   --workdir=gs://... --to=FOLDER [--checkpoints] [--no_logs]
#
# The logs go to <workdir>/logs first, so that they outlive the TPU; when it is
# gone already, --no_logs copies what is in the bucket. Checkpoints are left
# out without --checkpoints. Run again it copies what is new.

# shellcheck source=tpu_scripts/shared.sh
source "$(dirname "${BASH_SOURCE[0]}")/shared.sh"
read_settings 'workdir to' 'checkpoints no_logs' "$@"
check_workdir "$flag_workdir" ', as it was given to run.sh'
[[ -n $flag_to ]] || die '--to= is not given; name a folder here.'
workdir=${flag_workdir%/}

if [[ -z $flag_no_logs ]]; then
  require_active
  count_workers
  on_workers 'Saving the logs' "$(quoted bash "$worker_script" upload \
    "$TPU_RUN" "$workdir/logs/$TPU_RUN")"
fi
exclude=('--exclude=^checkpoints/.*')
[[ -z $flag_checkpoints ]] || exclude=()
[[ -n $flag_dry_run ]] || mkdir -p "$flag_to"
call storage rsync "$workdir" "$flag_to" "--project=$TPU_PROJECT" --recursive \
  "${exclude[@]}" || explain "Copying $workdir"
[[ -n $flag_dry_run ]] || say "Results of '$TPU_RUN' are in $flag_to"
