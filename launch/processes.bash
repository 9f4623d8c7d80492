# shellcheck shell=bash
# How the processes of a run end, and what follows; read by local_processes.sh, slurm.sbatch and, on TPU workers, tpu_pod.sh.
#
# Exit codes of elastic-ast train: 0 finished; 75 preempted, and saved before; 130 interrupted by the user; 1 and 2 a mistake
# in the config or the data, which the next start would meet again. Everything else is a crash.

worth_restarting() {  # worth_restarting CODE
  case $1 in
    0 | 1 | 2 | 130) return 1 ;;
  esac
}

ended_how() {  # ended_how CODE: in words
  local signal
  case $1 in
    75) printf 'preempted (exit code 75)' ;;
    130) printf 'interrupted (exit code 130)' ;;
    *)
      if (($1 > 128)) && signal=$(kill -l "$(($1 - 128))" 2>/dev/null); then
        printf 'killed by SIG%s' "$signal"
      else
        printf 'exit code %s' "$1"
      fi
      ;;
  esac
}

# report_end FILE NAME COMMAND...
# Runs COMMAND, adds the line `TIME CODE NAME` to FILE, and gives CODE back. Signals that may end the command leave this shell
# alone, so that the end of whatever they reach is reported.
report_end() {
  local file=$1 name=$2 code=0 time LC_ALL=C  # in which EPOCHREALTIME has a point
  shift 2
  trap : HUP INT TERM
  { "$@" 2>&3 3>&-; } 3>&2 2>/dev/null || code=$?  # without the shell's own word about a killed process
  time=${EPOCHREALTIME:-$(date +%s)}
  printf '%s %s %s\n' "$time" "$code" "$name" >>"$file"
  return "$code"
}

first_bad_end() {  # of the lines of report_end on standard input, `CODE NAME` of the first with another code than 0
  local time code name
  while read -r time code name; do
    if ((code)); then
      printf '%s %s\n' "$code" "$name"
      return
    fi
  done < <(sort -n)
}

last_lines() {  # last_lines FILE: of a log, for a message
  local line
  if [[ ! -s $1 ]]; then
    printf '  | (%s is empty)\n' "$1"
    return
  fi
  printf '  its last lines, of %s:\n' "$1"
  tail -n 20 -- "$1" | while IFS= read -r line || [[ -n $line ]]; do
    printf '  | %s\n' "$line"
  done
}
