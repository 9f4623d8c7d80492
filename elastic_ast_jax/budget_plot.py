"""The plot of token budgets: a metric over what a clip costs, in tokens, in seconds and in time."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_STYLES = ('-', '--', ':')
_MARKERS = ('o', 's', '^')
_WIDTH, _HEIGHT = 13, 4.8


class Point(NamedTuple):
    """A way of keeping a budget, evaluated.

    Attributes:
        shift: Its frame shift, in words.
        how: What it keeps, in words.
        all_fit: It keeps all of every clip, so it is the end of all lines of its frame shift.
        tokens, seconds, latency_ms: What a clip costs.
        y: The metric; NaN leaves a gap.
        best: The best of its budget.
    """

    shift: str
    how: str
    all_fit: bool
    tokens: float
    seconds: float
    latency_ms: float
    y: float
    best: bool


def budgets(points: Sequence[Point], title: str, y_label: str) -> 'Figure':
    """A metric over tokens, seconds and latency, side by side: a line for each way, the best of
    each budget marked.

    Args:
        points: Those of a line in the order of their budgets.
        title, y_label: Of the plot.
    """
    from matplotlib.figure import Figure  # half a second, and most commands draw nothing

    figure = Figure(figsize=(_WIDTH, _HEIGHT), dpi=120, layout='constrained')
    panels = figure.subplots(1, 3, sharey=True)
    shifts = list(dict.fromkeys(point.shift for point in points))
    hows = list(dict.fromkeys(point.how for point in points if not point.all_fit)) or ['all']
    costs = (
        ('tokens', 'tokens of a clip (mean)'),
        ('seconds', 'seconds listened to (mean)'),
        ('latency_ms', 'latency of a clip alone (ms)'),
    )
    for axes, (name, label) in zip(panels, costs, strict=True):
        for color, shift in enumerate(shifts):
            for style, how in enumerate(hows):
                line = [
                    point
                    for point in points
                    if point.shift == shift and (point.all_fit or point.how == how)
                ]
                axes.plot(
                    [getattr(point, name) for point in line],
                    [point.y for point in line],
                    color=f'C{color}',
                    markersize=4,
                    marker=_MARKERS[style],
                    linestyle=_STYLES[style],
                    label=f'{shift}, {how}',
                )
        best = [point for point in points if point.best]
        axes.plot(
            [getattr(point, name) for point in best],
            [point.y for point in best],
            linestyle='none',
            marker='o',
            markersize=11,
            markerfacecolor='none',
            markeredgecolor='black',
            label='best of a budget',
        )
        axes.set_xscale('log')
        axes.xaxis.set_major_formatter('{x:g}')
        axes.xaxis.set_minor_formatter(_between)
        axes.tick_params(axis='x', which='minor', labelsize='small')
        axes.set_xlabel(label)
        axes.grid(alpha=0.3)
    panels[0].set_ylabel(y_label)
    handles = panels[0].get_legend_handles_labels()
    figure.legend(
        *handles,
        loc='outside right upper',
        fontsize='small',
        handlelength=3,
        title='frame shift, what is kept',
    )
    figure.suptitle(title, fontsize=11, parse_math=False)
    return figure


def _between(value: float, _: int) -> str:
    """Labels of 2 and 5 between the powers of ten; more run into each other."""
    return f'{value:g}' if f'{value:e}'[0] in '25' else ''
