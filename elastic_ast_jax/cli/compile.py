"""`elastic-ast compile`: compile the steps for absent TPUs, and show what they need."""

import argparse
import dataclasses

from elastic_ast_jax.cli.commands import ConfigOptions, add_config, load_config
from elastic_ast_jax.cli.types import positive_int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(ConfigOptions):
    """The run, and the chips that its steps are compiled for."""

    topology: str
    search: bool = False
    check: bool = False
    lengths: str | None = None
    classes: int | None = None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_config(parser)
    parser.add_argument(
        '--topology', required=True, help='chips, such as v5e:2x4, v6e:16x16, v4:2x2x1 or v5p:4x4x4'
    )
    parser.add_argument(
        '--search',
        action='store_true',
        help='find the largest number of rows that fit, with and without remat',
    )
    parser.add_argument('--check', action='store_true', help='exit with 1 if a step does not fit')
    parser.add_argument(
        '--lengths',
        metavar='MIX',
        help='lengths of the clips, for FLOPs: audioset, voxceleb, epic, a recipe FILE.py with'
        ' lengths(), or a file with the seconds of a clip on each line (default: the lengths of the'
        " config's data)",
    )
    parser.add_argument(
        '--classes',
        type=positive_int,
        help="number of classes (default: that of the config's data, or 527)",
    )


def run(options: Options) -> int:
    """Print what the steps need; return 1 if one does not fit and `--check` is set."""
    from elastic_ast_jax.perf import topologies

    topologies.prepare()  # before JAX is imported
    config = load_config(options, complete=False)
    from elastic_ast_jax.perf import aot

    return aot.run(
        config,
        options.topology,
        lengths=options.lengths,
        classes=options.classes,
        search=options.search,
        check=options.check,
    )
