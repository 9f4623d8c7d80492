#!/usr/bin/env bash
# Accuracy and time of training against the tokens of a row, with as many tokens a step: many short rows or few long ones (paper:
# rows of up to 2048 tokens).
. "$(dirname -- "${BASH_SOURCE[0]}")/experiment.bash"
experiment --model=elastic_ast --row_budget=1,2,3,4,8 --over=packing.tokens "$@"
