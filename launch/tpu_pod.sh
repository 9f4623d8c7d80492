#!/usr/bin/env bash
# Run on all workers of a Cloud TPU slice; see bash launch/tpu_pod.sh --help.
set -euo pipefail

root=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
# shellcheck source=options.bash
source "$root/launch/options.bash"
# shellcheck source=processes.bash
source "$root/launch/processes.bash"

usage() {
  cat <<'TEXT'
usage: bash launch/tpu_pod.sh ACTION --name=NAME [OPTIONS] [-- COMMAND...]

  create   request the TPU, and wait until it is ready
  setup    copy the project to all workers, and install it
  run      start COMMAND on all workers; it continues when this computer disconnects
  logs     follow the output of one worker
  status   print the state of the TPU, and of the run on each worker
  watch    create, setup and run; repeat that after a crash or a preemption until the run ends. A second call continues to watch
  delete   delete the TPU

  --zone=Z --project=P   zone and project (default: gcloud's)
  --type=T               accelerator type, such as v5litepod-16 or v6e-8 (create, watch)
  --version=V            runtime version (default: the usual one for the type)
  --spot                 use a spot TPU, which costs less and can be preempted at any time
  --node                 request a node that is available at once or not at all, instead of a queued resource
  --commit=C             copy this commit of this clone (default HEAD)
  --repository=URL       let the workers fetch the commit from this repository instead
  --fetch=COMMAND        copy the data to a worker: bash runs it in the home folder of each, once, after the project is installed
  --worker=K             the worker whose output is followed (logs; default 0)
  --restarts=R           start again at most R times (watch; default 20)
  --poll=S               seconds between checks of the state (create, watch; default 60)
  --dry_run              print the commands of gcloud, and run none

A preempted TPU loses its disks: --workdir must be in a bucket, gs://BUCKET/FOLDER, and --fetch copies the data again. COMMAND
starts in the folder of the project. Before the first call, load gcloud's key for all workers: ssh-add ~/.ssh/google_compute_engine

example: bash launch/tpu_pod.sh watch --name=ast --zone=us-west4-a --type=v5litepod-16 --spot \
           --fetch='gcloud storage cp --recursive gs://B/data .' -- \
           elastic-ast train --config=configs/manifest.py --config.data.train=../data/train.jsonl ... --workdir=gs://B/runs/1
TEXT
}

say() { printf 'tpu_pod.sh: %s\n' "$*"; }
fail() {
  say "$@" >&2
  exit 1
}

name='' zone='' project='' type='' version='' spot='' node='' commit=HEAD repository='' fetch='' worker=0 restarts=20 poll=60 dry_run=''
read_options 'name zone project type version commit repository fetch worker restarts poll' 'spot node dry_run' "$@"
((${#words[@]} == 1)) || refuse "one action, not ${#words[@]}: ${words[*]-}"
action=${words[0]}
case $action in
  create | setup | run | logs | status | watch | delete) ;;
  *) refuse "there is no action '$action'" ;;
esac
[[ $name =~ ^[a-z]([a-z0-9-]*[a-z0-9])?$ ]] || refuse "--name='$name' must be lower-case letters, digits and hyphens"
case $action in create | watch) [[ -n $type ]] || refuse '--type is missing, such as --type=v5litepod-16' ;; esac
case $action in run | watch) ((${#command[@]})) || refuse 'the command is missing: write it after --' ;; esac
whole worker 0
whole restarts 0
whole poll 1
if [[ -z $version ]]; then
  case $type in
    v5litepod-*) version=v2-alpha-tpuv5-lite ;;
    v5p-*) version=v2-alpha-tpuv5 ;;
    v6e-*) version=v2-alpha-tpuv6e ;;
    *) version=tpu-ubuntu2204-base ;;
  esac
fi
[[ -n $dry_run ]] || command -v gcloud >/dev/null || fail 'gcloud is not on PATH: install the Google Cloud CLI'

place=(--quiet ${zone:+"--zone=$zone"} ${project:+"--project=$project"})
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

do_or_show() {  # do_or_show COMMAND...
  if [[ -n $dry_run ]]; then
    quoted "$@"
  else
    "$@"
  fi
}

call() { do_or_show gcloud compute tpus "$@"; }

remote() {  # remote WORKER WORD...: runs a command on a worker, or on `all`; quoted, since bash on the worker reads it
  call tpu-vm ssh "$name" "${place[@]}" --worker="$1" --command="$(quoted "${@:2}")"
}

on_all() { remote all bash elastic-ast-jax/launch/tpu_worker.sh "$@"; }

describe() {  # describe KIND FORMAT: sets $state to gcloud's answer, MISSING or UNKNOWN
  local error
  if [[ -n $dry_run ]]; then
    call "$1" describe "$name" "${place[@]}" "--format=value($2)"
    state=READY
  elif ! state=$(call "$1" describe "$name" "${place[@]}" "--format=value($2)" 2>"$scratch/error"); then
    error=$(<"$scratch/error")
    state=UNKNOWN
    case $error in
      *NOT_FOUND* | *'not found'*) state=MISSING ;;
      *) say "the state of $name is unknown: $error" >&2 ;;
    esac
  fi
}

find_state() {  # sets $state, and $phase: ready, coming, leaving, lost (to be deleted), missing or unknown
  if [[ -n $node ]]; then
    describe tpu-vm state
  else
    describe queued-resources state.state
    if [[ $state == ACTIVE || -n $dry_run ]]; then
      describe tpu-vm state
      [[ $state != MISSING ]] || state=SUSPENDING  # the node disappears before its request changes
    fi
  fi
  case $state in
    READY) phase=ready ;;
    MISSING) phase=missing ;;
    UNKNOWN) phase=unknown ;;
    PREEMPTED | TERMINATED | STOPPED | SUSPENDED | FAILED) phase=lost ;;
    DELETING | STOPPING | SUSPENDING | HIDING | HIDDEN) phase=leaving ;;
    *) phase=coming ;;  # CREATING, ACCEPTED, WAITING_FOR_RESOURCES, PROVISIONING, STARTING, RESTARTING, REPAIRING, ...
  esac
}

await() {  # waits until the TPU is ready; fails if it never will be
  local shown=''
  while find_state; do
    [[ $state == "$shown" || -n $dry_run ]] || say "$name: $state"
    shown=$state
    case $phase in
      ready) return ;;
      lost | missing) return 1 ;;
    esac
    sleep "$poll"
  done
}

create() {
  if [[ -n $node ]]; then
    call tpu-vm create "$name" "${place[@]}" --accelerator-type="$type" --version="$version" ${spot:+--spot}
  else
    call queued-resources create "$name" "${place[@]}" --node-id="$name" --accelerator-type="$type" \
      --runtime-version="$version" ${spot:+--spot}
  fi && await
}

delete() {
  if [[ -n $node ]]; then
    call tpu-vm delete "$name" "${place[@]}"
  else
    call queued-resources delete "$name" "${place[@]}" --force
  fi
}

setup() {
  if [[ -n $repository ]]; then
    # shellcheck disable=SC2016  # expanded by the worker's shell
    remote all bash -c 'mkdir -p elastic-ast-jax && cd elastic-ast-jax && git init -q &&
      git fetch -q --depth=1 -- "$1" "$2" && git checkout -q --force --detach FETCH_HEAD' - "$repository" "$commit" || return
  else
    git -C "$root" diff --quiet HEAD -- 2>/dev/null || say "commit $commit is copied, without the changes since" >&2
    do_or_show git -C "$root" archive --format=tar.gz --output="$scratch/elastic-ast-jax.tar.gz" "$commit" || return
    call tpu-vm scp "$scratch/elastic-ast-jax.tar.gz" "$name:elastic-ast-jax.tar.gz" "${place[@]}" --worker=all || return
    remote all bash -c 'mkdir -p elastic-ast-jax && cd elastic-ast-jax &&
      find . -mindepth 1 -maxdepth 1 ! -name .venv -exec rm -rf {} + && tar -xzf ../elastic-ast-jax.tar.gz' || return
  fi
  on_all install
}

# Runs once on each worker for each COMMAND; copied data stay.
fetch_data() {
  # shellcheck disable=SC2016  # expanded by the worker's shell
  [[ -z $fetch ]] || remote all bash -c '[[ -e elastic-ast.fetched && $(<elastic-ast.fetched) == "$1" ]] ||
    { bash -c "$1" && printf "%s" "$1" >elastic-ast.fetched; }' - "$fetch"
}

run() { on_all start "${command[@]}"; }

look() {  # prints the state of the run on each worker; none without the project
  # shellcheck disable=SC2016
  remote all bash -c 'bash elastic-ast-jax/launch/tpu_worker.sh look 2>/dev/null || echo "run: 0 none $HOSTNAME"'
}

# Sets $verdict: running, none, finished, unknown, or `CODE HOST` of the first worker whose process failed.
look_at_run() {
  local lines
  verdict=unknown
  if [[ -n $dry_run ]]; then
    look
    return
  fi
  lines=$(look 2>"$scratch/error") || return 0
  lines=$(sed -n 's/^run: //p' <<<"$lines")
  verdict=$(sed -nE '/^[0-9.]+ [0-9]+ /p' <<<"$lines" | first_bad_end)
  if [[ -z $lines ]]; then
    verdict=unknown
  elif [[ -n $verdict ]]; then
    return
  elif [[ $lines == *' running '* ]]; then
    verdict=running
  elif [[ $lines == *' none '* ]]; then
    verdict=none
  else
    verdict=finished
  fi
}

# Brings the TPU and the run from any state to the end of the run; fails if it has to be called again.
live() {
  local code host
  find_state
  while [[ $phase == leaving ]]; do
    sleep "$poll"
    find_state
  done
  case $phase in
    lost)
      delete || return 1
      create || return 1
      ;;
    missing) create || return 1 ;;
    *) await || return 1 ;;
  esac
  look_at_run
  while [[ $verdict == unknown ]]; do  # the run may continue on workers that cannot be reached
    say "not all workers of $name can be reached: $(tail -n 3 "$scratch/error")" >&2
    sleep "$poll"
    find_state
    [[ $phase == ready ]] || return 1
    look_at_run
  done
  if [[ $verdict != running && $verdict != finished ]]; then
    setup || return 1
    if ! fetch_data; then
      say "the data could not be brought to all workers of $name" >&2
      return 1
    fi
    on_all finish || return 1
    run || return 1
    say "running on all workers; to see it: bash launch/tpu_pod.sh logs --name=$name ${zone:+--zone=$zone}"
    verdict=running
  fi
  while [[ $verdict == running || $verdict == unknown ]]; do
    sleep "$poll"
    find_state
    case $phase in
      lost | missing | leaving)
        say "$name was taken away: $state"
        return 1
        ;;
      ready) look_at_run ;;
    esac
  done
  if [[ $verdict == finished ]]; then
    say "the run is finished; the TPU still exists: bash launch/tpu_pod.sh delete --name=$name ${zone:+--zone=$zone}"
    exit 0
  fi
  [[ $verdict != none ]] || return 1  # the workers were replaced
  read -r code host <<<"$verdict"
  say "$host was the first to end: $(ended_how "$code")" >&2
  on_all show "$host" >&2 || true
  on_all finish || true
  worth_restarting "$code" || exit "$code"
  return 1
}

watch() {
  local restart
  if [[ -n $dry_run ]]; then
    find_state
    create
    setup
    fetch_data
    run
    look_at_run
    printf '# after a preemption, and then again from the top:\n'
    delete
    return
  fi
  find_state
  [[ $phase != unknown ]] || fail 'nothing was done; correct that, and watch again'
  for ((restart = 0; restart <= restarts; restart++)); do
    if ((restart)); then
      say "starting again, restart $restart of $restarts"
      sleep "$poll"
    fi
    live || true
  done
  fail "giving up after $restarts restarts"
}

warn_of_disk() {  # warns of a workdir that would be lost with the TPU
  local word before=''
  for word in "${command[@]}"; do
    [[ $before != --workdir ]] || word=--workdir=$word
    before=$word
    if [[ $word == --workdir=* && $word != --workdir=gs://* ]]; then
      say "warning: ${word} is on the workers' own disks: use gs://BUCKET/... to resume after a preemption" >&2
    fi
  done
}

case $action in
  create) create || fail "$name is not there: $state" ;;
  setup)
    setup || fail "the project is not set up on all workers of $name"
    fetch_data || fail "the data are not on all workers of $name"
    ;;
  run)
    warn_of_disk
    run || fail "the run did not start on all workers of $name"
    ;;
  logs) remote "$worker" tail -n 100 -F elastic-ast.log ;;
  status)
    find_state
    [[ -n $dry_run ]] || say "$name: $state"
    [[ $phase != ready ]] || look
    ;;
  watch)
    warn_of_disk
    watch
    ;;
  delete) delete ;;
esac
