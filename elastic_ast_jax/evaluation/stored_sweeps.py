"""Read the sweeps that evaluation stored in workdirs, and check that they can be compared."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float64

from elastic_ast_jax.checkpointing.workdir import Workdir
from elastic_ast_jax.evaluation.compare_runs import CompareError, run_deviation
from elastic_ast_jax.evaluation.published import PublishedCurves
from elastic_ast_jax.evaluation.sweep_axes import AXES, METRICS, SweepKind, file_stem


@dataclasses.dataclass(frozen=True)
class ModelCurve:
    """Hold the sweeps of a model's runs.

    Attributes:
        name: Name of the model.
        kind: `model.kind` of its runs, or the kind that evaluation stored; empty if unknown.
        workdirs: Workdirs of its runs.
        values: Metric of each run at each point; NaN where it is undefined.
    """

    name: str
    kind: str
    workdirs: tuple[str, ...]
    values: Float64[np.ndarray, 'runs points']

    @property
    def mean(self) -> Float64[np.ndarray, 'points']:
        """Return the mean of the runs at each point."""
        return self.values.mean(axis=0)

    @property
    def spread(self) -> Float64[np.ndarray, 'points']:
        """Return the standard deviation of the runs at each point."""
        return run_deviation(self.values)


def read_curves(
    models: Sequence[tuple[str, Sequence[str]]],
    beside: Sequence[tuple[str, Sequence[str]]],
    kind: SweepKind,
    *,
    resized: bool,
    paper: PublishedCurves | None,
) -> tuple[list[ModelCurve], dict[str, Any]]:
    """Return the curves of all models, and one of the stored sweeps, which agree in their points.

    Args:
        models: Name and workdirs of each model.
        beside: Models that no model's drop is measured by.
        kind: Kind of the sweep.
        resized: Read ASTs as they were run at the length of each point.
        paper: Published curves to compare with.

    Raises:
        CompareError: A workdir without that sweep, or sweeps that differ in their points, their
            clips or their metric.
    """
    names = [name for name, _ in (*models, *beside)]
    if repeated := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
        raise CompareError(
            f'{", ".join(repeated)}: names two models; write all workdirs of one after it, NAME=W,W'
        )
    sweeps = {
        workdir: read_sweep(workdir, kind, resized=resized, judged=judged)
        for group, judged in ((models, True), (beside, False))
        for _, workdirs in group
        for workdir in workdirs
    }
    reference_workdir = next(iter(sweeps))
    reference = sweeps[reference_workdir]
    metric = reference['metric']
    for workdir, sweep in sweeps.items():
        check_comparable(workdir, sweep, reference_workdir, reference, AXES[kind].common)
    if paper and paper.metric != metric:
        raise CompareError(
            f'{reference_workdir}: was measured in {metric}, but the published curves are in'
            f' {paper.metric}'
        )

    def values(workdir: str) -> list[float]:
        metrics = [point[metric] for point in sweeps[workdir]['points']]
        return [math.nan if value is None else value for value in metrics]

    curves = [
        ModelCurve(
            name,
            sweeps[workdirs[0]].get('model', ''),
            tuple(workdirs),
            np.array([values(workdir) for workdir in workdirs], np.float64),
        )
        for name, workdirs in (*models, *beside)
    ]
    return curves, reference


def read_sweep(
    workdir: str, kind: SweepKind, *, resized: bool, judged: bool = True
) -> dict[str, Any]:
    """Return a stored sweep.

    Args:
        workdir: Workdir that was evaluated.
        kind: Kind of the sweep.
        resized: Return the sweep of an AST that was run at the length of each point. Of a model
            without a length of its own, return its only sweep.
        judged: Require that sweep of an AST. A model that no drop is measured by is shown as it
            was evaluated.

    Raises:
        CompareError: No such sweep, or a file that cannot be read.
    """
    stored = Workdir(workdir)
    folder = stored.evaluations
    option = ' --fixed_length=resized' if resized else ''
    command = f'elastic-ast evaluate --workdir={workdir} --sweep={kind}{option}'
    file = folder / f'{file_stem(kind, resized=resized)}.json'
    if resized and not file.exists():
        file = folder / f'{kind}.json'
    try:
        sweep = stored.read_json(file)
    except FileNotFoundError:
        raise CompareError(f'{workdir}: has no {kind} sweep: run {command}') from None
    except (OSError, ValueError) as error:
        raise CompareError(f'{file}: cannot be read ({error}): evaluate again') from error
    if not _is_sweep(sweep, kind):
        raise CompareError(f'{file}: is no sweep of this version: run {command}')
    if judged and resized and file.stem == kind and sweep.get('model', 'ast') == 'ast':
        raise CompareError(
            f'{workdir}: has no sweep of an AST that was run at the length of each point: run'
            f' {command}'
        )
    return sweep


def _is_sweep(sweep: Any, kind: SweepKind) -> bool:
    """Return whether the content of a file is what `sweep.write_curve` writes."""
    if not isinstance(sweep, dict) or not isinstance(sweep.get('metric'), str):
        return False
    metric = sweep['metric']
    overrides, points = sweep.get('overrides', []), sweep.get('points')
    if metric not in METRICS or not isinstance(sweep.get('model', ''), str):
        return False
    if not (isinstance(overrides, list) and all(isinstance(text, str) for text in overrides)):
        return False
    if not isinstance(points, list) or not points:
        return False
    return all(
        isinstance(point, dict)
        and all(_is_number(point.get(key)) for key in (*AXES[kind].keys, 'clips'))
        and metric in point
        and (point[metric] is None or _is_number(point[metric]))
        for point in points
    )


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def check_comparable(
    workdir: str,
    sweep: dict[str, Any],
    reference_workdir: str,
    reference: dict[str, Any],
    key: str,
) -> None:
    """Check that two sweeps have the same points, on the same clips, in the same metric.

    Args:
        workdir: Workdir of the sweep.
        sweep: Sweep to check.
        reference_workdir: Workdir of the sweep to compare with.
        reference: Sweep to compare with.
        key: Key by which the points of models are the same.

    Raises:
        CompareError: The sweeps differ; says in what.
    """
    overrides, reference_overrides = (
        ', '.join(stored.get('overrides', ())) or 'nothing' for stored in (sweep, reference)
    )
    if overrides != reference_overrides:
        raise CompareError(
            f'{workdir}: was evaluated with {overrides} changed, but {reference_workdir} with'
            f' {reference_overrides}: evaluate both alike'
        )
    if sweep['metric'] != reference['metric']:
        raise CompareError(
            f'{workdir}: was measured in {sweep["metric"]}, but {reference_workdir} in'
            f' {reference["metric"]}: compare runs with the same train.loss'
        )
    points, reference_points = (
        [point[key] for point in stored['points']] for stored in (sweep, reference)
    )
    if points != reference_points:
        option = '--points' if key == 'frames' else '--shifts'
        listed, reference_listed = (
            ','.join(f'{x:g}' for x in values) for values in (points, reference_points)
        )
        raise CompareError(
            f'{workdir}: was measured at {key} {listed}, but {reference_workdir} at'
            f' {reference_listed}: evaluate both with the same {option}'
        )
    for field, reason in (('seconds', 'another frame shift'), ('clips', 'other clips')):
        for x, point, reference_point in zip(
            points, sweep['points'], reference['points'], strict=True
        ):
            if point.get(field) != reference_point.get(field):
                raise CompareError(
                    f'{workdir}: has {field}={point[field]} at {x:g} {key}, but'
                    f' {reference_workdir} has {reference_point[field]}: they were measured with'
                    f' {reason}'
                )
