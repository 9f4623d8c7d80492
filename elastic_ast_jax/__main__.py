"""`python -m elastic_ast_jax`: the command `elastic-ast`."""

import sys

from elastic_ast_jax.cli.main import main

if __name__ == '__main__':
    sys.exit(main())
