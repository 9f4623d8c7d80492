# shellcheck shell=bash
# One of the paper's experiments on a recipe's data; read by the scripts in this folder, each of which says which models it has.
set -euo pipefail

root=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." && pwd -P)
script=$(basename -- "$0")

usage() {
  printf 'usage: bash launch/experiments/%s CONFIG [OPTIONS] [--config.key=value ...]\n\n' "$script"
  sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"
  cat <<'TEXT'

Trains and evaluates what is missing, seed by seed, and draws: tables, plots and JSON. Stopped and started again it goes on;
finished it only draws. Runs are shared with the other experiments in the same folder.

  CONFIG         a recipe: configs/voxceleb.py, epic_sounds.py, audioset.py, vggsound.py, fsdd_speakers.py, amazon_queen.py, or
                 one of yours with VARIANTS and SWEEPS as these have. The paper's curves are drawn where it has some
  --out=FOLDER   where everything is kept (default: runs/experiments/NAME_OF_CONFIG)
  --seeds=0,1,2  of the runs
  --jobs=K       run K at a time, each on its share of the processors (default 1)

What stands behind --config. is for every run: where the data are (--config.data.root=FOLDER, --config.data.tfds_dir=FOLDER), and
for the paper's recipes what it starts from (--config.init.from=WEIGHTS), without which they begin with random numbers.
TEXT
}

experiment() { # experiment OPTION...: of elastic_ast_jax.experiments.experiment; the words of the user come last
  local word
  for word; do
    case $word in
      -h | --help)
        usage
        exit 0
        ;;
    esac
  done
  bash "$root/launch/install.sh" train
  unset PYTHONHOME PYTHONPATH # an active environment's packages must not be found before those of .venv
  exec "$root/.venv/bin/python" -m elastic_ast_jax.experiments.experiment --name="${script%.sh}" "$@"
}
