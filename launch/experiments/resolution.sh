#!/usr/bin/env bash
# Accuracy against the frame shift: ElasticAST trained at many beside ASTs trained at one each (paper, AudioSet and VGGSound).
. "$(dirname -- "${BASH_SOURCE[0]}")/experiment.bash"
experiment --model='resolutions|elastic_ast' --model='ast,shift=*' --sweep=resolution --fixed_length=resized "$@"
