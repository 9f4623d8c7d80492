#!/usr/bin/env bash
# Accuracy on clips at their native lengths: ElasticAST beside ASTs that pad or cut every clip to theirs (paper, claim 3).
. "$(dirname -- "${BASH_SOURCE[0]}")/experiment.bash"
experiment --model=elastic_ast --model='prefixes?' --model='ast,frames=*' --over=frontend.max_frames "$@"
