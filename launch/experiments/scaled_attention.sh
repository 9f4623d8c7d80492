#!/usr/bin/env bash
# Accuracy with attention logits divided by the square root of the head width, and without, as in the published code.
. "$(dirname -- "${BASH_SOURCE[0]}")/experiment.bash"
experiment --model=elastic_ast --vary=model.scaled=True,False --over=model.scaled "$@"
