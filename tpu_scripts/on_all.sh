#!/usr/bin/env bash
# Runs a command on all workers and shows what it says: on_all.sh [settings] --
#   <command ...>
#
# In the folder of the code, with its Python and the secrets of setup.sh; the
# arguments arrive as they are, and no shell reads them on the way.

# shellcheck source=tpu_scripts/shared.sh
source "$(dirname "${BASH_SOURCE[0]}")/shared.sh"
takes_rest=yes
read_settings '' '' "$@"
((${#rest[@]})) || die 'No command: it comes after a lone --, as on_all.sh' \
  "--name=... -- python -c 'import jax; print(jax.local_devices())'."
require_active
count_workers
on_workers "Running $(quoted "${rest[0]}")" "$(quoted bash "$worker_script" \
  on "${rest[@]}")"
