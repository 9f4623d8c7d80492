"""`elastic-ast probe`: fit classifiers to the embeddings of a frozen encoder."""

import argparse
import dataclasses

from elastic_ast_jax.cli.commands import UsageError, add_data, describe
from elastic_ast_jax.cli.types import path, positive_int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """The encoder, the recordings, and the workdir to write."""

    weights: str
    data: str
    out: str | None = None
    eval: str | None = None
    folds: int = 5
    group: str = ''
    skip_bad_audio: bool = False

    def __post_init__(self) -> None:
        """Check the number of folds, and the rule of groups."""
        from elastic_ast_jax.config.divisions import parse_group

        if self.folds < 2:
            raise UsageError(f'--folds={self.folds}: a cross-validation has at least 2 folds')
        try:
            parse_group(self.group)
        except ValueError as error:
            raise UsageError(f'--group={self.group}: {error}') from error


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    describe(parser, 'Nothing is trained but classifiers, which takes seconds.')
    parser.add_argument(
        'weights',
        type=path,
        metavar='WEIGHTS',
        help='a workdir, or an encoder that elastic-ast pretrain wrote',
    )
    add_data(parser)
    parser.add_argument(
        '--out',
        type=path,
        metavar='WORKDIR',
        help='write the best logistic regression as a model, for predict and other commands',
    )
    parser.add_argument(
        '--folds',
        type=positive_int,
        metavar='K',
        help='folds of the cross-validation of the training clips (default: 5)',
    )


def run(options: Options) -> None:
    """Fit and evaluate the classifiers; see `probe.run`."""
    from elastic_ast_jax.probing import probe

    probe.run(
        options.weights,
        options.data,
        options.out,
        options.eval,
        folds=options.folds,
        group=options.group,
        skip=options.skip_bad_audio,
    )
