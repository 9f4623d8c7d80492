#!/usr/bin/env bash
# Several processes of one run on this computer; bash launch/local_processes.sh --help tells how.
set -euo pipefail

root=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
# shellcheck source=options.bash
source "$root/launch/options.bash"
# shellcheck source=processes.bash
source "$root/launch/processes.bash"

usage() {
  cat <<'TEXT'
usage: bash launch/local_processes.sh N [OPTIONS] -- COMMAND...

Starts N processes of one run on this computer and waits for them. When one ends badly, it is named with its last lines, the
others are ended, and all are started again, unless the exit code says that this would not help: 1 and 2 are mistakes in config
or data, 130 is an interruption. SIGTERM and SIGINT are passed on; the second one ends everything at once.

  --devices=K     each process has K CPU devices (XLA_FLAGS; JAX_PLATFORMS=cpu unless it is set)
  --restarts=R    start all again at most R times (default 3)
  --grace=S       seconds between SIGTERM and SIGKILL (default 45)
  --logs=FOLDER   where the output of all processes but number 0 goes, which writes here (default: a temporary folder)
  --dry_run       print the commands with their environment, and start nothing

Exit code: 0, or that of the process that was the first to end badly (128 and its number after a signal).

example: bash launch/local_processes.sh 2 --devices=4 -- elastic-ast train --config=configs/quickstart.py --workdir=runs/two
TEXT
}

say() { printf 'local_processes.sh: %s\n' "$*" >&2; }  # standard output is that of process 0

devices='' restarts=3 grace=45 logs='' dry_run=''
read_options 'devices restarts grace logs' dry_run "$@"
((${#words[@]} == 1)) || refuse "one number of processes before --, not ${#words[@]}"
processes=${words[0]}
[[ $processes =~ ^[1-9][0-9]{0,3}$ ]] || refuse "N=$processes must be a number of processes from 1 to 9999"
((${#command[@]})) || refuse 'the command is missing: write it after --'
[[ -z $devices ]] || whole devices 1
whole restarts 0
whole grace 0

find_port() {  # sets $port to one that nobody listens at; below those that systems give to outgoing connections
  port=$((10000 + RANDOM % 20000))
  while (: <>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do
    port=$((10000 + RANDOM % 20000))
  done
}

set_environment() {  # set_environment NUMBER: sets $environment, of a process of this start
  environment=("JAX_COORDINATOR_ADDRESS=127.0.0.1:$port" "JAX_NUM_PROCESSES=$processes" "JAX_PROCESS_ID=$1")
  if [[ -n $devices ]]; then
    environment+=("JAX_PLATFORMS=${JAX_PLATFORMS:-cpu}"
      "XLA_FLAGS=${XLA_FLAGS:+$XLA_FLAGS }--xla_force_host_platform_device_count=$devices")
  fi
}

if [[ -n $dry_run ]]; then
  find_port
  for ((number = 0; number < processes; number++)); do
    set_environment "$number"
    quoted env "${environment[@]}" "${command[@]}"
  done
  exit 0
fi

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
mkfifo "$scratch/ends"
exec 8<>"$scratch/ends"  # for reading and writing, so that neither waits for the other to open it
if [[ -n $logs ]]; then
  mkdir -p -- "$logs"
else
  logs=$(mktemp -d)
  ((processes == 1)) || say "the output of processes 1 to $((processes - 1)) goes to $logs"
fi

stopped=''    # the signal that this script was sent
deadline=''   # of SECONDS, when those that were told to end are killed
killing=''    # they are
leaders=()    # of the process groups, by number of the process, as long as it runs
first_code=0  # of the first process that ended badly

signal() {  # signal NAME: to all that run, with what they started
  local number
  for number in "${!leaders[@]}"; do
    kill -s "$1" -- "-${leaders[number]}" 2>/dev/null || true
  done
}

pass_on() {  # pass_on NAME: what this script was sent
  if [[ -n $stopped ]]; then
    deadline=$SECONDS
    return
  fi
  stopped=$1 deadline=$((SECONDS + grace))
  signal "$1"
}
trap 'pass_on TERM' TERM HUP
trap 'pass_on INT' INT

log_of() {  # log_of NUMBER START
  printf '%s/process%s%s.log' "$logs" "$1" "$( (($2 == 1)) || printf '.restart%s' "$(($2 - 1))")"
}

begin() {  # begin START: all processes, each the leader of a process group
  local number log
  find_port
  leaders=() first_code=0 killing=''
  [[ -n $stopped ]] || deadline=''
  for ((number = 0; number < processes; number++)); do
    set_environment "$number"
    log=$(log_of "$number" "$1")
    set -m  # a group of its own, in which SIGINT is not ignored
    (
      ((number == 0)) || exec >"$log" 2>&1
      report_end "$scratch/ends" "$number" env "${environment[@]}" "${command[@]}" 8>&-
    ) </dev/null &
    set +m
    leaders[number]=$!
    disown  # so that the shell has no word of its own for its end
  done
}

ended() {  # ended NUMBER CODE START
  kill -s KILL -- "-${leaders[$1]}" 2>/dev/null || true  # what it left behind
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

follow() {  # follow START: until none runs
  local number code gone=()
  while ((${#leaders[@]})); do
    if read -r -t 1 -u 8 _ code number; then
      # One whose shell was killed may have been counted as ended before its command was.
      [[ -z ${leaders[number]-} ]] || ended "$number" "$code" "$1"
    fi
    for number in "${!leaders[@]}"; do
      # Gone, and no word of it in the pipe a second later: its shell was killed.
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
  [[ -z $stopped ]] || signal "$stopped"  # which came while they were being started
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
