"""Train a model: the loop, and the parts that it is wired to.

`run` reads from top to bottom: prepare the run, restore its state, then `train` fetches a batch,
takes a step, logs it, and saves or evaluates if due.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Iterator, Mapping
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from elastic_ast_jax.audio import fbank
from elastic_ast_jax.checkpointing import late_callbacks, run_lock
from elastic_ast_jax.checkpointing.checkpoints import Checkpoints
from elastic_ast_jax.checkpointing.run_lock import RunLock
from elastic_ast_jax.checkpointing.train_state import TrainState
from elastic_ast_jax.checkpointing.workdir import ModelMetadata, Workdir
from elastic_ast_jax.config.schema import Config
from elastic_ast_jax.data import pipeline, splits
from elastic_ast_jax.data.epoch_plan import Schedule
from elastic_ast_jax.data.sources.base import BadAudio
from elastic_ast_jax.distributed import agreement, process_view, processes, sharding
from elastic_ast_jax.evaluation import baseline_verdict
from elastic_ast_jax.evaluation.evaluator import Evaluator
from elastic_ast_jax.evaluation.fitted_statistics import fit_statistics
from elastic_ast_jax.evaluation.results import selection_score
from elastic_ast_jax.models import factory as model_factory
from elastic_ast_jax.models import flops
from elastic_ast_jax.models.attention import selection
from elastic_ast_jax.packing.batch import PackedBatch
from elastic_ast_jax.pretrained import detect
from elastic_ast_jax.pretrained.starting_point import starting_params
from elastic_ast_jax.training import compiled_steps, optimizer, skipped_clips, wandb_log
from elastic_ast_jax.training import factory as training_factory
from elastic_ast_jax.training.announcements import describe_data, describe_unscored
from elastic_ast_jax.training.compilations import CompilationCounter
from elastic_ast_jax.training.compiled_steps import CompiledSteps
from elastic_ast_jax.training.early_stopping import EarlyStopping
from elastic_ast_jax.training.extension import describe_extensions, prepare_extension
from elastic_ast_jax.training.metrics_window import MetricsWindow
from elastic_ast_jax.training.monitor import Monitor
from elastic_ast_jax.training.profiling import Profile
from elastic_ast_jax.training.progress_line import ProgressLine
from elastic_ast_jax.training.run_log import RunLog, open_logs
from elastic_ast_jax.training.save_schedule import SaveSchedule
from elastic_ast_jax.training.step_reporter import StepReporter
from elastic_ast_jax.training.training_data import (
    TrainingData,
    check_agreement,
    open_training_data,
    stored_plan,
)
from elastic_ast_jax.utils import jax_cache
from elastic_ast_jax.utils.progress import Progress, run_on_exit
from elastic_ast_jax.utils.text import pluralize


@dataclasses.dataclass(frozen=True)
class Setup:
    """The fixed parts of a run, before it has a state.

    Attributes:
        config: The configuration.
        workdir: The folder of the run.
        progress: Writes to the terminal.
        mesh: The devices.
        data: The training split.
        schedule: The steps of all epochs.
        learning_rate: The learning rate of each step.
        attention: The attention that was selected, in words.
        steps: The compiled steps.
        pretrained: Parameters that do not start from random numbers, by name.
        evaluator: Evaluates parameters on the split that selects checkpoints.
    """

    config: Config
    workdir: Workdir
    progress: Progress
    mesh: Mesh
    data: TrainingData
    schedule: Schedule
    learning_rate: optimizer.Schedule
    attention: str
    steps: CompiledSteps
    pretrained: Mapping[str, Any]
    evaluator: Evaluator


@dataclasses.dataclass(frozen=True)
class Session:
    """The parts that are open while the loop runs.

    Attributes:
        setup: The fixed parts of the run.
        checkpoints: Saves states.
        events: Decides when to save and to evaluate.
        batches: The batches of the remaining steps.
        stopping: Ends a run that no longer improves.
        monitor: Checks and reports each step, one step behind the device.
        window: Averages the steps since the last log line.
        log: Writes to the logs.
        profile: Profiles a few steps, if asked to.
        preemption: Notices that the run is asked to stop.
    """

    setup: Setup
    checkpoints: Checkpoints
    events: SaveSchedule
    batches: Iterator[PackedBatch]
    stopping: EarlyStopping
    monitor: Monitor
    window: MetricsWindow
    log: RunLog
    profile: Profile
    preemption: processes.Preemption


def run(config: Config, path: str, *, extend: bool = False) -> None:
    """Train in a workdir, from its newest checkpoint if it has one, to the last epoch.

    Each of several processes runs this; the first one writes the files and the messages.

    Args:
        config: The configuration.
        path: The workdir.
        extend: Whether the config may have more epochs than the finished run in the workdir.

    Raises:
        Preempted: The process got SIGTERM; a checkpoint of the last step is saved.
    """
    jax_cache.use_compilation_cache()
    with contextlib.ExitStack() as stack:
        with processes.fail_together():
            progress = Progress(shown=processes.is_primary())
            agreement.check(process_view.settings_sections(config, [f'extend={extend}']))
            if config.train.wandb and processes.is_primary():
                wandb_log.import_wandb(config.train.wandb)  # fails before there is a workdir
            lock = stack.enter_context(run_lock.hold(path, progress.write_line))
            setup = prepare_run(config, path, progress, lock, extend=extend)
        run_prepared(setup)


def run_prepared(setup: Setup) -> None:
    """Train from the newest checkpoint to the last epoch.

    Raises:
        Preempted: See `run`.
    """
    config = setup.config
    announce(setup)
    write_line = setup.progress.write_line
    with (
        setup.workdir.expect_present(),
        late_callbacks.silenced(),
        Checkpoints(
            setup.workdir.checkpoints,
            config.train.max_checkpoints,
            check_lock=setup.workdir.check_lock,
        ) as checkpoints,
    ):
        state = restore_or_initialize(setup, checkpoints)
        step = int(state.step)
        stopping = EarlyStopping(
            setup.workdir, config, setup.schedule.steps, step, checkpoints.all_scores()
        )
        ends_here = step >= setup.schedule.steps or stopping.ends_after(step)
        if ends_here and checkpoints.score(step) is not None:
            length = stopping.describe_length(step, checkpoints.best_step())
            write_line(f'{setup.workdir.path}: training is finished, {length}; nothing to do')
            return
        if step:
            write_line(f'{setup.workdir.path}: resuming after step {step}')
        with (
            CompilationCounter() as compilations,
            open_session(setup, checkpoints, stopping, step) as session,
        ):
            step = train(session, state)
        best_step = checkpoints.best_step()
        length = stopping.describe_length(step, best_step)
        selected = best_step if stopping.ends_after(step) else None
        score = checkpoints.score(step if selected is None else selected)
    train_count = pluralize(compilations.count(setup.steps.train_step), 'time')
    eval_count = pluralize(compilations.count(setup.steps.eval_step), 'time')
    write_line(
        f'{setup.workdir.path}: training is finished, {length}; the training step was'
        f' compiled {train_count}, the evaluation step {eval_count}'
    )
    if config.train.compare_baseline and score is not None and processes.is_primary():
        for line in baseline_verdict.describe(config, score, is_selected=selected is not None):
            write_line(line)


def train(session: Session, state: TrainState) -> int:
    """Train from a state to the last step, or until evaluations no longer improve.

    Returns:
        The step that the run ends after.

    Raises:
        Preempted: The run was asked to stop; a checkpoint of the last step is saved.
        TrainingError: A step is not finite.
    """
    setup, monitor, events = session.setup, session.monitor, session.events
    stopping = session.stopping
    for line in describe_unscored(session.checkpoints, monitor.step, events.evaluation_due):
        setup.progress.write_line(line)
    if evaluation_is_missing(session):
        evaluate(session, state)
    for batch in () if stopping.ends_after(monitor.step) else session.batches:
        with session.profile.step(monitor.step):
            state, metrics = setup.steps.train_step(state, sharding.shard_batch(batch, setup.mesh))
        step = monitor.on_step_dispatched(batch, metrics)
        session.profile.stop_after(step, monitor.flush_pending)
        log_completed_saves(session)
        if session.preemption.should_stop(step):
            save(session, state)
            stop_if_unfinished(session, step)  # there may be too little time to evaluate
        if events.save_due(step):
            save(session, state)
        if events.evaluation_due(step):
            evaluate(session, state)
        if stopping.ends_after(step):
            break
    session.checkpoints.wait()
    log_completed_saves(session)
    return monitor.step


def evaluation_is_missing(session: Session) -> bool:
    """Return whether the restored state ends an epoch and was not evaluated.

    A run may end between a checkpoint and its evaluation, as one that is preempted does.
    """
    step = session.monitor.step
    return session.events.evaluation_due(step) and session.checkpoints.score(step) is None


def save(session: Session, state: TrainState) -> None:
    """Save a state; nothing is saved after a step that is not finite.

    Raises:
        TrainingError: The step that made the state is not finite.
        WorkdirError: The workdir is gone.
    """
    session.monitor.flush_pending()
    session.setup.workdir.check_present()
    session.log.flush()
    session.checkpoints.save(state)


def evaluate(session: Session, state: TrainState) -> None:
    """Evaluate a state whose checkpoint is saved, and add the score to the checkpoint."""
    step, setup = session.monitor.step, session.setup
    with session.window.paused():
        metrics = setup.evaluator.metrics(state.params if state.ema is None else state.ema)
        session.log.log_evaluation(step, metrics)
        score = selection_score(setup.config, metrics)
        setup.workdir.check_present()
        session.stopping.add(step, score)
        if session.stopping.ends_after(step):
            count = session.stopping.history.evaluations_without_improvement()
            session.log.log_early_end(step, count)
        session.log.flush()  # a run that resumes after the score does not evaluate again
        session.checkpoints.add_score(step, score)


def log_completed_saves(session: Session) -> None:
    """Log the checkpoints that were completed since the last call."""
    for checkpoint in session.checkpoints.completed_saves():
        session.log.log_checkpoint(session.monitor.step, checkpoint)


def stop_if_unfinished(session: Session, step: int) -> None:
    """Stop a preempted run once its checkpoint is complete, unless this was the last step.

    Raises:
        Preempted: The run has steps left.
    """
    steps = session.setup.schedule.steps
    if step == steps:
        return
    session.checkpoints.wait()
    log_completed_saves(session)
    raise processes.Preempted(
        f'{session.setup.workdir.path}: asked to stop; step {step} of {steps} is saved: give the'
        ' same command again to resume'
    )


def restore_or_initialize(setup: Setup, checkpoints: Checkpoints) -> TrainState:
    """Return the newest state of the run, or the one before its first step."""
    steps = setup.steps
    state = checkpoints.restore(sharding.with_shardings(steps.abstract, steps.shardings))
    return steps.init_sharded(setup.pretrained) if state is None else state


def prepare_run(
    config: Config, path: str, progress: Progress, lock: RunLock, *, extend: bool = False
) -> Setup:
    """Open or begin a workdir, and build everything that the run needs besides its state.

    Args:
        config: The configuration.
        path: The workdir.
        progress: Writes to the terminal.
        lock: Holds the workdir.
        extend: See `run`.

    Raises:
        UserError: The config, the data, the devices or the workdir do not fit together.
        DisagreementError: The processes have other data.
    """
    workdir = Workdir(path, processes.process_index(), lock.check)
    prepare = functools.partial(prepare_extension, workdir) if extend else workdir.prepare
    processes.primary_first('workdir', prepare, config)
    mesh = sharding.make_mesh(config.mesh)
    sharding.check_rows(config.packing.rows, mesh, config.train.grad_accumulation_steps)
    if config.init.from_ and not workdir.has_checkpoint():
        detect.check_exists(config.init.from_)
    splits.check_paths(config)
    data = open_training_data(config)
    check_agreement(config, data)
    metadata = ModelMetadata(data.labels, fbank.fingerprint(config.frontend))
    processes.primary_first('model metadata', workdir.set_model_metadata, metadata)
    plan = processes.primary_first('plan', stored_plan, config, workdir, data)
    schedule = Schedule(plan.epoch_rows, config.packing.rows)
    if extensions := describe_extensions(plan):
        progress.write_line(f'{workdir.path}: {extensions}')
    dtype = selection.compute_dtype(config.model.dtype)
    attend, attention = selection.select_attention_with_reason(
        config.model.attention, config.model.kind, dtype
    )
    learning_rate = training_factory.learning_rate_schedule(
        config, schedule.epoch_ends, plan.extended_after
    )
    steps = compiled_steps.make_steps(
        config,
        len(data.labels),
        attend,
        dtype,
        mesh,
        learning_rate,
        data.weights,
        training_factory.thaw_step(config, schedule.epoch_ends),
    )
    split = splits.selection_split(config)
    evaluator = Evaluator(config, data.labels, steps.eval_step, mesh, split=split)
    agreement.check(process_view.data_sections(evaluator.split_name, evaluator.source, ()))
    return Setup(
        config,
        workdir,
        progress,
        mesh,
        data,
        schedule,
        learning_rate,
        attention,
        steps,
        pretrained=initial_params(config, workdir, data, steps, mesh, progress),
        evaluator=evaluator,
    )


def initial_params(
    config: Config,
    workdir: Workdir,
    data: TrainingData,
    steps: CompiledSteps,
    mesh: Mesh,
    progress: Progress,
) -> Mapping[str, Any]:
    """Return the parameters of a new run that do not start from random numbers, by name."""
    params = starting_params(
        config, workdir, steps.network, steps.abstract.params, data.labels, progress
    )
    if not config.model.statistics or workdir.has_checkpoint():
        return params
    layer = fit_statistics(config, data.labels, data.source, mesh, progress)
    progress.write_line(layer.report)
    return {**params, **layer.params}


@contextlib.contextmanager
def open_session(
    setup: Setup, checkpoints: Checkpoints, stopping: EarlyStopping, first_step: int
) -> Iterator[Session]:
    """Open the parts that the loop uses, and close them however it ends.

    Args:
        setup: The fixed parts of the run.
        checkpoints: Its checkpoints.
        stopping: Ends the run early.
        first_step: The step that it starts or resumes after.
    """
    config, schedule, progress = setup.config, setup.schedule, setup.progress
    reader = make_reader(setup)
    events = SaveSchedule.from_config(config.train, schedule.epoch_ends)
    with contextlib.ExitStack() as stack:
        stack.enter_context(run_on_exit(functools.partial(report_skipped, setup, reader)))
        sinks = stack.enter_context(open_logs(config, setup.workdir, checkpoints, first_step))
        profile = stack.enter_context(
            Profile(
                setup.workdir.tensorboard,
                config.train.profile_steps,
                first_step,
                schedule.steps,
                progress.write_line,
                setup.workdir.check_lock,
            )
        )
        preemption = stack.enter_context(processes.Preemption())
        log = RunLog(sinks, progress, schedule, moving_average=config.train.ema > 0)
        reporter = make_reporter(setup, events, log, first_step)
        batches = pipeline.iterate_batches(
            reader, first_step, schedule.steps, config.data.num_workers or None
        )
        yield Session(
            setup,
            checkpoints,
            events,
            batches,
            stopping,
            Monitor(setup.data.source.keys, reporter.report, first_step),
            reporter.window,
            log,
            profile,
            preemption,
        )


def make_reader(setup: Setup) -> pipeline.RowReader:
    """Return the reader of the training rows of this process."""
    config, data = setup.config, setup.data
    rows = sharding.local_rows(config.packing.rows, setup.mesh)
    return pipeline.RowReader(
        data.source,
        data.targets,
        data.planner,
        setup.schedule,
        model_factory.batch_shape(config, len(data.labels), len(rows)),
        rows.start,
        cast(BadAudio, config.data.on_bad_audio),
    )


def make_reporter(setup: Setup, events: SaveSchedule, log: RunLog, first_step: int) -> StepReporter:
    """Return the reporter of training steps; its clocks start now."""
    schedule, packing = setup.schedule, setup.config.packing
    return StepReporter(
        np.asarray(jax.vmap(setup.learning_rate)(jnp.arange(schedule.steps))),
        functools.partial(step_flops, setup),
        events,
        MetricsWindow(packing.rows * packing.tokens),
        ProgressLine(setup.progress, schedule, first_step),
        log,
    )


def step_flops(setup: Setup, step: int) -> int:
    """Return the model FLOPs of a training step, by its number from 0."""
    tokens = setup.data.planner.clip_tokens(setup.schedule, step)
    return flops.train_step_flops(tokens, setup.steps.network, setup.steps.shape.patch_size)


def announce(setup: Setup) -> None:
    """Report what is about to run, and what may be unexpected about it."""
    config, write_line = setup.config, setup.progress.write_line
    for line in describe_data(config, setup.data, setup.evaluator, setup.schedule):
        write_line(line)
    write_line(f'{sharding.describe(setup.mesh)}; {setup.attention}')
    freeze, freeze_epochs = ','.join(config.train.freeze), config.train.freeze_epochs
    if freeze_epochs:
        write_line(f'train.freeze={freeze}: constant for the first {freeze_epochs:g} epochs')
    if setup.steps.frozen:
        reasons = [f'train.freeze={freeze}'] if freeze and not freeze_epochs else []
        reasons += ['model.statistics=True'] if config.model.statistics else []
        write_line(
            f'{len(setup.steps.frozen)} parameters stay as they are: {" and ".join(reasons)}'
        )


def report_skipped(setup: Setup, reader: pipeline.RowReader) -> None:
    """List the clips that this process skipped (`data.on_bad_audio='skip'`)."""
    undecodable = [message for _, message in sorted(reader.skipped.items())]
    skipped_clips.report_skipped(
        setup.workdir,
        setup.progress,
        {
            splits.NAMES['train']: [*setup.data.source.skipped, *undecodable],
            setup.evaluator.split_name: setup.evaluator.skipped,
        },
    )
