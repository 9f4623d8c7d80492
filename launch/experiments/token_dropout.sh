#!/usr/bin/env bash
# Accuracy and time of training against the share of tokens that training leaves out (paper: 0.1). Rows stay as they are, so with
# more left out a step has more clips, and an epoch fewer steps.
. "$(dirname -- "${BASH_SOURCE[0]}")/experiment.bash"
experiment --model=elastic_ast --vary=augment.token_dropout=0,0.1,0.3,0.5 --over=augment.token_dropout "$@"
