"""Plots of evaluations, drawn without a display: each function returns a figure."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Float

from elastic_ast_jax.utils.plotting import LONGEST_LABEL, shortened

if TYPE_CHECKING:
    from matplotlib.figure import Figure


# Points of a curve that span more than this factor lie on a logarithmic axis.
_LINEAR_SPAN = 16
# More labels below it run into each other.
_MOST_LABELS = 16


def plot_curve(
    x: Sequence[float],
    y: Sequence[float],
    clips: Sequence[int],
    cut: Sequence[int],
    *,
    title: str,
    x_label: str,
    y_label: str,
    y_full: float,
    other: Sequence[str],
    other_label: str,
) -> 'Figure':
    """A metric over what a sweep varied, and below it how many clips are behind each point.

    Args:
        x: Where the points are, ascending and positive; on a logarithmic axis if they span more
        than a factor of 16.
        y: The metric; NaN leaves a gap.
        clips: Clips behind each point.
        cut: How many of them were cut.
        title, x_label, y_label: Of the plot.
        y_full: The best there is; a tenth of it is shown at least, so that chance does not look
        like a slope.
        other, other_label: The points in other units, along the upper edge.
    """
    from matplotlib.figure import Figure  # see `timeline`

    figure = Figure(figsize=(7.5, 5.5), dpi=120, layout='constrained')
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    upper.plot(x, y, marker='o', markersize=4)
    upper.set_ylabel(y_label)
    low, high = upper.get_ylim()
    high = min(high, 1.02 * y_full)
    low = max(min(low, high - 0.1 * y_full), -0.02 * y_full)
    upper.set_ylim(low, max(high, low + 0.1 * y_full))
    upper.grid(alpha=0.3)
    width = min(14.0, 160 / len(x))  # in 1/72 inch, so the same on any axis
    lower.vlines(x, 0, clips, color='lightsteelblue', linewidth=width, label='clips')
    if any(cut):
        lower.vlines(x, 0, cut, color='tab:orange', linewidth=width, label='of which cut')
    lower.set_ylim(0, 1.1 * max(clips))
    lower.set_ylabel('clips')
    lower.legend(
        loc='lower left',
        bbox_to_anchor=(0, 1),
        ncols=2,
        frameon=False,
        fontsize='small',
        borderaxespad=0.1,
    )
    lower.set_xlabel(x_label)
    if x[-1] > _LINEAR_SPAN * x[0]:
        lower.set_xscale('log')
    every = -(-len(x) // _MOST_LABELS)
    marked = range((len(x) - 1) % every, len(x), every)  # the last point always
    lower.set_xticks([x[i] for i in marked], [f'{x[i]:g}' for i in marked])
    edge = upper.secondary_xaxis('top')
    edge.set_xticks([x[i] for i in marked], [other[i] for i in marked])
    edge.set_xlabel(other_label)
    for axes in (lower, edge):
        axes.minorticks_off()
    figure.suptitle(title, fontsize=11, parse_math=False)
    return figure


def plot_comparison(
    x: Sequence[float],
    models: Sequence[tuple[str, Float[np.ndarray, '_'], Float[np.ndarray, '_']]],
    *,
    title: str,
    x_label: str,
    y_label: str,
    others: Sequence[tuple[str, Sequence[float], Float[np.ndarray, '_']]] = (),
) -> 'Figure':
    """A metric of several models over what a sweep varied.

    Args:
        x: Where the points are, ascending and positive; on a logarithmic axis if they span more
        than a factor of 16.
        models: Name, and mean and spread at each point; a spread of NaN is not drawn.
        title, x_label, y_label: Of the plot.
        others: Name, places and values of curves that are drawn behind, dashed.
    """
    from matplotlib.figure import Figure  # see `timeline`

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
            label=shortened(name, LONGEST_LABEL),
        )
    for name, places, values in others:
        axes.plot(
            places,
            values,
            linestyle='--',
            linewidth=1,
            zorder=1,
            label=shortened(name, LONGEST_LABEL),
        )
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.set_title(title, fontsize=11)
    axes.grid(alpha=0.3)
    if x[-1] > _LINEAR_SPAN * x[0]:
        axes.set_xscale('log')
    marked = x[
        (len(x) - 1) % -(-len(x) // _MOST_LABELS) :: -(-len(x) // _MOST_LABELS)
    ]  # the last point always
    axes.set_xticks(marked, [f'{place:g}' for place in marked])
    axes.minorticks_off()
    for text in axes.legend(loc='best').get_texts():
        text.set_parse_math(False)
    return figure


_STYLES = ('-', '--', ':')
_MARKERS = ('o', 's', '^')
_WIDTH, _HEIGHT = 13, 4.8


class BudgetMark(NamedTuple):
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


def plot_budgets(points: Sequence[BudgetMark], title: str, y_label: str) -> 'Figure':
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
