"""Plot the timeline and the explanation of a recording."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int

from elastic_ast_jax.utils.plotting import LONGEST_LABEL, abbreviate
from elastic_ast_jax.utils.text import format_duration, format_seconds

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from elastic_ast_jax.inference.explanation import Explanation


# The most classes and columns of a timeline that can be distinguished on a page.
_TIMELINE_CLASSES = 24
_TIMELINE_COLUMNS = 1000
# Number of the most probable classes of a window that are candidates for the timeline.
_TOP = 3
# A class whose probability is never above this is not shown, if other classes are.
_FAINT = 0.05
# Convenient distances between ticks, in seconds.
_TICKS = (
    *(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5),
    *(1, 2, 5, 10, 15, 30, 60, 120),
    *(300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400),
)
_MAX_TICKS = 13
_MINUTE = 60
# Frequencies to mark.
_HERTZ = tuple(digit * 10**power for power in range(6) for digit in (1, 2, 5))
# Those of a range that has fewer than this many of them.
_FINE_HERTZ = tuple(digit * 10**power for power in range(6) for digit in range(1, 10))
_FEWEST_TICKS = 3
# Color of attention; the spectrogram below it is gray.
_ATTENTION = (1.0, 0.35, 0.0)


def plot_timeline(result: dict[str, Any]) -> 'Figure':
    """Plot the probabilities of classes over time as a heat map.

    Of many classes, those are shown that are among the three most probable of some window, the most
    probable overall at the top. Where windows overlap, each is shown around its middle. If there
    are more windows than columns, neighbors share a column that shows the largest of their
    probabilities, so that short events stay visible.

    Args:
        result: Result of one recording, from `Predictor.timeline`.
    """
    from matplotlib.figure import Figure  # takes half a second, and most commands draw nothing

    entries, labels = result['timeline'], result['labels']
    probabilities = np.stack([entry['probabilities'] for entry in entries])
    classes, candidates = _select_classes(probabilities)
    edges = _edges([entry['start'] for entry in entries], [entry['end'] for entry in entries])
    group = -(-len(entries) // _TIMELINE_COLUMNS)
    starts = np.arange(0, len(entries), group)
    columns = np.maximum.reduceat(probabilities[:, classes], starts, axis=0)
    edges = np.append(edges[starts], edges[-1])

    figure = Figure(figsize=(12, 1.6 + 0.26 * len(classes)), dpi=120, layout='constrained')
    axes = figure.add_subplot()
    mesh = axes.pcolormesh(
        edges, np.arange(len(classes) + 1) - 0.5, columns.T, vmin=0, vmax=1, cmap='Blues'
    )
    axes.invert_yaxis()
    axes.set_yticks(
        range(len(classes)),
        [abbreviate(labels[c], LONGEST_LABEL) for c in classes],
        parse_math=False,
    )
    _mark_time(axes, result['seconds'])
    axes.set_xlim(0, edges[-1])
    figure.colorbar(mesh, ax=axes, label='probability', pad=0.01)
    windows = (
        'one window' if len(entries) == 1 else f'{len(entries)} windows of {result["window"]:.4g} s'
    )
    share = ''
    if candidates > len(classes):
        share = f', {len(classes)} of {candidates} classes that are in the top {_TOP} of a window'
    title = f'{abbreviate(result["path"], 80)}\n{_duration(result["seconds"])}, {windows}{share}'
    axes.set_title(title, parse_math=False, fontsize=10)
    return figure


def _select_classes(
    probabilities: Float[np.ndarray, 'windows C'],
) -> tuple[Int[np.ndarray, 'shown'], int]:
    """Return the classes to show, the most probable first, and the number of candidates."""
    top = np.argsort(-probabilities, axis=1, kind='stable')[:, :_TOP]
    candidates = np.unique(top)
    top_probabilities = np.zeros_like(probabilities)
    np.put_along_axis(
        top_probabilities, top, np.take_along_axis(probabilities, top, axis=1), axis=1
    )
    # Ordered by peaks: a class that is probable once precedes one that is faint all the time.
    peaks = top_probabilities.max(axis=0)
    order = candidates[np.argsort(-peaks[candidates], kind='stable')][:_TIMELINE_CLASSES]
    order = order[: max(_TOP, np.count_nonzero(peaks[order] > _FAINT))]
    by_mean = np.argsort(-probabilities[:, order].mean(axis=0), kind='stable')
    return order[by_mean], len(candidates)


def _edges(starts: list[float], ends: list[float]) -> Float[np.ndarray, 'edges']:
    """Return the edges of the windows' columns: half-way between the middles of neighbors."""
    middles = (np.asarray(starts) + np.asarray(ends)) / 2
    return np.concatenate([[starts[0]], (middles[1:] + middles[:-1]) / 2, [ends[-1]]])


def _mark_time(axes: 'Axes', seconds: float) -> None:
    """Mark times along an axis of seconds: in seconds below a minute, as `2:03` otherwise."""
    step = next(
        (step for step in _TICKS if seconds / step < _MAX_TICKS),
        math.ceil(seconds / 86400 / _MAX_TICKS) * 86400,
    )
    ticks = [float(number * step) for number in range(int(seconds / step) + 1)]
    axes.set_xticks(
        ticks, [format_duration(tick) if seconds >= _MINUTE else f'{tick:g}' for tick in ticks]
    )
    axes.set_xlabel('time' if seconds >= _MINUTE else 'time [s]')


def _duration(seconds: float) -> str:
    """Return the length of a recording, in the format of its time axis."""
    return format_duration(seconds) if seconds >= _MINUTE else format_seconds(seconds)


def plot_explanation(
    explanation: 'Explanation',
    hertz: Float[np.ndarray, 'mels'],
    name: str,
    parameters: str,
    *,
    averages: bool,
) -> 'Figure':
    """Plot the spectrogram with the attention over it, attention over time, and predictions.

    Attention is drawn as a multiple of uniform attention, so that its scale means the same at every
    length. Where it is not larger, only the spectrogram is visible.

    Args:
        explanation: The explanation.
        hertz: Center frequency of each mel bin.
        name: Name of the recording.
        parameters: Description of the model's parameters.
        averages: The model's pooling is the mean, whose attention is uniform.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 5.5), dpi=120, layout='constrained')
    grid = figure.add_gridspec(2, 2, width_ratios=(3.2, 1), height_ratios=(1, 4))
    spectrogram = figure.add_subplot(grid[1, 0])
    course = figure.add_subplot(grid[0, 0], sharex=spectrogram)
    predictions = figure.add_subplot(grid[:, 1])
    _draw_spectrogram(spectrogram, explanation, len(hertz))
    _draw_attention(figure, spectrogram, explanation, len(hertz))
    spectrogram.set_yticks(*_hertz_ticks(hertz))
    _mark_time(spectrogram, explanation.seconds)
    edges = explanation.patch_edges
    spectrogram.set(ylabel='frequency [Hz]', xlim=(min(0, edges[0]), edges[-1]))
    _draw_course(course, explanation)
    _mark_end(spectrogram, course, explanation.seconds, edges[-1], len(hertz))
    _draw_predictions(predictions, explanation.predictions)

    subject = 'the model averages over all patches' if averages else 'attention of the pooling'
    split = f' in {explanation.windows} windows' if explanation.windows > 1 else ''
    title = (
        f'{abbreviate(name, 80)}: {subject}\n'
        f'{_duration(explanation.seconds)}{split}; parameters of {parameters}'
    )
    figure.suptitle(title, x=0.01, ha='left', fontsize=10, parse_math=False)
    return figure


def _draw_spectrogram(axes: 'Axes', explanation: 'Explanation', mels: int) -> None:
    log_mel = np.ma.masked_invalid(explanation.log_mel.T)
    low, high = np.percentile(log_mel.compressed(), (5, 99.8))
    axes.set_facecolor('0.9')
    axes.pcolormesh(
        explanation.frame_edges,
        np.arange(mels + 1),
        log_mel,
        cmap='gray',
        vmin=low,
        vmax=max(high, low + 1e-3),
        rasterized=True,
    )


def _draw_attention(figure: 'Figure', axes: 'Axes', explanation: 'Explanation', mels: int) -> None:
    """Draw attention over the spectrogram, with a color bar."""
    from matplotlib.colors import LinearSegmentedColormap, LogNorm

    multiple = _ratio(explanation.attention, explanation.uniform).T
    limit = float(np.clip(2 ** np.ceil(np.log2(multiple.max())), 4, 64))
    colors = LinearSegmentedColormap.from_list(
        'attention', [(*_ATTENTION, 0.0), (*_ATTENTION, 0.8)]
    )
    mesh = axes.pcolormesh(
        explanation.patch_edges,
        np.linspace(0, mels, explanation.attention.shape[1] + 1),
        np.clip(multiple, 1, limit),
        cmap=colors,
        norm=LogNorm(1, limit),
        rasterized=True,
    )
    bar = figure.colorbar(mesh, ax=axes, location='bottom', aspect=60)
    ticks = 2.0 ** np.arange(np.log2(limit) + 1)
    bar.set_ticks(ticks, labels=[f'{tick:g}' for tick in ticks], minor=False)
    bar.minorticks_off()
    bar.set_label('attention on a patch, as a multiple of uniform attention')


def _draw_course(axes: 'Axes', explanation: 'Explanation') -> None:
    """Draw attention over time."""
    course = _ratio(explanation.attention.sum(axis=1), explanation.uniform.sum(axis=1))
    axes.stairs(course, explanation.patch_edges, fill=True, color=_ATTENTION)
    axes.axhline(1, color='black', linewidth=0.8, linestyle='--')
    axes.set(ylim=(0, 1.15 * max(1.0, course.max())), ylabel='attention')
    axes.tick_params(labelbottom=False)


def _mark_end(
    spectrogram: 'Axes', course: 'Axes', seconds: float, last_edge: float, mels: int
) -> None:
    """Mark the end of a recording whose last patch extends beyond it."""
    if last_edge <= seconds:
        return
    for axes in (spectrogram, course):
        axes.axvline(seconds, color='black', linewidth=1, linestyle=':')
    if last_edge > 1.03 * seconds:
        spectrogram.annotate(
            'the recording ends',
            (seconds, mels),
            (3, -3),
            textcoords='offset points',
            va='top',
            rotation=90,
            fontsize=8,
        )


def _draw_predictions(axes: 'Axes', predictions: list[tuple[str, float]]) -> None:
    """Draw the most probable classes as bars."""
    for row, (label, probability) in enumerate(predictions):
        axes.barh(row, 100 * probability, height=0.35, color='tab:blue')
        text = f'{abbreviate(label, LONGEST_LABEL)}  {100 * probability:.1f} %'
        axes.annotate(text, (0, row - 0.2), (2, 2), textcoords='offset points', parse_math=False)
    axes.set(
        yticks=[],
        xlim=(0, 100),
        ylim=(max(5, len(predictions)) - 0.5, -0.6),
        xlabel='probability [%]',
    )
    axes.set_title('most probable classes', loc='left', fontsize=10)
    axes.spines[['top', 'right']].set_visible(False)


def _ratio(
    attention: Float[np.ndarray, '*pieces'], uniform: Float[np.ndarray, '*pieces']
) -> Float[np.ndarray, '*pieces']:
    """Return attention as a multiple of uniform attention; 0 where no window is."""
    return np.divide(attention, uniform, out=np.zeros_like(attention), where=uniform > 0)


def _hertz_ticks(hertz: Float[np.ndarray, 'mels']) -> tuple[list[float], list[str]]:
    """Return the positions of round frequencies on an axis of mel bins, and their labels.

    Ticks are not closer than their labels are high.
    """
    ticks = _ticks_at(_HERTZ, hertz)
    return ticks if len(ticks[0]) >= _FEWEST_TICKS else _ticks_at(_FINE_HERTZ, hertz)


def _ticks_at(
    marks: Sequence[int], hertz: Float[np.ndarray, 'mels']
) -> tuple[list[float], list[str]]:
    positions, labels = [], []
    for mark in marks:
        if hertz[0] <= mark <= hertz[-1]:
            position = float(np.interp(mark, hertz, np.arange(len(hertz)) + 0.5))
            if not positions or position - positions[-1] > 0.05 * len(hertz):
                positions.append(position)
                labels.append(f'{mark}')
    return positions, labels
