"""Evaluate a trained model on the evaluation split (`elastic-ast evaluate`).

The results are the metrics of whole clips, or a sweep of them, as JSON and as tables.
"""

import dataclasses
import logging
from collections.abc import Sequence
from typing import Any, Literal

import jax

from elastic_ast_jax.audio.windows import WindowError
from elastic_ast_jax.checkpointing.load_model import LoadedModel, load_model
from elastic_ast_jax.checkpointing.workdir import Workdir
from elastic_ast_jax.config.schema import Config
from elastic_ast_jax.data.epoch_plan import PlanError
from elastic_ast_jax.data.sources.base import Source
from elastic_ast_jax.data.sources.clip_labels import classes_without_clips
from elastic_ast_jax.distributed import (
    agreement,
    process_view,
    processes,
    sharding,
)
from elastic_ast_jax.evaluation import budget_sweep, resized_ast, sweep, sweep_axes
from elastic_ast_jax.evaluation.curves import NAME as CURVES
from elastic_ast_jax.evaluation.curves import class_curves, write_curves
from elastic_ast_jax.evaluation.eval_config import eval_config, names_other_data
from elastic_ast_jax.evaluation.evaluator import Evaluator
from elastic_ast_jax.evaluation.metrics_files import summary_table, write_metrics
from elastic_ast_jax.evaluation.predictions_file import NAME as PREDICTIONS
from elastic_ast_jax.evaluation.predictions_file import write_predictions
from elastic_ast_jax.evaluation.results import Evaluation
from elastic_ast_jax.evaluation.sweep_axes import SweepKind
from elastic_ast_jax.models import memory
from elastic_ast_jax.packing.batch import PackedBatch
from elastic_ast_jax.training import factory
from elastic_ast_jax.training.step import make_eval_step
from elastic_ast_jax.training.training_data import check_division
from elastic_ast_jax.utils import jax_cache
from elastic_ast_jax.utils.errors import UserError
from elastic_ast_jax.utils.progress import Progress
from elastic_ast_jax.utils.text import join_first, pluralize

__all__ = ['run']

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
    predictions: bool = False,
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
        predictions: Write the probabilities of every clip too; see `predictions_file`.
    """
    sweep.check_options(kind, points, shifts)
    if resized and kind not in ('length', 'resolution'):
        raise UserError('--fixed_length is for sweeps: add --sweep=length or --sweep=resolution')
    for option, enabled in (('curves', curves), ('predictions', predictions)):
        if enabled and kind:
            raise UserError(f'--{option} is of whole clips: leave out --sweep')
    jax_cache.use_compilation_cache()
    workdir, progress = Workdir(path), Progress(shown=processes.is_primary())
    trained = workdir.config()
    config = eval_config(trained, overrides)
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
        if not names_other_data(trained, overrides):
            check_division(trained, config, workdir)
        model = load_model(path, checkpoint, mesh)
        evaluator = _make_evaluator(model, config, mesh)
        options = [f'checkpoint={model.step}', f'sweep={kind}', f'points={curve_points}']
        agreement.check(process_view.data_sections('evaluation', evaluator.source, options))
    _warn_of_empty_classes(evaluator, model, progress)
    if kind == 'budget':
        return budget_sweep.run(workdir, points, evaluator, model, overrides, progress)
    if kind is None:
        return _evaluate_whole(
            workdir, evaluator, model, overrides, progress, curves=curves, predictions=predictions
        )
    evaluators = [(evaluator, model.params)] * len(curve_points)
    if resized:
        evaluators = [
            _resized_evaluator(model, config, point, mesh, evaluator.source)
            for point in curve_points
        ]
    curve = _evaluate_curve(kind, curve_points, evaluators, progress)
    _write_sweep(workdir, curve, model, overrides, resized=resized, progress=progress)
    return curve


def _note_heldout_share(config: Config, progress: Progress) -> None:
    if config.data.folds:
        progress.write_line(
            f'fold {config.data.fold} of {config.data.folds} of {config.data.train or "the data"}'
            ' is evaluated'
        )
    elif config.data.source == 'folders' and config.data.train == config.data.eval:
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
    predictions: bool,
) -> Evaluation:
    """Evaluate whole clips; the primary process prints and writes the metrics."""
    logits, clips = evaluator.decodable_logits(model.params)
    evaluation = evaluator.summarize(logits, clips)
    if processes.is_primary():
        overwrites = (workdir.evaluations / 'metrics.json').exists()
        # First, so that no crash leaves files of an earlier evaluation beside the new metrics.
        for name in (PREDICTIONS, CURVES):
            (workdir.evaluations / name).unlink(missing_ok=True)
        files = write_metrics(
            evaluation, model.description, model.step, overrides, workdir.evaluations
        )
        targets = [evaluator.targets[clip] for clip in clips]
        if predictions:
            files += write_predictions(
                [evaluator.source.keys[int(clip)] for clip in clips],
                targets,
                logits[clips],
                model.labels,
                model.config.train.loss,
                workdir.evaluations,
            )
        if curves:
            files += write_curves(
                class_curves(logits[clips], targets, model.labels), workdir.evaluations
            )
        print(summary_table(evaluation.metrics, model.description))
        _report(evaluation.skipped, files, overwrites=overwrites, progress=progress)
    return evaluation


def _evaluate_curve(
    kind: SweepKind,
    points: Sequence[sweep.Point],
    evaluators: Sequence[tuple[Evaluator, Any]],
    progress: Progress,
) -> sweep.Curve:
    """Evaluate at each point.

    Args:
        kind: `'length'` or `'resolution'`.
        points: The points.
        evaluators: Evaluator and parameters of each point.
        progress: Shows the current point.

    Raises:
        PlanError, WindowError: A clip does not fit at one of the points; nothing is evaluated.
    """
    settings = []
    for point, (evaluator, _) in zip(points, evaluators, strict=True):
        try:
            settings.append(evaluator.setting(point.ratio, point.max_frames))
        except (PlanError, WindowError) as error:
            raise type(error)(
                f'--sweep={kind} at {point.x:g} (a frame shift of {point.physical:g} ms): {error}'
            ) from error
    evaluations = []
    for number, (point, (evaluator, params)) in enumerate(zip(points, evaluators, strict=True), 1):
        progress.show(f'{kind} {point.x:g}, point {number} of {len(points)}')
        setting = settings.pop(0)  # a setting may hold recordings: release it after use
        evaluations.append(evaluator.evaluate(params, setting))
    progress.write_line(f'{kind}: {pluralize(len(points), "point")}, each with every clip once')
    return sweep.Curve(kind, tuple(points), tuple(evaluations))


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

    Batches have fewer rows if those of the config take more memory than such a network may take.

    Raises:
        MemoryLimitError: A single row on each device takes more.
    """
    config = _fit_rows(config, model, mesh)

    def apply(params: Any, batch: PackedBatch) -> Any:
        return model.network.apply({'params': params}, batch)

    shardings = jax.tree.map(lambda leaf: leaf.sharding, model.params)
    eval_step = make_eval_step(apply, factory.make_loss(config))
    step = sharding.jit_eval_step(eval_step, mesh, shardings)
    return Evaluator(config, model.labels, step, mesh, source)


def _fit_rows(config: Config, model: LoadedModel, mesh: jax.sharding.Mesh) -> Config:
    """Return the config with as many rows as the memory limit allows; they change no result."""
    shards = sharding.count_row_shards(mesh)
    rows = config.packing.rows // shards
    # Accelerators have memory of their own; devices of a CPU share it.
    sharing = 1
    if jax.default_backend() == 'cpu':
        sharing = len(sharding.local_rows(config.packing.rows, mesh)) // rows
    classes, params = len(model.labels), memory.params_bytes(model.params)
    # All processes use the same number of rows.
    fitting = memory.rows_within_limit(config, classes, params) // sharing
    fitting = min(processes.all_gather(fitting))
    if 0 < fitting < rows:
        logging.warning(
            'packing.rows=%d takes too much memory for this network: %d rows are used, which'
            ' changes no result',
            config.packing.rows,
            fitting * shards,
        )
    rows = max(1, min(rows, fitting))
    memory.check_batch(config, classes, params, rows * sharing)
    packing = dataclasses.replace(config.packing, rows=rows * shards)
    return dataclasses.replace(config, packing=packing)


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
