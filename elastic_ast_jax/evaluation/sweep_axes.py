"""Describe the axes and metrics of sweeps, as files, tables and plots write them."""

import dataclasses
import types
from typing import Any, Literal

from elastic_ast_jax.utils import markdown

SweepKind = Literal['length', 'resolution']

# Metrics of a point, and their names in tables and plots.
METRICS = types.MappingProxyType(
    {'accuracy': 'accuracy', 'mean_average_precision': 'mAP', 'auc': 'AUC', 'd_prime': 'd-prime'}
)


def format_metric(metric: str, value: float) -> str:
    """Return a metric as the cell of a table; accuracy is in percent."""
    return markdown.percent(value) if metric == 'accuracy' else markdown.number(value)


def format_mean(metric: str, mean: float, deviation: float) -> str:
    """Return the mean and the standard deviation of a metric as the cell of a table."""
    return f'{format_metric(metric, mean)} ± {format_metric(metric, deviation)}'


def metric_cells(metrics: Any) -> list[str]:
    """Return the metrics of a point as cells of a table, in the order of `METRICS`."""
    return [format_metric(metric, getattr(metrics, metric)) for metric in METRICS]


def plot_scale(metric: str) -> tuple[float, str]:
    """Return the factor of a metric in plots, which is its largest value there, and its label."""
    return (100.0, 'accuracy (%)') if metric == 'accuracy' else (1.0, METRICS[metric])


@dataclasses.dataclass(frozen=True)
class Axis:
    """Describe how the points of a sweep are written: in the model's units and in physical ones.

    Attributes:
        keys, columns: Names of both units, in JSON and in a table.
        common: Key by which the points of several models are the same.
        label, other_label: Labels of both units in a plot.
        title: Title of the curve.
        explanation: Which clips count as cropped.
    """

    keys: tuple[str, str]
    columns: tuple[str, str]
    common: str
    label: str
    other_label: str
    title: str
    explanation: str

    @property
    def labels(self) -> dict[str, str]:
        """Return the label in plots of each key."""
        return dict(zip(self.keys, (self.label, self.other_label), strict=True))


AXES = types.MappingProxyType(
    {
        'length': Axis(
            keys=('frames', 'seconds'),
            columns=('frames', 'seconds'),
            common='frames',
            label='longest length that is used of a clip (frames)',
            other_label='seconds',
            title='Clips cropped to a length',
            explanation=(
                'Cropped: clips that are longer, of which only the beginning is used. Shorter clips'
                ' are used whole.'
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
                'Cropped: clips that have more frames than the model has positions for, of which'
                ' only the beginning is used.'
            ),
        ),
    }
)


def file_stem(kind: SweepKind, *, resized: bool = False) -> str:
    """Return the stem of the files of a sweep.

    `resized` marks an AST that was run at the length of each point.
    """
    return f'{kind}-resized' if resized else kind
