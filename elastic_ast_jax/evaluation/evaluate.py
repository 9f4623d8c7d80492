"""`elastic-ast evaluate`:

metrics of a trained model on the evaluation split, or a sweep of them, as JSON and as a table.
"""

import dataclasses
import json
import types
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePath

import jax

from elastic_ast_jax.checkpointing.load_model import LoadedModel, load_model
from elastic_ast_jax.checkpointing.workdir import Workdir
from elastic_ast_jax.config import loading
from elastic_ast_jax.config.schema import Config, Mesh
from elastic_ast_jax.data.sources.base import Source, classes_without_clips
from elastic_ast_jax.distributed import partitioning, processes, sharding
from elastic_ast_jax.evaluation import budget_sweep, resized_ast, sweep, sweep_axes
from elastic_ast_jax.evaluation.evaluator import Evaluation, Evaluator
from elastic_ast_jax.training import factory
from elastic_ast_jax.training.metrics import Metrics
from elastic_ast_jax.training.step import make_eval_step
from elastic_ast_jax.utils import jax_cache, markdown
from elastic_ast_jax.utils.errors import UserError
from elastic_ast_jax.utils.files import write_text
from elastic_ast_jax.utils.gcs import BucketPath
from elastic_ast_jax.utils.progress import Progress
from elastic_ast_jax.utils.text import without_nan

__all__ = ['CHANGEABLE', 'eval_config', 'run', 'summary_table', 'write_metrics']

# What evaluation may change of the config: which clips are evaluated and how their batches are
# formed. Everything else belongs to the model, or changes nothing here.
CHANGEABLE = (
    *(f'data.{name}' for name in ('source', 'too_long', 'overlap', 'on_bad_audio', 'num_workers')),
    *(f'packing.{name}' for name in ('rows', 'tokens', 'slots')),
    *(f'mesh.{axis}' for axis in partitioning.AXES),
)
# What each source reads of the section data besides, to know the evaluation split; `train` tells
# whether the two are the same.
SPLIT_KEYS = types.MappingProxyType(
    {
        'manifest': ('train', 'eval', 'train_split', 'eval_split'),
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


def run(
    path: str,
    checkpoint: str = 'latest',
    kind: str | None = None,
    points: Sequence[float] | None = None,
    overrides: Sequence[str] = (),
    shifts: Sequence[float] | None = None,
    resized: bool = False,
) -> Evaluation | sweep.Curve | tuple[budget_sweep.BudgetPoint, ...]:
    """Evaluates a workdir, prints the result and writes it into `eval/`: `metrics.json` and `.md`,
    or a sweep's files.

    Args:
        path: Of the workdir.
        checkpoint: See `Checkpoints.restore_params`.
        kind: `'length'` or `'resolution'` for a sweep, see `sweep`; or `'budget'`, see
        `budget_sweep`.
        points: Of the sweep; those of the paper if None.
        overrides: `section.key=value` each, of the keys in `CHANGEABLE`.
        shifts: Instead of `points`, those of the sweep `'resolution'` as frame shifts in
        milliseconds.
        resized: At each point of a sweep, run an AST at its length, with its positions resized; see
        `sweep`.
    """
    sweep.check_options(kind, points, shifts)
    if resized and kind not in ('length', 'resolution'):
        raise UserError('--fixed_length is of two sweeps: add --sweep=length or --sweep=resolution')
    jax_cache.use_compilation_cache()
    workdir, progress = Workdir(path), Progress(shown=processes.is_primary())
    used = eval_config(workdir.config(), overrides)
    if used.data.source == 'folders' and used.data.train == used.data.eval:
        progress.say(
            f'{used.data.eval}: the held-out share data.eval_share={used.data.eval_share:g} of this'
            ' folder is evaluated; for all of another folder, give --config.data.train a third one'
        )
    mesh = sharding.make_mesh(used.mesh)
    sharding.check_rows(used.packing.rows, mesh)
    if shifts:
        points = sweep.shifts_to_ratios(used.frontend, shifts)
    if kind == 'budget':
        budget_sweep.check_budgets(used, points)
    chosen = (
        sweep.sweep_points(kind, used.frontend, points, used.model.kind == 'ast')
        if kind and kind != 'budget'
        else ()
    )
    model = load_model(path, checkpoint, mesh)
    evaluator = _evaluator(model, used, mesh)
    if missing := classes_without_clips(evaluator.source, model.labels):
        named = ', '.join(missing[:10]) + (
            f' and {len(missing) - 10} more' if len(missing) > 10 else ''
        )
        progress.say(
            f'warning: {len(missing)} of {len(model.labels)} classes have no evaluation clip:'
            f' {named}'
        )
    if kind == 'budget':
        return budget_sweep.run(workdir, points, evaluator, model, overrides, progress)
    before = (
        workdir.evaluations / f'{sweep_axes.file_stem(kind, resized) if kind else "metrics"}.json'
    ).exists()
    if kind:
        evaluators = [(evaluator, model.params)] * len(chosen)
        if resized:
            models = [_resized(model, used, point, mesh) for point in chosen]
            evaluators = [
                (_evaluator(other, its, mesh, evaluator.source), other.params)
                for other, its in models
            ]
        result = sweep.evaluate_curve(kind, chosen, evaluators, progress)
    else:
        result = evaluator.evaluate(model.params)
    if not processes.is_primary():
        return result
    if kind:
        shown, files = (
            sweep.curve_table(result),
            sweep.write_curve(
                result,
                model.config,
                model.description,
                model.step,
                overrides,
                workdir.evaluations,
                resized,
            ),
        )
    else:
        shown, files = (
            summary_table(result.metrics, model.description),
            write_metrics(result, model.description, model.step, overrides, workdir.evaluations),
        )
    print(shown)
    if result.skipped:
        progress.say(f'clips left out: {len(result.skipped)}, such as {result.skipped[0]}')
    progress.say(
        f'{"written over earlier results" if before else "written"}: {" ".join(map(str, files))}'
    )
    return result


def _evaluator(
    model: LoadedModel, used: Config, mesh: jax.sharding.Mesh, source: Source | None = None
) -> Evaluator:
    """What evaluates a model on the evaluation split of a config, which may be open already."""

    def apply(params, batch):
        return model.network.apply({'params': params}, batch)

    placement = jax.tree.map(lambda leaf: leaf.sharding, model.params)
    step = sharding.jit_eval_step(make_eval_step(apply, factory.make_loss(used)), mesh, placement)
    return Evaluator(used, model.labels, step, mesh, source)


def _resized(
    model: LoadedModel, used: Config, point: sweep.Point, mesh: jax.sharding.Mesh
) -> tuple[LoadedModel, Config]:
    """An AST for the clips of a point:

    cut to its length, or of the model's own duration at its frame shift.
    """
    if point.max_frames:
        return resized_ast.resize_ast(model, used, point.max_frames, mesh, same_duration=False)
    own, frontend = used.model.frames or used.frontend.max_frames, used.frontend
    frames = -(-own * frontend.shift() // frontend.shift(point.ratio))
    return resized_ast.resize_ast(model, used, frames, mesh, same_duration=True)


def eval_config(trained: Config, overrides: Iterable[str]) -> Config:
    """The config of a run with what evaluation may change of it changed.

    Where one file or folder serves both splits, a new place of the one is that of the other.

    Raises:
        ConfigError: A key that is unknown or belongs to the model, or a value that is not possible.
    """
    # Other devices than those of the training evaluate: all that are there, whole models on each,
    # if nothing else is asked for.
    values = trained.flat() | {f'mesh.{axis}': getattr(Mesh, axis) for axis in partitioning.AXES}
    texts, problems = loading.override_texts(overrides)
    source = texts.get('data.source', trained.data.source)
    can = (*CHANGEABLE, *(f'data.{name}' for name in SPLIT_KEYS.get(source, ())))
    fixed = [key for key in texts if key in values and key not in can]
    if fixed:
        problems.append(
            f'{", ".join(fixed)} cannot change when a trained model is evaluated; what can, with '
            f'data.source={source!r}: {", ".join(can)}'
        )
    if trained.data.train and trained.data.train == trained.data.eval and 'data.eval' in texts:
        texts.setdefault('data.train', texts['data.eval'])
    elif (
        'data.source' in texts and 'train' in SPLIT_KEYS.get(source, ()) and not trained.data.train
    ):
        texts.setdefault('data.train', _NO_FILE)  # not read, as it is another than data.eval
    return loading.resolve(values, texts, problems)


def summary_table(metrics: Metrics, description: str) -> str:
    """The whole split, as a Markdown table."""
    return '\n'.join(
        [
            '| checkpoint | clips | accuracy | mAP | AUC | d-prime |',
            '|---:|---:|---:|---:|---:|---:|',
            markdown.row(
                [
                    description,
                    str(metrics.clips),
                    markdown.percent(metrics.accuracy),
                    markdown.number(metrics.mean_average_precision),
                    markdown.number(metrics.auc),
                    markdown.number(metrics.d_prime),
                ]
            ),
        ]
    )


def write_metrics(
    found: Evaluation,
    description: str,
    step: int,
    overrides: Sequence[str],
    folder: Path | BucketPath,
) -> tuple[PurePath, PurePath]:
    """Writes `metrics.json` and `metrics.md`; NaN is null and a dash.

    Args:
        found: What was found.
        description: Of what was evaluated, in words.
        step: Of its checkpoint.
        overrides: What was changed of its config.
        folder: Where to write; made if missing.

    Raises:
        WriteError: One of the files cannot be written; it is as it was.
    """
    json_file, table_file = folder / 'metrics.json', folder / 'metrics.md'
    metrics = found.metrics
    values = without_nan(
        {
            'checkpoint': description,
            'step': step,
            'overrides': list(overrides),
            'cropped_clips': found.cropped,
            'windowed_clips': found.windowed,
            'skipped': list(found.skipped),
            **dataclasses.asdict(metrics),
        }
    )
    write_text(json_file, json.dumps(values, indent=2) + '\n')
    lines = [summary_table(metrics, description), *markdown.changed(overrides)]
    if found.cropped:
        lines += [
            '',
            (
                'Clips longer than the model takes, of which only the beginning was evaluated:'
                f' {found.cropped}.'
            ),
        ]
    if found.windowed:
        lines += [
            '',
            (
                'Clips longer than the model takes, evaluated in windows whose logits were'
                f' averaged: {found.windowed}.'
            ),
        ]
    lines += markdown.left_out(found.skipped)
    if metrics.classes_without:
        lines += [
            '',
            (
                'Classes that have no example, or no other, and are left out of the means:'
                f' {metrics.classes_without}.'
            ),
        ]
    lines += [
        '',
        '| class | clips | accuracy | AP | AUC | d-prime |',
        '|---|---:|---:|---:|---:|---:|',
    ]
    lines += [
        markdown.row(
            [
                markdown.text(entry.label),
                str(entry.clips),
                markdown.percent(entry.accuracy),
                markdown.number(entry.average_precision),
                markdown.number(entry.auc),
                markdown.number(entry.d_prime),
            ]
        )
        for entry in metrics.classes
    ]
    write_text(table_file, '\n'.join(lines) + '\n')
    return json_file, table_file
