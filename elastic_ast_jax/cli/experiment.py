"""`elastic-ast experiment`: train, evaluate and draw an experiment of the paper."""

import argparse
import dataclasses
import os
from collections.abc import Sequence
from typing import Literal

from elastic_ast_jax.cli import fetch_amazon_queen, fetch_small_data, small_data
from elastic_ast_jax.cli.commands import UsageError, add_command, describe
from elastic_ast_jax.cli.types import comma_separated_ints, positive_int
from elastic_ast_jax.experiments.definitions import EXPERIMENTS, Definition


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """The experiment, the recipe and its runs; and changes of what is compared.

    Attributes:
        name: Name of the experiment.
        config: The recipe.
        overrides: `section.key=value` each, of every run.
        out: Folder of runs, tables and plots; None: `runs/experiments/NAME_OF_CONFIG`.
        seeds: Seeds of the runs.
        jobs: Number of runs at a time.
        model: Added to `Definition.models`.
        beside: Added to `Definition.beside`.
        fixed_length: Added to `Definition.fixed_length`.
        sweep: Replaces `Definition.sweep`, as do `over`, `vary` and `row_budget`.
        over: See `sweep`.
        vary: See `sweep`.
        row_budget: See `sweep`.
    """

    name: str
    config: str
    overrides: tuple[str, ...] = ()
    out: str | None = None
    seeds: tuple[int, ...] = (0, 1, 2)
    jobs: int = 1
    model: Sequence[str] = ()
    beside: Sequence[str] = ()
    fixed_length: Sequence[Literal['own', 'resized']] = ()
    sweep: Literal['length', 'resolution'] | None = None
    over: str | None = None
    vary: str | None = None
    row_budget: tuple[int, ...] | None = None

    def __post_init__(self):
        if self.out and ('://' in self.out or ',' in os.path.abspath(self.out)):
            raise UsageError(f'--out={self.out} must be a local folder without a comma in its path')
        definition = self.definition
        if bool(definition.sweep) == bool(definition.over):
            raise UsageError('give either --sweep or --over')
        if definition.beside and definition.over:
            raise UsageError('--beside is for a sweep')
        if definition.sweep and (definition.vary or definition.row_budget):
            raise UsageError('--vary and --row_budget go with --over')

    @property
    def definition(self) -> Definition:
        """The experiment with the changes of the command line."""
        base = EXPERIMENTS[self.name]
        replaced = {
            key: value
            for key in ('sweep', 'over', 'vary', 'row_budget')
            if (value := getattr(self, key)) is not None
        }
        return dataclasses.replace(
            base,
            models=(*base.models, *self.model),
            beside=(*base.beside, *self.beside),
            fixed_length=(*base.fixed_length, *self.fixed_length),
            **replaced,
        )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add a command for each experiment."""
    describe(
        parser,
        'It trains and evaluates the models that are missing, seed by seed, and draws tables and'
        ' plots. Interrupted experiments resume; finished ones are only drawn.',
    )
    commands = parser.add_subparsers(dest='name', required=True, metavar='NAME')
    for name, definition in EXPERIMENTS.items():
        _add_experiment(add_command(commands, name, definition.summary), definition)
    add_command(
        commands,
        'amazon_queen',
        'fetch the dialogues of a computer game, the data of configs/amazon_queen.py',
        fetch_amazon_queen,
    )
    add_command(
        commands,
        'fetch_small_data',
        'fetch classification tasks of a few hundred real recordings each',
        fetch_small_data,
    )
    add_command(
        commands,
        'small_data',
        'compare models and logistic regression on tasks of a few hundred recordings each',
        small_data,
    )


def _add_experiment(parser: argparse.ArgumentParser, definition: Definition) -> None:
    """Declare the arguments of an experiment."""
    parser.allow_abbrev = False
    describe(parser, definition.details)
    parser.epilog = (
        'Overrides, --config.section.key=value, hold for every run: the place of the data'
        " (--config.data.root=FOLDER, --config.data.tfds_dir=FOLDER), and for the paper's recipes"
        ' the weights that they start from (--config.init.from=WEIGHTS), without which they start'
        ' from random numbers.'
    )
    parser.add_argument(
        'config',
        metavar='CONFIG',
        help='a recipe with VARIANTS and SWEEPS: configs/voxceleb.py, epic_sounds.py, audioset.py,'
        " vggsound.py, fsdd_speakers.py, amazon_queen.py, or your own. The paper's curves are drawn"
        ' if it has some for this data set',
    )
    parser.add_argument(
        '--out',
        metavar='FOLDER',
        help='folder of runs, tables and plots, which experiments share (default:'
        ' runs/experiments/NAME_OF_CONFIG)',
    )
    parser.add_argument(
        '--seeds',
        type=comma_separated_ints(0),
        metavar='N,N,...',
        help='seeds of the runs (default 0,1,2)',
    )
    parser.add_argument(
        '--jobs',
        type=positive_int,
        metavar='K',
        help='run K at a time, each on its share of the processors (default 1)',
    )
    changes = parser.add_argument_group('changes of what is compared')
    changes.add_argument(
        '--model',
        action='append',
        metavar='VARIANT',
        help='compare this variant of the recipe too: first|second for the first that it has, word?'
        ' if it has it, and key=* for each value of a key; may be repeated',
    )
    changes.add_argument(
        '--beside',
        action='append',
        metavar='VARIANT',
        help='like --model, for a model that a sweep shows, and by which no drop is measured',
    )
    changes.add_argument(
        '--sweep', choices=('length', 'resolution'), help='evaluate each model over this sweep'
    )
    changes.add_argument(
        '--fixed_length',
        action='append',
        choices=('own', 'resized'),
        help='how the sweep treats ASTs, see elastic-ast evaluate --help; may be repeated',
    )
    changes.add_argument(
        '--over', metavar='KEY', help='draw the accuracy on whole clips over this key'
    )
    changes.add_argument(
        '--vary', metavar='KEY=VALUE,...', help='train each model with each of these values'
    )
    changes.add_argument(
        '--row_budget',
        type=comma_separated_ints(1),
        metavar='N,N,...',
        help='train each model with the tokens of a step in so many rows, if they divide',
    )


def run(options: Options) -> int:
    """Train, evaluate and draw; return 1 if something failed, or 128 and the number of a signal."""
    from elastic_ast_jax.experiments.experiment import Experiment

    return Experiment(
        options.config,
        options.definition,
        name=options.name,
        out=options.out,
        seeds=options.seeds,
        jobs=options.jobs,
        overrides=options.overrides,
    ).work()
