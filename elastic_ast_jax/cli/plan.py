"""`elastic-ast plan`: show how the data fill their batches, and what training costs."""

import argparse
import dataclasses
from typing import Literal

from elastic_ast_jax.cli.commands import (
    ConfigOptions,
    UsageError,
    add_config,
    describe,
    load_config,
)
from elastic_ast_jax.cli.types import positive_share


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(ConfigOptions):
    """The run, the lengths of its clips, and the chips that it is planned for."""

    lengths: Literal['data', 'recipe'] | None = None
    topology: str | None = None
    utilization: float | None = None

    def __post_init__(self):
        if self.utilization and not self.topology:
            raise UsageError('--utilization is of chips: name them with --topology')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    describe(parser, "Without the data, the lengths are drawn from the recipe's histogram.")
    add_config(parser)
    parser.add_argument(
        '--lengths',
        choices=('data', 'recipe'),
        help="lengths of the clips: the data's, or drawn from the histogram in the recipe (default:"
        " the data's if they can be opened)",
    )
    parser.add_argument(
        '--topology',
        help='estimate the time of training on these chips, such as v5e:2x4, v6e:16x16, v4:2x2x1 or'
        ' v5p:4x4x4',
    )
    parser.add_argument(
        '--utilization',
        type=positive_share,
        metavar='SHARE',
        help="share of the chips' peak that the model's FLOPs reach (default 0.4)",
    )


def run(options: Options) -> None:
    """Print the plan of both splits; see `plan_report.run`."""
    config = load_config(options, complete=False)
    from elastic_ast_jax.perf import plan_report

    plan_report.run(
        config,
        recipe=options.config,
        lengths=options.lengths,
        topology=options.topology,
        utilization=options.utilization or plan_report.UTILIZATION,
    )
