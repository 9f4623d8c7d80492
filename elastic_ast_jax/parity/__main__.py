"""`python -m elastic_ast_jax.parity`: the command `elastic-ast parity`."""

import sys

if __name__ == '__main__':
    from elastic_ast_jax.cli import main

    sys.exit(main(['parity', *sys.argv[1:]]))
