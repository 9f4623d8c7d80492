#!/usr/bin/env bash
# Sets up .venv and runs the tests; bash launch/test.sh --help tells how.
set -euo pipefail

root=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)

case ${1-} in
  -h | --help)
    cat <<'TEXT'
usage: bash launch/test.sh [--slow] [pytest arguments]

Installs what the tests need into .venv in the repository root (once) and runs them from there.

  --slow   the tests that take long, and only these

examples: bash launch/test.sh -x -k packing
          bash launch/test.sh tests/packing/test_packer.py     paths count from the repository root
          bash launch/test.sh -n 2 --dist loadfile      two processes, each with the tests of whole files
          bash launch/test.sh -m ''                     everything, slow or not
TEXT
    exit 0
    ;;
  --slow)
    shift
    set -- -m slow "$@"
    ;;
esac

bash "$root/launch/install.sh" test
unset PYTHONHOME PYTHONPATH  # an active environment's packages must not be found before those of .venv
cd "$root"
exec .venv/bin/python -m pytest "$@"
