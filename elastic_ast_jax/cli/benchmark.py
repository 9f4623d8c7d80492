"""`elastic-ast benchmark`: measure the training and the prediction step."""

import argparse
import dataclasses
from collections.abc import Sequence
from typing import Literal

from elastic_ast_jax.cli.commands import describe
from elastic_ast_jax.cli.types import flops, positive_int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """The batch, the model, and what is measured."""

    size: str = 'B'
    rows: int | None = None
    tokens: int = 2048
    slots: int = 32
    lengths: str = 'audioset'
    attention: Sequence[str] = ()
    dtype: Literal['auto', 'float32', 'bfloat16'] = 'auto'
    steps: int | None = None
    predict: bool = False
    peak: float | None = None
    json: bool = False
    overrides: tuple[str, ...] = ()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    describe(
        parser,
        'Batches are synthetic; no data are needed.'
        ' Any key of the config can be overridden: --config.section.key=value.',
    )
    parser.add_argument('--size', help='size of the model: Mi, Ti, S, B (default) or L')
    parser.add_argument(
        '--rows',
        type=positive_int,
        help='rows of a batch (default: 8 for each device; 1 on a CPU)',
    )
    parser.add_argument('--tokens', type=positive_int, help='tokens of a row (default 2048)')
    parser.add_argument(
        '--slots', type=positive_int, help='largest number of clips in a row (default 32)'
    )
    parser.add_argument(
        '--lengths',
        metavar='MIX',
        help='lengths of the clips: audioset (default), voxceleb, epic, a recipe FILE.py with'
        ' lengths(), or a file with the seconds of a clip on each line',
    )
    parser.add_argument(
        '--attention',
        action='append',
        metavar='NAME',
        help='an implementation, the beginning of the names of several, or auto; may be repeated'
        ' (default: all that are available)',
    )
    parser.add_argument(
        '--dtype',
        choices=('auto', 'float32', 'bfloat16'),
        help='type of the computation (default auto: bfloat16 on accelerators)',
    )
    parser.add_argument(
        '--steps',
        type=positive_int,
        help='number of timed steps, after two to warm up (default 10; 3 on a CPU)',
    )
    parser.add_argument('--predict', action='store_true', help='measure prediction only')
    parser.add_argument(
        '--peak',
        type=flops,
        metavar='FLOPS',
        help='FLOP/s of a device, such as 197e12 (default: from the table of known devices)',
    )
    parser.add_argument('--json', action='store_true', help='print JSON Lines')


def run(options: Options) -> int:
    """Print a table, or JSON Lines; return 1 if nothing could be measured."""
    from elastic_ast_jax.perf import benchmark

    return benchmark.run(
        benchmark.Options(
            size=options.size,
            rows=options.rows,
            tokens=options.tokens,
            slots=options.slots,
            lengths=options.lengths,
            attentions=tuple(options.attention),
            dtype=options.dtype,
            steps=options.steps,
            predict=options.predict,
            peak=options.peak,
            overrides=options.overrides,
        ),
        as_json=options.json,
    )
