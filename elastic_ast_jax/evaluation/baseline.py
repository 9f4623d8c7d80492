"""Fit logistic regressions that a model has to beat (`elastic-ast baseline`).

The features are statistics of the log-mels of a clip. The plain baseline has the mean and the
deviation of each mel bin. The strong one has the differences of frames and the thirds of the clip
too, chooses its regularization by inner folds, and uses the default frontend where that fits the
training clips better. Both learn from the training clips as they are, at ratio 1, and are evaluated
like a model: on whole clips, or over a sweep, which `elastic-ast compare` draws beside models.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float64, Int64

from elastic_ast_jax.audio.frontend import FrontendSpec
from elastic_ast_jax.checkpointing import run_lock
from elastic_ast_jax.checkpointing.workdir import Workdir
from elastic_ast_jax.config import stored
from elastic_ast_jax.config.schema import Config
from elastic_ast_jax.data import splits
from elastic_ast_jax.data.sources import clip_labels
from elastic_ast_jax.data.sources.base import Source
from elastic_ast_jax.data.splits import Split
from elastic_ast_jax.evaluation import linear_classifier, metrics_files, sweep, sweep_axes
from elastic_ast_jax.evaluation.clip_statistics import (
    GROUPS,
    MOMENTS,
    FrameSetting,
    read_statistics,
)
from elastic_ast_jax.evaluation.linear_classifier import LinearClassifier
from elastic_ast_jax.evaluation.results import Evaluation
from elastic_ast_jax.training import metrics
from elastic_ast_jax.training.metrics import Metrics
from elastic_ast_jax.utils import files, markdown
from elastic_ast_jax.utils.errors import UserError
from elastic_ast_jax.utils.progress import Progress

FeatureSet = Literal['plain', 'strong']

# Training clips to fit, spread evenly over the split; more clips hardly change the result.
_MAX_TRAINING_CLIPS = 10_000
_WHOLE = sweep.Point(0, 0.0)


@dataclasses.dataclass(frozen=True)
class Baseline:
    """Hold a fitted regression.

    Attributes:
        classifier: The regression.
        features: `'plain'` or `'strong'`.
        config: The config whose data and frontend its features come from.
        description: What it is, for tables.
    """

    classifier: LinearClassifier
    features: FeatureSet
    config: Config
    description: str


def run(
    config: Config,
    out: str | None = None,
    kind: sweep_axes.SweepKind | None = None,
    points: Sequence[float] | None = None,
    shifts: Sequence[float] | None = None,
    features: FeatureSet | None = None,
) -> Metrics | sweep.Curve:
    """Fit and evaluate the baselines, and print their results.

    Args:
        config: Config of a recipe, of which only data and frontend count.
        out: Folder whose `eval/` gets the result for `compare`; None only prints.
        kind: `'length'` or `'resolution'` for a sweep; None for whole clips.
        points: Points of the sweep; see `evaluate.run`.
        shifts: Points of the sweep `'resolution'` in milliseconds; see `evaluate.run`.
        features: The baseline to fit. The default is both on whole clips, and plain for a sweep.

    Returns:
        The result of the strong baseline if there are two. This is the one that `out` gets.

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
    both: tuple[FeatureSet, ...] = ('plain',) if kind else ('plain', 'strong')
    feature_sets = (features,) if features else both
    baselines, evaluations = _fit_and_evaluate(
        config, feature_sets, sweep_points, progress, own_frontend=kind is not None
    )
    for baseline, (first, *_) in zip(baselines, evaluations, strict=True):
        if not kind:
            print(f'{baseline.description}: {summarize(first.metrics)}')
    if kind:
        result = sweep.Curve(kind, sweep_points, evaluations[-1])
        print(sweep.curve_table(result))
    else:
        result = evaluations[-1][0].metrics
    if out:
        with run_lock.hold(out, progress.write_line):
            written = _write(out, baselines[-1], evaluations[-1], result)
        progress.write_line(f'written: {" ".join(map(str, written))}')
    return result


def measure(config: Config) -> list[tuple[str, Metrics]]:
    """Return description and metrics of the plain and the strong baseline, on whole clips.

    The clips are those that checkpoints are selected on during training.

    Raises:
        DataError, AudioError, UserError: See `run`.
    """
    baselines, evaluations = _fit_and_evaluate(
        config,
        ('plain', 'strong'),
        (_WHOLE,),
        Progress(),
        split=splits.selection_split(config),
        own_frontend=False,
    )
    return [
        (baseline.description, evaluation.metrics)
        for baseline, (evaluation,) in zip(baselines, evaluations, strict=True)
    ]


def cross_validate(config: Config, folds: Mapping[int, int]) -> list[Metrics]:
    """Return the metrics of the plain and the strong baseline on held-out folds.

    Args:
        config: Config of data and frontend.
        folds: The fold of each clip of the training split that is used, by its position. A fold is
            scored by regressions that learned from the other folds.

    Raises:
        DataError, AudioError, UserError: See `run`.
    """
    training = _read_training(config, ('strong',), Progress(), own_frontend=False)
    divided = [n for n, clip in enumerate(training[0].clips) if clip in folds]
    training = [clips.select(divided) for clips in training]
    numbers = np.array([folds[clip] for clip in training[0].clips])
    metrics_of: list[Metrics] = []
    for fit in (_fit_plain, _fit_strong):
        scores = np.zeros((len(numbers), len(training[0].labels)))
        for number in np.unique(numbers):
            held = np.flatnonzero(numbers == number)
            learned_from = np.flatnonzero(numbers != number)
            fitted = fit([clips.select(learned_from.tolist()) for clips in training])
            (values,) = (c.features for c in training if c.config is fitted.config)
            scores[held] = fitted.classifier.scores(_select(values[held], fitted.features))
        metrics_of.append(metrics.compute_metrics(scores, training[0].classes, training[0].labels))
    return metrics_of


def _fit_and_evaluate(
    config: Config,
    feature_sets: Sequence[FeatureSet],
    points: Sequence[sweep.Point],
    progress: Progress,
    *,
    split: Split = 'eval',
    own_frontend: bool,
) -> tuple[list[Baseline], list[tuple[Evaluation, ...]]]:
    """Return fitted regressions, and the results of each at the points; see `_fit_baselines`."""
    baselines, labels = _fit_baselines(config, feature_sets, progress, own_frontend=own_frontend)
    read: dict[FrontendSpec, _EvaluationClips] = {}
    for baseline in baselines:
        if baseline.config.frontend not in read:
            clips = _read_evaluation_clips(baseline.config, labels, split, points, progress)
            read[baseline.config.frontend] = clips
    evaluations = [
        _evaluate(baseline, read[baseline.config.frontend], labels, points)
        for baseline in baselines
    ]
    progress.clear()
    return baselines, evaluations


def summarize(result: Metrics) -> str:
    """Return accuracy, mAP and the number of clips as text."""
    return (
        f'accuracy {markdown.percent(result.accuracy)}, mAP'
        f' {markdown.number(result.mean_average_precision)} on {result.clips} clips'
    )


def _write(
    out: str,
    baseline: Baseline,
    evaluations: Sequence[Evaluation],
    result: Metrics | sweep.Curve,
) -> tuple[object, ...]:
    """Write a result and the config of its features for `compare`; return the files."""
    folder, description = files.as_path(out), baseline.description
    if isinstance(result, sweep.Curve):
        written = sweep.write_curve(
            result, baseline.config, description, 0, (), folder / 'eval', kind='baseline'
        )
    else:
        written = metrics_files.write_metrics(evaluations[0], description, 0, (), folder / 'eval')
    files.write_text(folder / 'config.json', stored.to_json(baseline.config))
    return written


class _TrainingClips(NamedTuple):
    """Hold the training clips of a frontend.

    Attributes:
        config: The config of the frontend.
        clips: The position of each clip in the split.
        features: Its statistics.
        classes: Its classes.
        labels: Names of all classes.
        groups: The group of each clip; empty if each is its own.
    """

    config: Config
    clips: list[int]
    features: Float64[np.ndarray, 'N F']
    classes: list[tuple[int, ...]]
    labels: tuple[str, ...]
    groups: list[str]

    def select(self, some: Sequence[int]) -> '_TrainingClips':
        """Return some of the clips."""
        return self._replace(
            clips=[self.clips[n] for n in some],
            features=self.features[list(some)],
            classes=[self.classes[n] for n in some],
            groups=[self.groups[n] for n in some] if self.groups else [],
        )


def _fit_baselines(
    config: Config,
    feature_sets: Sequence[FeatureSet],
    progress: Progress,
    *,
    own_frontend: bool,
) -> tuple[list[Baseline], tuple[str, ...]]:
    """Return fitted regressions, and the names of the classes.

    Args:
        config: Config of data and frontend.
        feature_sets: Which baselines to fit.
        progress: Shows how many clips are read.
        own_frontend: Fit the strong baseline to the config's frontend only.
    """
    training = _read_training(config, feature_sets, progress, own_frontend=own_frontend)
    fit = {'plain': _fit_plain, 'strong': _fit_strong}
    progress.show('fitting')
    return [fit[features](training) for features in feature_sets], training[0].labels


def _read_training(
    config: Config,
    feature_sets: Sequence[FeatureSet],
    progress: Progress,
    *,
    own_frontend: bool,
) -> list[_TrainingClips]:
    """Read the training clips at the config's frontend, and at the default one if it is tried."""
    training = [_read_training_clips(config, progress)]
    if 'strong' in feature_sets and not own_frontend and not _same_log_mels(config.frontend):
        default = dataclasses.replace(config, frontend=FrontendSpec())
        training.append(_read_training_clips(default, progress))
    return training


def _same_log_mels(frontend: FrontendSpec) -> bool:
    """Return whether a frontend computes the log-mels of the default one."""
    default = FrontendSpec()
    keys = ('sample_rate', 'window_ms', 'shift_ms', 'fft', 'mel_bins', 'f_min', 'f_max')
    return all(getattr(frontend, key) == getattr(default, key) for key in keys)


def _fit_plain(training: Sequence[_TrainingClips]) -> Baseline:
    clips = training[0]
    several = clips.config.train.loss == 'bce'
    truth = linear_classifier.truth_table(clips.classes, len(clips.labels))
    classifier = linear_classifier.fit(_select(clips.features, 'plain'), truth, several=several)
    description = (
        f'logistic regression on mean and deviation of log-mels, {len(truth)} training clips'
    )
    return Baseline(classifier, 'plain', clips.config, description)


def _fit_strong(training: Sequence[_TrainingClips]) -> Baseline:
    """Fit to the frontend whose features predict held-out training clips best."""
    several = training[0].config.train.loss == 'bce'
    choices = []
    for clips in training:
        truth = linear_classifier.truth_table(clips.classes, len(clips.labels))
        c, score = linear_classifier.choose_c(clips.features, truth, clips.groups, several=several)
        choices.append((c, score, truth))
    best = max(range(len(training)), key=lambda n: choices[n][1])
    clips, (c, _, truth) = training[best], choices[best]
    classifier = linear_classifier.fit(clips.features, truth, several=several, c=c)
    frontend = 'configured' if best == 0 else 'default'
    description = (
        f'logistic regression on statistics of log-mels ({frontend} frontend, C={c:g}),'
        f' {len(truth)} training clips'
    )
    return Baseline(classifier, 'strong', clips.config, description)


def _select(values: Float64[np.ndarray, 'N F'], features: FeatureSet) -> Float64[np.ndarray, 'N _']:
    """Return the values that a baseline uses: all, or the moments, which come first."""
    return values if features == 'strong' else values[:, : values.shape[1] // GROUPS * MOMENTS]


def _read_training_clips(config: Config, progress: Progress) -> _TrainingClips:
    source = splits.open_source(config, 'train')
    labels = clip_labels.label_names(source)
    classes = clip_labels.targets(source, labels, 'training', config.train.loss)
    clip_labels.check_distinct(source.labels)
    clips, (features,) = _read(config, source, [_WHOLE], _MAX_TRAINING_CLIPS, progress)
    clip_labels.check_distinct([source.labels[clip] for clip in clips])  # some may be skipped
    groups = splits.groups_of(config, source)
    return _TrainingClips(
        config,
        clips,
        features,
        [classes[clip] for clip in clips],
        tuple(labels),
        [groups[clip] for clip in clips] if groups else [],
    )


def _read(
    config: Config,
    source: Source,
    points: Sequence[sweep.Point],
    limit: int | None,
    progress: Progress,
) -> tuple[list[int], list[Float64[np.ndarray, 'N F']]]:
    """Return the clips that can be decoded, and their features at each point."""
    return read_statistics(
        source,
        config.frontend,
        [FrameSetting(point.ratio, point.max_frames) for point in points],
        linear_classifier.sample(len(source.keys), limit or len(source.keys)),
        skip=config.data.on_bad_audio == 'skip',
        progress=progress,
    )


class _EvaluationClips(NamedTuple):
    """Hold the evaluation clips of a frontend that can be decoded.

    Attributes:
        samples: Length of each clip.
        classes: Classes of each clip.
        features: Features of the clips at each point.
        skipped: See `Evaluation`.
    """

    samples: Int64[np.ndarray, 'N']
    classes: list[tuple[int, ...]]
    features: list[Float64[np.ndarray, 'N F']]
    skipped: tuple[str, ...]


def _read_evaluation_clips(
    config: Config,
    labels: Sequence[str],
    split: Split,
    points: Sequence[sweep.Point],
    progress: Progress,
) -> _EvaluationClips:
    source = splits.open_source(config, split)
    classes = clip_labels.targets(source, labels, splits.NAMES[split], config.train.loss)
    clips, features = _read(config, source, points, None, progress)
    return _EvaluationClips(
        source.samples[clips], [classes[clip] for clip in clips], features, source.skipped
    )


def _evaluate(
    baseline: Baseline,
    clips: _EvaluationClips,
    labels: Sequence[str],
    points: Sequence[sweep.Point],
) -> tuple[Evaluation, ...]:
    """Return the results at each point."""
    frontend = baseline.config.frontend
    evaluations = []
    for point, values in zip(points, clips.features, strict=True):
        frames = frontend.frames(clips.samples, frontend.shift(point.ratio))
        scores = baseline.classifier.scores(_select(values, baseline.features))
        evaluations.append(
            Evaluation(
                metrics.compute_metrics(scores, clips.classes, labels),
                int((frames > point.max_frames).sum()) if point.max_frames else 0,
                0,
                clips.skipped,
            )
        )
    return tuple(evaluations)
