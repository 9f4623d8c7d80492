"""`elastic-ast compare`: runs side by side in a table; or curves of several models, each the mean
of runs with different seeds.

The table is made of what training logged (`compare_runs`). The curves were measured by `elastic-ast
evaluate --sweep=...`, which left them in each workdir. Where the data set is one of the paper's,
its curves are drawn beside them.
"""

import dataclasses
import itertools
import json
import math
import os
from collections.abc import Sequence

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
from elastic_ast_jax.evaluation.sweep_axes import (
    AXES,
    METRICS,
    Axis,
    SweepKind,
    file_stem,
    format_metric,
    plot_scale,
)
from elastic_ast_jax.utils import files, markdown, plotting
from elastic_ast_jax.utils.text import printable, without_nan


@dataclasses.dataclass(frozen=True)
class ModelCurve:
    """A model's runs.

    Attributes:
        name: Of the model.
        kind: `model.kind` of its runs, or what evaluation says instead; empty if it does not tell.
        workdirs: Of its runs.
        values: The metric of each run at each point; NaN where it is undefined.
    """

    name: str
    kind: str
    workdirs: tuple[str, ...]
    values: Float64[np.ndarray, 'runs points']

    @property
    def mean(self) -> Float64[np.ndarray, 'points']:
        return self.values.mean(axis=0)

    @property
    def spread(self) -> Float64[np.ndarray, 'points']:
        return run_deviation(self.values)


def run(
    given: Sequence[tuple[str, Sequence[str]]],
    out: str | None = None,
    kind: SweepKind | None = None,
    resized: bool = False,
    published_of: str | None = None,
    over: str | None = None,
    beside: Sequence[tuple[str, Sequence[str]]] = (),
) -> None:
    """Compares runs, or with `kind` the models that they are runs of.

    Args:
        given: Name of a model and its workdirs; without a name, a workdir that is one of its own,
            or one of those with the same config but for the seed.
        out: Folder for the files; None: only print the table.
        kind: None for a table of the runs; `'length'` or `'resolution'` for the models over that
        sweep.
        resized: ASTs are compared as they were run at the length of each point.
        published_of: A data set of the paper, whose curves are shown too.
        over: Instead of `kind`, a key of the config: see `compare_over_key`.
        beside: Models as `given` that are shown too, and that no model's drop is measured by.

    Raises:
        CompareError: Runs that cannot be compared.
        PublishedError: The paper has no such curves.
        WorkdirError: One that is none.
        WriteError: A file cannot be written.
    """
    workdirs = [files.at(workdir) for _, found in (*given, *beside) for workdir in found]
    if twice := [
        str(workdir) for workdir in dict.fromkeys(workdirs) if workdirs.count(workdir) > 1
    ]:
        raise CompareError(f'{", ".join(twice)}: is given twice; give each run once')
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
        compare_over_key.compare(_models(given, over), over, out, beside)
    elif kind is None:
        compare_runs.compare(given, out)
    else:
        paper = published.read(published_of, kind) if published_of else None
        compare(_models(given), out, kind, resized, paper, beside)


def _models(
    given: Sequence[tuple[str, Sequence[str]]], over: str | None = None
) -> list[tuple[str, list[str]]]:
    """Named models first;

    then those of workdirs without a name, called by what else than `over` their configs differ in.
    """
    named = [(name, list(workdirs)) for name, workdirs in given if name]
    single = [workdir for name, workdirs in given if not name for workdir in workdirs]
    configs = {workdir: Workdir(workdir).config().flat() for workdir in single}
    keys = differing_keys(list(configs.values()), but=('train.seed', over)) if configs else []
    groups: dict[str, list[str]] = {}
    for workdir in single:
        groups.setdefault(
            ', '.join(f'{key}={format_value(configs[workdir][key])}' for key in keys), []
        ).append(workdir)
    if not keys and single:
        first = files.at(single[0])
        groups = {first.name if len(single) == 1 else first.parent.name or 'runs': single}
    return named + list(groups.items())


def compare(
    models: Sequence[tuple[str, Sequence[str]]],
    out: str | None,
    kind: SweepKind,
    resized: bool = False,
    paper: PublishedCurves | None = None,
    beside: Sequence[tuple[str, Sequence[str]]] = (),
) -> None:
    """Prints models over a sweep; writes them as JSON, as a Markdown table and as a plot, named by
    the sweep's kind.

    Args:
        models: Name and workdirs of each.
        out: Folder for the files; None: only print.
        kind: Which sweep.
        resized: ASTs as they were run at the length of each point; other models as they are.
        paper: The paper's curves.
        beside: Models that no model's drop is measured by.

    Raises:
        CompareError: A workdir without that sweep, or sweeps that differ in their points, their
        clips or their metric.
        WriteError: A file cannot be written.
    """
    judged, models = len(models), [*models, *beside]
    names = [name for name, _ in models]
    if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
        raise CompareError(
            f'{", ".join(twice)}: names two models; write all workdirs of one after it, NAME=W,W'
        )
    sweeps = {
        workdir: _read(workdir, kind, resized, judged=number < judged)
        for number, (_, workdirs) in enumerate(models)
        for workdir in workdirs
    }
    first = next(iter(sweeps))
    axis, metric, points = AXES[kind], sweeps[first]['metric'], sweeps[first]['points']
    for workdir, found in sweeps.items():
        _check_alike(workdir, found, first, sweeps[first], axis.common)
    if paper and paper.metric != metric:
        raise CompareError(
            f'{first}: was measured in {metric}, but the published curves are in {paper.metric}'
        )
    compared = [
        ModelCurve(
            name,
            sweeps[workdirs[0]].get('model', ''),
            tuple(workdirs),
            np.array(
                [
                    [
                        math.nan if point[metric] is None else point[metric]
                        for point in sweeps[workdir]['points']
                    ]
                    for workdir in workdirs
                ],
                np.float64,
            ),
        )
        for name, workdirs in models
    ]
    places = [float(point[axis.common]) for point in points]
    how = (
        ' ASTs pad or cut clips to the length of each point, with their positions resized.'
        if resized
        else ''
    )
    lines = [
        (
            f'{"Accuracy" if metric == "accuracy" else METRICS[metric]} of {points[0]["clips"]}'
            ' clips: mean and standard deviation of the runs, whose number is in brackets.'
            f' {axis.title}.{how}'
        ),
        '',
        *_table(compared, points, axis, metric, paper),
    ]
    falls = worst_drops(compared[:judged])
    if falls:
        lines += ['', *_drops_table(falls, places, axis, metric)]
    print('\n'.join(lines[2:]))
    if out is None:
        return
    folder, stem = files.at(out), file_stem(kind, resized)
    files.write_text(folder / f'{stem}.md', '\n'.join(lines) + '\n')
    values = {
        'sweep': kind,
        'resized': resized,
        'metric': metric,
        'points': [{key: point[key] for key in (*axis.keys, 'clips')} for point in points],
        'models': [
            {
                'name': model.name,
                'workdirs': list(model.workdirs),
                'values': model.values.tolist(),
                'mean': model.mean.tolist(),
                'spread': model.spread.tolist(),
            }
            for model in compared
        ],
        'worst_drops': [
            {
                'name': fall.name,
                'below': fall.below,
                'values': fall.values.tolist(),
                'at': [places[point] for point in fall.at],
            }
            for fall in falls
        ],
    }
    files.write_text(folder / f'{stem}.json', json.dumps(without_nan(values), indent=2) + '\n')
    factor, label = plot_scale(metric)
    figure = plots.plot_comparison(
        places,
        [(model.name, factor * model.mean, factor * model.spread) for model in compared],
        title=f'{axis.title}: mean and standard deviation of the runs',
        x_label=axis.names[axis.common],
        y_label=label,
        others=(
            [(one, paper.places, factor * np.array(curve)) for one, curve in paper.curves.items()]
            if paper
            else ()
        ),
    )
    plotting.save(figure, folder / f'{stem}.png')
    print(f'written: {printable(os.path.join(out, stem))}.md, .json, .png')


def _table(
    compared: Sequence[ModelCurve],
    points: Sequence[dict],
    axis: Axis,
    metric: str,
    paper: PublishedCurves | None,
) -> list[str]:
    """Every model at every point; and the published ones, at those points that the paper has."""
    labels = [f'{markdown.text(model.name)} ({len(model.workdirs)})' for model in compared] + list(
        paper.curves if paper else ()
    )
    lines = [
        markdown.row([*axis.columns, *labels]),
        markdown.row(['---:'] * (len(axis.columns) + len(labels))),
    ]
    for number, point in enumerate(points):
        cells = [
            f'{format_metric(metric, mean)} ± {format_metric(metric, spread)}'
            for mean, spread in ((model.mean[number], model.spread[number]) for model in compared)
        ]
        if paper:
            at = {place: here for here, place in enumerate(paper.places)}.get(
                float(point[axis.common])
            )
            cells += [
                format_metric(metric, math.nan if at is None else curve[at])
                for curve in paper.curves.values()
            ]
        lines.append(
            markdown.row([f'{point[axis.keys[0]]:g}', f'{point[axis.keys[1]]:.4g}', *cells])
        )
    return lines


@dataclasses.dataclass(frozen=True)
class Drop:
    """How far a model falls below the best of some others, where it does so most.

    Attributes:
        name: Of the model.
        below: The others, in words.
        values: In each run; negative where it is the best at every point.
        at: The point of each run, by its number.
    """

    name: str
    below: str
    values: Float64[np.ndarray, 'runs']
    at: tuple[int, ...]


def worst_drops(compared: Sequence[ModelCurve]) -> list[Drop]:
    """The worst drop of each model below the best of the other ASTs at the same point, and of all
    others, run by run.

    The first run of one model is compared with the first of the others, and so on. Models of fewer
    runs than others are left out; if a value is undefined, there is none. Being best of several is
    partly luck: of equally good models each has a small drop.
    """
    most = max(len(model.values) for model in compared)
    whole = [model for model in compared if len(model.values) == most]
    if any(np.isnan(model.values).any() for model in whole):
        return []
    found = []
    for below, among in (('the fixed-length ASTs', ('ast',)), ('all', None)):
        for model in whole:
            others = [
                other.values
                for other in whole
                if other is not model and (among is None or other.kind in among)
            ]
            if others:
                fall = np.max(others, axis=0) - model.values
                found.append(
                    Drop(model.name, below, fall.max(axis=1), tuple(fall.argmax(axis=1).tolist()))
                )
    return found


def _drops_table(
    falls: Sequence[Drop], places: Sequence[float], axis: Axis, metric: str
) -> list[str]:
    """A column for each kind of others."""
    kinds = list(dict.fromkeys(fall.below for fall in falls))
    place = dict(zip(axis.keys, axis.columns, strict=True))[axis.common]
    head = [
        'worst drop',
        *itertools.chain.from_iterable(
            (f'below the best of {kind}', f'at {place}') for kind in kinds
        ),
    ]
    lines = [
        (
            'How far each model falls below the best of the others at the same point, where it does'
            ' so most: mean and standard deviation of the runs. Of equally good models each has a'
            ' small drop, as the best of several is partly luck.'
        ),
        '',
        markdown.row(head),
        markdown.row(['---'] + ['---:', '---'] * len(kinds)),
    ]
    for model in dict.fromkeys(fall.name for fall in falls):
        cells = []
        for kind in kinds:
            fall = next((fall for fall in falls if (fall.name, fall.below) == (model, kind)), None)
            if fall is None:
                cells += ['–', '–']
                continue
            mean, deviation = fall.values.mean(), run_deviation(fall.values[:, None])[0]
            cells += [
                f'{format_metric(metric, mean)} ± {format_metric(metric, deviation)}',
                ', '.join(f'{places[point]:g}' for point in dict.fromkeys(fall.at)),
            ]
        lines.append(markdown.row([markdown.text(model), *cells]))
    return lines


def _read(workdir: str, kind: SweepKind, resized: bool, judged: bool = True) -> dict:
    """A sweep that evaluation left; with `resized` the one of that kind, unless the model has no
    length of its own.

    A model that no drop is measured by is shown as it was evaluated.
    """
    folder = Workdir(workdir).evaluations
    how = ' --fixed_length=resized' if resized else ''
    again = f'elastic-ast evaluate --workdir={workdir} --sweep={kind}{how}'
    file = folder / f'{file_stem(kind, resized)}.json'
    if resized and not file.exists():
        file = folder / f'{kind}.json'
    try:
        found = json.loads(file.read_text(encoding='utf-8'))
    except FileNotFoundError:
        raise CompareError(f'{workdir}: has no {kind} sweep: run {again}') from None
    except (OSError, ValueError) as error:
        raise CompareError(f'{file}: cannot be read ({error}): evaluate again') from error
    if not _is_sweep(found, kind):
        raise CompareError(f'{file}: is no sweep of this version: run {again}')
    if judged and resized and file.stem == kind and found.get('model', 'ast') == 'ast':
        raise CompareError(
            f'{workdir}: has no sweep of an AST that was run at the length of each point: run'
            f' {again}'
        )
    return found


def _is_sweep(found: object, kind: SweepKind) -> bool:
    """Whether a file holds what `sweep.write` writes."""

    def number(value: object) -> bool:
        return type(value) in (int, float) and math.isfinite(value)

    if (
        not isinstance(found, dict)
        or not isinstance(found.get('metric'), str)
        or found['metric'] not in METRICS
    ):
        return False
    overrides, points = found.get('overrides', []), found.get('points')
    if not (isinstance(overrides, list) and all(isinstance(text, str) for text in overrides)):
        return False
    if not (isinstance(found.get('model', ''), str) and isinstance(points, list) and points):
        return False
    return all(
        isinstance(point, dict)
        and all(number(point.get(key)) for key in (*AXES[kind].keys, 'clips'))
        and found['metric'] in point
        and (point[found['metric']] is None or number(point[found['metric']]))
        for point in points
    )


def _check_alike(workdir: str, found: dict, first: str, reference: dict, key: str) -> None:
    """Curves are compared point by point, on the same clips, in the same metric."""
    mine, theirs = (
        ', '.join(sweep.get('overrides', ())) or 'nothing' for sweep in (found, reference)
    )
    if mine != theirs:
        raise CompareError(
            f'{workdir}: was evaluated with {mine} changed, but {first} with {theirs}: evaluate'
            ' both alike'
        )
    if found['metric'] != reference['metric']:
        raise CompareError(
            f'{workdir}: was measured in {found["metric"]}, but {first} in {reference["metric"]}:'
            ' compare runs with the same train.loss'
        )
    here, there = ([point[key] for point in sweep['points']] for sweep in (found, reference))
    if here != there:
        option = '--points' if key == 'frames' else '--shifts'
        mine, theirs = (','.join(f'{x:g}' for x in places) for places in (here, there))
        raise CompareError(
            f'{workdir}: was measured at {key} {mine}, but {first} at {theirs}: evaluate both with'
            f' the same {option}'
        )
    for what, why in (('seconds', 'another frame shift'), ('clips', 'other clips')):
        for place, mine, theirs in zip(here, found['points'], reference['points'], strict=True):
            if mine.get(what) != theirs.get(what):
                raise CompareError(
                    f'{workdir}: has {what}={mine[what]} at {place:g} {key}, but {first} has'
                    f' {theirs[what]}: they were measured with {why}'
                )
