"""Evaluate a trained model on the evaluation split (`elastic-ast evaluate`).

The results are the metrics of whole clips, or a sweep of them, as JSON and as tables.
"""

import json
import types
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import jax

from elastic_ast_jax.checkpointing.load_model import LoadedModel, load_model
from elastic_ast_jax.checkpointing.workdir import Workdir
from elastic_ast_jax.config import loading
from elastic_ast_jax.config.schema import Config, Mesh
from elastic_ast_jax.data.sources.base import Source
from elastic_ast_jax.data.sources.clip_labels import classes_without_clips
from elastic_ast_jax.distributed import (
    agreement,
    partitioning,
    process_view,
    processes,
    sharding,
)
from elastic_ast_jax.evaluation import budget_sweep, resized_ast, sweep, sweep_axes
from elastic_ast_jax.evaluation.curves import class_curves, write_curves
from elastic_ast_jax.evaluation.evaluator import Evaluation, Evaluator
from elastic_ast_jax.evaluation.sweep_axes import SweepKind
from elastic_ast_jax.models import memory
from elastic_ast_jax.packing.batch import PackedBatch
from elastic_ast_jax.training import factory
from elastic_ast_jax.training.metrics import Metrics
from elastic_ast_jax.training.step import make_eval_step
from elastic_ast_jax.utils import jax_cache, markdown
from elastic_ast_jax.utils.errors import UserError
from elastic_ast_jax.utils.files import write_text
from elastic_ast_jax.utils.gcs import BucketPath
from elastic_ast_jax.utils.progress import Progress
from elastic_ast_jax.utils.text import join_first, nan_to_none

__all__ = ['CHANGEABLE', 'eval_config', 'run', 'summary_table', 'write_metrics']

# Config keys that evaluation may change: which clips are evaluated, and how their batches are
# formed. Every other key belongs to the model or has no effect on evaluation.
CHANGEABLE = (
    *(f'data.{name}' for name in ('source', 'too_long', 'overlap', 'on_bad_audio', 'num_workers')),
    *(f'packing.{name}' for name in ('rows', 'tokens', 'slots')),
    *(f'mesh.{axis}' for axis in partitioning.AXES),
)
# Further keys of the section data by which each source finds the evaluation split. `train` says
# whether both splits come from the same place.
SPLIT_KEYS = types.MappingProxyType(
    {
        'manifest': ('train', 'eval', 'train_split', 'eval_split', 'label_separator'),
        'json': ('train', 'eval', 'label_csv'),
        'folders': ('train', 'eval'),
        'tfds': (
            'eval_split',
            'tfds_name',
            'tfds_dir',
            'tfds_audio',
            'tfds_label',
            'tfds_key',
            'tfds_rate',
        ),
        'fsdd': ('root', 'tfds_dir', 'held_out'),
        'synthetic': ('synthetic_eval',),
    }
)
_NO_FILE = '(none)'
# Class names that a warning lists.
_LISTED_CLASSES = 10


def run(
    path: str,
    checkpoint: str = 'latest',
    kind: SweepKind | Literal['budget'] | None = None,
    points: Sequence[float] | None = None,
    overrides: Sequence[str] = (),
    shifts: Sequence[float] | None = None,
    *,
    resized: bool = False,
    curves: bool = False,
) -> Evaluation | sweep.Curve | tuple[budget_sweep.BudgetPoint, ...]:
    """Evaluate a workdir, print the result and write its files into `eval/`.

    Args:
        path: Folder of the workdir.
        checkpoint: Which parameters to evaluate, see `Checkpoints.restore_params`.
        kind: `'length'` or `'resolution'` for a sweep, see `sweep`; `'budget'`, see `budget_sweep`;
            None for whole clips.
        points: Points of the sweep; the default is the paper's.
        overrides: `section.key=value` each, of the keys in `CHANGEABLE`.
        shifts: Points of the sweep `'resolution'` as frame shifts in milliseconds, instead of
            `points`.
        resized: Run an AST at the length of each point of a sweep, with its positions resized; see
            `sweep`.
        curves: Write precision, recall and false positive rate of each class too; see `curves`.
    """
    sweep.check_options(kind, points, shifts)
    if resized and kind not in ('length', 'resolution'):
        raise UserError('--fixed_length is for sweeps: add --sweep=length or --sweep=resolution')
    if curves and kind:
        raise UserError('--curves is of whole clips: leave out --sweep')
    jax_cache.use_compilation_cache()
    workdir, progress = Workdir(path), Progress(shown=processes.is_primary())
    config = eval_config(workdir.config(), overrides)
    workdir.check_inside(workdir.evaluations)
    _note_heldout_share(config, progress)
    mesh = sharding.make_mesh(config.mesh)
    sharding.check_rows(config.packing.rows, mesh)
    if shifts:
        points = sweep.shifts_to_ratios(config.frontend, shifts)
    if kind == 'budget':
        budget_sweep.check_budgets(config, points)
        curve_points = ()
    else:
        fixed_length = config.model.kind == 'ast'
        curve_points = (
            sweep.sweep_points(kind, config.frontend, points, fixed_length=fixed_length)
            if kind
            else ()
        )
    with processes.fail_together():
        agreement.check(process_view.settings_sections(config))
        model = load_model(path, checkpoint, mesh)
        evaluator = _make_evaluator(model, config, mesh)
        options = [f'checkpoint={model.step}', f'sweep={kind}', f'points={curve_points}']
        agreement.check(process_view.data_sections('evaluation', evaluator.source, options))
    _warn_of_empty_classes(evaluator, model, progress)
    if kind == 'budget':
        return budget_sweep.run(workdir, points, evaluator, model, overrides, progress)
    if kind is None:
        return _evaluate_whole(workdir, evaluator, model, overrides, progress, curves=curves)
    evaluators = [(evaluator, model.params)] * len(curve_points)
    if resized:
        evaluators = [
            _resized_evaluator(model, config, point, mesh, evaluator.source)
            for point in curve_points
        ]
    curve = sweep.evaluate_curve(kind, curve_points, evaluators, progress)
    _write_sweep(workdir, curve, model, overrides, resized=resized, progress=progress)
    return curve


def _note_heldout_share(config: Config, progress: Progress) -> None:
    if config.data.source == 'folders' and config.data.train == config.data.eval:
        share = config.data.eval_share
        progress.write_line(
            f'{config.data.eval}: the held-out share data.eval_share={share:g} of this folder is'
            ' evaluated; for all of another folder, give --config.data.train a third one'
        )


def _warn_of_empty_classes(evaluator: Evaluator, model: LoadedModel, progress: Progress) -> None:
    missing = classes_without_clips(evaluator.source, model.labels)
    if not missing:
        return
    listed = join_first(missing, _LISTED_CLASSES)
    progress.write_line(
        f'warning: {len(missing)} of {len(model.labels)} classes have no evaluation clip: {listed}'
    )


def _evaluate_whole(
    workdir: Workdir,
    evaluator: Evaluator,
    model: LoadedModel,
    overrides: Sequence[str],
    progress: Progress,
    *,
    curves: bool,
) -> Evaluation:
    """Evaluate whole clips; the primary process prints and writes the metrics."""
    logits, clips = evaluator.decodable_logits(model.params)
    evaluation = evaluator.summarize(logits, clips)
    if processes.is_primary():
        overwrites = (workdir.evaluations / 'metrics.json').exists()
        files = write_metrics(
            evaluation, model.description, model.step, overrides, workdir.evaluations
        )
        if curves:
            targets = [evaluator.targets[clip] for clip in clips]
            files += write_curves(
                class_curves(logits[clips], targets, model.labels), workdir.evaluations
            )
        print(summary_table(evaluation.metrics, model.description))
        _report(evaluation.skipped, files, overwrites=overwrites, progress=progress)
    return evaluation


def _write_sweep(
    workdir: Workdir,
    curve: sweep.Curve,
    model: LoadedModel,
    overrides: Sequence[str],
    *,
    resized: bool,
    progress: Progress,
) -> None:
    """Print and write a sweep, in the primary process."""
    if not processes.is_primary():
        return
    stem = sweep_axes.file_stem(curve.kind, resized=resized)
    overwrites = (workdir.evaluations / f'{stem}.json').exists()
    files = sweep.write_curve(
        curve,
        model.config,
        model.description,
        model.step,
        overrides,
        workdir.evaluations,
        resized=resized,
    )
    print(sweep.curve_table(curve))
    _report(curve.skipped, files, overwrites=overwrites, progress=progress)


def _report(
    skipped: Sequence[str], files: Sequence[object], *, overwrites: bool, progress: Progress
) -> None:
    """Report which clips were skipped and which files were written."""
    if skipped:
        progress.write_line(f'clips skipped: {len(skipped)}, such as {skipped[0]}')
    progress.write_line(
        f'{"written over earlier results" if overwrites else "written"}:'
        f' {" ".join(map(str, files))}'
    )


def _make_evaluator(
    model: LoadedModel, config: Config, mesh: jax.sharding.Mesh, source: Source | None = None
) -> Evaluator:
    """Return an evaluator of a model on the evaluation split, which may be open already.

    Raises:
        MemoryLimitError: Its batches take more memory than such a network may take.
    """
    rows = len(sharding.local_rows(config.packing.rows, mesh))
    if jax.default_backend() != 'cpu':  # each accelerator has memory of its own
        rows = -(-rows // jax.local_device_count())
    memory.check_batch(config, len(model.labels), memory.params_bytes(model.params), rows)

    def apply(params: Any, batch: PackedBatch) -> Any:
        return model.network.apply({'params': params}, batch)

    shardings = jax.tree.map(lambda leaf: leaf.sharding, model.params)
    eval_step = make_eval_step(apply, factory.make_loss(config))
    step = sharding.jit_eval_step(eval_step, mesh, shardings)
    return Evaluator(config, model.labels, step, mesh, source)


def _resized_evaluator(
    model: LoadedModel,
    config: Config,
    point: sweep.Point,
    mesh: jax.sharding.Mesh,
    source: Source,
) -> tuple[Evaluator, Any]:
    """Return an evaluator of an AST for the clips of a point, and its parameters.

    The clips are cropped to the length of the point, or have the model's own duration at the frame
    shift of the point.
    """
    frontend, frames = config.frontend, point.max_frames
    if not frames:
        own_frames = config.model.frames or frontend.max_frames
        frames = -(-own_frames * frontend.shift() // frontend.shift(point.ratio))
    resized_model, resized_config = resized_ast.resize_ast(
        model, config, frames, mesh, same_duration=not point.max_frames
    )
    evaluator = _make_evaluator(resized_model, resized_config, mesh, source)
    return evaluator, resized_model.params


def eval_config(trained: Config, overrides: Iterable[str]) -> Config:
    """Return the config of a run with the overrides of evaluation.

    If one file or folder serves both splits, a new one serves both splits too.

    Raises:
        ConfigError: A key that is unknown or belongs to the model, or a value that is not possible.
    """
    # The devices may differ from those of training: the default mesh puts a whole model on each.
    values = trained.flat() | {f'mesh.{axis}': getattr(Mesh, axis) for axis in partitioning.AXES}
    texts, problems = loading.override_texts(overrides)
    source = texts.get('data.source', trained.data.source)
    allowed = (*CHANGEABLE, *(f'data.{name}' for name in SPLIT_KEYS.get(source, ())))
    fixed = [key for key in texts if key in values and key not in allowed]
    if fixed:
        problems.append(
            f'{", ".join(fixed)} cannot change when a trained model is evaluated; what can, with '
            f'data.source={source!r}: {", ".join(allowed)}'
        )
    if trained.data.train and trained.data.train == trained.data.eval and 'data.eval' in texts:
        texts.setdefault('data.train', texts['data.eval'])
    elif (
        'data.source' in texts and 'train' in SPLIT_KEYS.get(source, ()) and not trained.data.train
    ):
        texts.setdefault('data.train', _NO_FILE)  # not read: it only has to differ from data.eval
    return loading.resolve(values, texts, problems)


def summary_table(metrics: Metrics, description: str) -> str:
    """Return the metrics of the whole split as a Markdown table."""
    head = ['checkpoint', 'clips', 'accuracy', 'mAP', 'AUC', 'd-prime']
    cells = [
        description,
        str(metrics.clips),
        markdown.percent(metrics.accuracy),
        markdown.number(metrics.mean_average_precision),
        markdown.number(metrics.auc),
        markdown.number(metrics.d_prime),
    ]
    return '\n'.join(markdown.table(head, [cells], 'rrrrrr'))


def write_metrics(
    evaluation: Evaluation,
    description: str,
    step: int,
    overrides: Sequence[str],
    folder: Path | BucketPath,
) -> tuple[Path | BucketPath, Path | BucketPath]:
    """Write `metrics.json` and `metrics.md`; NaN is null or a dash.

    Args:
        evaluation: Results to write.
        description: Description of the evaluated parameters.
        step: Step of the checkpoint.
        overrides: Config keys that evaluation changed.
        folder: Folder of the files, made if missing.

    Raises:
        WriteError: One of the files cannot be written; it keeps its former content.
    """
    json_file, table_file = folder / 'metrics.json', folder / 'metrics.md'
    values = nan_to_none(
        {
            'checkpoint': description,
            'step': step,
            'overrides': list(overrides),
            'cropped_clips': evaluation.cropped,
            'windowed_clips': evaluation.windowed,
            'skipped': list(evaluation.skipped),
            **_metrics_values(evaluation.metrics),
        }
    )
    write_text(json_file, json.dumps(values, indent=2) + '\n')
    write_text(table_file, '\n'.join(_metrics_lines(evaluation, description, overrides)) + '\n')
    return json_file, table_file


def _metrics_values(metrics: Metrics) -> dict[str, Any]:
    """Return the metrics under the keys that the file has."""
    return {
        'clips': metrics.clips,
        'accuracy': metrics.accuracy,
        'first_label_accuracy': metrics.first_label_accuracy,
        'mean_average_precision': metrics.mean_average_precision,
        'auc': metrics.auc,
        'd_prime': metrics.d_prime,
        'classes_without': metrics.classes_without,
        'classes': [
            {
                'label': entry.label,
                'clips': entry.clips,
                'accuracy': entry.accuracy,
                'average_precision': entry.average_precision,
                'auc': entry.auc,
                'd_prime': entry.d_prime,
            }
            for entry in metrics.classes
        ],
    }


def _metrics_lines(evaluation: Evaluation, description: str, overrides: Sequence[str]) -> list[str]:
    """Return the lines of `metrics.md`."""
    metrics = evaluation.metrics
    lines = [summary_table(metrics, description), *markdown.override_lines(overrides)]
    if metrics.first_label_accuracy != metrics.accuracy:
        lines += [
            '',
            'Accuracy by the first label of each clip, as in the published code:'
            f' {markdown.percent(metrics.first_label_accuracy)}.',
        ]
    if evaluation.cropped:
        lines += [
            '',
            'Clips longer than the model takes, of which only the beginning was evaluated:'
            f' {evaluation.cropped}.',
        ]
    if evaluation.windowed:
        lines += [
            '',
            'Clips longer than the model takes, evaluated in windows whose logits were averaged:'
            f' {evaluation.windowed}.',
        ]
    lines += markdown.skipped_lines(evaluation.skipped)
    if metrics.classes_without:
        lines += [
            '',
            'Classes without an example or a counter-example, which do not count in the means:'
            f' {metrics.classes_without}.',
        ]
    rows = [
        [
            markdown.text(entry.label),
            str(entry.clips),
            markdown.percent(entry.accuracy),
            markdown.number(entry.average_precision),
            markdown.number(entry.auc),
            markdown.number(entry.d_prime),
        ]
        for entry in metrics.classes
    ]
    head = ['class', 'clips', 'accuracy', 'AP', 'AUC', 'd-prime']
    return [*lines, '', *markdown.table(head, rows, 'lrrrrr')]
