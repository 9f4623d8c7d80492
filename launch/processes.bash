# shellcheck shell=bash
# Report how the processes of a run end, and decide whether they are restarted. local_processes.sh, slurm.sbatch and
# tpu_worker.sh source it.
#
# exit code of elastic-ast train   meaning                                  restart
# 0                                finished                                 no
# 1, 2                             a mistake in the config or the data      no, it would fail again
# 75                               preempted, after a checkpoint            yes
# 130                              interrupted by the user                  no
# others                           a crash                                  yes

worth_restarting() {  # worth_restarting CODE: succeeds if another start may help
  case $1 in
    0 | 1 | 2 | 130) return 1 ;;
  esac
}

ended_how() {  # ended_how CODE: prints the end in words
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
# Runs COMMAND, adds the line `TIME CODE NAME` to FILE, and returns CODE. This shell ignores signals that may end the command, so
# that it can report the end.
report_end() {
  local file=$1 name=$2 code=0 time LC_ALL=C  # EPOCHREALTIME then has a decimal point
  shift 2
  trap : HUP INT TERM
  { "$@" 2>&3 3>&-; } 3>&2 2>/dev/null || code=$?  # without the shell's own message about a killed process
  time=${EPOCHREALTIME:-$(date +%s)}
  printf '%s %s %s\n' "$time" "$code" "$name" >>"$file"
  return "$code"
}

first_bad_end() {  # reads lines of report_end, and prints `CODE NAME` of the earliest one with another code than 0
  local time code name
  while read -r time code name; do
    if ((code)); then
      printf '%s %s\n' "$code" "$name"
      return
    fi
  done < <(sort -n)
}

last_lines() {  # last_lines FILE: prints the end of a log, for a message
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
