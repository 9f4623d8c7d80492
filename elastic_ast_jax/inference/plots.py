"""Plots of a recording: its timeline, and its explanation; each function returns a figure."""

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int

from elastic_ast_jax.utils.plotting import LONGEST_LABEL, shortened
from elastic_ast_jax.utils.text import duration, in_seconds

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


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
# Frequencies to mark.
_HERTZ = (50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000)
# The colour of attention: none of the grays of the spectrogram that it lies over.
_ATTENTION = (1.0, 0.35, 0.0)


def plot_timeline(result: dict[str, Any]) -> 'Figure':
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
        range(len(shown)), [shortened(labels[c], LONGEST_LABEL) for c in shown], parse_math=False
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
    title = f'{shortened(result["path"], 80)}\n{_length(result["seconds"])}, {count}{of}'
    axes.set_title(title, parse_math=False, fontsize=10)
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


def plot_explanation(
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
    multiple = _ratio(heard.attention, heard.uniform).T
    course = _ratio(heard.attention.sum(axis=1), heard.uniform.sum(axis=1))

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
        text = f'{shortened(label, LONGEST_LABEL)}  {100 * probability:.1f} %'
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
        f'{shortened(name, 80)}: {what}\n{_length(heard.seconds)}{cut}; parameters of {parameters}'
    )
    figure.suptitle(title, x=0.01, ha='left', fontsize=10, parse_math=False)
    return figure


def _ratio(
    attention: Float[np.ndarray, '*pieces'], uniform: Float[np.ndarray, '*pieces']
) -> Float[np.ndarray, '*pieces']:
    """Attention as a multiple of an even spread's; 0 where no window is."""
    return np.divide(attention, uniform, out=np.zeros_like(attention), where=uniform > 0)


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
