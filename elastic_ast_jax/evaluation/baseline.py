"""`elastic-ast baseline`: how far the average sound of a clip goes, so that one knows what a model
has to beat.

Logistic regression on the mean and the standard deviation of each mel bin over a clip's frames. It
learns from the training clips as they are, at ratio 1, and is evaluated like a model: whole clips,
or a sweep, which `elastic-ast compare` draws beside models.
"""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from jaxtyping import Float64, Shaped

from elastic_ast_jax.audio import fbank
from elastic_ast_jax.audio.frontend import FrontendSpec
from elastic_ast_jax.audio.reading import AudioError
from elastic_ast_jax.checkpointing.workdir import Workdir
from elastic_ast_jax.config import stored
from elastic_ast_jax.config.schema import Config
from elastic_ast_jax.data import splits
from elastic_ast_jax.data.sources.base import (
    Source,
    check_single_label,
    evenly_spaced,
    label_names,
    targets,
)
from elastic_ast_jax.evaluation import evaluate, sweep, sweep_axes
from elastic_ast_jax.evaluation.evaluator import Evaluation
from elastic_ast_jax.training import metrics
from elastic_ast_jax.training.metrics import Metrics
from elastic_ast_jax.utils import files
from elastic_ast_jax.utils.errors import UserError
from elastic_ast_jax.utils.progress import Progress

# More training clips hardly change it, and are spread evenly over the split.
_CLIPS = 10_000
_THREADS = 8
_ITERATIONS = 3000
# Standard deviations below this, of a clip of one frame and of silence, are the same.
_LEAST = 1e-6


def run(
    config: Config,
    out: str | None = None,
    kind: sweep_axes.SweepKind | None = None,
    points: Sequence[float] | None = None,
    shifts: Sequence[float] | None = None,
) -> Metrics | sweep.Curve:
    """Fits and evaluates the baseline, and prints the result.

    Args:
        config: Of a recipe: its data and frontend are what counts.
        out: Folder whose `eval/` the result is written into, where `compare` finds it; None: it is
        printed only.
        kind: `'length'` or `'resolution'` for a sweep; None for whole clips.
        points, shifts: Of the sweep; see `evaluate.run`.

    Raises:
        DataError: What is wrong with the data.
        AudioError: A recording cannot be decoded, and `data.on_bad_audio='error'`.
        UserError: No clip can be decoded, the points are not possible, `out` has a trained model,
            or all training clips are of the same classes.
    """
    sweep.check_options(kind, points, shifts)
    folder = files.at(out) if out else None
    if folder and Workdir(out).has_checkpoint():
        raise UserError(
            f'--out={out}: is the workdir of a trained model, whose config and results would be'
            ' lost: give another folder'
        )
    frontend, skip = config.frontend, config.data.on_bad_audio == 'skip'
    if shifts:
        points = sweep.shifts_to_ratios(frontend, shifts)
    whole = sweep.Point(0, 0.0)
    chosen = sweep.sweep_points(kind, frontend, points, fixed_length=True) if kind else (whole,)
    progress = Progress()
    train = splits.open_source(config, 'train')
    labels = label_names(train)
    classes = targets(train, labels, 'training')
    if config.train.loss == 'cross_entropy':
        check_single_label(train, classes)
    if len(set(classes)) < 2:
        label = ', '.join(train.labels[0]) or 'none'
        raise UserError(
            f'all {len(classes)} training clips have the same labels, {label}: there is nothing to'
            ' tell apart'
        )
    learned, (features,) = clip_features(
        train, frontend, [whole], evenly_spaced(train, _CLIPS), skip, progress
    )
    score = fit(
        features, [classes[clip] for clip in learned], len(labels), config.train.loss == 'bce'
    )

    held = splits.open_source(config, 'eval')
    truth = targets(held, labels, 'evaluation')
    left, found = clip_features(held, frontend, chosen, np.arange(len(held.keys)), skip, progress)
    progress.clear()
    frames = [
        np.array(
            [frontend.frames(held.samples[clip], frontend.shift(point.ratio)) for clip in left]
        )
        for point in chosen
    ]
    evaluations = tuple(
        Evaluation(
            metrics.compute_metrics(score(values), [truth[clip] for clip in left], labels),
            int((lengths > point.max_frames).sum()) if point.max_frames else 0,
            0,
            held.skipped,
        )
        for point, values, lengths in zip(chosen, found, frames, strict=True)
    )
    description = (
        f'logistic regression on mean and deviation of log-mels, {len(learned)} training clips'
    )
    if kind:
        result = sweep.Curve(kind, chosen, evaluations)
        print(sweep.curve_table(result))
    else:
        result = evaluations[0].metrics
        print(
            f'{description}: accuracy {100 * result.accuracy:.2f} %, mAP'
            f' {result.mean_average_precision:.4f} on {result.clips} clips'
        )
    if folder:
        written = (
            sweep.write_curve(result, config, description, 0, (), folder / 'eval', kind='baseline')
            if kind
            else evaluate.write_metrics(evaluations[0], description, 0, (), folder / 'eval')
        )
        files.write_text(folder / 'config.json', stored.to_json(config))
        progress.say(f'written: {" ".join(map(str, written))}')
    return result


def clip_features(
    source: Source,
    frontend: FrontendSpec,
    points: Sequence[sweep.Point],
    clips: Shaped[np.ndarray, 'n'],
    skip: bool,
    progress: Progress,
) -> tuple[list[int], list[Float64[np.ndarray, 'N F2']]]:
    """Mean and standard deviation of each mel bin, of clips as each point has them.

    Args:
        source: The clips.
        frontend: What they are in.
        points: Ratio of the frame shift, and frames that clips are cut to (0: none is cut).
        clips: Indices in the source.
        skip: Pass over clips that cannot be decoded.
        progress: To tell.

    Returns:
        The clips that could be decoded; and the values of these for each point.

    Raises:
        AudioError: A clip cannot be decoded, and `skip` is off.
        UserError: None is left.
    """

    def describe(clip: int) -> list[Float64[np.ndarray, 'F2']] | None:
        try:
            waveform = source.read(clip)
        except AudioError:
            if not skip:
                raise
            return None
        return [_summary(_cut(waveform, frontend, point), frontend, point) for point in points]

    left, values = [], []
    with ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1)) as pool:
        for clip, summaries in zip(clips.tolist(), pool.map(describe, clips.tolist()), strict=True):
            if summaries is not None:
                left.append(clip)
                values.append(summaries)
            progress.show(f'{len(left)} of {len(clips)} clips')
    if not left:
        raise UserError(f'none of {len(clips)} clips could be decoded')
    return left, [np.stack(of_point) for of_point in zip(*values, strict=True)]


def _cut(
    waveform: Shaped[np.ndarray, '_'], frontend: FrontendSpec, point: sweep.Point
) -> Shaped[np.ndarray, '_']:
    if not point.max_frames:
        return waveform
    return waveform[
        : int(frontend.samples_for(point.max_frames, frontend.shift(point.ratio))) + frontend.tail
    ]


def _summary(
    waveform: Shaped[np.ndarray, '_'], frontend: FrontendSpec, point: sweep.Point
) -> Float64[np.ndarray, 'F2']:
    log_mel = fbank.log_mel(waveform, frontend, frontend.shift(point.ratio)).astype(np.float64)
    return np.concatenate([log_mel.mean(axis=0), log_mel.std(axis=0)])


def fit(
    features: Float64[np.ndarray, 'N F2'],
    classes: Sequence[tuple[int, ...]],
    count: int,
    several: bool,
) -> Callable[[Float64[np.ndarray, 'M F2']], Float64[np.ndarray, 'M C']]:
    """Learns; gives the function from features to scores of each class.

    Args:
        features: Of the training clips.
        classes: Of each of them.
        count: C.
        several: A clip may have several classes, or none: one regression for each class.
    """
    from sklearn.linear_model import LogisticRegression  # half a second
    from sklearn.multiclass import OneVsRestClassifier

    mean, deviation = features.mean(axis=0), np.maximum(features.std(axis=0), _LEAST)
    normal = (features - mean) / deviation
    model = LogisticRegression(max_iter=_ITERATIONS)
    if several:
        truth = np.zeros((len(features), count), np.int64)
        for row, its in zip(truth, classes, strict=True):
            row[list(its)] = 1
        known = np.flatnonzero(truth.min(axis=0) != truth.max(axis=0))
        fitted = OneVsRestClassifier(model).fit(normal, truth[:, known])
        predict = fitted.decision_function
    else:
        truth = np.array([its[0] for its in classes])
        known = np.unique(truth)
        fitted = model.fit(normal, truth)
        predict = fitted.predict_log_proba

    def score(values: Float64[np.ndarray, 'M F2']) -> Float64[np.ndarray, 'M C']:
        found = predict((values - mean) / deviation).reshape(len(values), -1)
        scores = np.full(
            (len(values), count), found.min() - 1
        )  # a class without a training clip comes last
        scores[:, known] = found
        return scores

    return score
