"""`elastic-ast configure`: write a config for a folder or a list of recordings."""

import argparse
import dataclasses

from elastic_ast_jax.cli.types import local_path


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """The recordings, and the file to write."""

    data: str
    out: str
    eval: str | None = None
    group: str = ''
    skip_bad_audio: bool = False


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        'data',
        type=local_path,
        metavar='DATA',
        help='a folder with a folder of recordings for each class, or a manifest',
    )
    parser.add_argument(
        '--out', required=True, type=local_path, metavar='FILE', help='the config file to write'
    )
    parser.add_argument(
        '--eval',
        type=local_path,
        metavar='DATA',
        help='the same for evaluation (default: a fifth of DATA is held out, or what its column'
        ' split says)',
    )
    parser.add_argument(
        '--group',
        metavar='GROUP',
        help='which recordings belong together, column:NAME or pattern:REGEX; see data.group',
    )
    parser.add_argument(
        '--skip_bad_audio', action='store_true', help='skip recordings that cannot be used'
    )


def run(options: Options) -> None:
    """Write the config; see `write.run`."""
    from elastic_ast_jax.configure import write

    write.run(
        options.data, options.out, options.eval, group=options.group, skip=options.skip_bad_audio
    )
