"""Read the paper's curves, which are drawn beside measured ones.

`published.json` has them from the authors' evaluation notebooks.
"""

import dataclasses
import importlib.resources
import json
from collections.abc import Mapping

from elastic_ast_jax.evaluation.sweep_axes import SweepKind
from elastic_ast_jax.utils.errors import UserError

# Data sets that the paper shows over each sweep.
DATA_SETS = {'length': ('voxceleb', 'epic_sounds'), 'resolution': ('audioset', 'vggsound')}
# Frame shift of the paper's ratio 1, in milliseconds.
_SHIFT_MS = 10


class PublishedError(UserError):
    """Report a data set that the paper has no such curves of."""


@dataclasses.dataclass(frozen=True)
class PublishedCurves:
    """Hold the paper's curves of a data set.

    Attributes:
        metric: Metric of the curves, a key of `sweep_axes.METRICS`; a share of 1.
        points: Frames, or frame shifts in milliseconds, ascending.
        curves: Metric at each point, by the name of the model.
    """

    metric: str
    points: tuple[float, ...]
    curves: Mapping[str, tuple[float, ...]]


def read(data_set: str, kind: SweepKind) -> PublishedCurves:
    """Return the curves of a data set over a sweep.

    Raises:
        PublishedError: The paper has no such curves.
    """
    if data_set not in DATA_SETS[kind]:
        raise PublishedError(
            f'--published={data_set}: of the sweep over {kind} the paper has curves of '
            f'{" and ".join(DATA_SETS[kind])}'
        )
    file = importlib.resources.files('elastic_ast_jax.evaluation').joinpath('published.json')
    sweep = json.loads(file.read_text(encoding='utf-8'))[kind]
    if kind == 'length':
        points = sweep['frames']
    else:
        points = [_SHIFT_MS * ratio for ratio in sweep['ratios']]
    return PublishedCurves(
        sweep[data_set]['metric'],
        tuple(map(float, points)),
        {name: tuple(curve) for name, curve in sweep[data_set]['curves'].items()},
    )
