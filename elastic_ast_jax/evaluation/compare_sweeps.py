"""Compare runs in a table, or models over a sweep (`elastic-ast compare`).

The table of runs comes from what training logged (`compare_runs`). The curves of models come from
`elastic-ast evaluate --sweep=...`, which stored them in each workdir; a curve is the mean of runs
with different seeds. The paper's curves are drawn beside them for the paper's data sets.
"""

import dataclasses
import json
import math
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float64

from elastic_ast_jax.checkpointing.workdir import Workdir
from elastic_ast_jax.evaluation import compare_over_key, compare_runs, plots, published
from elastic_ast_jax.evaluation.compare_runs import (
    CompareError,
    differing_keys,
    format_value,
    run_deviation,
)
from elastic_ast_jax.evaluation.published import PublishedCurves
from elastic_ast_jax.evaluation.stored_sweeps import ModelCurve, read_curves
from elastic_ast_jax.evaluation.sweep_axes import (
    AXES,
    METRICS,
    Axis,
    SweepKind,
    file_stem,
    format_mean,
    format_metric,
    plot_scale,
)
from elastic_ast_jax.utils import files, markdown, plotting
from elastic_ast_jax.utils.text import nan_to_none, printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def run(
    models: Sequence[tuple[str, Sequence[str]]],
    out: str | None = None,
    kind: SweepKind | None = None,
    *,
    resized: bool = False,
    published_of: str | None = None,
    over: str | None = None,
    beside: Sequence[tuple[str, Sequence[str]]] = (),
) -> None:
    """Compare runs, or with `kind` or `over` the models that they are runs of.

    Args:
        models: Name of each model and its workdirs. An empty name has a workdir that is a model by
            itself, or together with those of the same config but for the seed.
        out: Folder for the files; None only prints the table.
        kind: Compare models over this sweep, `'length'` or `'resolution'`; None compares runs.
        resized: Compare ASTs as they were run at the length of each point.
        published_of: Data set of the paper, whose curves are shown too.
        over: Compare models over this key of the config, see `compare_over_key`.
        beside: Models that are shown too, and that no model's drop is measured by.

    Raises:
        CompareError: Runs that cannot be compared.
        PublishedError: The paper has no such curves.
        WorkdirError: A path that is no workdir.
        WriteError: A file cannot be written.
    """
    workdirs = [files.as_path(path) for _, paths in (*models, *beside) for path in paths]
    if repeated := [
        str(workdir) for workdir in dict.fromkeys(workdirs) if workdirs.count(workdir) > 1
    ]:
        raise CompareError(f'{", ".join(repeated)}: is given twice; give each run once')
    if kind is None and (resized or published_of):
        raise CompareError(
            '--fixed_length and --published are for curves: add --sweep=length or'
            ' --sweep=resolution'
        )
    if beside and not (kind or over):
        raise CompareError(
            '--beside is for models that are compared: add --sweep=length, --sweep=resolution or'
            ' --over=KEY'
        )
    if kind and over:
        raise CompareError(
            f'--over={over} and --sweep={kind} are two comparisons: give one of them'
        )
    if over:
        compare_over_key.compare(_name_models(models, over), over, out, beside)
    elif kind is None:
        compare_runs.compare(models, out)
    else:
        paper = published.read(published_of, kind) if published_of else None
        compare(_name_models(models), out, kind, resized=resized, paper=paper, beside=beside)


def _name_models(
    models: Sequence[tuple[str, Sequence[str]]], over: str | None = None
) -> list[tuple[str, list[str]]]:
    """Return named models, then those of workdirs without a name.

    Workdirs without a name are grouped and named by the keys, except the seed and `over`, in which
    their configs differ.
    """
    named = [(name, list(workdirs)) for name, workdirs in models if name]
    unnamed = [workdir for name, workdirs in models if not name for workdir in workdirs]
    configs = {workdir: Workdir(workdir).config().flat() for workdir in unnamed}
    keys = differing_keys(list(configs.values()), ('train.seed', over)) if configs else []
    groups: dict[str, list[str]] = {}
    for workdir in unnamed:
        name = ', '.join(f'{key}={format_value(configs[workdir][key])}' for key in keys)
        groups.setdefault(name, []).append(workdir)
    if not keys and unnamed:
        first = files.as_path(unnamed[0])
        groups = {first.name if len(unnamed) == 1 else first.parent.name or 'runs': unnamed}
    return named + list(groups.items())


def compare(
    models: Sequence[tuple[str, Sequence[str]]],
    out: str | None,
    kind: SweepKind,
    *,
    resized: bool = False,
    paper: PublishedCurves | None = None,
    beside: Sequence[tuple[str, Sequence[str]]] = (),
) -> None:
    """Print models over a sweep, and write them as JSON, as a table and as a plot.

    The files are named by the kind of the sweep.

    Args:
        models: Name and workdirs of each model.
        out: Folder for the files; None only prints.
        kind: Kind of the sweep.
        resized: Compare ASTs as they were run at the length of each point, other models as they
            are.
        paper: The paper's curves.
        beside: Models that no model's drop is measured by.

    Raises:
        CompareError: A workdir without that sweep, or sweeps that differ in their points, their
            clips or their metric.
        WriteError: A file cannot be written.
    """
    curves, reference = read_curves(models, beside, kind, resized=resized, paper=paper)
    axis, metric, points = AXES[kind], reference['metric'], reference['points']
    drops = worst_drops(curves[: len(models)])
    title = f'{"Accuracy" if metric == "accuracy" else METRICS[metric]} of {points[0]["clips"]}'
    suffix = (
        ' ASTs pad or crop clips to the length of each point, with their positions resized.'
        if resized
        else ''
    )
    lines = [
        f'{title} clips: mean and standard deviation of the runs, whose number is in brackets.'
        f' {axis.title}.{suffix}',
        '',
        *_table(curves, points, axis, metric, paper),
    ]
    if drops:
        lines += ['', *_drops_table(drops, points, axis, metric)]
    print('\n'.join(lines[2:]))
    if out is None:
        return
    folder, stem = files.as_path(out), file_stem(kind, resized=resized)
    files.write_text(folder / f'{stem}.md', '\n'.join(lines) + '\n')
    values = {
        'sweep': kind,
        'resized': resized,
        'metric': metric,
        'points': [{key: point[key] for key in (*axis.keys, 'clips')} for point in points],
        'models': [_curve_values(curve) for curve in curves],
        'worst_drops': [_drop_values(drop, points, axis) for drop in drops],
    }
    files.write_text(folder / f'{stem}.json', json.dumps(nan_to_none(values), indent=2) + '\n')
    plotting.save_figure(_plot(curves, points, axis, metric, paper), folder / f'{stem}.png')
    print(f'written: {printable(os.path.join(out, stem))}.md, .json, .png')


def _plot(
    curves: Sequence[ModelCurve],
    points: Sequence[dict[str, Any]],
    axis: Axis,
    metric: str,
    paper: PublishedCurves | None,
) -> 'Figure':
    factor, label = plot_scale(metric)
    paper_curves = paper.curves.items() if paper else ()
    paper_points = paper.points if paper else ()
    return plots.plot_comparison(
        _common_values(points, axis),
        [(curve.name, factor * curve.mean, factor * curve.spread) for curve in curves],
        title=f'{axis.title}: mean and standard deviation of the runs',
        x_label=axis.labels[axis.common],
        y_label=label,
        published=[(name, paper_points, factor * np.array(curve)) for name, curve in paper_curves],
    )


def _common_values(points: Sequence[dict[str, Any]], axis: Axis) -> list[float]:
    """Return the points by the key that is the same for all models."""
    return [float(point[axis.common]) for point in points]


def _curve_values(curve: ModelCurve) -> dict[str, Any]:
    """Return a curve under the keys that the file has."""
    return {
        'name': curve.name,
        'workdirs': list(curve.workdirs),
        'values': curve.values.tolist(),
        'mean': curve.mean.tolist(),
        'spread': curve.spread.tolist(),
    }


def _table(
    curves: Sequence[ModelCurve],
    points: Sequence[dict[str, Any]],
    axis: Axis,
    metric: str,
    paper: PublishedCurves | None,
) -> list[str]:
    """Return the table of all models at every point, with the paper's values where it has some."""
    paper_curves = paper.curves if paper else {}
    paper_index = {x: index for index, x in enumerate(paper.points)} if paper else {}
    rows = []
    for number, (point, x) in enumerate(zip(points, _common_values(points, axis), strict=True)):
        index = paper_index.get(x)
        rows.append(
            [
                f'{point[axis.keys[0]]:g}',
                f'{point[axis.keys[1]]:.4g}',
                *(
                    format_mean(metric, curve.mean[number], curve.spread[number])
                    for curve in curves
                ),
                *(
                    format_metric(metric, math.nan if index is None else values[index])
                    for values in paper_curves.values()
                ),
            ]
        )
    labels = [f'{markdown.text(curve.name)} ({len(curve.workdirs)})' for curve in curves]
    head = [*axis.columns, *labels, *paper_curves]
    return markdown.table(head, rows, 'r' * len(head))


@dataclasses.dataclass(frozen=True)
class Drop:
    """Describe how far a model falls below the best of other models, at its worst point.

    Attributes:
        name: Name of the model.
        below: The other models, in words.
        values: Drop of each run; negative where it is the best at every point.
        at: Index of the worst point of each run.
    """

    name: str
    below: str
    values: Float64[np.ndarray, 'runs']
    at: tuple[int, ...]


def worst_drops(curves: Sequence[ModelCurve]) -> list[Drop]:
    """Return the worst drop of each model below the best of others at the same point, run by run.

    The others are first the other ASTs, then all other models. The first run of a model is compared
    with the first runs of the others, and so on. Models of fewer runs do not count. If a value is
    undefined, there are no drops. Being the best of several models is partly luck: each of several
    equally good models has a small drop.
    """
    runs = max(len(curve.values) for curve in curves)
    complete = [curve for curve in curves if len(curve.values) == runs]
    if any(np.isnan(curve.values).any() for curve in complete):
        return []
    drops = []
    for below, kinds in (('the fixed-length ASTs', ('ast',)), ('all', None)):
        for curve in complete:
            rival_values = [
                rival.values
                for rival in complete
                if rival is not curve and (kinds is None or rival.kind in kinds)
            ]
            if rival_values:
                drop = np.max(rival_values, axis=0) - curve.values
                worst_points = tuple(drop.argmax(axis=1).tolist())
                drops.append(Drop(curve.name, below, drop.max(axis=1), worst_points))
    return drops


def _drop_values(drop: Drop, points: Sequence[dict[str, Any]], axis: Axis) -> dict[str, Any]:
    """Return a drop under the keys that the file has."""
    x = _common_values(points, axis)
    return {
        'name': drop.name,
        'below': drop.below,
        'values': drop.values.tolist(),
        'at': [x[index] for index in drop.at],
    }


def _drops_table(
    drops: Sequence[Drop], points: Sequence[dict[str, Any]], axis: Axis, metric: str
) -> list[str]:
    """Return the table of drops: two columns for each group of other models."""
    x = _common_values(points, axis)
    unit = dict(zip(axis.keys, axis.columns, strict=True))[axis.common]
    by_model = {(drop.name, drop.below): drop for drop in drops}
    groups = list(dict.fromkeys(drop.below for drop in drops))
    head = ['worst drop']
    for group in groups:
        head += [f'below the best of {group}', f'at {unit}']
    rows = []
    for name in dict.fromkeys(drop.name for drop in drops):
        row = [markdown.text(name)]
        for group in groups:
            drop = by_model.get((name, group))
            if drop is None:
                row += ['–', '–']
                continue
            deviation = run_deviation(drop.values[:, None])[0]
            row += [
                format_mean(metric, drop.values.mean(), deviation),
                ', '.join(f'{x[index]:g}' for index in dict.fromkeys(drop.at)),
            ]
        rows.append(row)
    explanation = (
        'How far each model falls below the best of the others at the same point, where it does so'
        ' most: mean and standard deviation of the runs. Of equally good models each has a small'
        ' drop, as the best of several is partly luck.'
    )
    return [explanation, '', *markdown.table(head, rows, 'l' + 'rl' * len(groups))]
