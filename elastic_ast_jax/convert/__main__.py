"""`python -m elastic_ast_jax.convert`: the command `elastic-ast convert`."""

import sys

if __name__ == '__main__':
    from elastic_ast_jax.cli import main

    sys.exit(main(['convert', *sys.argv[1:]]))
