"""Sweeps of evaluation: how a model's accuracy depends on how much of a clip it hears, or how
finely in time.

Every point evaluates every clip once, through the same pipeline.

`length` cuts each clip to its first L frames (paper: VoxCeleb and EPIC-SOUNDS). A clip that is
shorter stays as it is, so the curve is flat where L no longer cuts any.

`resolution` computes each clip's log-mel with another frame shift, `int(10 r)` ms at ratio r
(paper: AudioSet and VGGSound). The published evaluation also cuts or pads the spectrogram to
`int(1024 / r)` frames, floored to whole patches: the length that its clips of 10.24 s have at that
ratio. Clips of any length have no such common length, so here each is used whole.

A fixed-length AST pads or cuts what is left of a clip to its own length. Or, as in the paper's
figures, it is run at the length of each point, with its positions resized: every clip is padded or
cut to L frames, or to the model's own duration in frames of the other shift.
"""

import dataclasses
import itertools
import json
import math
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from elastic_ast_jax.audio.frontend import FrontendSpec
from elastic_ast_jax.audio.windows import WindowError
from elastic_ast_jax.config.schema import Config
from elastic_ast_jax.data.epoch_plan import PlanError
from elastic_ast_jax.evaluation import plots
from elastic_ast_jax.evaluation.evaluator import Evaluation, Evaluator, selection_score
from elastic_ast_jax.evaluation.sweep_axes import AXES, METRICS, SweepKind, file_stem, plot_scale
from elastic_ast_jax.utils import markdown, plotting
from elastic_ast_jax.utils.errors import UserError
from elastic_ast_jax.utils.files import write_text
from elastic_ast_jax.utils.gcs import BucketPath
from elastic_ast_jax.utils.progress import Progress
from elastic_ast_jax.utils.text import counted, without_nan

# The points of the paper's curves, as its evaluation notebooks have them; lengths in frames.
PAPER_LENGTHS = (256, 384, 400, *range(512, 1537, 128), 1600, *range(1664, 3073, 128))
PAPER_RATIOS = tuple(tenths / 10 for tenths in range(10, 41, 2))
# A model with positions for fewer of the paper's lengths than this gets equal parts of what it has
# positions for.
_FEWEST, _PARTS = 4, 8


@dataclasses.dataclass(frozen=True)
class Point:
    """Where a model is evaluated.

    Attributes:
        x: Frames that clips are cut to, or the ratio of the frame shift.
        physical: The same in seconds, or as a frame shift in milliseconds.
        ratio, max_frames: See `Evaluator.setting`.
    """

    x: int | float
    physical: float
    ratio: float = 1.0
    max_frames: int = 0


@dataclasses.dataclass(frozen=True)
class Curve:
    """A sweep's results: an evaluation at each point, ascending.

    Attributes:
        kind: `'length'` or `'resolution'`.
        points: Where the model was evaluated.
        evaluations: What was found there.
    """

    kind: SweepKind
    points: tuple[Point, ...]
    evaluations: tuple[Evaluation, ...]

    @property
    def skipped(self) -> tuple[str, ...]:
        """A message for each clip that is left out, at whichever point that was found."""
        return tuple(
            dict.fromkeys(message for found in self.evaluations for message in found.skipped)
        )


def check_options(
    kind: str | None, values: Sequence[float] | None, shifts: Sequence[float] | None
) -> None:
    """Whether the options of a command go together.

    Raises:
        UserError: Points without a sweep, or frame shifts of another sweep or beside points.
    """
    if values and not kind:
        raise UserError('--points are those of a sweep: add --sweep=length, for one')
    if shifts and (values or kind != 'resolution'):
        raise UserError(
            '--shifts are the points of --sweep=resolution: give either --shifts or --points, and'
            ' that sweep'
        )


def sweep_points(
    kind: SweepKind,
    frontend: FrontendSpec,
    values: Sequence[int | float] | None = None,
    fixed_length: bool = False,
) -> tuple[Point, ...]:
    """The points of a sweep, ascending and each once: ratios of the same frame shift are one.

    Args:
        kind: `'length'` or `'resolution'`.
        frontend: The model's.
        values: Frames or ratios. If None, those of the paper; of its lengths, those that the model
            has positions for, and if these are few, eighths of what it has, in whole patches.
        fixed_length: The model is an AST: lengths may be beyond its own.

    Raises:
        UserError: A length that is no whole number of frames or beyond the model's positions, or a
            ratio whose frame shift is less than a millisecond.

    Example:
        >>> [point.x for point in points('length', FrontendSpec(max_frames=640))]
        [256, 384, 400, 512, 640]
    """
    if values is None:
        values = PAPER_RATIOS if kind == 'resolution' else default_lengths(frontend)
    longest = math.inf if fixed_length else frontend.max_frames
    found = [
        _resolution(frontend, value) if kind == 'resolution' else _length(frontend, value, longest)
        for value in sorted(set(values))
    ]
    # Two ratios may be the same frame shift, which is in whole milliseconds.
    return tuple(
        point
        for before, point in itertools.pairwise([None, *found])
        if before is None or point.physical != before.physical
    )


def default_lengths(frontend: FrontendSpec) -> tuple[int, ...]:
    """The paper's lengths in frames as far as a model goes, and all it has positions for;

    see `sweep_points`.
    """
    patch, longest = frontend.patch_frames, frontend.max_frames
    fitting = [frames for frames in PAPER_LENGTHS if frames <= longest]
    if len(fitting) < _FEWEST:
        fitting = [longest * part // _PARTS for part in range(1, _PARTS)]
    whole = {max(patch, frames // patch * patch) for frames in fitting}
    return tuple(sorted(whole | {longest}))


def shifts_to_ratios(frontend: FrontendSpec, shifts: Sequence[float]) -> tuple[float, ...]:
    """Points of `resolution` by their frame shifts in milliseconds, which are the same for models
    whose own shifts differ.

    Raises:
        UserError: A shift that is no whole number of milliseconds.
    """
    if broken := [
        shift for shift in shifts if not float(shift).is_integer() and shift != frontend.shift_ms
    ]:
        raise UserError(
            f'--shifts={broken[0]:g}: give whole numbers of milliseconds, as other frame shifts'
            f' than frontend.shift_ms={frontend.shift_ms:g} are'
        )
    return tuple(shift / frontend.shift_ms for shift in shifts)


def _length(frontend: FrontendSpec, frames: int | float, longest: int | float) -> Point:
    if not (float(frames).is_integer() and 1 <= frames <= longest):
        raise UserError(
            f'--points={frames:g} of --sweep=length: give whole numbers of frames from 1 to '
            f'frontend.max_frames={frontend.max_frames}, all that the model has positions for'
        )
    samples = int(frontend.samples_for(int(frames), frontend.shift()))
    return Point(int(frames), samples / frontend.sample_rate, max_frames=int(frames))


def _resolution(frontend: FrontendSpec, ratio: int | float) -> Point:
    shift = frontend.shift(float(ratio))
    if shift < 1:
        raise UserError(
            f'--points={ratio:g} of --sweep=resolution: a frame shift of {ratio:g} times'
            f' frontend.shift_ms={frontend.shift_ms:g} is less than a millisecond: give larger'
            ' ratios'
        )
    return Point(float(ratio), frontend.milliseconds(float(ratio)), ratio=float(ratio))


def evaluate_curve(
    kind: SweepKind,
    chosen: Sequence[Point],
    evaluators: Sequence[tuple[Evaluator, Any]],
    progress: Progress,
) -> Curve:
    """Evaluates at each point.

    Args:
        kind: `'length'` or `'resolution'`.
        chosen: The points.
        evaluators: What evaluates at each point, and the parameters it evaluates there.
        progress: To tell.

    Raises:
        PlanError, WindowError: A clip does not fit at one of them; none is evaluated then.
    """
    settings = []
    for point, (evaluator, _) in zip(chosen, evaluators, strict=True):
        try:
            settings.append(evaluator.setting(point.ratio, point.max_frames))
        except (PlanError, WindowError) as error:
            raise type(error)(
                f'--sweep={kind} at {point.x:g} (a frame shift of {point.physical:g} ms): {error}'
            ) from error
    found = []
    for number, (point, (evaluator, params)) in enumerate(zip(chosen, evaluators, strict=True), 1):
        progress.show(f'{kind} {point.x:g}, point {number} of {len(chosen)}')
        found.append(evaluator.evaluate(params, settings.pop(0)))  # a setting may hold recordings
    progress.say(f'{kind}: {counted(len(chosen), "point")}, each with every clip once')
    return Curve(kind, tuple(chosen), tuple(found))


def curve_table(curve: Curve) -> str:
    """The points as a Markdown table."""
    axis = AXES[curve.kind]
    in_windows = any(found.windowed for found in curve.evaluations)
    names = [*axis.columns, 'clips', 'cut', *['in windows'] * in_windows, *METRICS.values()]
    lines = [markdown.row(names), markdown.row(['---:'] * len(names))]
    for point, found in zip(curve.points, curve.evaluations, strict=True):
        counts = [found.metrics.clips, found.cropped, *[found.windowed] * in_windows]
        accuracy, *others = (getattr(found.metrics, key) for key in METRICS)
        lines.append(
            markdown.row(
                [
                    f'{point.x:g}',
                    f'{point.physical:.4g}',
                    *map(str, counts),
                    markdown.percent(accuracy),
                    *map(markdown.number, others),
                ]
            )
        )
    return '\n'.join(lines)


def write_curve(
    curve: Curve,
    config: Config,
    description: str,
    step: int,
    overrides: Sequence[str],
    folder: Path | BucketPath,
    resized: bool = False,
    kind: str = '',
) -> tuple[PurePath, PurePath, PurePath]:
    """Writes the curve as JSON, as a Markdown table and as a plot of what `score` takes, named by
    its kind.

    Args:
        curve: What was found.
        config: Of what was evaluated.
        description: What that was, in words.
        step: Of its checkpoint.
        overrides: What was changed of its config.
        folder: Where to write; made if missing.
        resized: An AST was run at the length of each point; see `sweep_axes.name`.
        kind: Of the model, if it is none of `model.kind`.

    Raises:
        WriteError: One of the files cannot be written; it is as it was.
    """
    json_file, table_file, plot_file = (
        folder / f'{file_stem(curve.kind, resized)}.{suffix}' for suffix in ('json', 'md', 'png')
    )
    axis, metric = AXES[curve.kind], config.train.selection_metric()
    values = {
        'sweep': curve.kind,
        'model': kind or config.model.kind,
        'checkpoint': description,
        'step': step,
        'overrides': list(overrides),
        'metric': metric,
        'points': [
            dict(zip(axis.keys, (point.x, point.physical), strict=True))
            | {'clips': found.metrics.clips, 'cut': found.cropped, 'windowed': found.windowed}
            | {key: getattr(found.metrics, key) for key in METRICS}
            for point, found in zip(curve.points, curve.evaluations, strict=True)
        ],
        'skipped': list(curve.skipped),
    }
    write_text(json_file, json.dumps(without_nan(values), indent=2) + '\n')

    lines = [
        f'{axis.title}; {markdown.text(description)}.',
        '',
        curve_table(curve),
        '',
        axis.explanation,
    ]
    if resized:
        lines += [
            '',
            (
                'Clips are padded or cut to the length of each point, and the positions of the AST'
                ' resized to it.'
            ),
        ]
    lines += markdown.changed(overrides) + markdown.left_out(curve.skipped)
    write_text(table_file, '\n'.join(lines) + '\n')

    factor, label = plot_scale(metric)
    physical = [
        np.format_float_positional(point.physical, 2, fractional=False, trim='-')
        for point in curve.points
    ]
    figure = plots.plot_curve(
        [float(point.x) for point in curve.points],
        [factor * selection_score(config, found.metrics) for found in curve.evaluations],
        [found.metrics.clips for found in curve.evaluations],
        [found.cropped for found in curve.evaluations],
        title=f'{axis.title}; {description}',
        x_label=axis.label,
        y_label=label,
        y_full=factor,
        other=physical,
        other_label=axis.other_label,
    )
    plotting.save(figure, plot_file)
    return json_file, table_file, plot_file
