"""Extend a finished run by more epochs (`elastic-ast train --extend`).

The plan of the run records at which epochs it was extended. Each extension has its own schedule of
the learning rate: up to the last step of the run as it was, the learning rates are those of the
run as it was; from there on, those of a run with all epochs.

A run that ended early (`train.patience`) has steps left. It continues with a larger patience, or
none, and the same epochs: nothing but the decision to end changes.
"""

import itertools

from elastic_ast_jax.checkpointing.workdir import PlanRecord, Workdir, WorkdirError
from elastic_ast_jax.config.schema import Config
from elastic_ast_jax.data.epoch_plan import Schedule


def prepare_extension(workdir: Workdir, config: Config) -> None:
    """Check that a run may be extended, or prepare to resume one that is extended already.

    Args:
        workdir: Its workdir.
        config: The config of the run with more epochs.

    Raises:
        WorkdirError: The run has not begun or is not finished, it has more epochs than the config,
            or something else than the number of epochs and `train.patience` differs.
    """
    plan = workdir.plan() if workdir.has_checkpoint() else None
    if plan is None:
        raise WorkdirError(f'{workdir.path}: holds no run that could be extended; omit --extend')
    workdir.prepare(config, extend=True)
    stored = workdir.config()
    before, now, patience = stored.train.epochs, config.train.epochs, stored.train.patience
    if now < before:
        raise WorkdirError(
            f'{workdir.path}: train.epochs={now} is less than the {before} epochs of this run:'
            ' --extend only adds epochs'
        )
    step, steps = (
        workdir.newest_step(),
        Schedule(plan.epoch_rows[:before], stored.packing.rows).steps,
    )
    if now > before and step < steps:
        raise WorkdirError(
            f'{workdir.path}: step {step} of {steps} is the last one that is saved: finish the run'
            f' with train.epochs={before}, then extend it'
            + (', with --extend and train.patience=0 if it ended early' if patience else '')
        )
    if now == before:
        workdir.set_config(config)


def extend_plan(plan: PlanRecord, epoch_rows: tuple[int, ...]) -> PlanRecord:
    """Return the plan of a run with more epochs than it had when it was finished.

    Args:
        plan: The plan of the finished run.
        epoch_rows: The rows of each epoch of the extended run.
    """
    return PlanRecord(plan.fingerprint, epoch_rows, (*plan.extended_after, len(plan.epoch_rows)))


def first_epochs(plan: PlanRecord, epochs: int) -> PlanRecord:
    """Return the plan of the first epochs.

    A plan has more of them if a crash interrupted an extension.
    """
    before = tuple(count for count in plan.extended_after if count < epochs)
    return PlanRecord(plan.fingerprint, plan.epoch_rows[:epochs], before)


def describe_extensions(plan: PlanRecord) -> str:
    """Return the extensions of a run in words; an empty text if there is none."""
    counts = itertools.pairwise((*plan.extended_after, len(plan.epoch_rows)))
    return ', then '.join(f'extended from {before} to {now} epochs' for before, now in counts)
