"""Open the training split of a run, and plan its steps."""

import dataclasses
from collections.abc import Sequence

from elastic_ast_jax.checkpointing.workdir import PlanRecord, Workdir, WorkdirError
from elastic_ast_jax.config.schema import Config
from elastic_ast_jax.data import splits
from elastic_ast_jax.data.epoch_plan import PlanError, Planner
from elastic_ast_jax.data.sources.base import Source
from elastic_ast_jax.data.sources.clip_labels import label_names, targets
from elastic_ast_jax.distributed import agreement, process_view
from elastic_ast_jax.training import extension
from elastic_ast_jax.training.class_weights import ClassWeights, class_weights


@dataclasses.dataclass(frozen=True)
class TrainingData:
    """The training split, and how its clips become batches.

    Attributes:
        source: The clips.
        labels: The name of each class.
        targets: The classes of each clip.
        planner: Plans the batches of an epoch.
        weights: The weights of classes in the loss; None: all count alike.
    """

    source: Source
    labels: tuple[str, ...]
    targets: Sequence[tuple[int, ...]]
    planner: Planner
    weights: ClassWeights | None


def open_training_data(config: Config) -> TrainingData:
    """Open the training split."""
    source = splits.open_source(config, 'train')
    labels = label_names(source)
    classes = targets(source, labels, 'training', config.train.loss)
    planner = splits.make_train_planner(config, source)
    weights = class_weights(config, classes, len(labels))
    return TrainingData(source, labels, classes, planner, weights)


def check_agreement(config: Config, data: TrainingData) -> None:
    """Check that all processes have the same training data, plan and pretrained weights.

    Raises:
        DisagreementError: They have not; names the process and the line.
    """
    plan = [data.planner.fingerprint(data.source.fingerprint)]
    plan += data.weights.lines() if data.weights else []
    agreement.check(process_view.data_sections('training', data.source, plan))
    if config.init.from_:
        agreement.check(process_view.weights_sections(config.init.from_))


def stored_plan(config: Config, workdir: Workdir, data: TrainingData) -> PlanRecord:
    """Return the plan of the run: stored when the run begins, checked when it resumes.

    A run with more epochs than its plan is extended, see `extension`.

    Raises:
        WorkdirError: The training data are no longer those of the stored plan.
    """
    fingerprint, epochs = data.planner.fingerprint(data.source.fingerprint), config.train.epochs
    stored = workdir.plan() if workdir.has_checkpoint() else None
    if stored is None:
        plan = PlanRecord(fingerprint, plan_rows(config, data))
        workdir.set_plan(plan)
        return plan
    if not data.planner.recognizes(stored.fingerprint, data.source.fingerprint):
        raise WorkdirError(
            f'{workdir.path}: the training data, or the way clips are drawn from them, changed'
            f' since this run began (plan {stored.fingerprint} then, {fingerprint} now): restore'
            ' the data, or train in another --workdir'
        )
    before = workdir.config().train.epochs
    plan = extension.first_epochs(stored, before)
    if before < epochs:
        plan = extension.extend_plan(plan, plan_rows(config, data))
        workdir.set_plan(plan)
        workdir.set_config(config)  # from here on the run is extended
    return plan


def check_division(trained: Config, evaluated: Config, workdir: Workdir) -> None:
    """Check that evaluation divides the clips as training did, where that depends on all clips.

    Otherwise clips that were trained on could be evaluated. A model without a plan, such as a
    converted one, is not checked.

    Args:
        trained: The config of the run.
        evaluated: The same with the places that its clips have now.
        workdir: The workdir of the run.

    Raises:
        WorkdirError: The clips are not those of training, or the plan is damaged.
        DataError: The data cannot be used; says why.
    """
    if not splits.divides_by_all_clips(trained.data):
        return
    stored = workdir.plan()
    if stored is None:
        return
    # The plan has how training treats long clips, whatever evaluation does with them.
    data = dataclasses.replace(evaluated.data, too_long=trained.data.too_long)
    config = dataclasses.replace(trained, data=data)
    source = splits.open_source(config, 'train')
    try:
        planner = splits.make_train_planner(config, source)
        is_same = planner.recognizes(stored.fingerprint, source.fingerprint)
    except PlanError:  # a clip that training would have refused
        is_same = False
    if not is_same:
        rule = f'data.folds={data.folds}' if data.folds else f'data.group={data.group!r}'
        raise WorkdirError(
            f'{workdir.path}: the clips of {data.train or data.root} changed since training, and'
            f' {rule} divides them by all clips, so that clips that were trained on could be'
            ' evaluated: restore the data, evaluate others with --config.data.eval=FILE, or train'
            ' in another --workdir'
        )


def plan_rows(config: Config, data: TrainingData) -> tuple[int, ...]:
    """Return the rows of each epoch."""
    return splits.make_schedule(data.planner, config.packing.rows, config.train.epochs).epoch_rows
