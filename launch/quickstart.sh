#!/usr/bin/env bash
# Train and evaluate a classifier in a fresh clone; see bash launch/quickstart.sh --help.
set -euo pipefail

root=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)

usage() {
  cat <<'TEXT'
usage: bash launch/quickstart.sh [WORKDIR]

Sets up .venv in the repository root (once), trains a small model on synthesized sounds, evaluates it, predicts three clips of
very different lengths, and draws two curves: accuracy on the first frames of each clip, and at coarser resolutions in time. It
downloads packages only, and a CPU is enough. A second call does not train again.

  WORKDIR  folder of all results (default: runs/quickstart in the repository root)
TEXT
}

workdir=$root/runs/quickstart
case ${1-} in
  -h | --help)
    usage
    exit 0
    ;;
  -*)
    printf "quickstart.sh: there is no option '%s'\n" "$1" >&2
    usage >&2
    exit 2
    ;;
  '') ;;
  /*) workdir=$1 ;;
  *) workdir=$PWD/$1 ;;
esac
if (($# > 1)); then
  printf 'quickstart.sh: one WORKDIR, not %d\n' "$#" >&2
  usage >&2
  exit 2
fi

bash "$root/launch/install.sh" train
unset PYTHONHOME PYTHONPATH  # packages of an active environment must not shadow those of .venv
cd "$root"
elastic_ast=.venv/bin/elastic-ast

step() {
  printf '\n== %s\n' "$1"
  shift
  printf '$ %s\n' "$*"
  "$@"
}

step 'Train' "$elastic_ast" train --config=configs/quickstart.py --workdir="$workdir"
step 'Evaluate' "$elastic_ast" evaluate --workdir="$workdir"
# The manifest is written last. If it exists, the clips are complete.
if [[ ! -e $workdir/clips/manifest.jsonl ]]; then
  step 'Synthesize three clips: short, median, long' \
    "$elastic_ast" synthesize "$workdir/clips" --config=configs/quickstart.py --clips=3
fi
step 'Predict them' "$elastic_ast" predict "$workdir" "$workdir/clips"
# From the first patch (a sixth of a second) to the longest clip (ten seconds).
step 'Evaluate the first frames of each clip' "$elastic_ast" evaluate --workdir="$workdir" --sweep=length \
  --points=16,32,48,64,96,128,192,256,384,512,768,1008
step 'Evaluate at other frame shifts' "$elastic_ast" evaluate --workdir="$workdir" --sweep=resolution

cat <<TEXT

== Done
Model, metrics and settings: $workdir
Evaluation:                  $workdir/eval
Accuracy against length:     $workdir/eval/length.png
Accuracy against resolution: $workdir/eval/resolution.png
Clips:                       $workdir/clips

To classify recordings of your own (any format, sample rate and length; beyond 10 s in windows), with this model's labels:
  $root/$elastic_ast predict $workdir RECORDING_OR_FOLDER ...
To train on recordings of your own, with labels of your own, see configs/manifest.py:
  $root/$elastic_ast train --config=configs/manifest.py --config.data.train=TRAIN.jsonl --config.data.eval=TEST.jsonl --workdir=runs/mine
TEXT
