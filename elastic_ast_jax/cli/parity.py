"""`elastic-ast parity`: compare with PyTorch, or clips alone with the same clips in batches."""

import argparse
import dataclasses
from collections.abc import Sequence

from elastic_ast_jax.cli.commands import UsageError, add_checkpoint, add_inputs, describe
from elastic_ast_jax.cli.types import non_negative_int, path


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """The workdir and the recordings; neither, for the comparison with PyTorch."""

    workdir: str | None = None
    inputs: Sequence[str] = ()
    json: bool = False
    seed: int = 0
    checkpoint: str = 'latest'

    def __post_init__(self):
        if self.workdir is not None and not self.inputs:
            raise UsageError(
                f'recordings are missing: which clips should {self.workdir} be tried with?'
            )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    describe(
        parser,
        'Without arguments: features, logits, gradients and optimizer steps beside the values that'
        ' PyTorch computed. With a workdir and recordings: whether the result of each recording'
        ' depends on that recording alone.',
    )
    parser.add_argument(
        'workdir', nargs='?', type=path, help='workdir of a training run or a conversion'
    )
    add_inputs(parser, nargs='*')
    parser.add_argument('--json', action='store_true', help='print JSON')
    parser.add_argument(
        '--seed', type=non_negative_int, help='seed of the random other clips (default 0)'
    )
    add_checkpoint(parser)


def run(options: Options) -> int:
    """Print the report; return 1 if a comparison fails."""
    if options.workdir is None:
        from elastic_ast_jax.parity import report

        return report.run(as_json=options.json)
    from elastic_ast_jax.parity import packing_invariance

    return packing_invariance.run(
        options.workdir,
        options.inputs,
        checkpoint=options.checkpoint,
        seed=options.seed,
        as_json=options.json,
    )
