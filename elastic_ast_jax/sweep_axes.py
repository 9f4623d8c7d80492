"""What sweeps vary and measure, and how that is written in files, tables and plots."""

import dataclasses
import types
from typing import Literal

Kind = Literal['length', 'resolution']

# Metrics that a point has, and what tables and plots call them.
METRICS = types.MappingProxyType({'accuracy': 'accuracy', 'mean_average_precision': 'mAP', 'auc': 'AUC', 'd_prime': 'd-prime'})


@dataclasses.dataclass(frozen=True)
class Axis:
    """How what a sweep varies is written: in the model's units, and in physical ones.

    Attributes:
        keys, columns: Of both, in JSON and in a table.
        label, other_label: Of both, in a plot.
        title: Of the curve.
        explanation: What is counted as cut.
    """

    keys: tuple[str, str]
    columns: tuple[str, str]
    label: str
    other_label: str
    title: str
    explanation: str


AXES = types.MappingProxyType({
    'length': Axis(
        keys=('frames', 'seconds'), columns=('frames', 'seconds'), label='longest length that is used of a clip (frames)',
        other_label='seconds', title='Clips cut to a length',
        explanation='Cut: clips that are longer, of which only the beginning is used. The others are used whole.'),
    'resolution': Axis(
        keys=('ratio', 'shift_ms'), columns=('ratio', 'frame shift (ms)'), label='ratio of the frame shift',
        other_label='frame shift (ms)', title='Other frame shifts',
        explanation='Cut: clips that have more frames than the model has positions for, of which only the beginning is used.'),
})  # fmt: skip
