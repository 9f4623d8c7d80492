"""Compare the numbers of two checkouts that `drive` has collected, or record those of one.

    python tests/regression/compare.py OLD.npz NEW.npz
    python tests/regression/compare.py --record OUT.json NUMBERS.npz

Plans, losses and evaluation logits must be equal to the last bit. Predictions, timelines,
embeddings and explanations must agree within 1e-6 of the largest value of their array. Files with
rounded numbers may differ in their last digit. The stamp of a plan is shown for information only:
another version may compute it otherwise.
"""

import argparse
import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

EXACT = ('plan', 'losses', 'evaluation')
# Largest difference relative to the largest value of an array.
TOLERANCES = {
    'prediction': 1e-6,
    'timeline': 1e-6,
    'embedding': 1e-6,
    'explanation': 1e-6,
    'files': 1e-3,
}
INFORMATION = ('stamp',)
# Numbers of an array that are recorded: evenly spaced ones of a larger array.
RECORDED = 48
_DIGITS = 9


def main(argv: Sequence[str] | None = None) -> int:
    """Compare or record; return 1 if numbers differ."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        '--record',
        type=Path,
        metavar='OUT.json',
        help='write a short record of one file of numbers',
    )
    parser.add_argument('numbers', type=Path, nargs='+', help='what drive.py has written')
    options = parser.parse_args(argv)
    if len(options.numbers) != (1 if options.record else 2):
        parser.error('give two files to compare, or one to record')
    if options.record:
        options.record.write_text(as_json(record(load(options.numbers[0]))), encoding='utf-8')
        return 0
    table, failures = compare(*map(load, options.numbers))
    print('\n'.join(table))
    for failure in failures:
        print(failure, file=sys.stderr)
    return 1 if failures else 0


def load(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays of a file of numbers."""
    with np.load(path) as file:
        return dict(file)


def compare(
    old: Mapping[str, np.ndarray], new: Mapping[str, np.ndarray]
) -> tuple[list[str], list[str]]:
    """Return a Markdown table of every scenario and kind of numbers, and a list of failures."""
    failures = [
        f'{name}: only in the {"old" if name in old else "new"} numbers'
        for name in sorted(old.keys() ^ new.keys())
    ]
    groups: dict[tuple[str, str], list[str]] = {}
    for name in old.keys() & new.keys():
        groups.setdefault((name.split('/')[0], name.split('/')[1]), []).append(name)
    table = [
        '| scenario | numbers | arrays | values | equal bits | largest difference | allowed |',
        '|---|---|---:|---:|---|---:|---:|',
    ]
    for (scenario, kind), names in sorted(groups.items()):
        same = all(same_bits(old[name], new[name]) for name in names)
        distances = {name: distance(old[name], new[name]) for name in names}
        allowed = 0.0 if kind in EXACT else TOLERANCES.get(kind, np.inf)
        if kind in EXACT:
            failures += [
                f'{name}: other bits' for name in names if not same_bits(old[name], new[name])
            ]
        elif kind not in INFORMATION:
            failures += [
                f'{name}: differs by {far:.3g}'
                for name, far in distances.items()
                if not far <= allowed
            ]
        values = sum(old[name].size for name in names)
        table.append(
            f'| {scenario} | {kind} | {len(names)} | {values} | {"yes" if same else "no"} | '
            f'{max(distances.values()):.2g} | {allowed:g} |'
        )
    return table, failures


def same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    """Tell whether two arrays are the same to the last bit."""
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """Return the largest difference of two arrays relative to the largest value.

    Arrays that cannot be subtracted are infinitely far apart, unless they are equal.
    """
    if a.shape != b.shape or a.dtype.kind not in 'iufb' or b.dtype.kind not in 'iufb':
        return 0.0 if a.shape == b.shape and (a == b).all() else np.inf
    a, b = a.astype(np.float64), b.astype(np.float64)
    if not (np.isfinite(a) == np.isfinite(b)).all():
        return np.inf
    finite = np.isfinite(a)
    largest = max(np.abs(a[finite]).max(initial=0.0), np.abs(b[finite]).max(initial=0.0))
    return float(np.abs(a[finite] - b[finite]).max(initial=0.0) / largest) if largest else 0.0


def record(numbers: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Return a short record of numbers: hashes of integers, some values of other arrays.

    Metrics are not recorded, since they may jump on another machine. The stamp of a plan is not
    recorded either, since it may change with the version.
    """
    recorded: dict[str, Any] = {}
    for name, array in sorted(numbers.items()):
        kind = name.split('/')[1]
        if kind in (*INFORMATION, 'files') or name.endswith(('/accuracy', '/metrics')):
            continue
        if array.dtype.kind in 'iub':
            content = f'{list(array.shape)} {array.astype(np.int64).ravel().tolist()}'
            recorded[name] = hashlib.sha256(content.encode()).hexdigest()[:16]
            continue
        values = array.astype(np.float64).ravel()
        selected = values[np.unique(np.linspace(0, len(values) - 1, RECORDED).round().astype(int))]
        largest = np.abs(values[np.isfinite(values)]).max(initial=0.0)
        recorded[name] = {
            'shape': list(array.shape),
            'largest': _rounded(largest),
            'values': [_rounded(x) for x in selected],
        }
    return recorded


def _rounded(value: float) -> float | None:
    """Return a value with as many digits as are recorded; None for what is not finite."""
    return float(f'{value:.{_DIGITS}g}') if np.isfinite(value) else None


def differences(recorded: Mapping[str, Any], now: Mapping[str, Any], tolerance: float) -> list[str]:
    """Return the differences of two records that exceed a share of an array's largest value."""
    problems = [f'{name}: is in one record only' for name in sorted(recorded.keys() ^ now.keys())]
    for name in recorded.keys() & now.keys():
        a, b = recorded[name], now[name]
        if isinstance(a, str) or isinstance(b, str):
            problems += [] if a == b else [f'{name}: other whole numbers']
        elif a['shape'] != b['shape']:
            problems.append(f'{name}: has the shape {b["shape"]}, but had {a["shape"]}')
        else:
            x, y = (np.array(record['values'], np.float64) for record in (a, b))  # None becomes NaN
            allowed = tolerance * max(a['largest'], b['largest'])
            if (np.isnan(x) != np.isnan(y)).any() or np.nanmax(
                np.abs(x - y), initial=0.0
            ) > allowed:
                problems.append(f'{name}: {b["values"]}, but recorded are {a["values"]}')
    return problems


def as_json(recorded: Mapping[str, Any]) -> str:
    """Return a record as JSON with an array on each line."""
    lines = [f'{json.dumps(name)}: {json.dumps(value)}' for name, value in recorded.items()]
    return '{\n' + ',\n'.join(lines) + '\n}\n'


if __name__ == '__main__':
    sys.exit(main())
