"""`elastic-ast convert`: convert weights of other programs to a workdir, or back."""

import argparse

from elastic_ast_jax.cli import convert_ast_hf, convert_elastic_ast, convert_to_elastic_ast
from elastic_ast_jax.cli.commands import add_command


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add a command for each direction and format."""
    commands = parser.add_subparsers(required=True, metavar='KIND')
    add_command(
        commands,
        'elasticast_torch',
        'convert a state dict of the published PyTorch ElasticAST to a workdir',
        convert_elastic_ast,
    )
    add_command(
        commands,
        'ast_hf',
        'convert a fixed-length AST that transformers wrote to a workdir',
        convert_ast_hf,
    )
    add_command(
        commands,
        'to_elasticast_torch',
        'convert the model of a workdir to a state dict that the published PyTorch code loads',
        convert_to_elastic_ast,
    )
