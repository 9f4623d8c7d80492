"""Compare classifiers on a frozen encoder with baselines, and save the best regression."""

import functools
import logging
import math
import os
import types
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int64
from threadpoolctl import threadpool_limits

from elastic_ast_jax.config.schema import Config
from elastic_ast_jax.evaluation import baseline, linear_classifier
from elastic_ast_jax.evaluation.fitted_statistics import linear_layer
from elastic_ast_jax.evaluation.linear_classifier import LinearClassifier
from elastic_ast_jax.evaluation.results import selection_score
from elastic_ast_jax.probing import classifiers, cross_validation
from elastic_ast_jax.probing.classifiers import FittedClassifier
from elastic_ast_jax.probing.cross_validation import Fit
from elastic_ast_jax.probing.data import ProbedData, open_data
from elastic_ast_jax.probing.encoder import ProbedEncoder, read_encoder
from elastic_ast_jax.probing.features import ClipFeatures, Features, make_network, measure_clips
from elastic_ast_jax.probing.save import class_layers, save_classifier
from elastic_ast_jax.training.metrics import compute_metrics
from elastic_ast_jax.utils import jax_cache, markdown
from elastic_ast_jax.utils.errors import UserError
from elastic_ast_jax.utils.progress import Progress
from elastic_ast_jax.utils.text import pluralize, printable

__all__ = ['Row', 'best_regression', 'run']

# More clips hardly change the regression, and take long to cross-validate.
_MAX_TRAINING_CLIPS, _MAX_VALIDATED_CLIPS = 20_000, 2_000
_BOTH = 'logistic regression on both'
# Classifiers that layers of the network can hold, by their names.
_REGRESSIONS: Mapping[str, Features] = types.MappingProxyType(
    {
        'logistic regression on the embedding': 'embedding',
        'logistic regression on statistics': 'statistics',
        _BOTH: 'both',
    }
)


class Row(NamedTuple):
    """Hold the results of a classifier.

    Attributes:
        name: What it is.
        setting: What inner folds chose.
        validated: Its metric on the held-out folds of the training clips.
        evaluated: Its metric on the evaluation clips.
    """

    name: str
    setting: str
    validated: float
    evaluated: float


class _Method(NamedTuple):
    """Hold a way to classify: the features that it takes, and how it is fitted."""

    features: Features
    fit: Fit


def run(
    weights: str,
    data: str,
    out: str | None = None,
    evaluation: str | None = None,
    *,
    folds: int = 5,
    group: str = '',
    skip: bool = False,
) -> list[Row]:
    """Fit and evaluate classifiers, print a table, and write a workdir.

    Args:
        weights: A workdir, or a file of `elastic-ast pretrain`.
        data: A folder of class folders, or a manifest.
        out: The workdir to write. None only prints.
        evaluation: The same as `data` for the evaluation split. None: a part is held out.
        folds: Number of folds of the cross-validation of the training clips.
        group: `data.group`.
        skip: Skip recordings that cannot be used.

    Returns:
        The rows of the table.

    Raises:
        UserError: `out` exists, or the weights or the data cannot be used.
        AudioError: A recording cannot be decoded, and `skip` is off.
    """
    if out is not None and os.path.lexists(out):
        raise UserError(f'--out={out}: exists: remove it, or give another name')
    jax_cache.use_compilation_cache()
    encoder = read_encoder(weights)
    opened = open_data(encoder, data, evaluation, group=group, skip=skip)
    for note in opened.notes:
        logging.warning('%s', note)
    config, labels = opened.config, opened.labels
    frozen = make_network(config, labels, encoder)
    train = measure_clips(config, labels, frozen, opened.train, 'train', limit=_MAX_TRAINING_CLIPS)
    held_out = measure_clips(config, labels, frozen, opened.evaluation, 'eval')
    _check_learnable(train, data, several=config.train.loss == 'bce')
    with threadpool_limits(1, user_api='blas'):  # the matrices are small
        rows, regressions = _compare(opened, train, held_out, folds)
    print('\n'.join(_table_lines(opened, encoder, train, held_out, rows, folds)))
    if out is not None:
        name = best_regression(rows)
        regression, features = regressions[name], _REGRESSIONS[name]
        assert isinstance(regression.scorer, LinearClassifier)
        layer = linear_layer(regression.scorer, getattr(train, features))
        report = f'{name}, {pluralize(len(train.clips), "training clip")}, {regression.setting}'
        save_classifier(out, config, labels, frozen, class_layers(layer, features, train), report)
        print(f'written: {printable(out)}, {name}, the best regression by folds. Next:')
        print(f'  elastic-ast predict {printable(out)} RECORDING')
    return rows


def best_regression(rows: Sequence[Row]) -> str:
    """Return the name of the regression with the best folds, of equal ones that with more features.

    The evaluation clips decide nothing.
    """
    validated = {row.name: row.validated for row in rows if row.name in _REGRESSIONS}
    known = {name: value for name, value in validated.items() if not math.isnan(value)}
    return max(reversed(known), key=known.__getitem__) if known else _BOTH


def _check_learnable(train: ClipFeatures, data: str, *, several: bool) -> None:
    """Refuse clips that leave nothing to learn, as others could not be decoded."""
    if not linear_classifier.learnable(train.truth, several=several):
        raise UserError(f'{data}: all training clips that can be decoded have the same labels')


def _methods(*, several: bool) -> Mapping[str, _Method]:
    """Return the classifiers by their names."""
    regression = functools.partial(classifiers.fit_regression, several=several)
    methods = {name: _Method(features, regression) for name, features in _REGRESSIONS.items()}
    if several:
        return methods
    return methods | {
        'nearest neighbors on both': _Method('both', classifiers.fit_neighbors),
        'small head on both': _Method('both', classifiers.fit_small_head),
    }


def _compare(
    opened: ProbedData, train: ClipFeatures, held_out: ClipFeatures, folds: int
) -> tuple[list[Row], dict[str, FittedClassifier]]:
    """Return the rows of all classifiers, and the fitted ones by their names."""
    config, progress = opened.config, Progress()
    several = config.train.loss == 'bce'
    validated = train.select(linear_classifier.sample(len(train.clips), _MAX_VALIDATED_CLIPS))
    numbers = cross_validation.divide(validated, folds, several=several)
    rows, by_name = [], {}
    for name, method in _methods(several=several).items():
        progress.show(name)
        features = getattr(validated, method.features)
        scores = cross_validation.held_out_scores(method.fit, features, validated, numbers)
        fitted = method.fit(getattr(train, method.features), train.truth, train.groups)
        by_name[name] = fitted
        evaluated = fitted.scorer.scores(getattr(held_out, method.features))
        rows.append(
            Row(
                name,
                fitted.setting,
                _score(config, opened.labels, scores, validated),
                _score(config, opened.labels, evaluated, held_out),
            )
        )
    progress.clear()
    return rows + _baseline_rows(config, validated, numbers), by_name


def _score(
    config: Config,
    labels: tuple[str, ...],
    scores: Float64[np.ndarray, 'N C'],
    clips: ClipFeatures,
) -> float:
    return selection_score(config, compute_metrics(scores, clips.targets, labels))


def _baseline_rows(
    config: Config, clips: ClipFeatures, numbers: Int64[np.ndarray, 'N']
) -> list[Row]:
    """Return the rows of the plain and the strong baseline, which use no encoder."""
    folds = dict(zip(clips.clips.tolist(), numbers.tolist(), strict=True))
    validated = baseline.cross_validate(config, folds)
    return [
        Row(
            f'{name} baseline',
            '',
            *(selection_score(config, result) for result in (metrics, evaluated)),
        )
        for name, metrics, (_, evaluated) in zip(
            ('plain', 'strong'), validated, baseline.measure(config), strict=True
        )
    ]


def _table_lines(
    opened: ProbedData,
    encoder: ProbedEncoder,
    train: ClipFeatures,
    held_out: ClipFeatures,
    rows: list[Row],
    folds: int,
) -> list[str]:
    """Return the lines that describe the data and the results."""
    several = opened.config.train.loss == 'bce'
    metric = 'mAP' if several else 'accuracy'
    format_score = markdown.number if several else markdown.percent
    validated = min(len(train.clips), _MAX_VALIDATED_CLIPS)
    lines = [
        f'{printable(encoder.path)}: {printable(encoder.weights.kind)}',
        f'{pluralize(len(train.clips), "training clip")} of {len(opened.labels)} classes,'
        f' {pluralize(len(held_out.clips), "evaluation clip")};'
        f' {train.embedding.shape[1]} values of the embedding, {train.statistics.shape[1]}'
        ' statistics',
        '',
        *markdown.table(
            (
                'classifier',
                'setting',
                f'{metric}, {folds} folds of {validated} training clips',
                f'{metric}, evaluation',
            ),
            [
                (row.name, row.setting, format_score(row.validated), format_score(row.evaluated))
                for row in rows
            ],
            'llrr',
        ),
        '',
    ]
    if several:
        lines.append('Nearest neighbors and the small head are for clips of one label each.')
    if math.isnan(rows[0].evaluated):
        lines.append(f'{metric} of the evaluation clips is undefined.')
    return lines
