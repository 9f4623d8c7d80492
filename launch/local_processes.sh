#!/usr/bin/env bash
# Run several processes of one run on this computer; see bash launch/local_processes.sh --help.
set -euo pipefail

root=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
# shellcheck source=options.bash
source "$root/launch/options.bash"
# shellcheck source=processes.bash
source "$root/launch/processes.bash"

usage() {
  cat <<'TEXT'
usage: bash launch/local_processes.sh N [OPTIONS] -- COMMAND...

Starts N processes of one run on this computer, and waits for them. If one fails, its last lines are printed, the others are ended,
and all are started again, except after exit codes 1 and 2 (a mistake in config or data) and 130 (an interruption). SIGTERM and
SIGINT are forwarded; a second one kills all processes at once.

  --devices=K     each process has K CPU devices (XLA_FLAGS; JAX_PLATFORMS=cpu unless it is set)
  --restarts=R    start all again at most R times (default 3)
  --grace=S       seconds between SIGTERM and SIGKILL (default 45)
  --logs=FOLDER   folder for the output of all processes but number 0, which is printed (default: a temporary folder)
  --dry_run       print the commands with their environment, and start nothing

The exit code is 0, or that of the first process that failed (128 + the number of a signal).

example: bash launch/local_processes.sh 2 --devices=4 -- elastic-ast train --config=configs/quickstart.py --workdir=runs/two
TEXT
}

say() { printf 'local_processes.sh: %s\n' "$*" >&2; }  # standard output belongs to process 0

devices='' restarts=3 grace=45 logs='' dry_run=''
read_options 'devices restarts grace logs' dry_run "$@"
((${#words[@]} == 1)) || refuse "one number of processes before --, not ${#words[@]}"
processes=${words[0]}
[[ $processes =~ ^[1-9][0-9]{0,3}$ ]] || refuse "N=$processes must be a number of processes from 1 to 9999"
((${#command[@]})) || refuse 'the command is missing: write it after --'
[[ -z $devices ]] || whole devices 1
whole restarts 0
whole grace 0

# Names this run in the lock of its workdir. A restart may take it over at once.
job="local_processes.sh $HOSTNAME $$ ${EPOCHSECONDS:-$RANDOM$RANDOM}"

find_port() {  # sets $port to a free port, below the ports of outgoing connections
  port=$((10000 + RANDOM % 20000))
  while (: <>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do
    port=$((10000 + RANDOM % 20000))
  done
}

set_environment() {  # set_environment NUMBER START: sets $environment for a process
  environment=("JAX_COORDINATOR_ADDRESS=127.0.0.1:$port" "JAX_NUM_PROCESSES=$processes" "JAX_PROCESS_ID=$1")
  environment+=("ELASTIC_AST_JOB=$job" "ELASTIC_AST_START=$2")
  if [[ -n $devices ]]; then
    environment+=("JAX_PLATFORMS=${JAX_PLATFORMS:-cpu}"
      "XLA_FLAGS=${XLA_FLAGS:+$XLA_FLAGS }--xla_force_host_platform_device_count=$devices")
  fi
}

if [[ -n $dry_run ]]; then
  find_port
  for ((number = 0; number < processes; number++)); do
    set_environment "$number" 1
    quoted env "${environment[@]}" "${command[@]}"
  done
  exit 0
fi

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
mkfifo "$scratch/ends"
exec 8<>"$scratch/ends"  # open for reading and writing, so that no side waits for the other to open it
if [[ -n $logs ]]; then
  mkdir -p -- "$logs"
else
  logs=$(mktemp -d)
  ((processes == 1)) || say "the output of processes 1 to $((processes - 1)) goes to $logs"
fi

stopped=''    # the signal that this script received
deadline=''   # the value of SECONDS at which processes that should end are killed
killing=''    # 1 once they are killed
leaders=()    # the leader of the process group of each running process, by number
first_code=0  # the exit code of the first process that failed

signal() {  # signal NAME: sends it to all running process groups
  local number
  for number in "${!leaders[@]}"; do
    kill -s "$1" -- "-${leaders[number]}" 2>/dev/null || true
  done
}

forward() {  # forward NAME: sends the signal that this script received
  if [[ -n $stopped ]]; then
    deadline=$SECONDS
    return
  fi
  stopped=$1 deadline=$((SECONDS + grace))
  signal "$1"
}
trap 'forward TERM' TERM HUP
trap 'forward INT' INT

log_of() {  # log_of NUMBER START
  printf '%s/process%s%s.log' "$logs" "$1" "$( (($2 == 1)) || printf '.restart%s' "$(($2 - 1))")"
}

begin() {  # begin START: starts all processes, each as the leader of a process group
  local number log
  find_port
  leaders=() first_code=0 killing=''
  [[ -n $stopped ]] || deadline=''
  for ((number = 0; number < processes; number++)); do
    set_environment "$number" "$1"
    log=$(log_of "$number" "$1")
    set -m  # an own process group, in which SIGINT is not ignored
    (
      ((number == 0)) || exec >"$log" 2>&1
      report_end "$scratch/ends" "$number" env "${environment[@]}" "${command[@]}" 8>&-
    ) </dev/null &
    set +m
    leaders[number]=$!
    disown  # so that the shell prints no message at its end
  done
}

ended() {  # ended NUMBER CODE START
  kill -s KILL -- "-${leaders[$1]}" 2>/dev/null || true  # its remaining children
  unset "leaders[$1]"
  if (($2 == 0 || first_code)); then
    return
  fi
  first_code=$2
  if [[ -n $stopped ]]; then
    say "process $1 ended after SIG$stopped: $(ended_how "$2")"
    return
  fi
  say "process $1 was the first to end: $(ended_how "$2")"
  if (($1 == 0)); then
    say 'its last lines are above'
  else
    last_lines "$(log_of "$1" "$3")" >&2
  fi
  if ((${#leaders[@]})); then
    say "ending the other ${#leaders[@]}"
    deadline=$((SECONDS + grace))
    signal TERM
  fi
}

follow() {  # follow START: waits until no process runs
  local number code gone=()
  while ((${#leaders[@]})); do
    if read -r -t 1 -u 8 _ code number; then
      # A process whose shell was killed may have been counted already.
      [[ -z ${leaders[number]-} ]] || ended "$number" "$code" "$1"
    fi
    for number in "${!leaders[@]}"; do
      # The process is gone, and a second later the pipe has no report: its shell was killed.
      if ! kill -s 0 "${leaders[number]}" 2>/dev/null; then
        : "${gone[number]:=$SECONDS}"
        if [[ -n $killing ]] || ((SECONDS > gone[number] + 1)); then
          ended "$number" 137 "$1"
        fi
      fi
    done
    if [[ -n $deadline && -z $killing ]] && ((${#leaders[@]} && SECONDS >= deadline)); then
      say "killing ${#leaders[@]} that did not end"
      killing=1
      signal KILL
    fi
  done
}

for ((start = 1; ; start++)); do
  begin "$start"
  [[ -z $stopped ]] || signal "$stopped"  # it arrived during the start
  follow "$start"
  if [[ -n $stopped ]] || ! worth_restarting "$first_code"; then
    exit "$first_code"
  fi
  if ((start > restarts)); then
    say "giving up after $restarts restarts"
    exit "$first_code"
  fi
  say "starting all $processes again, restart $start of $restarts"
done
