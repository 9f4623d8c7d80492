#!/usr/bin/env bash
# Installs the project into .venv in the repository root; bash launch/install.sh --help tells how.
set -euo pipefail

root=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
venv=$root/.venv
python=$venv/bin/python
stamp=$venv/elastic-ast-jax.installed     # fingerprint, then the extras that are installed
unfinished=$venv/elastic-ast-jax.unfinished  # there while pip works: whoever finds it knows that pip was killed

usage() {
  cat <<'TEXT'
usage: bash launch/install.sh [EXTRA ...]

Installs elastic-ast-jax and the named extras into .venv in the repository root, which is made with Python 3.11 or
newer if it is not there. Calling it again costs nothing while setup.cfg and launch/constraints.txt stay as they are.

extras: train    what training and evaluation of data sets need: TensorFlow and TensorFlow Datasets
        test     pytest and its companions; holds train, gcs and prepare
        gcs      what workdirs in buckets need: gs://BUCKET/FOLDER
        prepare  Apache Beam, which elastic-ast prepare asks for; holds train
        dataflow what Apache Beam's runner on Google Cloud asks for; holds prepare
        tpu      JAX for TPUs
        compile  the TPUs' compiler, which elastic-ast compile asks for
        cuda12   JAX for NVIDIA GPUs with CUDA 12; not together with cuda13
        cuda13   JAX for NVIDIA GPUs with CUDA 13
        hear     PyTorch, which the tools of the HEAR benchmark ask for
        convert  PyTorch, which reads weights in .pth files, and transformers
        docs     mkdocs, which builds the site of docs/, what runs its notebook, and what builds the wheel
TEXT
}

say() { printf 'install.sh: %s\n' "$*"; }
fail() {
  say "$@" >&2
  exit 1
}

has() {  # has WORD LIST...: is the word in the list?
  local word=$1 other
  shift
  for other in "$@"; do
    [[ $other == "$word" ]] && return 0
  done
  return 1
}

known=(train test gcs prepare dataflow tpu compile cuda12 cuda13 hear convert docs)
wanted=()
for argument in "$@"; do
  if [[ $argument == -h || $argument == --help ]]; then
    usage
    exit 0
  fi
  for extra in ${argument//,/ }; do
    has "$extra" "${known[@]}" || fail "there is no extra '$extra': choose from ${known[*]}"
    wanted+=("$extra")
    [[ $extra == test ]] && wanted+=(train gcs prepare)
    [[ $extra == dataflow ]] && wanted+=(prepare train)
    [[ $extra == prepare ]] && wanted+=(train)
  done
done

# What an active environment or the user's settings say must not reach this one.
unset PYTHONHOME PYTHONPATH VIRTUAL_ENV PIP_PREFIX PIP_TARGET PIP_USER

# Two calls at once: the second waits. Not every system has flock or can lock a folder; there a single call works as well.
exec 9<"$root"
flock 9 2>/dev/null || true

find_python() {  # sets $base: the first Python that is new enough and can make environments
  local name version old='' bare=''
  base=
  for name in python3.11 python3.12 python3.13 python3; do
    # Run, not only looked up: a version manager's shim may stand for a Python that is not installed.
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
    fail "Python $bare is here, but its modules venv and ensurepip are missing: sudo apt-get install python$bare-venv"
  fi
  if [[ -n $old ]]; then
    fail "Python 3.11 or newer is missing (python3 is $old): sudo apt-get install python3.11 python3.11-venv"
  fi
  fail 'Python 3.11 or newer is missing: sudo apt-get install python3 python3-venv'
}

# The environment, whole. A broken or half-made one is made anew; one of another kind is left for its owner to decide on.
if [[ -e $unfinished ]]; then
  say 'an earlier installation was interrupted: starting anew'
fi
if [[ -e $unfinished ]] || ! "$python" -c 'import pip' 2>/dev/null; then
  find_python
  say "making $venv with $base"
  "$base" -m venv --clear "$venv" || fail "$base could not make $venv: its output is above"
elif ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
  fail "$venv holds $("$python" --version), and Python 3.11 or newer is needed: remove that folder and call this again"
fi

# What decides which versions are installed, and where they look for the package (the repository may have been moved).
fingerprint=$(cd "$root" && "$python" - "$root" setup.cfg launch/constraints.txt <<'CODE'
import hashlib, pathlib, sys
digest = hashlib.sha256(sys.version.encode() + sys.argv[1].encode())
for name in sys.argv[2:]:
    digest.update(pathlib.Path(name).read_bytes())
print(digest.hexdigest())
CODE
)

# Extras that were installed stay: the others' versions were chosen together with theirs.
installed=()
before=
if [[ -e $stamp ]]; then
  { read -r before; read -r -a installed || true; } <"$stamp"
fi
all=()
for extra in "${known[@]}"; do
  if has "$extra" ${wanted[@]+"${wanted[@]}"} ${installed[@]+"${installed[@]}"}; then
    all+=("$extra")
  fi
done
list=${all[*]-}
if [[ $before == "$fingerprint" && $list == "${installed[*]-}" ]]; then
  exit 0
fi
if has cuda12 ${all[@]+"${all[@]}"} && has cuda13 ${all[@]+"${all[@]}"}; then
  fail "cuda12 and cuda13 exclude each other; asked for: ${wanted[*]-}; in $venv: ${installed[*]-}. To change, remove that folder"
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
trap 'exit 130' INT TERM  # leaves the mark
: >"$unfinished"
cd "$root"
if ! "$python" -m pip install --disable-pip-version-check ${quiet[@]+"${quiet[@]}"} \
    ${constraints[@]+"${constraints[@]}"} --editable "$target"; then
  rm -f "$unfinished"  # pip stopped by itself and cleaned up
  case $about in
    3.11\ * | 3.12\ * | 3.13\ *) fail "pip could not install elastic-ast-jax${target#.}: its reason is above" ;;
    *) fail "pip could not install elastic-ast-jax${target#.}: its reason is above (TensorFlow 2.21 is there for Python 3.11 to 3.13)" ;;
  esac
fi
printf '%s\n%s\n' "$fingerprint" "$list" >"$unfinished"
mv "$unfinished" "$stamp"
