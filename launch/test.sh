#!/usr/bin/env bash
# Set up .venv and run the tests; see bash launch/test.sh --help.
set -euo pipefail

root=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)

fast=(
  tests/test_imports.py tests/test_stored_hashes.py tests/audio tests/packing tests/utils tests/config/test_stored.py
  tests/data/test_epoch_plan.py tests/data/test_sampling.py tests/data/sources/test_manifest.py
  tests/data/sources/test_folders.py tests/models/attention/test_conformance.py tests/models/test_pooling.py
  tests/training/test_losses.py tests/training/test_metrics_file.py tests/training/test_freezing.py
  tests/checkpointing/test_workdir.py tests/distributed/test_partitioning.py tests/distributed/test_processes.py
  tests/pretrained/test_detect.py
)

# Check every annotated shape and type of the package while the tests run. Tracing takes a third more time.
shapes=--jaxtyping-packages=elastic_ast_jax,beartype.beartype

slow=
case ${1-} in
  -h | --help)
    cat <<'TEXT'
usage: bash launch/test.sh [--fast | --slow] [pytest arguments]

Installs the packages of the tests into .venv in the repository root (once), and runs the tests.

  --fast   in a minute: arithmetic, packing, attention, readers, stored files and imports; no run is trained
  --slow   the tests that take long, and only these

examples: bash launch/test.sh -x -k packing
          bash launch/test.sh tests/packing/test_packer.py     paths count from the repository root
          bash launch/test.sh -n 2 --dist loadfile      two processes, each with the tests of whole files
          bash launch/test.sh -m ''                     everything, slow or not
TEXT
    exit 0
    ;;
  --fast)
    shift
    set -- "$shapes" -n 2 "${fast[@]}" "$@"
    ;;
  --slow)
    shift
    slow=1
    ;;
esac

bash "$root/launch/install.sh" test
unset PYTHONHOME PYTHONPATH  # packages of an active environment must not shadow those of .venv
cd "$root"
if [[ -z $slow ]]; then
  exec .venv/bin/python -m pytest "$@"
fi

# Tests that measure time, or train for minutes, run one at a time, in programs that are optimized. 5: there are none.
status=0 alone=0
.venv/bin/python -m pytest "$shapes" -m 'slow and not alone' -n 2 --dist loadfile "$@" || status=$?
XLA_FLAGS='' .venv/bin/python -m pytest -m 'slow and alone' "$@" || alone=$?
[[ $status != 5 ]] || exit "$alone"
[[ $status == 0 && $alone != 5 ]] || exit "$status"
exit "$alone"
