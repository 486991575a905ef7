#!/usr/bin/env bash
# Brings this checkout to all workers and installs it: setup.sh [settings]
#   [--secrets=FILE]
#
# FILE has KEY=value lines (as HF_TOKEN=...) that become variables of the runs;
# it is copied, never written on a command line. Run again it updates.

# shellcheck source=tpu_scripts/shared.sh
source "$(dirname "${BASH_SOURCE[0]}")/shared.sh"
read_settings secrets '' "$@"
archive=${XDG_CACHE_HOME:-$HOME/.cache}/selfimprove/$TPU_NAME.tar.gz

check_secrets() {
  local number=0 line
  [[ -f $1 ]] || die "There is no file '$1' of secrets; correct --secrets=."
  [[ $(ls -ld "$1") == ????------* ]] || die "Others can read '$1', which" \
    "holds secrets; run chmod 600 $(quoted "$1")."
  while IFS= read -r line || [[ -n $line ]]; do
    number=$((number + 1))
    check_line_end "$line" "Line $number of '$1'" # Which is not repeated.
    [[ -z $line || $line =~ ^(#|[A-Za-z_][A-Za-z0-9_]*=) ]] ||
      die "Line $number of '$1' is not KEY=value; correct it."
  done <"$1"
}

# The files that git tracks, as they are now.
pack() {
  local untracked
  git -C "$repository" rev-parse --git-dir >/dev/null 2>&1 ||
    die "'$repository' is no git checkout, and git says which files are sent;" \
      'clone the repository.'
  untracked=$(git -C "$repository" ls-files --others --exclude-standard | wc -l)
  ((untracked == 0)) ||
    say "Not sent: ${untracked//[[:space:]]/} files that git does not track."
  git -C "$repository" describe --always --dirty >"$scratch/VERSION"
  mkdir -p "$(dirname "$archive")"
  (
    cd "$repository"
    git ls-files -z | while IFS= read -rd '' file; do
      [[ ! -e $file ]] || printf '%s\0' "$file"
    done >"$scratch/files"
    COPYFILE_DISABLE=1 tar -czf "$archive" --null -T "$scratch/files" \
      -C "$scratch" VERSION
  )
}

send() {
  call compute tpus queued-resources scp "$1" "$TPU_NAME:$2" "${where[@]}" \
    "${how[@]}" "${which[@]}" --quiet >"$scratch/replies" ||
    explain "Copying $(basename "$1") to the workers"
}

[[ -z $flag_secrets ]] || check_secrets "$flag_secrets"
require_active
count_workers
[[ -n $flag_dry_run ]] || pack
[[ -n $flag_dry_run ]] || say "Copying $archive to $workers workers ..."
send "$archive" "$archive_there"
[[ -z $flag_secrets ]] || send "$flag_secrets" "$secrets_there"
on_workers 'Setting up' "rm -rf selfimprove.new && mkdir selfimprove.new &&\
 tar -xzf $archive_there -C selfimprove.new &&\
 bash selfimprove.new/tpu_scripts/worker.sh install"
[[ -n $flag_dry_run ]] || say "All $workers workers are set up; next: run.sh"
