"""`elastic-ast baseline`: evaluate logistic regression on statistics of log-mels."""

import argparse
import dataclasses
from typing import Literal

from elastic_ast_jax.cli.commands import ConfigOptions, add_config, load_config
from elastic_ast_jax.cli.types import comma_separated_numbers, path


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(ConfigOptions):
    """The data and the features of a config, and the sweep if there is one."""

    sweep: Literal['length', 'resolution'] | None = None
    points: tuple[float, ...] | None = None
    shifts: tuple[float, ...] | None = None
    features: Literal['plain', 'strong'] | None = None
    out: str | None = None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_config(parser)
    parser.add_argument(
        '--sweep', choices=('length', 'resolution'), help='see elastic-ast evaluate --help'
    )
    parser.add_argument(
        '--points', type=comma_separated_numbers, metavar='N,N,...', help='points of the sweep'
    )
    parser.add_argument(
        '--shifts',
        type=comma_separated_numbers,
        metavar='MS,MS,...',
        help='points of --sweep=resolution, as frame shifts in milliseconds',
    )
    parser.add_argument(
        '--features',
        choices=('plain', 'strong'),
        help='fit one baseline: on mean and deviation of each mel bin, or also on differences of'
        ' frames and thirds of the clip, with regularization and frontend chosen by inner folds'
        ' (default: both; plain with --sweep)',
    )
    parser.add_argument(
        '--out',
        type=path,
        metavar='FOLDER',
        help='write the result into this folder, for elastic-ast compare --beside',
    )


def run(options: Options) -> None:
    """Fit and evaluate the baselines; see `baseline.run`."""
    config = load_config(options)
    from elastic_ast_jax.evaluation import baseline

    baseline.run(
        config,
        out=options.out,
        kind=options.sweep,
        points=options.points,
        shifts=options.shifts,
        features=options.features,
    )
