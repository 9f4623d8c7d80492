"""Describe the data and the devices of a run, and what may be unexpected about them."""

import collections
from collections.abc import Callable, Iterator
from typing import Protocol, runtime_checkable

from elastic_ast_jax.checkpointing.checkpoints import Checkpoints
from elastic_ast_jax.config.schema import Config
from elastic_ast_jax.data import splits
from elastic_ast_jax.data.epoch_plan import Schedule
from elastic_ast_jax.data.sources.base import Source, count_shared_clips
from elastic_ast_jax.data.sources.clip_labels import classes_without_clips
from elastic_ast_jax.training.training_data import TrainingData
from elastic_ast_jax.utils.text import join_first, pluralize


@runtime_checkable
class EvaluationSplit(Protocol):
    """The evaluation split, as `evaluation.evaluator.Evaluator` opens it.

    Attributes:
        source: The clips.
    """

    source: Source

    @property
    def cropped(self) -> int:
        """Return the number of clips that are cropped."""
        ...

    @property
    def windowed(self) -> int:
        """Return the number of clips that are evaluated in several windows."""
        ...


def describe_data(
    config: Config, data: TrainingData, evaluation: EvaluationSplit, schedule: Schedule
) -> Iterator[str]:
    """Yield lines about the sizes of both splits, and warnings of clips that are changed or shared.

    Args:
        config: The configuration of the run.
        data: The training split.
        evaluation: The evaluation split.
        schedule: The steps of the run.
    """
    plan, packing = data.planner.epoch(0), config.packing
    name = splits.NAMES[splits.selection_split(config)]
    yield (
        f'{len(data.source.keys)} training clips, {len(evaluation.source.keys)} {name} clips;'
        f' {schedule.steps} steps of {packing.rows} rows of {packing.tokens} tokens,'
        f' {100 * plan.fill(packing.rows, packing.tokens):.2f} % full'
    )
    yield from _describe_division(config, data.source, evaluation.source, name)
    for split, count in (('training', plan.clips.cropped), (name, evaluation.cropped)):
        if count:
            limit = config.frontend.max_frames
            yield f'warning: {count} {split} clips are cropped to {limit} frames'
    if evaluation.windowed:
        yield f'{evaluation.windowed} {name} clips are evaluated in several windows'
    if shared := count_shared_clips(data.source, evaluation.source):
        yield f'warning: {shared} clips are in both the training and the {name} split'
    if missing := classes_without_clips(data.source, data.labels):
        yield (
            f'warning: {len(missing)} of {len(data.labels)} classes have no training clip:'
            f' {", ".join(missing)}'
        )
    if data.weights is not None:
        low, high = data.weights.positive.min(), data.weights.positive.max()
        yield f'class weights in the loss: from {low:.3g} to {high:.3g}'
    clips = len(evaluation.source.labels)
    counts = collections.Counter(name for names in evaluation.source.labels for name in set(names))
    if all(count == clips for count in counts.values()):
        yield (
            f'warning: no class has both clips and counter-examples in the {name} split, so mAP,'
            ' AUC and d-prime are undefined'
        )


def _describe_division(
    config: Config, training: Source, evaluation: Source, name: str
) -> Iterator[str]:
    """Yield the fold of a run, and a warning of groups that are divided."""
    if config.data.folds:
        yield f'fold {config.data.fold} of {config.data.folds} is the evaluation split'
    if groups := splits.shared_groups(config, training, evaluation):
        yield (
            f'warning: {pluralize(len(groups), "group")} of data.group with clips in both the'
            f' training and the {name} split: {join_first(groups)}'
        )


def describe_unscored(
    checkpoints: Checkpoints, step: int, evaluation_due: Callable[[int], bool]
) -> Iterator[str]:
    """Yield warnings of checkpoints that were to be evaluated and have no score.

    Args:
        checkpoints: The checkpoints of the run.
        step: The step that the run resumes after; its checkpoint is still to be evaluated.
        evaluation_due: Tells whether an evaluation follows a step.
    """
    for earlier in checkpoints.steps():
        if earlier < step and evaluation_due(earlier) and checkpoints.score(earlier) is None:
            yield (
                f'warning: {checkpoints.directory / str(earlier)}: has no score, so that it cannot'
                f' be the best: evaluate it with --checkpoint={earlier}'
            )
