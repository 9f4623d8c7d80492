#!/usr/bin/env bash
# Install the project into .venv in the repository root; see bash launch/install.sh --help.
set -euo pipefail

root=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
venv=$root/.venv
python=$venv/bin/python
stamp=$venv/elastic-ast-jax.installed     # fingerprint, then the extras that are installed
unfinished=$venv/elastic-ast-jax.unfinished  # exists while pip works; a later call knows from it that pip was killed

usage() {
  cat <<'TEXT'
usage: bash launch/install.sh [EXTRA ...]

Installs elastic-ast-jax and the named extras into .venv in the repository root. It creates .venv with Python 3.11 or newer.
A second call does nothing unless setup.cfg or launch/constraints.txt changed.

extras: train    TensorFlow and TensorFlow Datasets, for training and evaluation of data sets
        test     pytest and its plugins; includes train, gcs and prepare
        gcs      libraries for workdirs in buckets, gs://BUCKET/FOLDER
        prepare  Apache Beam, for elastic-ast prepare; includes train
        dataflow Apache Beam's runner on Google Cloud; includes prepare
        tpu      JAX for TPUs
        compile  the TPUs' compiler, for elastic-ast compile
        cuda12   JAX for NVIDIA GPUs with CUDA 12; not together with cuda13
        cuda13   JAX for NVIDIA GPUs with CUDA 13
        hear     PyTorch, for the tools of the HEAR benchmark
        convert  PyTorch, for weights in .pth files, and transformers
        docs     mkdocs for the site of docs/, Jupyter for its notebook, and the builder of the wheel
TEXT
}

say() { printf 'install.sh: %s\n' "$*"; }
fail() {
  say "$@" >&2
  exit 1
}

has() {  # has WORD LIST...: succeeds if the word is in the list
  local word=$1 other
  shift
  for other in "$@"; do
    [[ $other == "$word" ]] && return 0
  done
  return 1
}

extras=(train test gcs prepare dataflow tpu compile cuda12 cuda13 hear convert docs)
requested=()
for argument in "$@"; do
  if [[ $argument == -h || $argument == --help ]]; then
    usage
    exit 0
  fi
  for extra in ${argument//,/ }; do
    has "$extra" "${extras[@]}" || fail "there is no extra '$extra': choose from ${extras[*]}"
    requested+=("$extra")
    [[ $extra == test ]] && requested+=(train gcs prepare)
    [[ $extra == dataflow ]] && requested+=(prepare train)
    [[ $extra == prepare ]] && requested+=(train)
  done
done

# An active environment and the user's settings must not affect this one.
unset PYTHONHOME PYTHONPATH VIRTUAL_ENV PIP_PREFIX PIP_TARGET PIP_USER

# The second of two calls at once waits. Some systems have no flock, or cannot lock a folder; a single call works there too.
exec 9<"$root"
flock 9 2>/dev/null || true

find_python() {  # sets $base to the first Python that is new enough and can create environments
  local name version old='' bare=''
  base=
  for name in python3.11 python3.12 python3.13 python3; do
    # Run it: the shim of a version manager may name a Python that is not installed.
    version=$("$name" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || continue
    if ! "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      old=$version
    elif ! "$name" -c 'import ensurepip, venv' 2>/dev/null; then
      bare=${bare:-$version}
    else
      base=$name
      return
    fi
  done
  if [[ -n $bare ]]; then
    fail "Python $bare is installed, but its modules venv and ensurepip are missing: sudo apt-get install python$bare-venv"
  fi
  if [[ -n $old ]]; then
    fail "Python 3.11 or newer is missing (python3 is $old): sudo apt-get install python3.11 python3.11-venv"
  fi
  fail 'Python 3.11 or newer is missing: sudo apt-get install python3 python3-venv'
}

# A broken or incomplete environment is created again. One with an older Python is an error, as its owner may need it.
if [[ -e $unfinished ]]; then
  say 'an earlier installation was interrupted: starting anew'
fi
if [[ -e $unfinished ]] || ! "$python" -c 'import pip' 2>/dev/null; then
  find_python
  say "creating $venv with $base"
  "$base" -m venv --clear "$venv" || fail "$base could not create $venv: its output is above"
elif ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
  fail "$venv holds $("$python" --version), and Python 3.11 or newer is needed: remove that folder and call this again"
fi

# The fingerprint changes with the versions that are installed, and with the folder of the repository.
fingerprint=$(cd "$root" && "$python" - "$root" setup.cfg launch/constraints.txt <<'CODE'
import hashlib, pathlib, sys
digest = hashlib.sha256(sys.version.encode() + sys.argv[1].encode())
for name in sys.argv[2:]:
    digest.update(pathlib.Path(name).read_bytes())
print(digest.hexdigest())
CODE
)

# Installed extras stay, since all versions were resolved together.
installed=()
before=
if [[ -e $stamp ]]; then
  { read -r before; read -r -a installed || true; } <"$stamp"
fi
all=()
for extra in "${extras[@]}"; do
  if has "$extra" ${requested[@]+"${requested[@]}"} ${installed[@]+"${installed[@]}"}; then
    all+=("$extra")
  fi
done
list=${all[*]-}
if [[ $before == "$fingerprint" && $list == "${installed[*]-}" ]]; then
  exit 0
fi
if has cuda12 ${all[@]+"${all[@]}"} && has cuda13 ${all[@]+"${all[@]}"}; then
  fail "cuda12 and cuda13 exclude each other; asked for: ${requested[*]-}; in $venv: ${installed[*]-}. To change, remove that folder"
fi

constraints=(-c launch/constraints.txt)
about=$("$python" -c 'import platform as p; print(".".join(p.python_version_tuple()[:2]), p.system(), p.machine())')
if [[ $about != '3.11 Linux x86_64' ]]; then
  constraints=()
  say "launch/constraints.txt holds for Python 3.11 Linux x86_64; this is Python $about: the ranges of setup.cfg alone decide"
fi
quiet=()
[[ -t 1 ]] || quiet=(--quiet)
target=".${list:+[${list// /,}]}"

say "installing elastic-ast-jax${target#.} into $venv (a minute or more, once)"
rm -f "$stamp"
trap 'exit 130' INT TERM  # keeps $unfinished
: >"$unfinished"
cd "$root"
if ! "$python" -m pip install --disable-pip-version-check ${quiet[@]+"${quiet[@]}"} \
    ${constraints[@]+"${constraints[@]}"} --editable "$target"; then
  rm -f "$unfinished"  # pip stopped by itself and cleaned up
  case $about in
    3.11\ * | 3.12\ * | 3.13\ *) fail "pip could not install elastic-ast-jax${target#.}: its reason is above" ;;
    *) fail "pip could not install elastic-ast-jax${target#.}: its reason is above (TensorFlow 2.21 supports Python 3.11 to 3.13)" ;;
  esac
fi
printf '%s\n%s\n' "$fingerprint" "$list" >"$unfinished"
mv "$unfinished" "$stamp"
