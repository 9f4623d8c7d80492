# shellcheck shell=bash
# Parse the options of a launch script. The scripts in this folder source it, and define `usage` and `say`.

refuse() {  # refuse TEXT: exits with 2, this error and the usage
  say "$@" >&2
  usage >&2
  exit 2
}

# read_options VALUED FLAGS ARGUMENT...
# shellcheck disable=SC2034  # the sourcing script uses the arrays
# `--zone=Z` and `--zone Z` set $zone for each name in VALUED; `--spot` sets $spot to 1 for each name in FLAGS. The words after
# `--` go to the array `command`, all other words to the array `words`.
read_options() {
  local _valued=" $1 " _flags=" $2 " _name  # underscores, since options are variables too
  shift 2
  words=()
  command=()
  while (($#)); do
    _name=${1%%=*}
    _name=${_name#--}
    case $1 in
      -h | --help)
        usage
        exit 0
        ;;
      --)
        command=("${@:2}")
        return
        ;;
      --*)
        if [[ $_flags == *" $_name "* && $1 != *=* ]]; then
          printf -v "$_name" 1
        elif [[ $_valued == *" $_name "* && $1 == *=* ]]; then
          printf -v "$_name" %s "${1#*=}"
        elif [[ $_valued == *" $_name "* ]]; then
          (($# > 1)) || refuse "$1 has no value"
          printf -v "$_name" %s "$2"
          shift
        else
          refuse "there is no option '$1'"
        fi
        ;;
      -*) refuse "there is no option '$1'" ;;
      *) words+=("$1") ;;
    esac
    shift
  done
}

whole() {  # whole NAME LOWEST: refuses a value that is no whole number of at least LOWEST
  local name=$1 value=${!1}
  if ! [[ $value =~ ^(0|[1-9][0-9]{0,8})$ ]] || ((value < $2)); then
    refuse "--$name=$value must be a whole number from $2 on"
  fi
}

quoted() {  # quoted WORD...: prints a line that a shell reads as these words
  local line
  printf -v line ' %q' "$@"
  printf '%s\n' "${line# }"
}
