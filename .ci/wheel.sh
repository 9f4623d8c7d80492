#!/usr/bin/env bash
# Builds the sdist and from it the wheel, installs the wheel alone, and tries it without the repository.
#
# usage: bash .ci/wheel.sh WORKDIR
#
# WORKDIR is that of the quick start. The wheel must predict its clips as the repository does. With the extra train it
# must train the recipe `quickstart` from an empty folder.
set -euo pipefail

root=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
workdir=$(CDPATH='' cd -- "$1" && pwd -P)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
unset PYTHONHOME PYTHONPATH

constraints=()
about=$("$root/.venv/bin/python" -c 'import platform as p; print(".".join(p.python_version_tuple()[:2]), p.system(), p.machine())')
[[ $about != '3.11 Linux x86_64' ]] || constraints=(-c "$root/launch/constraints.txt")

(cd "$root" && .venv/bin/python -m build --no-isolation --outdir "$scratch/dist" . >"$scratch/build.log") ||
  { cat "$scratch/build.log"; exit 1; }

"$root/.venv/bin/python" -m venv "$scratch/venv"
install() {
  "$scratch/venv/bin/pip" install --disable-pip-version-check --quiet ${constraints[@]+"${constraints[@]}"} "$@"
}
mkdir "$scratch/empty"
cd "$scratch/empty"

# Without extras: the answer of the repository, bit by bit, and no TensorFlow.
install "$scratch"/dist/*.whl
if "$scratch/venv/bin/python" -c 'import tensorflow' 2>/dev/null; then
  printf 'wheel.sh: the wheel installs TensorFlow\n' >&2
  exit 1
fi
"$root/.venv/bin/elastic-ast" predict "$workdir" "$workdir/clips" --json >"$scratch/repository.jsonl"
"$scratch/venv/bin/elastic-ast" predict "$workdir" "$workdir/clips" --json >"$scratch/wheel.jsonl"
[[ -s $scratch/wheel.jsonl ]]
diff "$scratch/repository.jsonl" "$scratch/wheel.jsonl"
printf 'the wheel predicts as the repository does\n'

# With train: a recipe by its name.
wheel=$(printf '%s\n' "$scratch"/dist/*.whl)
install "${wheel}[train]"
"$scratch/venv/bin/elastic-ast" train --config=quickstart --workdir=run --config.train.epochs=1 \
  --config.data.synthetic_train=64 --config.data.synthetic_eval=16
"$scratch/venv/bin/python" -m elastic_ast_jax evaluate --workdir=run
printf 'the wheel trains from an empty folder\n'
