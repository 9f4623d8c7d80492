"""Plots, drawn without a display: each function returns a figure, `save` writes it."""

import io
import math
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int

from elastic_ast_jax.files import replaced
from elastic_ast_jax.logs import duration, in_seconds, printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from elastic_ast_jax.inference.explain import Heard

# Classes that a timeline shows, and columns: what can be told apart on a page.
_TIMELINE_CLASSES = 24
_TIMELINE_COLUMNS = 1000
# A class is of interest where it is among this many likeliest of a window.
_TOP = 3
# A class that is never likelier than this is not shown, if others are.
_FAINT = 0.05
# Seconds between ticks that are easy to count by.
_TICKS = (
    0.001,
    0.002,
    0.005,
    0.01,
    0.02,
    0.05,
    0.1,
    0.2,
    0.5,
    1,
    2,
    5,
    10,
    15,
    30,
    60,
    120,
    300,
    600,
    900,
    1800,
    3600,
    7200,
    10800,
    21600,
    43200,
    86400,
)
_MOST_TICKS = 13
_MINUTE = 60
_LONGEST_LABEL = 32
# Frequencies to mark.
_HERTZ = (50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000)
# The colour of attention: none of the grays of the spectrogram that it lies over.
_ATTENTION = (1.0, 0.35, 0.0)
# Points of a curve that span more than this factor lie on a logarithmic axis.
_LINEAR_SPAN = 16
# More labels below it run into each other.
_MOST_LABELS = 16


def save(figure: 'Figure', file: str | os.PathLike) -> None:
    """Writes a figure in the format that the file's suffix names.

    Raises:
        WriteError: The file cannot be written; it is as it was.
    """
    drawn = (
        io.BytesIO()
    )  # so that a full disk is told by the system, and not by an encoder in its own way
    with warnings.catch_warnings():
        # Characters that the font does not have are drawn as a box; to the user this is no news.
        warnings.filterwarnings('ignore', 'Glyph .* missing from', UserWarning)
        figure.savefig(drawn, format=Path(file).suffix[1:])
    with replaced(file) as temporary:
        temporary.write_bytes(drawn.getvalue())


def timeline(result: dict[str, Any]) -> 'Figure':
    """Which class is heard when: a heat map of probabilities, time to the right, the classes below
    each other.

    Of many classes those are shown that are among the three likeliest of some window, the likeliest
    on the whole at the top. Where windows overlap, each is shown around its middle. Of more windows
    than a page has columns, neighbours share one that shows the largest of their probabilities, so
    that nothing short gets lost.

    Args:
        result: Of one recording, from `Predictor.timeline`.
    """
    from matplotlib.figure import Figure  # half a second, and most commands draw nothing

    entries, labels = result['timeline'], result['labels']
    probabilities = np.stack([entry['probabilities'] for entry in entries])
    shown, interesting = _interesting(probabilities)
    edges = _edges([entry['start'] for entry in entries], [entry['end'] for entry in entries])
    group = -(-len(entries) // _TIMELINE_COLUMNS)
    starts = np.arange(0, len(entries), group)
    columns = np.maximum.reduceat(probabilities[:, shown], starts, axis=0)
    edges = np.append(edges[starts], edges[-1])

    figure = Figure(figsize=(12, 1.6 + 0.26 * len(shown)), dpi=120, layout='constrained')
    axes = figure.add_subplot()
    mesh = axes.pcolormesh(
        edges, np.arange(len(shown) + 1) - 0.5, columns.T, vmin=0, vmax=1, cmap='Blues'
    )
    axes.invert_yaxis()
    axes.set_yticks(
        range(len(shown)), [_shortened(labels[c], _LONGEST_LABEL) for c in shown], parse_math=False
    )
    _mark_time(axes, result['seconds'])
    axes.set_xlim(0, edges[-1])
    figure.colorbar(mesh, ax=axes, label='probability', pad=0.01)
    count = (
        'one window' if len(entries) == 1 else f'{len(entries)} windows of {result["window"]:.4g} s'
    )
    of = (
        f', {len(shown)} of {interesting} classes that are ever among the likeliest {_TOP}'
        if interesting > len(shown)
        else ''
    )
    title = f'{_shortened(result["path"], 80)}\n{_length(result["seconds"])}, {count}{of}'
    axes.set_title(title, parse_math=False, fontsize=10)
    return figure


def curve(
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


def comparison(
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
            label=_shortened(name, _LONGEST_LABEL),
        )
    for name, places, values in others:
        axes.plot(
            places,
            values,
            linestyle='--',
            linewidth=1,
            zorder=1,
            label=_shortened(name, _LONGEST_LABEL),
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


def _interesting(
    probabilities: Float[np.ndarray, 'windows C'],
) -> tuple[Int[np.ndarray, 'shown'], int]:
    """The classes to show, the likeliest on the whole first; and how many would be worth it."""
    top = np.argsort(-probabilities, axis=1, kind='stable')[:, :_TOP]
    chosen = np.unique(top)
    among = np.zeros_like(probabilities)
    np.put_along_axis(among, top, np.take_along_axis(probabilities, top, axis=1), axis=1)
    # By what they are where they count: a class that is loud once comes before one that is faint
    # all the time.
    peaks = among.max(axis=0)
    order = chosen[np.argsort(-peaks[chosen], kind='stable')][:_TIMELINE_CLASSES]
    order = order[: max(_TOP, np.count_nonzero(peaks[order] > _FAINT))]
    return order[np.argsort(-probabilities[:, order].mean(axis=0), kind='stable')], len(chosen)


def _edges(starts: list[float], ends: list[float]) -> Float[np.ndarray, 'edges']:
    """Where the column of each window begins, and where the last one ends:

    half-way between the middles of neighbours.
    """
    middles = (np.asarray(starts) + np.asarray(ends)) / 2
    return np.concatenate([[starts[0]], (middles[1:] + middles[:-1]) / 2, [ends[-1]]])


def _mark_time(axes: 'Axes', seconds: float) -> None:
    """Marks times from 0 on along an axis of seconds:

    in seconds if they are less than a minute, as `2:03` otherwise.
    """
    step = next(
        (step for step in _TICKS if seconds / step < _MOST_TICKS),
        math.ceil(seconds / 86400 / _MOST_TICKS) * 86400,
    )
    ticks = [float(number * step) for number in range(int(seconds / step) + 1)]
    axes.set_xticks(
        ticks, [duration(tick) if seconds >= _MINUTE else f'{tick:g}' for tick in ticks]
    )
    axes.set_xlabel('time' if seconds >= _MINUTE else 'time [s]')


def _length(seconds: float) -> str:
    """Of a recording, as its axis has it."""
    return duration(seconds) if seconds >= _MINUTE else in_seconds(seconds)


def explanation(
    heard: 'Heard', hertz: Float[np.ndarray, 'mels'], name: str, parameters: str, averages: bool
) -> 'Figure':
    """What a model listened to: the spectrogram with the attention over it, the attention over
    time, the likeliest classes.

    Attention is drawn as a multiple of what an even spread would give, so that its scale means the
    same at every length; where it is no more than that, the spectrogram is bare.

    Args:
        heard: What is drawn.
        hertz: Centre of each mel bin.
        name: Of the recording.
        parameters: Of the model, in words.
        averages: The model's pooling is the mean, whose attention is the same everywhere.
    """
    from matplotlib.colors import LinearSegmentedColormap, LogNorm
    from matplotlib.figure import Figure

    mels, bands, edges = len(hertz), heard.attention.shape[1], heard.patch_edges
    multiple = _ratio(heard.attention, heard.even).T
    course = _ratio(heard.attention.sum(axis=1), heard.even.sum(axis=1))

    figure = Figure(figsize=(11, 5.5), dpi=120, layout='constrained')
    parts = figure.add_gridspec(2, 2, width_ratios=(3.2, 1), height_ratios=(1, 4))
    picture = figure.add_subplot(parts[1, 0])
    above = figure.add_subplot(parts[0, 0], sharex=picture)
    beside = figure.add_subplot(parts[:, 1])

    sound = np.ma.masked_invalid(heard.log_mel.T)
    low, high = np.percentile(sound.compressed(), (5, 99.8))
    picture.set_facecolor('0.9')
    picture.pcolormesh(
        heard.frame_edges,
        np.arange(mels + 1),
        sound,
        cmap='gray',
        vmin=low,
        vmax=max(high, low + 1e-3),
        rasterized=True,
    )
    most = float(np.clip(2 ** np.ceil(np.log2(multiple.max())), 4, 64))
    shades = LinearSegmentedColormap.from_list(
        'attention', [(*_ATTENTION, 0.0), (*_ATTENTION, 0.8)]
    )
    mesh = picture.pcolormesh(
        edges,
        np.linspace(0, mels, bands + 1),
        np.clip(multiple, 1, most),
        cmap=shades,
        norm=LogNorm(1, most),
        rasterized=True,
    )
    bar = figure.colorbar(mesh, ax=picture, location='bottom', aspect=60)
    ticks = 2.0 ** np.arange(np.log2(most) + 1)
    bar.set_ticks(ticks, labels=[f'{tick:g}' for tick in ticks], minor=False)
    bar.minorticks_off()
    bar.set_label('attention on a patch: how many times what an even spread would give')
    picture.set_yticks(*_hertz_ticks(hertz))
    _mark_time(picture, heard.seconds)
    picture.set(ylabel='frequency [Hz]', xlim=(min(0, edges[0]), edges[-1]))
    above.stairs(course, edges, fill=True, color=_ATTENTION)
    above.axhline(1, color='black', linewidth=0.8, linestyle='--')
    above.set(ylim=(0, 1.15 * max(1.0, course.max())), ylabel='attention')
    above.tick_params(labelbottom=False)
    if edges[-1] > heard.seconds:
        for axes in (picture, above):
            axes.axvline(heard.seconds, color='black', linewidth=1, linestyle=':')
        if edges[-1] > 1.03 * heard.seconds:
            picture.annotate(
                'the recording ends',
                (heard.seconds, mels),
                (3, -3),
                textcoords='offset points',
                va='top',
                rotation=90,
                fontsize=8,
            )

    for place, (label, probability) in enumerate(heard.predictions):
        beside.barh(place, 100 * probability, height=0.35, color='tab:blue')
        text = f'{_shortened(label, _LONGEST_LABEL)}  {100 * probability:.1f} %'
        beside.annotate(
            text, (0, place - 0.2), (2, 2), textcoords='offset points', parse_math=False
        )
    beside.set(
        yticks=[],
        xlim=(0, 100),
        ylim=(max(5, len(heard.predictions)) - 0.5, -0.6),
        xlabel='probability [%]',
    )
    beside.set_title('likeliest classes', loc='left', fontsize=10)
    beside.spines[['top', 'right']].set_visible(False)

    what = 'the model averages over all patches alike' if averages else 'what the model listened to'
    cut = f' in {heard.windows} windows' if heard.windows > 1 else ''
    title = (
        f'{_shortened(name, 80)}: {what}\n{_length(heard.seconds)}{cut}; parameters of {parameters}'
    )
    figure.suptitle(title, x=0.01, ha='left', fontsize=10, parse_math=False)
    return figure


def _ratio(
    attention: Float[np.ndarray, '*pieces'], even: Float[np.ndarray, '*pieces']
) -> Float[np.ndarray, '*pieces']:
    """Attention as a multiple of an even spread's; 0 where no window is."""
    return np.divide(attention, even, out=np.zeros_like(attention), where=even > 0)


def _hertz_ticks(hertz: Float[np.ndarray, 'mels']) -> tuple[list[float], list[str]]:
    """Round frequencies to mark, where each is on an axis of mel bins, and its name;

    not closer than names are high.
    """
    places, names = [], []
    for mark in _HERTZ:
        if hertz[0] <= mark <= hertz[-1]:
            place = float(np.interp(mark, hertz, np.arange(len(hertz)) + 0.5))
            if not places or place - places[-1] > 0.05 * len(hertz):
                places.append(place)
                names.append(f'{mark}')
    return places, names


def _shortened(text: str, longest: int) -> str:
    """A text that can be drawn, cut in the middle if it is longer."""
    text = printable(text)
    half = longest // 2
    return text if len(text) <= longest else f'{text[:half]}…{text[-half + 1 :]}'
