"""`elastic-ast evaluate`: metrics of a trained model on the evaluation split, as JSON and as a table."""

import dataclasses
import json
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float32

from elastic_ast_jax import build, device, sharding
from elastic_ast_jax.audio import fbank
from elastic_ast_jax.batch import BatchShape
from elastic_ast_jax.checkpoints import Checkpoints
from elastic_ast_jax.config import Config
from elastic_ast_jax.data import pipeline, splits
from elastic_ast_jax.data.plan import Planner, Schedule
from elastic_ast_jax.data.sources import Source, targets
from elastic_ast_jax.logs import without_nan
from elastic_ast_jax.metrics import Metrics, evaluate
from elastic_ast_jax.train_step import make_eval_step
from elastic_ast_jax.workdir import Workdir


class Evaluator:
    """The evaluation split, planned once; evaluates parameters as often as asked, with one compilation.

    Attributes:
        source, targets: The split's clips and their classes.
    """

    def __init__(self, config: Config, labels: Sequence[str], step: Callable, mesh: Mesh):
        """Opens and plans the split.

        Args:
            config: Of the run.
            labels: Name of each class.
            step: A compiled `eval_step`, see `sharding.jit_eval_step`.
            mesh: Where it runs.

        Raises:
            DataError: A label that training does not have, or anything else wrong with the data.
            PlanError: A clip that does not fit.
        """
        self.source: Source = splits.open_source(config, 'eval')
        self.targets = targets(self.source, labels, 'evaluation')
        self._labels, self._step, self._mesh = tuple(labels), step, mesh
        self._shape: BatchShape = build.batch_shape(config, len(labels))
        self._planner: Planner = splits.planner(config, self.source, 'eval')
        self._schedule: Schedule = splits.schedule(self._planner, self._shape.rows, epochs=1)
        self._workers = config.data.workers

    @property
    def cropped(self) -> int:
        """Clips of which only the first `frontend.max_frames` frames are evaluated (`data.too_long='crop'`)."""
        return self._planner.epoch(0).draws.cropped

    def scores(self, params: Any) -> Float32[np.ndarray, 'N C']:
        """Logits of every clip.

        Raises:
            RuntimeError: A clip came out other than exactly once, which the plan rules out.
        """
        reader = pipeline.RowReader(self.source, self.targets, self._planner, self._schedule, self._shape)
        scores = np.full((len(self.targets), len(self._labels)), np.nan, np.float32)
        seen = np.zeros(len(self.targets), np.int64)
        for batch in pipeline.batches(reader, 0, self._schedule.steps, self._workers or None):
            logits, _ = self._step(params, sharding.place_batch(batch, self._mesh))
            clips = batch.clip_id[batch.valid]
            scores[clips] = np.asarray(logits)[batch.valid]
            np.add.at(seen, clips, 1)
        if not (seen == 1).all():
            raise RuntimeError(f'{(seen != 1).sum()} of {len(seen)} clips were not evaluated exactly once')
        return scores

    def metrics(self, params: Any) -> Metrics:
        return evaluate(self.scores(params), self.targets, self._labels)


def score(config: Config, metrics: Metrics) -> float:
    """What the best checkpoint is best in: accuracy, or mAP where clips have several labels."""
    return metrics.mean_average_precision if config.train.loss == 'bce' else metrics.accuracy


def run(path: str, checkpoint: str = 'latest') -> Metrics:
    """Evaluates a workdir, prints the result and writes `eval/metrics.json` and `eval/metrics.md`."""
    device.use_compilation_cache()
    workdir = Workdir(path)
    config, contract = workdir.config(), workdir.contract()
    workdir.check_frontend(fbank.fingerprint(config.frontend))
    mesh = sharding.make_mesh()
    sharding.check_rows(config.packing.rows, mesh)
    attend = sharding.sharded_attention(device.choose_attention(config.model.attention), mesh)
    network = build.model(config, len(contract.labels), attend, device.compute_dtype(config.model.dtype), scan=True)
    step = make_eval_step(lambda params, batch: network.apply({'params': params}, batch), build.loss(config))
    evaluator = Evaluator(config, contract.labels, sharding.jit_eval_step(step, mesh), mesh)

    shape = build.batch_shape(config, len(contract.labels))
    abstract = jax.eval_shape(lambda: build.init_params(network, shape, 0))
    abstract = sharding.placed(abstract, mesh)
    with Checkpoints(workdir.checkpoints, read_only=True) as checkpoints:
        at, params = checkpoints.restore_params(abstract, checkpoint)
    metrics = evaluator.metrics(params)
    files = write(metrics, at, evaluator.cropped, workdir.evaluations)
    print(summary(metrics, at))
    print(f'written: {" ".join(map(str, files))}', file=sys.stderr)
    return metrics


def summary(metrics: Metrics, step: int) -> str:
    """The whole split, as a Markdown table."""
    return '\n'.join([
        '| checkpoint | clips | accuracy | mAP | AUC | d-prime |',
        '|---:|---:|---:|---:|---:|---:|',
        f'| step {step} | {metrics.clips} | {_percent(metrics.accuracy)} | {_number(metrics.mean_average_precision)} '
        f'| {_number(metrics.auc)} | {_number(metrics.d_prime)} |',
    ])  # fmt: skip


def write(metrics: Metrics, step: int, cropped: int, folder: Path) -> tuple[Path, Path]:
    """Writes `metrics.json` and `metrics.md`; NaN is null and a dash."""
    folder.mkdir(parents=True, exist_ok=True)
    json_file, table_file = folder / 'metrics.json', folder / 'metrics.md'
    values = without_nan({'step': step, 'cropped_clips': cropped, **dataclasses.asdict(metrics)})
    json_file.write_text(json.dumps(values, indent=2) + '\n', encoding='utf-8')
    lines = [summary(metrics, step), '']
    if cropped:
        lines += [f'{cropped} clips are longer than the model takes: of those only the beginning was evaluated.', '']
    if metrics.classes_without:
        lines += [f'{metrics.classes_without} classes have no example, or no other, and are left out of the means.', '']
    lines += ['| class | clips | accuracy | AP | AUC | d-prime |', '|---|---:|---:|---:|---:|---:|']
    lines += [
        f'| {entry.label.replace("|", chr(92) + "|")} | {entry.clips} | {_percent(entry.accuracy)} '
        f'| {_number(entry.average_precision)} | {_number(entry.auc)} | {_number(entry.d_prime)} |'
        for entry in metrics.classes
    ]
    table_file.write_text('\n'.join(lines) + '\n', encoding='utf-8')
    return json_file, table_file


def _percent(value: float) -> str:
    return '–' if math.isnan(value) else f'{100 * value:.2f} %'


def _number(value: float) -> str:
    return '–' if math.isnan(value) else f'{value:.4f}'


if __name__ == '__main__':
    from elastic_ast_jax.cli import main

    sys.exit(main(['evaluate', *sys.argv[1:]]))
