"""`elastic-ast compare`: runs side by side in a table; or curves of several models, each the mean of runs with different seeds.

The table is made of what training logged (`run_table`). The curves were measured by `elastic-ast evaluate --sweep=...`, which
left them in each workdir.
"""

import dataclasses
import json
import math
import os
import sys
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64

from elastic_ast_jax import files, plots, run_table, tables
from elastic_ast_jax.logs import printable, without_nan
from elastic_ast_jax.run_table import CompareError, differing, written
from elastic_ast_jax.sweep_axes import AXES, METRICS, Kind
from elastic_ast_jax.workdir import Workdir


@dataclasses.dataclass(frozen=True)
class Compared:
    """A model's runs.

    Attributes:
        name: Of the model.
        workdirs: Of its runs.
        values: The metric of each run at each point; NaN where it is undefined.
    """

    name: str
    workdirs: tuple[str, ...]
    values: Float64[np.ndarray, 'runs points']

    @property
    def mean(self) -> Float64[np.ndarray, 'points']:
        return self.values.mean(axis=0)

    @property
    def spread(self) -> Float64[np.ndarray, 'points']:
        """Standard deviation of one run, estimated from these (n - 1); NaN of a single one."""
        return self.values.std(axis=0, ddof=1) if len(self.values) > 1 else np.full(self.values.shape[1], np.nan)


def run(given: Sequence[tuple[str, Sequence[str]]], out: str | None = None, kind: Kind | None = None) -> None:
    """Compares runs, or with `kind` the models that they are runs of.

    Args:
        given: Name of a model and its workdirs; without a name, a workdir that is one of its own, or one of those with the same
            config but for the seed.
        out: Folder for the files; None: only print the table.
        kind: None for a table of the runs; `'length'` or `'resolution'` for the models over that sweep.

    Raises:
        CompareError: Runs that cannot be compared.
        WorkdirError: One that is none.
        WriteError: A file cannot be written.
    """
    workdirs = [files.at(workdir) for _, found in given for workdir in found]
    if twice := [str(workdir) for workdir in dict.fromkeys(workdirs) if workdirs.count(workdir) > 1]:
        raise CompareError(f'{", ".join(twice)}: is given twice; give each run once')
    if kind is None:
        run_table.compare(given, out)
    else:
        over_sweep(_models(given), out, kind)


def _models(given: Sequence[tuple[str, Sequence[str]]]) -> list[tuple[str, list[str]]]:
    """Named models first; then those of the workdirs without a name, called by what their configs differ in."""
    named = [(name, list(workdirs)) for name, workdirs in given if name]
    single = [workdir for name, workdirs in given if not name for workdir in workdirs]
    configs = {workdir: Workdir(workdir).config().flat() for workdir in single}
    keys = differing(list(configs.values()), but='train.seed') if configs else []
    groups: dict[str, list[str]] = {}
    for workdir in single:
        groups.setdefault(', '.join(f'{key}={written(configs[workdir][key])}' for key in keys), []).append(workdir)
    if not keys and single:
        first = files.at(single[0])
        groups = {first.name if len(single) == 1 else first.parent.name or 'runs': single}
    return named + list(groups.items())


def over_sweep(models: Sequence[tuple[str, Sequence[str]]], out: str | None, kind: Kind) -> None:
    """Prints models over a sweep; writes them as JSON, as a Markdown table and as a plot, named by the sweep's kind.

    Args:
        models: Name and workdirs of each.
        out: Folder for the files; None: only print.
        kind: Which sweep.

    Raises:
        CompareError: A workdir without that sweep, or sweeps that differ in their points, their clips or their metric.
        WriteError: A file cannot be written.
    """
    names = [name for name, _ in models]
    if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
        raise CompareError(f'{", ".join(twice)}: names two models; write all workdirs of one after it, NAME=W,W')
    sweeps = {workdir: _read(workdir, kind) for _, workdirs in models for workdir in workdirs}
    first = next(iter(sweeps))
    axis, metric, points = AXES[kind], sweeps[first]['metric'], sweeps[first]['points']
    for workdir, found in sweeps.items():
        _check_alike(workdir, found, first, sweeps[first], axis.keys)
    compared = [
        Compared(name, tuple(workdirs), np.array(
            [[math.nan if point[metric] is None else point[metric] for point in sweeps[workdir]['points']]
             for workdir in workdirs], np.float64))
        for name, workdirs in models
    ]  # fmt: skip
    percent = metric == 'accuracy'
    write = tables.percent if percent else tables.number
    lines = [
        tables.row([*axis.columns, *(f'{tables.text(model.name)} ({len(model.workdirs)})' for model in compared)]),
        tables.row(['---:'] * (len(axis.columns) + len(compared))),
    ]
    for number, point in enumerate(points):
        cells = [f'{write(model.mean[number])} ± {write(model.spread[number])}' for model in compared]
        lines.append(tables.row([f'{point[axis.keys[0]]:g}', f'{point[axis.keys[1]]:.4g}', *cells]))
    explanation = (f'{"Accuracy" if percent else METRICS[metric]} of {points[0]["clips"]} clips: mean and standard deviation '
                   f'of the runs, whose number is in brackets. {axis.title}.')
    print('\n'.join(lines))
    if out is None:
        return
    folder = files.at(out)
    files.write_text(folder / f'{kind}.md', '\n'.join([explanation, '', *lines]) + '\n')
    values = {
        'sweep': kind, 'metric': metric, 'points': [{key: point[key] for key in (*axis.keys, 'clips')} for point in points],
        'models': [
            {'name': model.name, 'workdirs': list(model.workdirs), 'values': model.values.tolist(),
             'mean': model.mean.tolist(), 'spread': model.spread.tolist()}
            for model in compared
        ],
    }  # fmt: skip
    files.write_text(folder / f'{kind}.json', json.dumps(without_nan(values), indent=2) + '\n')
    scale = 100.0 if percent else 1.0
    figure = plots.comparison(
        [float(point[axis.keys[0]]) for point in points],
        [(model.name, scale * model.mean, scale * model.spread) for model in compared],
        title=f'{axis.title}: mean and standard deviation of the runs', x_label=axis.label,
        y_label='accuracy (%)' if percent else METRICS[metric])
    plots.save(figure, folder / f'{kind}.png')
    print(f'written: {printable(os.path.join(out, kind))}.md, .json, .png')


def _read(workdir: str, kind: Kind) -> dict:
    """A sweep that evaluation left."""
    file = Workdir(workdir).evaluations / f'{kind}.json'
    try:
        found = json.loads(file.read_text(encoding='utf-8'))
    except FileNotFoundError:
        raise CompareError(
            f'{workdir}: has no {kind} sweep: run elastic-ast evaluate --workdir={workdir} --sweep={kind}') from None
    except (OSError, ValueError) as error:
        raise CompareError(f'{file}: cannot be read ({error}): evaluate again') from error
    wanted = {*AXES[kind].keys, 'clips'}
    metric = found.get('metric') if isinstance(found, dict) else None
    points = found.get('points') if metric in METRICS else None
    numbers = (int, float, type(None))
    if not (isinstance(points, list) and points and all(
        isinstance(point, dict) and all(key in point and isinstance(point[key], numbers) for key in (*wanted, metric))
        for point in points)):  # fmt: skip
        raise CompareError(f'{file}: is no sweep of this version: evaluate again with --sweep={kind}')
    return found


def _check_alike(workdir: str, found: dict, first: str, reference: dict, keys: tuple[str, str]) -> None:
    """Curves are compared point by point, on the same clips, in the same metric."""
    mine, theirs = (', '.join(sweep.get('overrides', ())) or 'nothing' for sweep in (found, reference))
    if mine != theirs:
        raise CompareError(f'{workdir}: was evaluated with {mine} changed, but {first} with {theirs}: evaluate both alike')
    if found['metric'] != reference['metric']:
        raise CompareError(f'{workdir}: was measured in {found["metric"]}, but {first} in {reference["metric"]}: compare runs '
                           f'with the same train.loss')
    places, others = ([point[keys[0]] for point in sweep['points']] for sweep in (found, reference))
    if places != others:
        written = ','.join(f'{x:g}' for x in others)
        here = ','.join(f'{x:g}' for x in places)
        raise CompareError(f'{workdir}: was measured at {keys[0]} {here}, but {first} at {written}: evaluate both with the '
                           f'same --points')
    for key, what in ((keys[1], 'another frame shift'), ('clips', 'other clips')):
        for mine, theirs in zip(found['points'], reference['points'], strict=True):
            if mine[key] != theirs[key]:
                raise CompareError(f'{workdir}: has {key}={mine[key]} at {mine[keys[0]]:g} {keys[0]}, but {first} has '
                                   f'{theirs[key]}: they were measured with {what}')


if __name__ == '__main__':
    from elastic_ast_jax.cli import main

    sys.exit(main(['compare', *sys.argv[1:]]))
