# Sourced by the other scripts: settings, sentences, and how gcloud is called.
# shellcheck shell=bash
# shellcheck disable=SC2034 # Used by those who source this.

if ((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] < 404)); then
  printf 'Error: This is bash %s and the scripts need 4.4 or newer; %s\n' \
    "$BASH_VERSION" 'install one (on a Mac: brew install bash).' >&2
  exit 1
fi
set -euo pipefail

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# What every worker runs; it finds the other processes of a pod by itself.
train_command=(python -m selfimprove.train --distributed=auto)

# Where `setup.sh` puts things, relative to the home of the user on a worker.
worker_script=selfimprove/tpu_scripts/worker.sh
archive_there=selfimprove.tar.gz
secrets_there=.selfimprove_secrets

# Whether a script takes what follows a lone --; those that do say yes.
takes_rest=''

# Each setting is TPU_<NAME> in the environment and in a settings file, and
# --<name>= on a command line. The command line wins, then the environment.
settings=(name zone project type runtime slices capacity network subnetwork
  service_account connect valid_until wait_minutes poll_seconds run)

die() {
  printf 'Error: %s\n' "$*" >&2
  exit 1
}

say() { printf '%s\n' "$*" >&2; }

# Arguments as one line that any POSIX shell reads back as the same arguments.
quoted() {
  local word line='' apostrophe="'\\''"
  for word; do
    if [[ ! $word =~ ^[A-Za-z0-9_./:=,@%+-]+$ ]]; then
      word="'${word//\'/$apostrophe}'"
    fi
    line+="${line:+ }$word"
  done
  printf '%s' "$line"
}

is_one_of() {
  local wanted=$1 other
  shift
  for other; do [[ $other == "$wanted" ]] && return 0; done
  return 1
}

# --- settings ---------------------------------------------------------------

# read_settings "<flags with a value>" "<switches>" "$@"
#
# Sets TPU_* and flag_*, and `rest` to what follows a lone `--`. Every script
# knows the settings, and the switches dry_run and help.
read_settings() {
  local -a with_value switches
  read -ra with_value <<<"$1"
  read -ra switches <<<"$2 dry_run help"
  shift 2
  local -A given=()
  local key value word
  for key in "${with_value[@]}" "${switches[@]}"; do
    printf -v "flag_$key" ''
  done
  rest=()
  while (($#)); do
    word=$1
    shift
    [[ $word != -- ]] || { rest=("$@") && break; }
    [[ $word == --* ]] || die "'$word' is no flag; flags look like" \
      "--name=value, and what is passed on comes after a lone --."
    key=${word%%=*}
    key=${key#--}
    key=${key//-/_}
    if is_one_of "$key" "${switches[@]}"; then
      [[ $word != *=* ]] || die "--$key takes no value; write just --$key."
      printf -v "flag_$key" yes
    elif is_one_of "$key" settings "${settings[@]}" "${with_value[@]}"; then
      [[ $word == *=* ]] || die "--$key has no value; write --$key=..."
      value=${word#*=}
      if is_one_of "$key" "${with_value[@]}"; then
        printf -v "flag_$key" %s "$value"
      else
        given[$key]=$value
      fi
    else
      die "--$key is no flag of $(basename "$0"); it has" \
        "$(printf -- '--%s ' settings "${settings[@]}" "${with_value[@]}" \
          "${switches[@]}")and reads README.md beside it."
    fi
  done
  [[ -z $flag_help ]] || print_help
  [[ -n $takes_rest ]] || ((${#rest[@]} == 0)) || die "'${rest[0]}' follows a" \
    "lone --, after which $(basename "$0") takes nothing; leave it out, and" \
    'give flags without the --.'
  read_settings_file "${given[settings]:-${TPU_SETTINGS:-}}"
  unset 'given[settings]'
  for key in "${!given[@]}"; do
    printf -v "TPU_${key^^}" %s "${given[$key]}"
  done
  check_settings
  [[ -n $flag_dry_run ]] || command -v gcloud >/dev/null ||
    die 'gcloud is not on the PATH, and everything here runs it; install it' \
      '(cloud.google.com/sdk/docs/install).'
}

print_help() {
  awk 'NR == 1 || /^# shellcheck/ { next } !/^#/ { exit }
    { sub(/^# ?/, ""); print }' "$0"
  printf '\nSettings and flags: tpu_scripts/README.md\n'
  exit 0
}

# check_line_end <line> <which>
check_line_end() {
  [[ $1 != *$'\r' ]] || die "$2 ends with a carriage return, and lines end with" \
    'a newline alone; convert the file with dos2unix, or with' \
    "tr -d '\\r' <old >new."
}

# KEY=value lines. Not sourced: a file of settings is no program.
read_settings_file() {
  local file=$1 line number=0 key variable
  if [[ -z $file ]]; then
    file=$repository/tpu_scripts/settings.env
    [[ -f $file ]] || return 0
  fi
  [[ -r $file && ! -d $file ]] || die "There is no settings file '$file'; correct" \
    "--settings=, or copy tpu_scripts/settings.example.env there."
  while IFS= read -r line || [[ -n $line ]]; do
    number=$((number + 1))
    check_line_end "$line" "Line $number of $file, '${line%$'\r'}',"
    [[ -n ${line//[[:space:]]/} && $line != \#* ]] || continue
    [[ $line =~ ^TPU_([A-Z_]+)=(.*)$ ]] || die "Line $number of $file is" \
      "'$line'; each line is TPU_<NAME>=<value>, as TPU_ZONE=us-east5-a."
    variable=TPU_${BASH_REMATCH[1]}
    key=${BASH_REMATCH[1],,}
    is_one_of "$key" "${settings[@]}" || die "Line $number of $file sets" \
      "$variable, which is no setting; the settings are" \
      "$(printf 'TPU_%s ' "${settings[@]^^}")."
    [[ -n ${!variable:-} ]] || printf -v "$variable" %s "${BASH_REMATCH[2]}"
  done <"$file"
}

# matches <setting> <regular expression> <what it must be> [<fix>]
matches() {
  local variable=TPU_${1^^}
  [[ ${!variable} =~ ^($2)$ ]] || die "$variable is '${!variable}', which must" \
    "be $3; correct --$1= or $variable${4:+ ($4)}."
}

# needed <setting> <what it is>
needed() {
  local variable=TPU_${1^^}
  [[ -n ${!variable} ]] || die "$variable is not set; it is $2: give --$1=," \
    "set $variable, or write it to tpu_scripts/settings.env."
}

check_settings() {
  local key variable
  for key in "${settings[@]}"; do
    variable=TPU_${key^^}
    printf -v "$variable" %s "${!variable:-}"
  done
  : "${TPU_SLICES:=1}" "${TPU_CAPACITY:=on-demand}" "${TPU_CONNECT:=external}"
  : "${TPU_WAIT_MINUTES:=60}" "${TPU_POLL_SECONDS:=30}" "${TPU_RUN:=train}"

  needed name 'the name of the TPU, yours to choose'
  needed zone 'the zone of the TPU, as us-east5-a'
  needed project 'the id of the Google Cloud project'
  local word='[a-z]([-a-z0-9]{0,61}[a-z0-9])?'
  matches name '[a-z]([-a-z0-9]{0,50}[a-z0-9])?' \
    'at most 52 small letters, digits and hyphens, a letter first'
  matches zone '[a-z]+-[a-z]+[0-9]+-[a-z]' 'a zone, as us-east5-a' \
    'cloud.google.com/tpu/docs/regions-zones lists them'
  matches project '([a-z0-9.-]+:)?[a-z][-a-z0-9]{4,28}[a-z0-9]' \
    'the id of a project, not its title' 'gcloud projects list'
  matches slices '[1-9][0-9]{0,2}' 'a whole number from 1 to 999'
  matches capacity 'on-demand|spot|reserved' 'on-demand, spot or reserved'
  matches connect 'external|internal|iap' 'external, internal or iap'
  matches wait_minutes '[0-9]{1,5}' 'a whole number of minutes'
  matches poll_seconds '[1-9][0-9]{0,3}' 'a whole number of seconds from 1'
  matches run '[A-Za-z0-9][A-Za-z0-9_.-]{0,63}' \
    'at most 64 letters, digits, dots, hyphens and underscores'
  [[ -z $TPU_NETWORK ]] || matches network "$word" 'the name of a network'
  [[ -z $TPU_SUBNETWORK ]] ||
    matches subnetwork "$word" 'the name of a subnetwork'
  [[ -z $TPU_SERVICE_ACCOUNT ]] || matches service_account \
    '[^@[:space:]]+@[^@[:space:]]+' 'the e-mail address of a service account'
  [[ -z $TPU_VALID_UNTIL ]] ||
    matches valid_until '([0-9]+[smhd])+' 'a duration, as 6h or 2d'
  [[ -z $TPU_TYPE ]] || check_type

  where=("--zone=$TPU_ZONE" "--project=$TPU_PROJECT")
  case $TPU_CONNECT in
    internal) how=(--internal-ip) ;;
    iap) how=(--tunnel-through-iap) ;;
    *) how=() ;;
  esac
}

check_type() {
  [[ ! $TPU_TYPE =~ ^v5e ]] || die "TPU_TYPE is '$TPU_TYPE', which must be" \
    'v5litepod-<chips>, for so the type of v5e chips is called; correct' \
    '--type= or TPU_TYPE, as --type=v5litepod-16.'
  matches type 'v[0-9]+[a-z]*-[0-9]+' \
    'a generation and a size, as v5litepod-16, v5p-128 or v6e-8' \
    'gcloud compute tpus accelerator-types list'
  [[ $TPU_SLICES == 1 || ! $TPU_TYPE =~ ^v[23]- ]] || die "TPU_TYPE is" \
    "'$TPU_TYPE' and TPU_SLICES is $TPU_SLICES, but several slices need v4 or" \
    "newer; take another --type= or --slices=1."
  [[ -z $TPU_RUNTIME ]] || return 0
  case $TPU_TYPE in
    v[234]-*) TPU_RUNTIME=tpu-ubuntu2204-base ;;
    v5litepod-*) TPU_RUNTIME=v2-alpha-tpuv5-lite ;;
    v5p-*) TPU_RUNTIME=v2-alpha-tpuv5 ;;
    v6e-*) TPU_RUNTIME=v2-alpha-tpuv6e ;;
    *) die "TPU_RUNTIME is not set, and none is known for '$TPU_TYPE'; give" \
      "--runtime= from cloud.google.com/tpu/docs/runtimes." ;;
  esac
}

# check_workdir <workdir> <why it must be in a bucket>
check_workdir() {
  local bucket
  [[ $1 =~ ^gs://([^/]+)/. ]] || die "--workdir is '$1', which must be" \
    "gs://<bucket>/<folder>$2; correct --workdir=."
  bucket=${BASH_REMATCH[1]}
  [[ $bucket =~ ^[a-z0-9][a-z0-9._-]{1,61}[a-z0-9]$ ]] ||
    die "--workdir is '$1', whose bucket is '$bucket', but names of buckets" \
      'have 3 to 63 characters (small letters, digits, -, _ and ., a letter' \
      'or digit first and last); correct --workdir=.'
}

# --- gcloud -----------------------------------------------------------------

exec 3>&1 # Where a dry run prints, also from inside $(...).
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# Runs gcloud, or prints the command; what gcloud complains of is kept.
call() {
  if [[ -n $flag_dry_run ]]; then
    printf '%s\n' "$(quoted gcloud "$@")" >&3
    return 0
  fi
  gcloud "$@" 2>"$scratch/errors"
}

# Says in one sentence why the last call failed, and ends.
explain() {
  local said doing=$1
  said=$(<"$scratch/errors")
  case $said in
    *'active account'* | *'gcloud auth login'* | *eauthentication* | \
      *'invalid_grant'*)
      die "$doing: gcloud is not logged in; run gcloud auth login." ;;
    *[Qq]uota* | *RESOURCE_EXHAUSTED*)
      die "$doing: the quota of $TPU_PROJECT in $TPU_ZONE does not allow it" \
        "($(last_line "$said")); ask for more, or take another --zone=," \
        "--type= or --capacity=." ;;
    *SERVICE_DISABLED* | *'has not been used in project'*)
      die "$doing: the TPU API is off in $TPU_PROJECT; run gcloud services" \
        "enable tpu.googleapis.com --project=$TPU_PROJECT." ;;
    *NOT_FOUND* | *'was not found'*)
      die "$doing: $TPU_ZONE of $TPU_PROJECT does not have it; correct" \
        "--name=, --zone= or --project= ($(last_line "$said"))." ;;
    *PERMISSION_DENIED* | *'does not have permission'*)
      die "$doing: your account may not do this in $TPU_PROJECT; ask its owner" \
        "for the role TPU Admin ($(last_line "$said"))." ;;
    *) die "$doing: gcloud failed: $(last_line "$said")" ;;
  esac
}

last_line() {
  local line found='it said nothing'
  while IFS= read -r line; do
    [[ -z ${line//[[:space:]]/} ]] || found=$line
  done <<<"$1"
  printf '%s' "$found"
}

# Sets `state` (empty: there is no such TPU), `nodes`, which are the names of
# its slices, and `type_there`.
describe() {
  local answer names='' index fields='state.state,tpu.nodeSpec[].nodeId'
  fields+=',tpu.nodeSpec[0].node.acceleratorType'
  if [[ -n $flag_dry_run ]]; then
    for ((index = 0; index < TPU_SLICES; index++)); do
      names+="$TPU_NAME-$index;"
    done
    [[ $TPU_SLICES != 1 ]] || names=$TPU_NAME
  fi
  if answer=$(call compute tpus queued-resources describe "$TPU_NAME" \
    "${where[@]}" \
    "--format=value[separator='|']($fields)"); then
    [[ -z $flag_dry_run ]] || answer="ACTIVE|$names|$TPU_TYPE"
    IFS='|' read -r state names type_there <<<"$answer"
    IFS=';' read -ra nodes <<<"$names"
  elif grep -q 'NOT_FOUND\|was not found' "$scratch/errors"; then
    state='' nodes=() type_there=''
  else
    explain "Looking for $TPU_NAME"
  fi
}

# What to do about a TPU that will not come, or not come back.
lost() {
  local what="$TPU_NAME is $1: it was taken back (preemption or maintenance)"
  [[ $1 != FAILED ]] || what="$TPU_NAME is FAILED: no capacity came in time,"
  [[ $1 != FAILED ]] || what+=' or the request was wrong'
  die "$what, and it does not return by itself; run delete.sh, create.sh," \
    'setup.sh and the same run.sh, which goes on from the newest checkpoint.'
}

# Describes, and ends here unless the TPU can be worked with.
require_active() {
  describe
  case $state in
    ACTIVE) ;;
    '') die "There is no TPU '$TPU_NAME' in $TPU_ZONE of $TPU_PROJECT; correct" \
      "--name=, --zone= or --project=, or run create.sh." ;;
    FAILED | SUSPENDED | SUSPENDING) lost "$state" ;;
    *) die "$TPU_NAME is $state and not yet ACTIVE; run create.sh again to" \
      "wait for it." ;;
  esac
  expect_slices
}

expect_slices() {
  ((${#nodes[@]} == TPU_SLICES)) || die "$TPU_NAME has ${#nodes[@]} slices" \
    "and TPU_SLICES is $TPU_SLICES; give --slices=${#nodes[@]}."
}

# Sets `workers` to how many there are in all slices.
count_workers() {
  local node count
  workers=0
  for node in "${nodes[@]}"; do
    count=$(call compute tpus tpu-vm describe "$node" "${where[@]}" \
      '--format=value(networkEndpoints.len())') ||
      explain "Counting the workers of $node"
    [[ -z $flag_dry_run ]] || count=1
    [[ $count =~ ^[1-9][0-9]*$ ]] || die "$node has '$count' workers; wait" \
      "until create.sh says that it is ACTIVE."
    workers=$((workers + count))
  done
}

which=(--node=all --worker=all)

# on_workers <doing> <command line>
#
# Runs it on all workers and shows what they say. Ends here when one failed
# or did not answer: gcloud passes over slices that it cannot reach.
on_workers() {
  local answered status=0
  try_on_workers "$2" || status=$?
  [[ -z $flag_dry_run ]] || return 0
  answered=$(grep -c '^@' "$scratch/replies" || true)
  if ((answered == 0)); then
    explain_silence "$1"
  elif ((answered < workers)); then
    die "$1: only $answered of $workers workers answered; try again, and if it" \
      "stays so look at status.sh ($(last_line "$(<"$scratch/errors")"))."
  fi
  local failed
  failed=$(sed -n 's/^@\(\[.*\]\) done [1-9][0-9]*$/\1/p' "$scratch/replies" |
    sort -V | tr '\n' ' ')
  [[ -z $failed ]] || die "$1: failed on ${failed% }, [slice.worker], which" \
    "said why above."
  ((status == 0)) || explain "$1"
}

try_on_workers() {
  : >"$scratch/errors"
  call compute tpus queued-resources ssh "$TPU_NAME" "${where[@]}" \
    "${how[@]}" "${which[@]}" --quiet "--command=$1" |
    tee "$scratch/replies" | { grep --line-buffered -v '^@' || true; }
}

explain_silence() {
  if grep -q 'worker.sh: No such file' "$scratch/replies" "$scratch/errors"; then
    die "$1: the workers have not been set up; run setup.sh."
  fi
  explain "$1"
}
