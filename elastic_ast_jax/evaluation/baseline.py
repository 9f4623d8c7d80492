"""Fit a logistic regression that a model has to beat (`elastic-ast baseline`).

The features are the mean and the standard deviation of each mel bin over the frames of a clip. It
learns from the training clips as they are, at ratio 1, and is evaluated like a model: on whole
clips, or over a sweep, which `elastic-ast compare` draws beside models.
"""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from jaxtyping import Float64, Shaped

from elastic_ast_jax.audio import fbank
from elastic_ast_jax.audio.frontend import FrontendSpec
from elastic_ast_jax.audio.reading import AudioError
from elastic_ast_jax.checkpointing import run_lock
from elastic_ast_jax.checkpointing.workdir import Workdir
from elastic_ast_jax.config import stored
from elastic_ast_jax.config.schema import Config
from elastic_ast_jax.data import splits
from elastic_ast_jax.data.sources.base import Source, evenly_spaced
from elastic_ast_jax.data.sources.clip_labels import label_names, targets
from elastic_ast_jax.evaluation import metrics_files, sweep, sweep_axes
from elastic_ast_jax.evaluation.results import Evaluation
from elastic_ast_jax.training import metrics
from elastic_ast_jax.training.metrics import Metrics
from elastic_ast_jax.utils import files, markdown
from elastic_ast_jax.utils.errors import UserError
from elastic_ast_jax.utils.progress import Progress

# Training clips to fit, spread evenly over the split; more clips hardly change the result.
_MAX_TRAINING_CLIPS = 10_000
_THREADS = 8
_ITERATIONS = 3000
# Lower bound of the standard deviations of features, for clips of one frame and for silence.
_MIN_DEVIATION = 1e-6
_WHOLE = sweep.Point(0, 0.0)

Score = Callable[[Float64[np.ndarray, 'M F2']], Float64[np.ndarray, 'M C']]


def run(
    config: Config,
    out: str | None = None,
    kind: sweep_axes.SweepKind | None = None,
    points: Sequence[float] | None = None,
    shifts: Sequence[float] | None = None,
) -> Metrics | sweep.Curve:
    """Fit and evaluate the baseline, and print the result.

    Args:
        config: Config of a recipe, of which only data and frontend count.
        out: Folder whose `eval/` gets the result for `compare`; None only prints.
        kind: `'length'` or `'resolution'` for a sweep; None for whole clips.
        points: Points of the sweep; see `evaluate.run`.
        shifts: Points of the sweep `'resolution'` in milliseconds; see `evaluate.run`.

    Raises:
        DataError: Wrong data.
        AudioError: A recording cannot be decoded, and `data.on_bad_audio='error'`.
        UserError: No clip can be decoded, the points are not possible, `out` has a trained model,
            or all training clips are of the same classes.
    """
    sweep.check_options(kind, points, shifts)
    if out:
        Workdir(out).check_inside(Workdir(out).evaluations)
    if out and Workdir(out).has_checkpoint():
        raise UserError(
            f'--out={out}: is the workdir of a trained model, whose config and results would be'
            ' lost: give another folder'
        )
    if shifts:
        points = sweep.shifts_to_ratios(config.frontend, shifts)
    sweep_points = (_WHOLE,)
    if kind:
        sweep_points = sweep.sweep_points(kind, config.frontend, points, fixed_length=True)
    progress = Progress()
    score, labels, training_clips = _fit_training_split(config, progress)
    evaluations = _evaluate(config, score, labels, sweep_points, progress)
    progress.clear()
    description = (
        f'logistic regression on mean and deviation of log-mels, {training_clips} training clips'
    )
    if kind:
        result = sweep.Curve(kind, sweep_points, evaluations)
        print(sweep.curve_table(result))
    else:
        result = evaluations[0].metrics
        print(
            f'{description}: accuracy {markdown.percent(result.accuracy)}, mAP'
            f' {markdown.number(result.mean_average_precision)} on {result.clips} clips'
        )
    if out:
        folder = files.as_path(out)
        with run_lock.hold(out, progress.write_line):
            if isinstance(result, sweep.Curve):
                written = sweep.write_curve(
                    result, config, description, 0, (), folder / 'eval', kind='baseline'
                )
            else:
                written = metrics_files.write_metrics(
                    evaluations[0], description, 0, (), folder / 'eval'
                )
            files.write_text(folder / 'config.json', stored.to_json(config))
        progress.write_line(f'written: {" ".join(map(str, written))}')
    return result


def _fit_training_split(config: Config, progress: Progress) -> tuple[Score, tuple[str, ...], int]:
    """Return a fitted regression, the names of the classes, and how many clips it learned from."""
    source = splits.open_source(config, 'train')
    labels = label_names(source)
    classes = targets(source, labels, 'training', config.train.loss)
    if len(set(classes)) < 2:
        label = ', '.join(source.labels[0]) or 'none'
        raise UserError(
            f'all {len(classes)} training clips have the same labels, {label}: there is nothing to'
            ' tell apart'
        )
    clips, (features,) = clip_features(
        source,
        config.frontend,
        [_WHOLE],
        evenly_spaced(source, _MAX_TRAINING_CLIPS),
        skip=config.data.on_bad_audio == 'skip',
        progress=progress,
    )
    several = config.train.loss == 'bce'
    score = fit(features, [classes[clip] for clip in clips], len(labels), several=several)
    return score, tuple(labels), len(clips)


def _evaluate(
    config: Config,
    score: Score,
    labels: Sequence[str],
    points: Sequence[sweep.Point],
    progress: Progress,
) -> tuple[Evaluation, ...]:
    """Return the results on the evaluation split at each point."""
    frontend, source = config.frontend, splits.open_source(config, 'eval')
    classes = targets(source, labels, 'evaluation', config.train.loss)
    clips, features = clip_features(
        source,
        frontend,
        points,
        np.arange(len(source.keys)),
        skip=config.data.on_bad_audio == 'skip',
        progress=progress,
    )
    evaluations = []
    for point, values in zip(points, features, strict=True):
        frames = frontend.frames(source.samples[clips], frontend.shift(point.ratio))
        evaluations.append(
            Evaluation(
                metrics.compute_metrics(score(values), [classes[clip] for clip in clips], labels),
                int((frames > point.max_frames).sum()) if point.max_frames else 0,
                0,
                source.skipped,
            )
        )
    return tuple(evaluations)


def clip_features(
    source: Source,
    frontend: FrontendSpec,
    points: Sequence[sweep.Point],
    clips: Shaped[np.ndarray, 'n'],
    *,
    skip: bool,
    progress: Progress,
) -> tuple[list[int], list[Float64[np.ndarray, 'N F2']]]:
    """Return mean and standard deviation of each mel bin, of clips as each point has them.

    Args:
        source: Source of the clips.
        frontend: Frontend of the features.
        points: Ratios of the frame shift, and frames that clips are cropped to (0: no crop).
        clips: Indices in the source.
        skip: Skip clips that cannot be decoded.
        progress: Shows how many clips are done.

    Returns:
        The clips that could be decoded, and their features at each point.

    Raises:
        AudioError: A clip cannot be decoded, and `skip` is off.
        UserError: No clip could be decoded.
    """

    def features(clip: int) -> list[Float64[np.ndarray, 'F2']] | None:
        try:
            waveform = source.read(clip)
        except AudioError:
            if not skip:
                raise
            return None
        return [_moments(_crop(waveform, frontend, point), frontend, point) for point in points]

    decodable, values = [], []
    with ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1)) as pool:
        for clip, clip_values in zip(
            clips.tolist(), pool.map(features, clips.tolist()), strict=True
        ):
            if clip_values is not None:
                decodable.append(clip)
                values.append(clip_values)
            progress.show(f'{len(decodable)} of {len(clips)} clips')
    if not decodable:
        raise UserError(f'none of {len(clips)} clips could be decoded')
    return decodable, [np.stack(point_values) for point_values in zip(*values, strict=True)]


def _crop(
    waveform: Shaped[np.ndarray, '_'], frontend: FrontendSpec, point: sweep.Point
) -> Shaped[np.ndarray, '_']:
    if not point.max_frames:
        return waveform
    samples = int(frontend.samples_for(point.max_frames, frontend.shift(point.ratio)))
    return waveform[: samples + frontend.tail_samples]


def _moments(
    waveform: Shaped[np.ndarray, '_'], frontend: FrontendSpec, point: sweep.Point
) -> Float64[np.ndarray, 'F2']:
    log_mel = fbank.log_mel(waveform, frontend, frontend.shift(point.ratio)).astype(np.float64)
    return np.concatenate([log_mel.mean(axis=0), log_mel.std(axis=0)])


def fit(
    features: Float64[np.ndarray, 'N F2'],
    classes: Sequence[tuple[int, ...]],
    count: int,
    *,
    several: bool,
) -> Score:
    """Fit a regression; return the function from features to scores of each class.

    Args:
        features: Features of the training clips.
        classes: Classes of each training clip.
        count: Number of classes C.
        several: A clip may have several classes, or none: one regression for each class.
    """
    from sklearn.linear_model import LogisticRegression  # slow to import
    from sklearn.multiclass import OneVsRestClassifier

    mean, deviation = features.mean(axis=0), np.maximum(features.std(axis=0), _MIN_DEVIATION)
    normalized = (features - mean) / deviation
    model = LogisticRegression(max_iter=_ITERATIONS)
    if several:
        truth = np.zeros((len(features), count), np.int64)
        for row, clip_classes in zip(truth, classes, strict=True):
            row[list(clip_classes)] = 1
        learned_classes = np.flatnonzero(truth.min(axis=0) != truth.max(axis=0))
        predict = OneVsRestClassifier(model).fit(normalized, truth[:, learned_classes])
        predict = predict.decision_function
    else:
        truth = np.array([clip_classes[0] for clip_classes in classes])
        learned_classes = np.unique(truth)
        predict = model.fit(normalized, truth).predict_log_proba

    def score(values: Float64[np.ndarray, 'M F2']) -> Float64[np.ndarray, 'M C']:
        learned_scores = predict((values - mean) / deviation).reshape(len(values), -1)
        # A class that the training clips do not tell apart comes last.
        scores = np.full((len(values), count), learned_scores.min() - 1)
        scores[:, learned_classes] = learned_scores
        return scores

    return score
