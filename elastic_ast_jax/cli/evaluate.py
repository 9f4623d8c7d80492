"""`elastic-ast evaluate`: evaluate a trained model on its evaluation split."""

import argparse
import dataclasses
from typing import Literal

from elastic_ast_jax.cli.commands import add_checkpoint, describe
from elastic_ast_jax.cli.types import comma_separated_numbers


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """The workdir, and the sweep if there is one."""

    workdir: str
    sweep: Literal['length', 'resolution', 'budget'] | None = None
    points: tuple[float, ...] | None = None
    shifts: tuple[float, ...] | None = None
    fixed_length: Literal['own', 'resized'] = 'own'
    curves: bool = False
    predictions: bool = False
    checkpoint: str = 'latest'
    overrides: tuple[str, ...] = ()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    describe(parser, 'If the data moved since training: --config.data.eval=FILE and the like.')
    parser.add_argument('--workdir', required=True, help='workdir of a training run')
    parser.add_argument(
        '--sweep',
        choices=('length', 'resolution', 'budget'),
        help='draw a curve: accuracy against the longest length that is used of a clip, in frames;'
        ' against the ratio of the frame shift; or against the tokens that a clip may cost, whose'
        ' best settings predict --budget_tokens uses',
    )
    parser.add_argument(
        '--points',
        type=comma_separated_numbers,
        metavar='N,N,...',
        help="points of the sweep (default: the paper's, as far as the model goes)",
    )
    parser.add_argument(
        '--shifts',
        type=comma_separated_numbers,
        metavar='MS,MS,...',
        help='points of --sweep=resolution, as frame shifts in milliseconds',
    )
    parser.add_argument(
        '--fixed_length',
        choices=('own', 'resized'),
        help='in a sweep, an AST pads or crops clips to its own length (default), or to the length'
        ' of each point, with its positions resized as in the paper',
    )
    parser.add_argument(
        '--curves',
        action='store_true',
        help='write eval/curves.csv too: precision, recall and false positive rate of each class at'
        ' every threshold (at most 1,000)',
    )
    parser.add_argument(
        '--predictions',
        action='store_true',
        help='write eval/predictions.csv too: labels and the probability of each class of every'
        ' clip',
    )
    add_checkpoint(parser)


def run(options: Options) -> None:
    """Print the metrics, and write them into the workdir; see `evaluate.run`."""
    from elastic_ast_jax.distributed import processes
    from elastic_ast_jax.evaluation import evaluate

    processes.initialize()
    evaluate.run(
        options.workdir,
        checkpoint=options.checkpoint,
        kind=options.sweep,
        points=options.points,
        overrides=options.overrides,
        shifts=options.shifts,
        resized=options.fixed_length == 'resized',
        curves=options.curves,
        predictions=options.predictions,
    )
