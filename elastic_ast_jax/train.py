"""`elastic-ast train`: the loop, and what it is wired to."""

import contextlib
import dataclasses
import sys
import time
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from elastic_ast_jax import build, device, sharding
from elastic_ast_jax.audio import fbank
from elastic_ast_jax.batch import PackedBatch
from elastic_ast_jax.checkpoints import Checkpoints
from elastic_ast_jax.config import Config
from elastic_ast_jax.data import pipeline, splits
from elastic_ast_jax.data.plan import Planner, Schedule
from elastic_ast_jax.data.sources import Source, label_names, overlap, targets
from elastic_ast_jax.errors import UserError
from elastic_ast_jax.evaluate import Evaluator, score
from elastic_ast_jax.logs import MetricsLog, Progress, duration
from elastic_ast_jax.train_step import Sums, TrainState, make_eval_step, make_train_step
from elastic_ast_jax.workdir import Contract, PlanRecord, Workdir, WorkdirError


class TrainingError(UserError):
    """A loss, gradient or update that is not finite; names the step and the clips of its batch."""


def run(config: Config, path: str) -> None:
    """Trains in a workdir, from its newest checkpoint if there is one, to the last epoch."""
    device.use_compilation_cache()
    progress = Progress()
    workdir = Workdir(path)
    workdir.prepare(config)
    mesh = sharding.make_mesh()
    sharding.check_rows(config.packing.rows, mesh)

    source = splits.open_source(config, 'train')
    labels = label_names(source)
    classes = targets(source, labels, 'training')
    if config.train.loss == 'cross_entropy':
        _check_single(source, classes)
    workdir.set_contract(Contract(labels, fbank.fingerprint(config.frontend)))
    planner = splits.planner(config, source, 'train')
    schedule = _schedule(config, workdir, planner, source)

    attend = sharding.sharded_attention(device.choose_attention(config.model.attention), mesh)
    network = build.model(config, len(labels), attend, device.compute_dtype(config.model.dtype))
    loss, rate = build.loss(config), build.rate(config, schedule.epoch_ends)
    optimizer, shape = build.update(config, rate), build.batch_shape(config, len(labels))

    def apply(params, batch):
        return network.apply({'params': params}, batch)

    def init() -> TrainState:
        params = build.init_params(network, shape, config.train.seed)
        return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))

    train_step = sharding.jit_train_step(make_train_step(apply, loss, optimizer), mesh)
    eval_step = sharding.jit_eval_step(make_eval_step(apply, loss), mesh)
    evaluator = Evaluator(config, labels, eval_step, mesh)
    _announce(progress, config, source, evaluator, planner, schedule)

    with Checkpoints(workdir.checkpoints, config.train.keep) as checkpoints:
        state = checkpoints.restore(sharding.placed(jax.eval_shape(init), mesh))
        if state is None:
            state = sharding.born(init, mesh)
        first = int(state.step)
        if first >= schedule.steps:
            progress.say(f'{workdir.path}: training is finished, {first} steps; nothing to do')
            return
        if first:
            progress.say(f'{workdir.path}: going on after step {first}')
        reader = pipeline.RowReader(source, classes, planner, schedule, shape)
        with contextlib.closing(MetricsLog(workdir.metrics, workdir.tensorboard, first)) as log:
            rates = np.asarray(jax.vmap(rate)(jnp.arange(schedule.steps)))
            watch = _Watch(config, source, schedule, rates, log, progress, first)
            for batch in pipeline.batches(reader, first, schedule.steps, config.data.workers or None):
                state, sums = train_step(state, sharding.place_batch(batch, mesh))
                done = watch.made(batch, sums)
                epoch = np.searchsorted(schedule.epoch_ends, done) + 1  # epochs made, if this was the last step of one
                ended = done == schedule.epoch_ends[epoch - 1]
                if not watch.save_due(done):
                    continue
                watch.settle()  # nothing is saved after a step that went wrong
                reached = None
                if ended and (epoch % config.train.eval_every == 0 or done == schedule.steps):
                    with watch.paused():
                        reached = score(config, watch.evaluated(evaluator.metrics(state.params)))
                checkpoints.save(state, reached)
    progress.say(f'{workdir.path}: training is finished, {schedule.steps} steps')


class _Watch:
    """Follows the steps of a run: checks and logs the metrics of each once the next is under way, and shows the line."""

    def __init__(
        self, config: Config, source: Source, schedule: Schedule, rates: Float[np.ndarray, 'steps'], log: MetricsLog,
        progress: Progress, first: int,
    ):  # fmt: skip
        self._config, self._source, self._schedule, self._rates = config, source, schedule, rates
        self._log, self._progress = log, progress
        self._step = self._first = first
        self._pending: tuple[int, PackedBatch, Sums] | None = None
        self._window: list[Sums] = []
        self._idle = 0.0
        self._began = self._window_began = time.perf_counter()

    def made(self, batch: PackedBatch, sums: Sums) -> int:
        """A step was dispatched; settles the one before. Returns the number of steps made."""
        self.settle()
        self._step += 1
        self._pending = self._step, batch, sums
        return self._step

    def settle(self) -> None:
        """Waits for the step under way, checks and logs it.

        Raises:
            TrainingError: Its loss or gradient is not finite.
        """
        if self._pending is None:
            return
        step, batch, device_sums = self._pending
        self._pending = None
        sums = Sums(*(float(value) for value in jax.device_get(device_sums)))
        if not np.isfinite([sums.loss, sums.gradient_norm, sums.parameter_norm]).all():
            raise self._not_finite(step, batch, sums)
        self._window.append(sums)
        seconds = time.perf_counter() - self._window_began - self._idle
        total = Sums(*np.sum(self._window, axis=0))
        epoch, _ = self._schedule.locate(step - 1)
        packing = self._config.packing
        values = {
            'epoch': epoch + 1,
            'loss': total.loss / max(total.clips, 1),
            'accuracy': total.correct / max(total.clips, 1),
            'rate': float(self._rates[step - 1]),
            'gradient_norm': sums.gradient_norm,
            'clips_per_second': total.clips / seconds,
            'tokens_per_second': total.tokens / seconds,
            'fill': total.tokens / (len(self._window) * packing.rows * packing.tokens),
        }
        left = (time.perf_counter() - self._began) / (step - self._first) * (self._schedule.steps - step)
        self._progress.show(
            f'step {step}/{self._schedule.steps}  epoch {epoch + 1}/{self._config.train.epochs}  loss {values["loss"]:.4f}  '
            f'rate {values["rate"]:.2e}  {values["clips_per_second"]:.0f} clips/s  '
            f'{values["tokens_per_second"]:.0f} tokens/s  fill {100 * values["fill"]:.1f} %  {duration(left)} left')
        if step % self._config.train.log_every == 0 or self.save_due(step):  # so that a restart begins with a new line
            self._log.write(step, 'train', values)
            self._window, self._idle, self._window_began = [], 0.0, time.perf_counter()

    def save_due(self, step: int) -> bool:
        """A checkpoint is due after this step."""
        every = self._config.train.save_every
        return step in self._schedule.epoch_ends or (every > 0 and step % every == 0)

    def evaluated(self, metrics):
        """Logs an evaluation after the steps made so far, and gives it back."""
        values = {
            name: getattr(metrics, name) for name in ('clips', 'accuracy', 'mean_average_precision', 'auc', 'd_prime')
        }
        self._log.write(self._step, 'eval', values)
        epoch, _ = self._schedule.locate(self._step - 1)
        self._progress.say(f'epoch {epoch + 1}: accuracy {100 * metrics.accuracy:.2f} %, '
                           f'mAP {metrics.mean_average_precision:.4f} on {metrics.clips} clips')
        return metrics

    @contextlib.contextmanager
    def paused(self):
        """Time in here counts as no training time."""
        start = time.perf_counter()
        yield
        self._idle += time.perf_counter() - start

    def _not_finite(self, step: int, batch: PackedBatch, sums: Sums) -> TrainingError:
        names = [self._source.keys[clip] for clip in batch.clip_id[batch.valid]]
        more = f' and {len(names) - 20} more' if len(names) > 20 else ''
        return TrainingError(
            f'step {step}: the loss ({sums.loss}), the gradient (norm {sums.gradient_norm}) or the parameters after it (norm '
            f'{sums.parameter_norm}) are not finite. The last good checkpoint stays. Lower optimizer.rate, or look at the '
            f'clips of this batch: {", ".join(names[:20])}{more}')


def _check_single(source: Source, classes: Sequence[tuple[int, ...]]) -> None:
    """Cross-entropy takes exactly one label a clip."""
    for clip, labels in enumerate(classes):
        if len(labels) != 1:
            raise UserError(f"{source.keys[clip]} has {len(labels)} labels, but train.loss='cross_entropy' takes one a clip: "
                            f"use --config.train.loss=bce (and label_smoothing=0) for several")


def _schedule(config: Config, workdir: Workdir, planner: Planner, source: Source) -> Schedule:
    """The steps of all epochs: stored when the run begins, checked and read when it goes on."""
    fingerprint = planner.fingerprint(source.fingerprint)
    stored = workdir.plan()
    if stored is None:
        schedule = splits.schedule(planner, config.packing.rows, config.train.epochs)
        workdir.set_plan(PlanRecord(fingerprint, schedule.epoch_rows))
        return schedule
    if stored.fingerprint != fingerprint:
        raise WorkdirError(f'{workdir.path}: the training data changed since this run began (plan {stored.fingerprint} then, '
                           f'{fingerprint} now): restore the data, or train in another --workdir')
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
    if shared := overlap(source, evaluator.source):
        progress.say(f'warning: {shared} clips are in both the training and the evaluation split')


def absolute_paths(config: Config) -> Config:
    """The config with the paths of its data made absolute, so that the workdir can be used from anywhere."""
    from pathlib import Path

    data = config.data
    changed = {key: str(Path(getattr(data, key)).absolute()) for key in ('train', 'eval', 'root') if getattr(data, key)}
    return dataclasses.replace(config, data=dataclasses.replace(data, **changed))


if __name__ == '__main__':
    from elastic_ast_jax.cli import main

    sys.exit(main(['train', *sys.argv[1:]]))
