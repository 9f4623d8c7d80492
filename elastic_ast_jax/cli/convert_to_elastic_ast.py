"""`elastic-ast convert to_elasticast_torch`: convert a workdir to weights of the published code."""

import argparse
import dataclasses

from elastic_ast_jax.cli.commands import add_checkpoint
from elastic_ast_jax.cli.types import path


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """The workdir, and the file that is written."""

    workdir: str
    out: str
    checkpoint: str = 'latest'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument('workdir', help='workdir of a training run or a conversion')
    parser.add_argument(
        'out', type=path, metavar='OUT.safetensors', help='the file that is written'
    )
    add_checkpoint(parser)


def run(options: Options) -> None:
    """Write the state dict, and print the place of every tensor."""
    from elastic_ast_jax.pretrained import export_elastic_ast

    export_elastic_ast.run(options.workdir, options.out, checkpoint=options.checkpoint)
