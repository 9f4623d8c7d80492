"""Open the training split of a run, and plan its steps."""

import dataclasses
from collections.abc import Sequence

from elastic_ast_jax.checkpointing.workdir import PlanRecord, Workdir, WorkdirError
from elastic_ast_jax.config.schema import Config
from elastic_ast_jax.data import splits
from elastic_ast_jax.data.epoch_plan import Planner, Schedule
from elastic_ast_jax.data.sources.base import Source
from elastic_ast_jax.data.sources.clip_labels import label_names, targets


@dataclasses.dataclass(frozen=True)
class TrainingData:
    """The training split, and how its clips become batches.

    Attributes:
        source: The clips.
        labels: The name of each class.
        targets: The classes of each clip.
        planner: Plans the batches of an epoch.
    """

    source: Source
    labels: tuple[str, ...]
    targets: Sequence[tuple[int, ...]]
    planner: Planner


def open_training_data(config: Config) -> TrainingData:
    """Open the training split."""
    source = splits.open_source(config, 'train')
    labels = label_names(source)
    classes = targets(source, labels, 'training', config.train.loss)
    return TrainingData(source, labels, classes, splits.make_train_planner(config, source))


def stored_schedule(config: Config, workdir: Workdir, data: TrainingData) -> Schedule:
    """Return the steps of all epochs: stored when the run begins, checked when it resumes.

    Raises:
        WorkdirError: The training data are no longer those of the stored plan.
    """
    fingerprint = data.planner.fingerprint(data.source.fingerprint)
    stored = workdir.plan() if workdir.has_checkpoint() else None
    if stored is None:
        schedule = splits.make_schedule(data.planner, config.packing.rows, config.train.epochs)
        workdir.set_plan(PlanRecord(fingerprint, schedule.epoch_rows))
        return schedule
    if not data.planner.recognizes(stored.fingerprint, data.source.fingerprint):
        raise WorkdirError(
            f'{workdir.path}: the training data, or the way clips are drawn from them, changed'
            f' since this run began (plan {stored.fingerprint} then, {fingerprint} now): restore'
            ' the data, or train in another --workdir'
        )
    return Schedule(stored.epoch_rows, config.packing.rows)
