"""`elastic-ast train`: train a model, or resume its training."""

import argparse
import dataclasses

from elastic_ast_jax.cli.commands import ConfigOptions, add_config, load_config


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(ConfigOptions):
    """What is trained, and where the run is stored."""

    workdir: str
    extend: bool = False


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_config(parser)
    parser.add_argument(
        '--workdir',
        required=True,
        help='folder of the run; an unfinished run in it is resumed',
    )
    parser.add_argument(
        '--extend',
        action='store_true',
        help='continue a finished run to the larger train.epochs of the config',
    )


def run(options: Options) -> None:
    """Train to the last epoch; see `train.run`."""
    config = load_config(options)
    from elastic_ast_jax import train
    from elastic_ast_jax.distributed import processes

    processes.initialize()
    train.run(config, options.workdir, extend=options.extend)
