#!/usr/bin/env bash
# From a fresh checkout to a trained, evaluated classifier; bash launch/quickstart.sh --help tells how.
set -euo pipefail

root=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)

usage() {
  cat <<'TEXT'
usage: bash launch/quickstart.sh [WORKDIR]

Sets up .venv in the repository root (once), trains a small model on synthesised sounds, evaluates it, predicts three clips of
very different lengths, and draws two curves: how many clips are right if only their beginning is heard, and at coarser
resolutions in time. Nothing is downloaded but packages, and a CPU is enough. Called again, it uses what is there.

  WORKDIR  where everything is kept (default: runs/quickstart in the repository root)
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
unset PYTHONHOME PYTHONPATH  # an active environment's packages must not be found before those of .venv
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
# The manifest is written last, so it stands for complete clips.
if [[ ! -e $workdir/clips/manifest.jsonl ]]; then
  step 'Synthesise three clips: short, median, long' \
    "$elastic_ast" synthesize "$workdir/clips" --config=configs/quickstart.py --clips=3
fi
step 'Predict them' "$elastic_ast" predict "$workdir" "$workdir/clips"
# From a sixth of a second, the first patch, to ten seconds, the longest clip.
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
