#!/usr/bin/env bash
# Accuracy against the frame shift: ElasticAST trained at many beside ASTs trained at one each (paper, AudioSet and VGGSound);
# where the recipe has such a variant, also an AST that was trained at many.
. "$(dirname -- "${BASH_SOURCE[0]}")/experiment.bash"
experiment --model='resolutions|elastic_ast' --model='ast,shift=*' --beside='ast_resolutions?' --sweep=resolution --fixed_length=resized "$@"
