#!/usr/bin/env bash
# Accuracy against the length that is heard of each clip: ElasticAST beside ASTs of fixed lengths (paper, VoxCeleb and
# EPIC-SOUNDS); where the recipe has such a variant, also ElasticAST trained on beginnings of clips, of random length. ASTs are
# evaluated in two ways: padding or cutting clips to their own length; and as in the paper, to the length of each point, with
# their positions resized.
. "$(dirname -- "${BASH_SOURCE[0]}")/experiment.bash"
experiment --model=elastic_ast --model='prefixes?' --model='ast,frames=*' --sweep=length --fixed_length=own --fixed_length=resized "$@"
