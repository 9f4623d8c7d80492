"""`elastic-ast configure`: write a config for a folder or a list of recordings."""

import argparse
import dataclasses

from elastic_ast_jax.cli.commands import add_data
from elastic_ast_jax.cli.types import local_path, minutes


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """The recordings, and the file to write."""

    data: str
    out: str
    eval: str | None = None
    group: str = ''
    skip_bad_audio: bool = False
    minutes: float = 10.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_data(parser)
    parser.add_argument(
        '--out', required=True, type=local_path, metavar='FILE', help='the config file to write'
    )
    parser.add_argument(
        '--minutes',
        type=minutes,
        metavar='MINUTES',
        help='about how long the training takes at most on two processor cores; it has at least 500'
        ' steps and 10 epochs (default 10)',
    )


def run(options: Options) -> None:
    """Write the config; see `write.run`."""
    from elastic_ast_jax.configure import write

    write.run(
        options.data,
        options.out,
        options.eval,
        group=options.group,
        skip=options.skip_bad_audio,
        minutes=options.minutes,
    )
