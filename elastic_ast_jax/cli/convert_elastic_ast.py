"""`elastic-ast convert elasticast_torch`: convert weights of the published code to a workdir."""

import argparse
import dataclasses
from typing import Literal

from elastic_ast_jax.cli.types import local_path, path, positive_int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """The state dict, the workdir, and facts that the weights do not show."""

    source: str
    out: str
    heads: int | None = None
    pool: Literal['attention', 'mean'] = 'attention'
    recipe: Literal['audioset', 'vggsound', 'voxceleb', 'epic_sounds'] | None = None
    mean: float | None = None
    std: float | None = None
    labels: str | None = None
    loss: Literal['bce', 'cross_entropy'] | None = None
    scaled: bool = False


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        'source',
        type=local_path,
        metavar='IN',
        help='a state dict: .pth, .pt, .ckpt, .bin, .safetensors or .npz',
    )
    parser.add_argument('out', type=path, metavar='OUT', help='the workdir, a new folder')
    parser.add_argument(
        '--heads',
        type=positive_int,
        help='number of attention heads (default: heads of width 64)',
    )
    parser.add_argument(
        '--pool',
        '--pooling',
        choices=('attention', 'mean'),
        help='how tokens become one vector (default attention)',
    )
    parser.add_argument(
        '--recipe',
        choices=('audioset', 'vggsound', 'voxceleb', 'epic_sounds'),
        help='use the features, mean, deviation and loss of this data set (default: the one with'
        ' as many classes, or audioset)',
    )
    parser.add_argument('--mean', type=float, help="mean of the log-mel, instead of the recipe's")
    parser.add_argument(
        '--std', type=float, help="deviation of the log-mel, instead of the recipe's"
    )
    parser.add_argument(
        '--labels',
        type=local_path,
        metavar='FILE',
        help='names of the classes: a name on each line, or a CSV with the columns index, mid and'
        ' display_name',
    )
    parser.add_argument(
        '--loss',
        choices=('bce', 'cross_entropy'),
        help="loss that it was trained with, instead of the recipe's",
    )
    parser.add_argument(
        '--scaled',
        action='store_true',
        help='divide attention logits by sqrt(head width); the published code does not',
    )


def run(options: Options) -> None:
    """Write the workdir, and print the place of every tensor."""
    from elastic_ast_jax.pretrained import convert_elastic_ast

    convert_elastic_ast.run(
        options.source,
        options.out,
        heads=options.heads,
        pool=options.pool,
        mean=options.mean,
        std=options.std,
        labels=options.labels,
        recipe=options.recipe,
        loss=options.loss,
        scaled=options.scaled,
    )
