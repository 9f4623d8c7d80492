"""`elastic-ast convert ast_hf`: convert a fixed-length AST of transformers to a workdir."""

import argparse
import dataclasses
from typing import Literal

from elastic_ast_jax.cli.types import local_path, path


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """The directory, the workdir, and the loss if the directory does not name it."""

    source: str
    out: str
    loss: Literal['bce', 'cross_entropy'] | None = None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        'source',
        type=local_path,
        metavar='DIR',
        help='directory with config.json, preprocessor_config.json and weights',
    )
    parser.add_argument('out', type=path, metavar='OUT', help='the workdir, a new folder')
    parser.add_argument(
        '--loss',
        choices=('bce', 'cross_entropy'),
        help='loss that it was trained with (default: the one that the directory names)',
    )


def run(options: Options) -> None:
    """Write the workdir, and print the place of every tensor."""
    from elastic_ast_jax.pretrained import convert_ast_hf

    convert_ast_hf.run(options.source, options.out, loss=options.loss)
