#!/usr/bin/env bash
# What tpu_pod.sh does on each worker of a TPU slice; bash launch/tpu_worker.sh --help tells what.
set -euo pipefail

root=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
# shellcheck source=processes.bash
source "$root/launch/processes.bash"

usage() {
  cat <<'TEXT'
usage: bash launch/tpu_worker.sh ACTION [ARGUMENT...]

What tpu_pod.sh does on each worker of a TPU slice. Run and output are in the home folder: elastic-ast-run, elastic-ast.log.

  install            Python and the project
  start COMMAND...   start this worker's process of a run, which goes on when the connection ends
  look               the line `run: TIME CODE HOST`: CODE is the process's exit code, or running, or none
  finish             end the process, and wait until it is gone
  show HOST          the end of the output, if this is that worker
TEXT
}

if [[ ${1-} == -h || ${1-} == --help ]]; then
  usage
  exit 0
fi

run=$HOME/elastic-ast-run  # holds the leader of the process group, and how it ended
log=$HOME/elastic-ast.log

leads() {  # sets $leader; whether its process group is there
  [[ -s $run/leader ]] && leader=$(<"$run/leader") && kill -s 0 -- "-$leader" 2>/dev/null
}

able() { "$1" -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

install() {
  local apt=(sudo apt-get -qy -o DPkg::Lock::Timeout=600)  # a new machine updates itself first
  if ! able python3 && ! able python3.11; then
    "${apt[@]}" update
    "${apt[@]}" install python3.11 python3.11-venv || "${apt[@]}" install python3-venv
  fi
  bash "$root/launch/install.sh" tpu train gcs
}

start() {
  if leads; then
    printf '%s: a run is going on already\n' "$HOSTNAME" >&2
    exit 3
  fi
  rm -rf "$run"
  mkdir "$run"
  cd "$root"
  export ELASTIC_AST_DISTRIBUTED=auto PATH=$root/.venv/bin:$PATH
  # shellcheck disable=SC2016  # for the other shell
  setsid nohup bash -c 'source launch/processes.bash; report_end "$@"' - "$run/end" "$HOSTNAME" "$@" \
    >>"$log" 2>&1 </dev/null &
  printf '%s\n' "$!" >"$run/leader"
}

look() {
  if [[ -s $run/end ]]; then
    printf 'run: %s\n' "$(<"$run/end")"
  elif leads; then
    printf 'run: 0 running %s\n' "$HOSTNAME"
  elif [[ -e $run/leader ]]; then  # killed with the shell that would have told
    printf 'run: %s 137 %s\n' "$(date +%s)" "$HOSTNAME"
  else
    printf 'run: 0 none %s\n' "$HOSTNAME"
  fi
}

finish() {
  local second
  for ((second = 0; second < 45; second++)); do
    leads || return 0
    ((second)) || kill -s TERM -- "-$leader" 2>/dev/null || true
    sleep 1
  done
  kill -s KILL -- "-$leader" 2>/dev/null || true
}

case ${1-} in
  install | start | look | finish) "$@" ;;
  show) [[ $HOSTNAME != "$2" ]] || last_lines "$log" ;;
  *)
    usage >&2
    exit 2
    ;;
esac
