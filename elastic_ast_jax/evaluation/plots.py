"""Plot evaluations without a display; each function returns a figure."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Float

from elastic_ast_jax.utils.plotting import LONGEST_LABEL, abbreviate

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


# Points that span more than this factor get a logarithmic axis.
_LINEAR_SPAN = 16
# More tick labels would overlap.
_MAX_LABELS = 16


def plot_curve(
    x: Sequence[float],
    y: Sequence[float],
    clips: Sequence[int],
    cropped: Sequence[int],
    *,
    title: str,
    x_label: str,
    y_label: str,
    y_max: float,
    top_ticks: Sequence[str],
    top_label: str,
) -> 'Figure':
    """Plot a metric over the points of a sweep, and below it the number of clips at each point.

    Args:
        x: Points, ascending and positive; on a logarithmic axis if they span more than a factor of
            16.
        y: Metric at each point; NaN leaves a gap.
        clips: Number of clips at each point.
        cropped: Number of these clips that were cropped.
        title: Title of the plot.
        x_label: Label below.
        y_label: Label of the metric.
        y_max: Largest possible value of the metric. The plot shows at least a tenth of it, so that
            noise does not look like a slope.
        top_ticks: Points in other units, along the upper edge.
        top_label: Label of the upper edge.
    """
    from matplotlib.figure import Figure  # slow to import, and most commands draw nothing

    figure = Figure(figsize=(7.5, 5.5), dpi=120, layout='constrained')
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    upper.plot(x, y, marker='o', markersize=4)
    upper.set_ylabel(y_label)
    low, high = upper.get_ylim()
    high = min(high, 1.02 * y_max)
    low = max(min(low, high - 0.1 * y_max), -0.02 * y_max)
    upper.set_ylim(low, max(high, low + 0.1 * y_max))
    upper.grid(alpha=0.3)
    _draw_counts(lower, x, clips, cropped)
    lower.set_xlabel(x_label)
    if x[-1] > _LINEAR_SPAN * x[0]:
        lower.set_xscale('log')
    marked = _marked(len(x))
    lower.set_xticks([x[i] for i in marked], [f'{x[i]:g}' for i in marked])
    edge = upper.secondary_xaxis('top')
    edge.set_xticks([x[i] for i in marked], [top_ticks[i] for i in marked])
    edge.set_xlabel(top_label)
    for axes in (lower, edge):
        axes.minorticks_off()
    figure.suptitle(title, fontsize=11, parse_math=False)
    return figure


def _draw_counts(
    axes: 'Axes', x: Sequence[float], clips: Sequence[int], cropped: Sequence[int]
) -> None:
    """Draw the number of clips at each point, and how many of them are cropped."""
    width = min(14.0, 160 / len(x))  # in 1/72 inch, so the same on any axis
    axes.vlines(x, 0, clips, color='lightsteelblue', linewidth=width, label='clips')
    if any(cropped):
        axes.vlines(x, 0, cropped, color='tab:orange', linewidth=width, label='of which cropped')
    axes.set_ylim(0, 1.1 * max(clips))
    axes.set_ylabel('clips')
    axes.legend(
        loc='lower left',
        bbox_to_anchor=(0, 1),
        ncols=2,
        frameon=False,
        fontsize='small',
        borderaxespad=0.1,
    )


def plot_comparison(
    x: Sequence[float],
    models: Sequence[tuple[str, Float[np.ndarray, '_'], Float[np.ndarray, '_']]],
    *,
    title: str,
    x_label: str,
    y_label: str,
    published: Sequence[tuple[str, Sequence[float], Float[np.ndarray, '_']]] = (),
) -> 'Figure':
    """Plot a metric of several models over the points of a sweep.

    Args:
        x: Points, ascending and positive; on a logarithmic axis if they span more than a factor of
            16.
        models: Name, and mean and spread at each point; a spread of NaN is not drawn.
        title: Title of the plot.
        x_label: Label below.
        y_label: Label of the metric.
        published: Name, points and values of curves that are drawn dashed, behind the models.
    """
    from matplotlib.figure import Figure  # slow to import, and most commands draw nothing

    figure = Figure(figsize=(7.5, 4.5), dpi=120, layout='constrained')
    axes = figure.add_subplot()
    for name, mean, spread in models:
        axes.errorbar(
            x,
            mean,
            np.nan_to_num(spread),
            marker='o',
            markersize=4,
            capsize=3,
            label=abbreviate(name, LONGEST_LABEL),
        )
    for name, points, values in published:
        axes.plot(
            points,
            values,
            linestyle='--',
            linewidth=1,
            zorder=1,
            label=abbreviate(name, LONGEST_LABEL),
        )
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.set_title(title, fontsize=11)
    axes.grid(alpha=0.3)
    if x[-1] > _LINEAR_SPAN * x[0]:
        axes.set_xscale('log')
    ticks = [x[i] for i in _marked(len(x))]
    axes.set_xticks(ticks, [f'{tick:g}' for tick in ticks])
    axes.minorticks_off()
    for text in axes.legend(loc='best').get_texts():
        text.set_parse_math(False)
    return figure


def _marked(count: int) -> range:
    """Return the indices of the points with a tick label; the last point always has one."""
    stride = -(-count // _MAX_LABELS)
    return range((count - 1) % stride, count, stride)


_STYLES = ('-', '--', ':')
_MARKERS = ('o', 's', '^')
_WIDTH, _HEIGHT = 13, 4.8


class BudgetMark(NamedTuple):
    """Describe an evaluated token reduction in a plot.

    Attributes:
        shift: Frame shift, in words.
        method: Tokens that it keeps, in words.
        all_fit: It keeps all tokens of every clip, so it ends all lines of its frame shift.
        tokens, seconds, latency_ms: Cost of a clip.
        y: Metric; NaN leaves a gap.
        best: It is the best of its budget.
    """

    shift: str
    method: str
    all_fit: bool
    tokens: float
    seconds: float
    latency_ms: float
    y: float
    best: bool


_COSTS = (
    ('tokens', 'tokens of a clip (mean)'),
    ('seconds', 'seconds used of a clip (mean)'),
    ('latency_ms', 'latency of a clip alone (ms)'),
)


def plot_budgets(marks: Sequence[BudgetMark], title: str, y_label: str) -> 'Figure':
    """Plot a metric over tokens, seconds and latency, side by side.

    Each method and frame shift is a line, and the best of each budget is marked.

    Args:
        marks: Evaluated reductions; those of a line in the order of their budgets.
        title: Title of the plot.
        y_label: Label of the metric.
    """
    from matplotlib.figure import Figure  # slow to import, and most commands draw nothing

    figure = Figure(figsize=(_WIDTH, _HEIGHT), dpi=120, layout='constrained')
    panels = figure.subplots(1, len(_COSTS), sharey=True)
    for axes, (cost, label) in zip(panels, _COSTS, strict=True):
        _draw_lines(axes, marks, cost)
        best = [mark for mark in marks if mark.best]
        axes.plot(
            [getattr(mark, cost) for mark in best],
            [mark.y for mark in best],
            linestyle='none',
            marker='o',
            markersize=11,
            markerfacecolor='none',
            markeredgecolor='black',
            label='best of a budget',
        )
        axes.set_xscale('log')
        axes.xaxis.set_major_formatter('{x:g}')
        axes.xaxis.set_minor_formatter(_minor_label)
        axes.tick_params(axis='x', which='minor', labelsize='small')
        axes.set_xlabel(label)
        axes.grid(alpha=0.3)
    panels[0].set_ylabel(y_label)
    figure.legend(
        *panels[0].get_legend_handles_labels(),
        loc='outside right upper',
        fontsize='small',
        handlelength=3,
        title='frame shift, what is kept',
    )
    figure.suptitle(title, fontsize=11, parse_math=False)
    return figure


def _draw_lines(axes: 'Axes', marks: Sequence[BudgetMark], cost: str) -> None:
    """Draw a line for each frame shift and method; colors are shifts, styles are methods."""
    shifts = dict.fromkeys(mark.shift for mark in marks)
    methods = list(dict.fromkeys(mark.method for mark in marks if not mark.all_fit)) or ['all']
    for color, shift in enumerate(shifts):
        for style, method in enumerate(methods):
            line = [
                mark
                for mark in marks
                if mark.shift == shift and (mark.all_fit or mark.method == method)
            ]
            axes.plot(
                [getattr(mark, cost) for mark in line],
                [mark.y for mark in line],
                color=f'C{color}',
                markersize=4,
                marker=_MARKERS[style],
                linestyle=_STYLES[style],
                label=f'{shift}, {method}',
            )


def _minor_label(value: float, _: int) -> str:
    """Label 2 and 5 between the powers of ten; more labels would overlap."""
    return f'{value:g}' if f'{value:e}'[0] in '25' else ''
