"""Sweep evaluation over the length of clips or over the frame shift.

Every point evaluates every clip once, through the same pipeline.

`length` crops each clip to its first L frames (paper: VoxCeleb and EPIC-SOUNDS). A shorter clip
stays as it is, so the curve is flat where L crops no clip.

`resolution` computes the log-mel of each clip with another frame shift, `int(10 r)` ms at ratio r
(paper: AudioSet and VGGSound). The published evaluation also crops or pads the spectrogram to
`int(1024 / r)` frames, floored to whole patches: the length that its clips of 10.24 s have at that
ratio. Clips of any length have no such common length, so this sweep uses each clip whole.

A fixed-length AST pads or crops clips to its own length. It can also run at the length of each
point with its positions resized, as in the paper's figures: every clip is padded or cropped to L
frames, or to the model's own duration in frames of the other shift.
"""

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from elastic_ast_jax.audio.frontend import FrontendSpec
from elastic_ast_jax.config.schema import Config
from elastic_ast_jax.evaluation import plots
from elastic_ast_jax.evaluation.results import Evaluation, selection_score
from elastic_ast_jax.evaluation.sweep_axes import (
    AXES,
    METRICS,
    SweepKind,
    file_stem,
    metric_cells,
    plot_scale,
)
from elastic_ast_jax.utils import markdown, plotting
from elastic_ast_jax.utils.errors import UserError
from elastic_ast_jax.utils.files import write_text
from elastic_ast_jax.utils.gcs import BucketPath
from elastic_ast_jax.utils.text import nan_to_none

# Points of the paper's curves, from its evaluation notebooks; lengths in frames.
PAPER_LENGTHS = (256, 384, 400, *range(512, 1537, 128), 1600, *range(1664, 3073, 128))
PAPER_RATIOS = tuple(tenths / 10 for tenths in range(10, 41, 2))
# A model with positions for fewer of the paper's lengths than _MIN_LENGTHS gets _PARTS equal parts
# of its own length.
_MIN_LENGTHS, _PARTS = 4, 8


@dataclasses.dataclass(frozen=True)
class Point:
    """Describe where a model is evaluated.

    Attributes:
        x: Frames that clips are cropped to, or the ratio of the frame shift.
        physical: The same in seconds, or as a frame shift in milliseconds.
        ratio, max_frames: Arguments of `Evaluator.setting`.
    """

    x: int | float
    physical: float
    ratio: float = 1.0
    max_frames: int = 0


@dataclasses.dataclass(frozen=True)
class Curve:
    """Hold the results of a sweep, in ascending order of its points.

    Attributes:
        kind: `'length'` or `'resolution'`.
        points: Where the model was evaluated.
        evaluations: Results at each point.
    """

    kind: SweepKind
    points: tuple[Point, ...]
    evaluations: tuple[Evaluation, ...]

    @property
    def skipped(self) -> tuple[str, ...]:
        """Return a message for each clip that was skipped at any point."""
        return tuple(
            dict.fromkeys(
                message for evaluation in self.evaluations for message in evaluation.skipped
            )
        )


def check_options(
    kind: str | None, values: Sequence[float] | None, shifts: Sequence[float] | None
) -> None:
    """Check that the options of a command go together.

    Raises:
        UserError: Points without a sweep, or frame shifts of another sweep or beside points.
    """
    if values and not kind:
        raise UserError('--points are for a sweep: add --sweep=length, for example')
    if shifts and (values or kind != 'resolution'):
        raise UserError(
            '--shifts are the points of --sweep=resolution: give either --shifts or --points, and'
            ' that sweep'
        )


def sweep_points(
    kind: SweepKind,
    frontend: FrontendSpec,
    values: Sequence[int | float] | None = None,
    *,
    fixed_length: bool = False,
) -> tuple[Point, ...]:
    """Return the points of a sweep, ascending and each once.

    Ratios of the same frame shift, which is in whole milliseconds, are one point.

    Args:
        kind: `'length'` or `'resolution'`.
        frontend: The model's frontend.
        values: Frames or ratios. The default is the paper's points: of its lengths, those that the
            model has positions for, and if these are few, eighths of the model's own length, in
            whole patches.
        fixed_length: The model is an AST: lengths may exceed its own.

    Raises:
        UserError: A length that is no whole number of frames or beyond the model's positions, or a
            ratio whose frame shift is less than a millisecond.

    Example:
        >>> [point.x for point in sweep_points('length', FrontendSpec(max_frames=640))]
        [256, 384, 400, 512, 640]
    """
    if values is None:
        values = PAPER_RATIOS if kind == 'resolution' else default_lengths(frontend)
    longest = math.inf if fixed_length else frontend.max_frames
    points: list[Point] = []
    for value in sorted(set(values)):
        if kind == 'resolution':
            point = _resolution(frontend, value)
        else:
            point = _length(frontend, value, longest)
        if not points or point.physical != points[-1].physical:
            points.append(point)
    return tuple(points)


def default_lengths(frontend: FrontendSpec) -> tuple[int, ...]:
    """Return the default points of `length`, in frames; see `sweep_points`."""
    patch, longest = frontend.patch_frames, frontend.max_frames
    fitting = [frames for frames in PAPER_LENGTHS if frames <= longest]
    if len(fitting) < _MIN_LENGTHS:
        fitting = [longest * part // _PARTS for part in range(1, _PARTS)]
    lengths = {max(patch, frames // patch * patch) for frames in fitting}
    return tuple(sorted(lengths | {longest}))


def shifts_to_ratios(frontend: FrontendSpec, shifts: Sequence[float]) -> tuple[float, ...]:
    """Return the points of `resolution` for frame shifts in milliseconds.

    Models of different frame shifts have the same points by their shifts.

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
    return Point(float(ratio), frontend.rounded_shift_ms(float(ratio)), ratio=float(ratio))


def curve_table(curve: Curve) -> str:
    """Return the points as a Markdown table."""
    axis = AXES[curve.kind]
    any_windowed = any(evaluation.windowed for evaluation in curve.evaluations)
    head = [
        *axis.columns,
        'clips',
        'cropped',
        *(['in windows'] if any_windowed else []),
        *METRICS.values(),
    ]
    rows = []
    for point, evaluation in zip(curve.points, curve.evaluations, strict=True):
        counts = [evaluation.metrics.clips, evaluation.cropped]
        if any_windowed:
            counts.append(evaluation.windowed)
        rows.append(
            [
                f'{point.x:g}',
                f'{point.physical:.4g}',
                *map(str, counts),
                *metric_cells(evaluation.metrics),
            ]
        )
    return '\n'.join(markdown.table(head, rows, 'r' * len(head)))


def write_curve(
    curve: Curve,
    config: Config,
    description: str,
    step: int,
    overrides: Sequence[str],
    folder: Path | BucketPath,
    *,
    resized: bool = False,
    kind: str = '',
) -> tuple[Path | BucketPath, Path | BucketPath, Path | BucketPath]:
    """Write the curve as JSON, as a Markdown table and as a plot, named by its kind.

    The plot shows the metric that selects the best checkpoint.

    Args:
        curve: Results to write.
        config: Config of the model.
        description: Description of the evaluated parameters.
        step: Step of the checkpoint.
        overrides: Config keys that evaluation changed.
        folder: Folder of the files, made if missing.
        resized: An AST was run at the length of each point; see `sweep_axes.file_stem`.
        kind: Kind of the model, if it is none of `model.kind`.

    Raises:
        WriteError: One of the files cannot be written; it keeps its former content.
    """
    stem = file_stem(curve.kind, resized=resized)
    json_file, table_file, plot_file = (
        folder / f'{stem}.{suffix}' for suffix in ('json', 'md', 'png')
    )
    axis = AXES[curve.kind]
    values = {
        'sweep': curve.kind,
        'model': kind or config.model.kind,
        'checkpoint': description,
        'step': step,
        'overrides': list(overrides),
        'metric': config.train.selection_metric(),
        'points': _point_values(curve),
        'skipped': list(curve.skipped),
    }
    write_text(json_file, json.dumps(nan_to_none(values), indent=2) + '\n')
    title = f'{axis.title}; {markdown.text(description)}.'
    lines = [title, '', curve_table(curve), '', axis.explanation]
    if resized:
        lines += [
            '',
            'Clips are padded or cropped to the length of each point, and the positions of the AST'
            ' are resized to it.',
        ]
    lines += markdown.override_lines(overrides) + markdown.skipped_lines(curve.skipped)
    write_text(table_file, '\n'.join(lines) + '\n')
    _save_plot(curve, config, description, plot_file)
    return json_file, table_file, plot_file


def _point_values(curve: Curve) -> list[dict[str, Any]]:
    """Return the points under the keys that the file has."""
    return [
        dict(zip(AXES[curve.kind].keys, (point.x, point.physical), strict=True))
        | {
            'clips': evaluation.metrics.clips,
            'cut': evaluation.cropped,
            'windowed': evaluation.windowed,
        }
        | {metric: getattr(evaluation.metrics, metric) for metric in METRICS}
        for point, evaluation in zip(curve.points, curve.evaluations, strict=True)
    ]


def _save_plot(
    curve: Curve, config: Config, description: str, plot_file: Path | BucketPath
) -> None:
    axis = AXES[curve.kind]
    factor, label = plot_scale(config.train.selection_metric())
    physical = [
        np.format_float_positional(point.physical, 2, fractional=False, trim='-')
        for point in curve.points
    ]
    evaluations = curve.evaluations
    figure = plots.plot_curve(
        [float(point.x) for point in curve.points],
        [factor * selection_score(config, evaluation.metrics) for evaluation in evaluations],
        [evaluation.metrics.clips for evaluation in evaluations],
        [evaluation.cropped for evaluation in evaluations],
        title=f'{axis.title}; {description}',
        x_label=axis.label,
        y_label=label,
        y_max=factor,
        top_ticks=physical,
        top_label=axis.other_label,
    )
    plotting.save_figure(figure, plot_file)
