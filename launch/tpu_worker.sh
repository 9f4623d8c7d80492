#!/usr/bin/env bash
# Act for tpu_pod.sh on a worker of a TPU slice; see bash launch/tpu_worker.sh --help.
set -euo pipefail

root=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
# shellcheck source=processes.bash
source "$root/launch/processes.bash"

usage() {
  cat <<'TEXT'
usage: bash launch/tpu_worker.sh ACTION [ARGUMENT...]

tpu_pod.sh calls it on each worker of a TPU slice. The run and its output are in the home folder: elastic-ast-run, elastic-ast.log.

  install            install Python and the project
  start COMMAND...   start this worker's process of a run, which continues when the connection ends
  look               print `run: TIME CODE HOST`; CODE is the exit code of the process, or running, or none
  finish             end the process, and wait until it is gone
  show HOST          print the end of the output, if this worker is HOST
TEXT
}

if [[ ${1-} == -h || ${1-} == --help ]]; then
  usage
  exit 0
fi

run=$HOME/elastic-ast-run  # has the leader of the process group, and the report of its end
log=$HOME/elastic-ast.log

leads() {  # sets $leader; succeeds if its process group exists
  [[ -s $run/leader ]] && leader=$(<"$run/leader") && kill -s 0 -- "-$leader" 2>/dev/null
}

can_install() { "$1" -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

install() {
  local apt=(sudo apt-get -qy -o DPkg::Lock::Timeout=600)  # a new machine first updates itself
  if ! can_install python3 && ! can_install python3.11; then
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
  # shellcheck disable=SC2016  # expanded by the other shell
  setsid nohup bash -c 'source launch/processes.bash; report_end "$@"' - "$run/end" "$HOSTNAME" "$@" \
    >>"$log" 2>&1 </dev/null &
  printf '%s\n' "$!" >"$run/leader"
}

look() {
  if [[ -s $run/end ]]; then
    printf 'run: %s\n' "$(<"$run/end")"
  elif leads; then
    printf 'run: 0 running %s\n' "$HOSTNAME"
  elif [[ -e $run/leader ]]; then  # killed together with the shell that reports the end
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
