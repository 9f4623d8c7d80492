"""`elastic-ast train`: the loop, and what it is wired to."""

import contextlib
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from elastic_ast_jax.audio import fbank
from elastic_ast_jax.checkpointing.checkpoints import Checkpoints
from elastic_ast_jax.checkpointing.train_state import TrainState
from elastic_ast_jax.checkpointing.workdir import ModelMetadata, PlanRecord, Workdir, WorkdirError
from elastic_ast_jax.config.schema import Config
from elastic_ast_jax.data import pipeline, splits
from elastic_ast_jax.data.epoch_plan import Planner, Schedule
from elastic_ast_jax.data.sources import headers
from elastic_ast_jax.data.sources.base import (
    Source,
    check_single_label,
    classes_without_clips,
    count_shared_clips,
    label_names,
    targets,
)
from elastic_ast_jax.distributed import processes as distributed_processes
from elastic_ast_jax.distributed import sharding
from elastic_ast_jax.evaluation.evaluator import Evaluator, selection_score
from elastic_ast_jax.models import factory as model_factory
from elastic_ast_jax.models import flops
from elastic_ast_jax.models.attention import selection
from elastic_ast_jax.pretrained import initialize
from elastic_ast_jax.training import compiled_steps, wandb_log
from elastic_ast_jax.training import factory as training_factory
from elastic_ast_jax.training.compiled_steps import CompiledSteps
from elastic_ast_jax.training.metrics_log import LogError, MetricsLog
from elastic_ast_jax.training.monitor import Monitor
from elastic_ast_jax.training.profiling import Profile
from elastic_ast_jax.training.wandb_log import WandbLog
from elastic_ast_jax.utils import jax_cache
from elastic_ast_jax.utils.files import write_text
from elastic_ast_jax.utils.progress import Progress, afterwards
from elastic_ast_jax.utils.text import counted


def run(config: Config, path: str) -> None:
    """Trains in a workdir, from its newest checkpoint if there is one, to the last epoch.

    Several processes run the same, see `processes`; the first of them writes and speaks.

    Raises:
        Preempted: SIGTERM came; a checkpoint of the last step is saved.
    """
    jax_cache.use_compilation_cache()
    progress = Progress(shown=distributed_processes.is_primary())
    if config.train.wandb and distributed_processes.is_primary():
        wandb_log.import_wandb(config.train.wandb)  # what is not there is missed before the work
    workdir = Workdir(path, distributed_processes.process_index())
    distributed_processes.primary_first('workdir', lambda: workdir.prepare(config))
    mesh = sharding.make_mesh(config.mesh)
    sharding.check_rows(config.packing.rows, mesh, config.train.grad_accumulation_steps)

    source = splits.open_source(config, 'train')
    labels = label_names(source)
    classes = targets(source, labels, 'training')
    if config.train.loss == 'cross_entropy':
        check_single_label(source, classes)
    planner = splits.make_train_planner(config, source)
    distributed_processes.primary_first(
        'model metadata',
        lambda: workdir.set_model_metadata(
            ModelMetadata(labels, fbank.fingerprint(config.frontend))
        ),
    )
    schedule = distributed_processes.primary_first(
        'plan', lambda: _schedule(config, workdir, planner, source)
    )

    dtype = selection.compute_dtype(config.model.dtype)
    attend, chosen = selection.select_attention_with_reason(
        config.model.attention, config.model.kind, dtype
    )
    rate = training_factory.learning_rate_schedule(config, schedule.epoch_ends)
    made = compiled_steps.make_steps(config, len(labels), attend, dtype, mesh, rate)
    given = {} if workdir.has_checkpoint() else _start(config, workdir, made, labels, progress)
    evaluator = Evaluator(config, labels, made.eval_step, mesh)

    def work(step: int) -> int:
        return flops.train_step_flops(
            planner.clip_tokens(schedule, step), made.network, made.shape.patch_size
        )

    _announce(progress, config, source, evaluator, planner, schedule, mesh)
    progress.say(chosen)
    if missing := classes_without_clips(source, labels):
        progress.say(
            f'warning: {len(missing)} of {len(labels)} classes have no training clip:'
            f' {", ".join(missing)}'
        )
    if made.frozen:
        progress.say(
            f'{len(made.frozen)} parameters stay as they are:'
            f' train.freeze={",".join(config.train.freeze)}'
        )

    with Checkpoints(workdir.checkpoints, config.train.max_checkpoints) as checkpoints:
        state = checkpoints.restore(sharding.with_shardings(made.abstract, made.shardings))
        if state is None:
            state = made.init_sharded(given)
        first = int(state.step)
        if first >= schedule.steps and checkpoints.score(first) is not None:
            progress.say(f'{workdir.path}: training is finished, {first} steps; nothing to do')
            return
        if first:
            progress.say(f'{workdir.path}: going on after step {first}')
        rows = sharding.local_rows(config.packing.rows, mesh)
        reader = pipeline.RowReader(
            source,
            classes,
            planner,
            schedule,
            model_factory.batch_shape(config, len(labels), len(rows)),
            rows.start,
            config.data.on_bad_audio,
        )
        profile = Profile(
            workdir.tensorboard, config.train.profile_steps, first, schedule.steps, progress.say
        )
        skipped = _skipped(progress, workdir, source, reader, evaluator)
        with (
            skipped,
            _logs(config, workdir, first, checkpoints) as logs,
            profile,
            distributed_processes.Preemption() as preemption,
        ):
            rates = np.asarray(jax.vmap(rate)(jnp.arange(schedule.steps)))
            monitor = Monitor(config, source, schedule, rates, work, logs, progress, first)

            def save(state: TrainState, evaluated: bool) -> None:
                reached = None
                if evaluated:
                    with monitor.paused():
                        params = state.params if state.ema is None else state.ema
                        reached = selection_score(
                            config, monitor.evaluated(evaluator.metrics(params))
                        )
                for log in logs:
                    log.flush()
                checkpoints.save(state, reached)

            def tell() -> None:
                for checkpoint in checkpoints.completed_saves():
                    monitor.saved(checkpoint)

            if monitor.evaluation_due(first) and checkpoints.score(first) is None:
                save(state, evaluated=True)  # the run was told to stop before it could
            for batch in pipeline.iterate_batches(
                reader, first, schedule.steps, config.data.num_workers or None
            ):
                with profile.step(monitor.steps):
                    state, sums = made.train_step(state, sharding.shard_batch(batch, mesh))
                done = monitor.on_step_dispatched(batch, sums)
                profile.stop_after(done, monitor.flush_pending)
                tell()
                if preemption.should_stop(done):
                    monitor.flush_pending()  # nothing is saved after a step that went wrong
                    save(state, evaluated=False)  # there may be little time
                    if done < schedule.steps:
                        checkpoints.wait()
                        tell()
                        raise distributed_processes.Preempted(
                            f'{workdir.path}: told to stop; step {done} of {schedule.steps} is'
                            ' saved: give the same command again to go on'
                        )
                if monitor.save_due(done):
                    monitor.flush_pending()
                    save(state, monitor.evaluation_due(done))
            checkpoints.wait()
            tell()
    train, evaluate = (
        counted(step._cache_size(), 'time') for step in (made.train_step, made.eval_step)
    )
    progress.say(
        f'{workdir.path}: training is finished, {schedule.steps} steps; the training step was'
        f' compiled {train}, that of evaluation {evaluate}'
    )


@contextlib.contextmanager
def _logs(
    config: Config, workdir: Workdir, first: int, checkpoints: Checkpoints
) -> Iterator[list[Any]]:
    """What metrics are written to.

    A full disk there ends the run, with word of the checkpoint that is left.
    """
    try:
        with contextlib.ExitStack() as stack:
            logs: list[Any] = []
            if distributed_processes.is_primary():
                evaluated = checkpoints.score(first) is not None
                log = MetricsLog(workdir.metrics, workdir.tensorboard, first, evaluated)
                stack.enter_context(afterwards(log.close))
                logs.append(log)
            if config.train.wandb and distributed_processes.is_primary():
                logs.append(stack.enter_context(WandbLog(config, workdir)))
            yield logs
    except LogError as error:
        made = LogError(f'{error}. {checkpoints.describe_latest()}')
        made.exit_code = error.exit_code
        raise made from error


def _start(
    config: Config,
    workdir: Workdir,
    made: CompiledSteps,
    labels: tuple[str, ...],
    progress: Progress,
) -> dict[str, Any]:
    """Parameters that do not start from random numbers, by name;

    what they are is said, and kept in the workdir.
    """
    if distributed_processes.is_primary():
        workdir.starting_point.unlink(missing_ok=True)  # of a start that failed
    if not config.init.from_:
        return {}
    start = initialize.initialize_params(
        config.init.from_,
        made.network,
        made.abstract.params,
        labels,
        config.frontend,
        quirks=config.init.published_quirks,
    )
    for line in start.report:
        progress.say(line)
    if distributed_processes.is_primary():
        write_text(workdir.starting_point, '\n'.join(start.report) + '\n')
    return start.params


def _schedule(config: Config, workdir: Workdir, planner: Planner, source: Source) -> Schedule:
    """The steps of all epochs: stored when the run begins, checked and read when it goes on."""
    fingerprint = planner.fingerprint(source.fingerprint)
    stored = workdir.plan() if workdir.has_checkpoint() else None
    if stored is None:
        schedule = splits.make_schedule(planner, config.packing.rows, config.train.epochs)
        workdir.set_plan(PlanRecord(fingerprint, schedule.epoch_rows))
        return schedule
    if not planner.recognizes(stored.fingerprint, source.fingerprint):
        raise WorkdirError(
            f'{workdir.path}: the training data, or what is drawn of them, changed since this run'
            f' began (plan {stored.fingerprint} then, {fingerprint} now): restore the data, or'
            ' train in another --workdir'
        )
    return Schedule(stored.epoch_rows, config.packing.rows)


def _announce(
    progress: Progress,
    config: Config,
    source: Source,
    evaluator: Evaluator,
    planner: Planner,
    schedule: Schedule,
    mesh: Mesh,
) -> None:
    """What is about to run, and what is left out or used twice."""
    plan = planner.epoch(0)
    fill = plan.fill(config.packing.rows, config.packing.tokens)
    progress.say(
        f'{len(source.keys)} training clips, {len(evaluator.source.keys)} evaluation clips;'
        f' {schedule.steps} steps of {config.packing.rows} rows of {config.packing.tokens} tokens,'
        f' {100 * fill:.2f} % full; {_devices(mesh)}'
    )
    for name, count in (('training', plan.clips.cropped), ('evaluation', evaluator.cropped)):
        if count:
            progress.say(
                f'warning: {count} {name} clips are cropped to {config.frontend.max_frames} frames'
            )
    if evaluator.windowed:
        progress.say(f'{evaluator.windowed} evaluation clips are evaluated in several windows')
    if shared := count_shared_clips(source, evaluator.source):
        progress.say(f'warning: {shared} clips are in both the training and the evaluation split')


def _devices(mesh: Mesh) -> str:
    """The devices and their arrangement, in words."""
    axes = ' x '.join(f'{axis} {size}' for axis, size in mesh.shape.items() if size > 1)
    processes = (
        '' if distributed_processes.is_single_process() else f' of {jax.process_count()} processes'
    )
    devices = counted(mesh.size, jax.default_backend() + ' device')
    return f'{devices}{processes}{f": {axes}" if axes else ""}'


@contextlib.contextmanager
def _skipped(
    progress: Progress,
    workdir: Workdir,
    source: Source,
    reader: pipeline.RowReader,
    evaluator: Evaluator,
) -> Iterator[None]:
    """However the run ends, counts and lists the clips that were left out
    (`data.on_bad_audio='skip'`).
    """

    def tell() -> None:
        undecodable = [message for _, message in sorted(reader.skipped.items())]
        skipped = {'training': [*source.skipped, *undecodable], 'evaluation': evaluator.skipped}
        lines = [
            f'{split}: {message}'.replace('\n', ' ')
            for split, messages in skipped.items()
            for message in messages
        ]
        if lines:
            before = (
                workdir.skipped.read_text(encoding='utf-8').splitlines()
                if workdir.skipped.exists()
                else []
            )
            every = dict.fromkeys(
                [*before, *lines]
            )  # a run that goes on does not meet every clip again
            workdir.skipped.write_text(''.join(f'{line}\n' for line in every), encoding='utf-8')
        for split, messages in skipped.items():
            if messages:
                progress.say(
                    f'{len(messages)} {split} clips were left out (all: {workdir.skipped}):\n'
                    f'{headers.format_problems(messages)}'
                )

    with afterwards(tell):
        yield
