"""`elastic-ast experiment amazon_queen`: fetch the dialogues of a computer game."""

import argparse
import dataclasses

from elastic_ast_jax.cli.commands import describe
from elastic_ast_jax.cli.types import local_path


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """The folder, and the package of the game if it was downloaded already."""

    folder: str
    package: str | None = None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    describe(
        parser,
        'It writes FOLDER/clips/*.wav and FOLDER/manifest.jsonl: 2,265 lines of dialogue, spoken by'
        ' 20 characters of the adventure game "Flight of the Amazon Queen" (1995), and their'
        " speakers. Each character's first conversation is for testing, the later ones are for"
        ' training, so no conversation is in both splits. If the manifest exists, nothing is done.'
        " The game comes from Debian's package flight-of-the-amazon-queen (35 MB), by apt-get"
        ' download, which needs no rights, but the lists of packages (apt-get update).',
    )
    parser.epilog = (
        'License: (C) John Passfield and Steven Stamatiadis. The game may be given away, also in'
        ' parts of larger collections, with its license; it may not be sold as such, and modified'
        ' versions must say so. The license is written to FOLDER/copyright.'
    )
    parser.add_argument('folder', type=local_path, metavar='FOLDER', help='folder that is written')
    parser.add_argument(
        'package',
        nargs='?',
        type=local_path,
        metavar='PACKAGE.deb',
        help='the package, if it was downloaded in another way, from packages.debian.org',
    )


def run(options: Options) -> None:
    """Write the recordings and the manifest; see `amazon_queen.fetch`."""
    from elastic_ast_jax.experiments import amazon_queen

    amazon_queen.fetch(options.folder, options.package)
