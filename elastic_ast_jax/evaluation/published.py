"""The paper's curves, to be drawn beside one's own (`published.json`, from the authors' evaluation
notebooks).
"""

import dataclasses
import importlib.resources
import json
from collections.abc import Mapping

from elastic_ast_jax.evaluation.sweep_axes import SweepKind
from elastic_ast_jax.utils.errors import UserError

# Data sets by the sweep that the paper has of them.
DATA_SETS = {'length': ('voxceleb', 'epic_sounds'), 'resolution': ('audioset', 'vggsound')}
# Frame shift of its ratio 1.
_SHIFT_MS = 10


class PublishedError(UserError):
    """A data set that the paper has no such curves of."""


@dataclasses.dataclass(frozen=True)
class PublishedCurves:
    """The paper's curves of a data set.

    Attributes:
        metric: What they are in, a key of `sweep_axes.METRICS`; a share of 1.
        places: Frames, or frame shifts in milliseconds, ascending.
        curves: The metric at each of these by the name of the model.
    """

    metric: str
    places: tuple[float, ...]
    curves: Mapping[str, tuple[float, ...]]


def read(data_set: str, kind: SweepKind) -> PublishedCurves:
    """The curves of a data set over a sweep.

    Raises:
        PublishedError: The paper has none.
    """
    if data_set not in DATA_SETS[kind]:
        raise PublishedError(
            f'--published={data_set}: of the sweep over {kind} the paper has curves of '
            f'{" and ".join(DATA_SETS[kind])}'
        )
    values = json.loads(
        importlib.resources.files('elastic_ast_jax.evaluation')
        .joinpath('published.json')
        .read_text(encoding='utf-8')
    )
    places = (
        values[kind]['frames']
        if kind == 'length'
        else [_SHIFT_MS * ratio for ratio in values[kind]['ratios']]
    )
    found = values[kind][data_set]
    return PublishedCurves(
        found['metric'],
        tuple(map(float, places)),
        {name: tuple(curve) for name, curve in found['curves'].items()},
    )
