#!/usr/bin/env bash
# Accuracy and time of training against the tokens of a row, with as many tokens a step (paper: rows of 2048).
. "$(dirname -- "${BASH_SOURCE[0]}")/experiment.bash"
experiment --model=elastic_ast --row_budget=1,2,4,8 --over=packing.tokens "$@"
