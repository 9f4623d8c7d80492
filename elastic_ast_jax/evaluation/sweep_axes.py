"""What sweeps vary and measure, and how that is written in files, tables and plots."""

import dataclasses
import types
from typing import Literal

from elastic_ast_jax.utils import markdown

SweepKind = Literal['length', 'resolution']

# Metrics that a point has, and what tables and plots call them.
METRICS = types.MappingProxyType(
    {'accuracy': 'accuracy', 'mean_average_precision': 'mAP', 'auc': 'AUC', 'd_prime': 'd-prime'}
)


def format_metric(metric: str, value: float) -> str:
    """A metric as a cell: accuracy in percent."""
    return markdown.percent(value) if metric == 'accuracy' else markdown.number(value)


def plot_scale(metric: str) -> tuple[float, str]:
    """The factor of a metric in plots, which is also its largest value there, and its name."""
    return (100.0, 'accuracy (%)') if metric == 'accuracy' else (1.0, METRICS[metric])


@dataclasses.dataclass(frozen=True)
class Axis:
    """How what a sweep varies is written: in the model's units, and in physical ones.

    Attributes:
        keys, columns: Of both, in JSON and in a table.
        common: The key by which the points of several models are the same.
        label, other_label: Of both, in a plot.
        title: Of the curve.
        explanation: What is counted as cut.
    """

    keys: tuple[str, str]
    columns: tuple[str, str]
    common: str
    label: str
    other_label: str
    title: str
    explanation: str

    @property
    def names(self) -> dict[str, str]:
        """What a plot calls what each key counts."""
        return dict(zip(self.keys, (self.label, self.other_label), strict=True))


AXES = types.MappingProxyType(
    {
        'length': Axis(
            keys=('frames', 'seconds'),
            columns=('frames', 'seconds'),
            common='frames',
            label='longest length that is used of a clip (frames)',
            other_label='seconds',
            title='Clips cut to a length',
            explanation=(
                'Cut: clips that are longer, of which only the beginning is used. The others are'
                ' used whole.'
            ),
        ),
        'resolution': Axis(
            keys=('ratio', 'shift_ms'),
            columns=('ratio', 'frame shift (ms)'),
            common='shift_ms',
            label='ratio of the frame shift',
            other_label='frame shift (ms)',
            title='Other frame shifts',
            explanation=(
                'Cut: clips that have more frames than the model has positions for, of which only'
                ' the beginning is used.'
            ),
        ),
    }
)


def file_stem(kind: SweepKind, resized: bool = False) -> str:
    """Of the files that a sweep is written to;

    with `resized`, of an AST that was run at the length of each point.
    """
    return f'{kind}-resized' if resized else kind
