"""`elastic-ast train`: the loop, and what it is wired to."""

import contextlib
import dataclasses
import functools
import sys
import types
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from elastic_ast_jax import build, device, flops, freezing, sharding, wandb_log
from elastic_ast_jax.audio import fbank
from elastic_ast_jax.checkpoints import Checkpoints
from elastic_ast_jax.config import Config
from elastic_ast_jax.data import headers, pipeline, splits
from elastic_ast_jax.data.plan import Planner, Schedule
from elastic_ast_jax.data.sources import Source, label_names, overlap, targets, without_clips
from elastic_ast_jax.errors import UserError
from elastic_ast_jax.evaluator import Evaluator, score
from elastic_ast_jax.files import write_text
from elastic_ast_jax.logs import LogError, MetricsLog, Progress
from elastic_ast_jax.profiling import Profile
from elastic_ast_jax.starting import start as starting
from elastic_ast_jax.train_step import TrainState, make_eval_step, make_train_step, new_state
from elastic_ast_jax.wandb_log import WandbLog
from elastic_ast_jax.watch import Watch
from elastic_ast_jax.workdir import Contract, PlanRecord, Workdir, WorkdirError

# Keys of the section `data` that are paths.
_PATHS = ('train', 'eval', 'root', 'label_csv', 'tfds_dir')


def run(config: Config, path: str) -> None:
    """Trains in a workdir, from its newest checkpoint if there is one, to the last epoch."""
    device.use_compilation_cache()
    progress = Progress()
    if config.train.wandb:
        wandb_log.library(config.train.wandb)  # what is not there is missed before the work
    workdir = Workdir(path)
    workdir.prepare(config)
    mesh = sharding.make_mesh()
    sharding.check_rows(config.packing.rows, mesh, config.train.accumulate)

    source = splits.open_source(config, 'train')
    labels = label_names(source)
    classes = targets(source, labels, 'training')
    if config.train.loss == 'cross_entropy':
        _check_single(source, classes)
    workdir.set_contract(Contract(labels, fbank.fingerprint(config.frontend)))
    planner = splits.planner(config, source)
    schedule = _schedule(config, workdir, planner, source)

    attend = device.choose_attention(config.model.attention, config.model.kind)
    attend = sharding.sharded_attention(attend, mesh)
    network = build.model(config, len(labels), attend, device.compute_dtype(config.model.dtype))
    loss, rate = build.loss(config), build.rate(config, schedule.epoch_ends)
    optimizer, shape = build.update(config, rate), build.batch_shape(config, len(labels))

    def apply(params, batch):
        return network.apply({'params': params}, batch)

    def init_params(given: Mapping[str, Any] = types.MappingProxyType({})):
        fresh = flatten_dict(build.init_params(network, shape, config.train.seed), sep='/')
        return unflatten_dict(fresh | dict(given), sep='/')

    abstract = jax.eval_shape(init_params)
    averaged, frozen = config.train.ema > 0, freezing.frozen_names(abstract, config.train.freeze)
    given = {} if workdir.begun() else _start(config, workdir, network, abstract, labels, progress)

    def init(given: Mapping[str, Any]) -> TrainState:
        return new_state(init_params(given), optimizer, averaged, frozen)

    step = make_train_step(apply, loss, optimizer, config.train.accumulate, config.train.ema, frozen)
    train_step = sharding.jit_train_step(step, mesh)
    eval_step = sharding.jit_eval_step(make_eval_step(apply, loss), mesh)
    evaluator = Evaluator(config, labels, eval_step, mesh)
    work = functools.partial(flops.training, network=network, patch_size=shape.patch_size)
    _announce(progress, config, source, evaluator, planner, schedule)
    if missing := without_clips(source, labels):
        progress.say(f'warning: {len(missing)} of {len(labels)} classes have no training clip: {", ".join(missing)}')
    if frozen:
        progress.say(f'{len(frozen)} parameters stay as they are: train.freeze={",".join(config.train.freeze)}')

    with Checkpoints(workdir.checkpoints, config.train.keep) as checkpoints:
        state = checkpoints.restore(sharding.placed(jax.eval_shape(init, given), mesh))
        if state is None:
            state = sharding.born(init, mesh, given)
        first = int(state.step)
        if first >= schedule.steps:
            progress.say(f'{workdir.path}: training is finished, {first} steps; nothing to do')
            return
        if first:
            progress.say(f'{workdir.path}: going on after step {first}')
        reader = pipeline.RowReader(
            source, classes, planner, schedule, shape, on_bad_audio=config.data.on_bad_audio)
        profile = Profile(workdir.tensorboard, config.train.profile_steps, first, schedule.steps, progress.say)
        skipped = _skipped(progress, workdir, source, reader, evaluator)
        with skipped, _logs(config, workdir, first, checkpoints) as logs, profile:
            rates = np.asarray(jax.vmap(rate)(jnp.arange(schedule.steps)))
            watch = Watch(config, source, schedule, rates, work, logs, progress, first)
            for batch in pipeline.batches(reader, first, schedule.steps, config.data.workers or None):
                with profile.step(watch.steps):
                    state, sums = train_step(state, sharding.place_batch(batch, mesh))
                done = watch.made(batch, sums)
                profile.stop_after(done, watch.settle)
                epoch = np.searchsorted(schedule.epoch_ends, done) + 1  # epochs made, if this was the last step of one
                ended = done == schedule.epoch_ends[epoch - 1]
                if not watch.save_due(done):
                    continue
                watch.settle()  # nothing is saved after a step that went wrong
                reached = None
                if ended and (epoch % config.train.eval_every == 0 or done == schedule.steps):
                    with watch.paused():
                        params = state.params if state.ema is None else state.ema
                        reached = score(config, watch.evaluated(evaluator.metrics(params)))
                checkpoints.save(state, reached)
    progress.say(f'{workdir.path}: training is finished, {schedule.steps} steps')


@contextlib.contextmanager
def _logs(config: Config, workdir: Workdir, first: int, checkpoints: Checkpoints) -> Iterator[list[Any]]:
    """What metrics are written to. A full disk there ends the run, with word of the checkpoint that is left."""
    try:
        with contextlib.ExitStack() as stack:
            logs: list[Any] = [stack.enter_context(contextlib.closing(
                MetricsLog(workdir.metrics, workdir.tensorboard, first)))]  # fmt: skip
            if config.train.wandb:
                logs.append(stack.enter_context(WandbLog(config, workdir)))
            yield logs
    except LogError as error:
        raise LogError(f'{error}. {checkpoints.outlook()}') from error


def _start(
    config: Config, workdir: Workdir, network: build.Network, abstract: Any, labels: tuple[str, ...], progress: Progress
) -> dict[str, Any]:
    """Parameters that do not start from random numbers, by name; what they are is said, and kept in the workdir."""
    workdir.starting_point.unlink(missing_ok=True)  # of a start that failed
    if not config.init.from_:
        return {}
    start = starting.begin(
        config.init.from_, network, abstract, labels, config.init.published_quirks, config.frontend)
    for line in start.report:
        progress.say(line)
    write_text(workdir.starting_point, '\n'.join(start.report) + '\n')
    return start.params


def _check_single(source: Source, classes: Sequence[tuple[int, ...]]) -> None:
    """Cross-entropy takes exactly one label a clip."""
    for clip, labels in enumerate(classes):
        if len(labels) != 1:
            raise UserError(f"{source.keys[clip]} has {len(labels)} labels, but train.loss='cross_entropy' takes one a clip: "
                            f"use --config.train.loss=bce (and label_smoothing=0) for several")


def _schedule(config: Config, workdir: Workdir, planner: Planner, source: Source) -> Schedule:
    """The steps of all epochs: stored when the run begins, checked and read when it goes on."""
    fingerprint = planner.fingerprint(source.fingerprint)
    stored = workdir.plan() if workdir.begun() else None
    if stored is None:
        schedule = splits.schedule(planner, config.packing.rows, config.train.epochs)
        workdir.set_plan(PlanRecord(fingerprint, schedule.epoch_rows))
        return schedule
    if stored.fingerprint != fingerprint:
        raise WorkdirError(f'{workdir.path}: the training data, or what is drawn of them, changed since this run began (plan '
                           f'{stored.fingerprint} then, {fingerprint} now): restore the data, or train in another --workdir')
    return Schedule(stored.epoch_rows, config.packing.rows)


def _announce(
    progress: Progress, config: Config, source: Source, evaluator: Evaluator, planner: Planner, schedule: Schedule
) -> None:
    """What is about to run, and what is left out or used twice."""
    plan = planner.epoch(0)
    fill = plan.fill(config.packing.rows, config.packing.tokens)
    progress.say(
        f'{len(source.keys)} training clips, {len(evaluator.source.keys)} evaluation clips; {schedule.steps} steps of '
        f'{config.packing.rows} rows of {config.packing.tokens} tokens, {100 * fill:.2f} % full; '
        f'{jax.device_count()} {jax.default_backend()} device(s)')
    for name, count in (('training', plan.draws.cropped), ('evaluation', evaluator.cropped)):
        if count:
            progress.say(f'warning: {count} {name} clips are cropped to {config.frontend.max_frames} frames')
    if evaluator.windowed:
        progress.say(f'{evaluator.windowed} evaluation clips are evaluated in several windows')
    if shared := overlap(source, evaluator.source):
        progress.say(f'warning: {shared} clips are in both the training and the evaluation split')


@contextlib.contextmanager
def _skipped(
    progress: Progress, workdir: Workdir, source: Source, reader: pipeline.RowReader, evaluator: Evaluator
) -> Iterator[None]:  # fmt: skip
    """However the run ends, counts and lists the clips that were left out (`data.on_bad_audio='skip'`)."""
    try:
        yield
    finally:
        undecodable = [message for _, message in sorted(reader.skipped.items())]
        skipped = {'training': [*source.skipped, *undecodable], 'evaluation': evaluator.skipped}
        lines = [f'{split}: {message}'.replace('\n', ' ') for split, messages in skipped.items() for message in messages]
        if lines:
            before = workdir.skipped.read_text(encoding='utf-8').splitlines() if workdir.skipped.exists() else []
            every = dict.fromkeys([*before, *lines])  # a run that goes on does not meet every clip again
            workdir.skipped.write_text(''.join(f'{line}\n' for line in every), encoding='utf-8')
        for split, messages in skipped.items():
            if messages:
                progress.say(f'{len(messages)} {split} clips were left out (all: {workdir.skipped}):\n'
                             f'{headers.listing(messages)}')


def absolute_paths(config: Config) -> Config:
    """The config with the paths of its data and weights made absolute, so that the workdir can be used from anywhere."""
    from pathlib import Path

    data = config.data
    changed = {
        key: str(Path(getattr(data, key)).expanduser().absolute())
        for key in _PATHS
        if getattr(data, key) and '://' not in getattr(data, key)  # a bucket's address is no path
    }
    init = config.init
    if init.from_:
        init = dataclasses.replace(init, from_=str(Path(init.from_).expanduser().absolute()))
    return dataclasses.replace(config, data=dataclasses.replace(data, **changed), init=init)


if __name__ == '__main__':
    from elastic_ast_jax.cli import main

    sys.exit(main(['train', *sys.argv[1:]]))
