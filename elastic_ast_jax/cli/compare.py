"""`elastic-ast compare`: compare runs in a table, or models over a sweep."""

import argparse
import dataclasses
from collections.abc import Sequence
from typing import Literal

from elastic_ast_jax.cli.commands import describe
from elastic_ast_jax.cli.types import named_workdirs, path


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """The runs, by the models that they belong to, and the form of the comparison."""

    runs: Sequence[tuple[str, tuple[str, ...]]]
    out: str | None = None
    sweep: Literal['length', 'resolution'] | None = None
    fixed_length: Literal['own', 'resized'] = 'own'
    published: str | None = None
    beside: Sequence[tuple[str, tuple[str, ...]]] = ()
    over: str | None = None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    describe(
        parser,
        'The table shows what differs in the configs, and how training went. Before --sweep, run'
        ' elastic-ast evaluate --sweep in each workdir, with the same --points.',
    )
    parser.add_argument(
        'runs',
        nargs='+',
        type=named_workdirs,
        metavar='WORKDIR|NAME=W[,W...]',
        help='a workdir, or a model and the workdirs of its runs; with --sweep, workdirs that'
        ' differ only in the seed are one model',
    )
    parser.add_argument(
        '--out',
        type=path,
        metavar='FOLDER',
        help='folder of the files (default: the table is only printed)',
    )
    parser.add_argument('--sweep', choices=('length', 'resolution'), help='compare over this sweep')
    parser.add_argument(
        '--fixed_length', choices=('own', 'resized'), help='how ASTs were evaluated'
    )
    parser.add_argument(
        '--published',
        metavar='DATASET',
        help="draw the paper's curves too: voxceleb or epic_sounds over the length, audioset or"
        ' vggsound over the resolution',
    )
    parser.add_argument(
        '--beside',
        action='append',
        type=named_workdirs,
        metavar='NAME=W[,W...]',
        help='show this model too, such as the result of elastic-ast baseline, but measure the drop'
        ' of no model by it; may be repeated',
    )
    parser.add_argument(
        '--over',
        metavar='KEY',
        help='compare the last evaluation of training over this key of the config',
    )


def run(options: Options) -> None:
    """Print the comparison, and write it; see `compare_sweeps.run`."""
    from elastic_ast_jax.evaluation import compare_sweeps

    compare_sweeps.run(
        options.runs,
        out=options.out,
        kind=options.sweep,
        resized=options.fixed_length == 'resized',
        published_of=options.published,
        over=options.over,
        beside=options.beside,
    )
