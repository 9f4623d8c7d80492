#!/usr/bin/env bash
# Set up .venv and run the tests; see bash launch/test.sh --help.
set -euo pipefail

root=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)

case ${1-} in
  -h | --help)
    cat <<'TEXT'
usage: bash launch/test.sh [--slow] [pytest arguments]

Installs the packages of the tests into .venv in the repository root (once), and runs the tests.

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
unset PYTHONHOME PYTHONPATH  # packages of an active environment must not shadow those of .venv
cd "$root"
exec .venv/bin/python -m pytest "$@"
