"""`elastic-ast parity WORKDIR INPUT...`: checks that a clip's logits do not depend on other clips.

Each clip passes through the model under many conditions: alone in a row that fits exactly, which is
the reference; alone in a long row; packed with random companions; in rows of other lengths; by
every implementation of attention; on several devices. Its logits must be the same to the rounding
of float32. A model that ignores its input would pass all of these, so clips must also differ.

Some models make near-hard choices, and rounding alone moves their logits by more than the bound.
If a clip exceeds the bound, the model's weights are moved by a rounding and nothing else changes.
The resulting change of the logits is not caused by packing, and sets the bound of the clip.
"""

import contextlib
import dataclasses
import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence

import jax
import numpy as np
from jaxtyping import Float

from elastic_ast_jax.audio import windows
from elastic_ast_jax.audio.reading import expand_folders
from elastic_ast_jax.checkpointing.load_model import LoadedModel, load_model
from elastic_ast_jax.inference import clips
from elastic_ast_jax.models.attention import registry
from elastic_ast_jax.models.attention.interface import Attend
from elastic_ast_jax.parity import rounding
from elastic_ast_jax.parity.conditions import (
    DEVICES,
    Logits,
    ModelRunner,
    Patches,
    make_conditions,
    noise_clips,
)
from elastic_ast_jax.utils import jax_cache
from elastic_ast_jax.utils.errors import UserError
from elastic_ast_jax.utils.progress import Progress
from elastic_ast_jax.utils.text import nan_to_none, pluralize, printable

__all__ = ['BOUND', 'PackingCheckError', 'PackingReport', 'check_packing', 'print_report', 'run']

# Largest difference of a clip's logits, relative to its largest logit, in float32 (docs/design.md,
# promise 1).
BOUND = 1e-5
# The largest bound of a clip whose logits rounding alone moves by more.
_MAX_BOUND = 1e-3
# Different inputs must differ by at least this many times the bound.
_MIN_CONTRAST = 1000
# The most clips to check. More clips are sampled evenly.
_MAX_CLIPS = 64
# The most clips to print.
_MAX_PRINTED = 10


class PackingCheckError(UserError):
    """Reports that there are no clips to check, or a recording that cannot be used."""


@dataclasses.dataclass(frozen=True)
class PackingReport:
    """Result of a packing check.

    Attributes:
        names: Names of the clips.
        differences: For each condition, the largest difference of each clip's logits from those
            alone, relative to the largest of them.
        bounds: Bound of each clip.
        contrast: Largest difference between the logits of different inputs, relative to the largest
            logit.
        notes: Remarks on the clips and the bounds.
    """

    names: tuple[str, ...]
    differences: Mapping[str, Float[np.ndarray, '_']]
    bounds: Float[np.ndarray, '_']
    contrast: float
    notes: tuple[str, ...] = ()

    @property
    def failed(self) -> list[str]:
        """Return the conditions under which a clip exceeds its bound; NaN exceeds it."""
        return [
            name for name, column in self.differences.items() if not (column <= self.bounds).all()
        ]

    @property
    def depends_on_input(self) -> bool:
        """Return whether the logits depend on the input at all."""
        return self.contrast >= _MIN_CONTRAST * BOUND

    @property
    def passed(self) -> bool:
        """Return whether no condition fails and the logits depend on the input."""
        return not self.failed and self.depends_on_input


def run(
    workdir: str | os.PathLike,
    inputs: Iterable[str],
    *,
    checkpoint: str = 'latest',
    seed: int = 0,
    as_json: bool = False,
) -> int:
    """Print the packing report of a workdir's model: a table, or JSON.

    A CPU shows eight virtual devices for it.

    Args:
        workdir: Folder of a training run or a conversion.
        inputs: Recordings, and folders of recordings. Long recordings are split into windows, as in
            prediction.
        checkpoint: See `Checkpoints.restore_params`.
        seed: Seed of the random companions.
        as_json: Print JSON.

    Returns:
        The exit code: 1 if a condition fails, the logits do not depend on the input, or an input
        could not be used. The other inputs are checked all the same.

    Raises:
        PackingCheckError: No recording can be used.
        WorkdirError, CheckpointError: See `load_model`.
    """
    # JAX may be in use already, with the devices that it has.
    with contextlib.suppress(RuntimeError):
        jax.config.update('jax_num_cpu_devices', DEVICES)
    jax_cache.use_compilation_cache()
    progress = Progress()
    model = load_model(workdir, checkpoint)
    recordings, notes = list(expand_folders(inputs)), ()
    if len(recordings) > _MAX_CLIPS:
        notes = (f'Of {len(recordings)} recordings, {_MAX_CLIPS} are checked, sampled evenly.',)
        recordings = [recordings[i] for i in _sample_evenly(len(recordings))]
    names, patches, errors = _read(model, recordings)
    for error in errors:
        print(f'elastic-ast parity: {printable(error)}', file=sys.stderr)
    if errors and not names:
        raise PackingCheckError(f'none of {pluralize(len(errors), "input")} can be used')
    report = check_packing(model, names, patches, seed, progress)
    progress.clear()
    report = dataclasses.replace(report, notes=notes + report.notes)
    return print_report(report, model, as_json=as_json) or int(bool(errors))


def _read(
    model: LoadedModel, recordings: Iterable[str]
) -> tuple[list[str], list[Patches], list[str]]:
    """Return the names and patches of the clips of recordings, and the errors of the others."""
    frontend = model.config.frontend
    split = windows.make_windows(frontend, model.config.data.overlap)
    names, patches, errors = [], [], []
    for clip in clips.read_clips(recordings, frontend, split):
        if clip.error is not None:
            errors.append(clip.error)
            continue
        names.append(clip.name if clip.count == 1 else f'{clip.name}, window {clip.index + 1}')
        patches.append(clip.patches)
    return names, patches, errors


def print_report(report: PackingReport, model: LoadedModel, *, as_json: bool = False) -> int:
    """Print a report and return the exit code: 1 if the model does not pass."""
    devices = pluralize(jax.device_count(), f'{jax.default_backend()} device')
    platform = (
        f'{model.description}, float32 on {devices}, matrix products in the highest precision, JAX'
        f' {jax.__version__}'
    )
    if as_json:
        _print_json(report, platform)
    else:
        _print_tables(report)
        print(f'{_verdict_on_contrast(report)}.')
        print(
            f'{platform}: {_verdict_on_conditions(report)}; {"pass" if report.passed else "FAIL"}'
        )
    return 0 if report.passed else 1


def _print_json(report: PackingReport, platform: str) -> None:
    entries = {
        'where': platform,
        'passed': report.passed,
        'contrast': report.contrast,
        'clips': list(report.names),
        'bounds': report.bounds.tolist(),
        'differences': {name: column.tolist() for name, column in report.differences.items()},
        'notes': list(report.notes),
    }
    print(json.dumps(nan_to_none(entries), indent=2))


def _print_tables(report: PackingReport) -> None:
    """Print the differences by condition and by clip, and the notes."""
    worst = np.max(list(report.differences.values()), axis=0)
    order = np.argsort(-worst, kind='stable')[:_MAX_PRINTED]
    width = max(len('condition'), *map(len, report.differences))
    print(
        "Largest difference of a clip's logits from those of the clip alone, relative to the"
        ' largest of them:\n'
    )
    print(f'{"condition":<{width}}  {"all clips":>9}  worst clip')
    for name, column in report.differences.items():
        verdict = 'FAIL' if name in report.failed else 'pass'
        clip = printable(_shorten(report.names[int(column.argmax())]))
        print(f'{name:<{width}}  {column.max():9.1e}  {clip:<40}  {verdict}')
    limit = ''
    if len(report.names) > len(order):
        limit = f', the worst {len(order)} of {len(report.names)}'
    print(f'\nBy clip{limit}:')
    for clip in order:
        print(f'  {worst[clip]:9.1e}  {printable(_shorten(report.names[clip]))}')
    print()
    for note in report.notes:
        print(note)


def _verdict_on_contrast(report: PackingReport) -> str:
    if report.depends_on_input:
        return f'Different inputs differ by up to {report.contrast:.1e}'
    return (
        f'The logits do not depend on the input: different inputs differ by at most'
        f' {report.contrast:.1e}, and must differ by at least {_MIN_CONTRAST * BOUND:g}'
    )


def _verdict_on_conditions(report: PackingReport) -> str:
    if report.failed:
        return f'{len(report.failed)} of {len(report.differences)} conditions fail'
    rounding_bound = ' or the bound of rounding' if report.bounds.max() > BOUND else ''
    return (
        f'{pluralize(len(report.differences), "condition")}, all within {BOUND:g}{rounding_bound}'
    )


def check_packing(
    model: LoadedModel,
    names: Sequence[str],
    patches: Sequence[Patches],
    seed: int = 0,
    progress: Progress | None = None,
    attends: Mapping[str, Attend] | None = None,
) -> PackingReport:
    """Check a model with clips.

    Args:
        model: The model; its computation is in float32, whatever the config sets.
        names: Name of each clip.
        patches: Patches of each clip, see `clips.to_patches`.
        seed: Seed of the random companions.
        progress: Shows the current condition.
        attends: Implementations of attention by name; those of this machine if None.

    Raises:
        PackingCheckError: There are no clips.
    """
    if not patches:
        raise PackingCheckError(
            'there are no clips to check: name recordings, or folders that hold some'
        )
    progress, notes = progress or Progress(), []
    if len(patches) > _MAX_CLIPS:
        notes.append(f'Of {len(patches)} clips, {_MAX_CLIPS} are checked, sampled evenly.')
        sample = _sample_evenly(len(patches))
        names, patches = [names[i] for i in sample], [patches[i] for i in sample]
    count, random = len(patches), np.random.default_rng(seed)
    all_clips = [*patches, *noise_clips(model, count, random)]
    runner = ModelRunner(model, all_clips)
    attends = registry.available() if attends is None else attends
    with jax.default_matmul_precision('highest'):
        logits_alone = runner.logits_alone(range(count))
        differences = {}
        for name, condition in make_conditions(model, all_clips, count, random, attends):
            progress.show(f'{pluralize(count, "clip")}: {name}')
            differences[name] = _differences(runner.logits(condition), logits_alone)
        bounds = np.full(count, BOUND)
        if max(column.max() for column in differences.values()) > BOUND:
            bounds, bound_notes = _rounding_bounds(model, runner, logits_alone)
            notes += bound_notes
        contrast = _contrast(logits_alone)
        if contrast < _MIN_CONTRAST * BOUND:  # one clip, or similar clips: compare with noise
            noise = runner.logits_alone(range(count, len(all_clips)))
            contrast = _contrast(np.concatenate([logits_alone, noise]))
    return PackingReport(tuple(names), differences, bounds, contrast, tuple(notes))


def _rounding_bounds(
    model: LoadedModel, runner: ModelRunner, logits_alone: Logits
) -> tuple[Float[np.ndarray, '_'], list[str]]:
    """Return the bounds of clips whose logits rounding alone moves, and a note on them."""
    changes = [
        _differences(
            runner.logits_alone(range(len(logits_alone)), rounding.perturb(model.params, draw)),
            logits_alone,
        )
        for draw in range(rounding.DRAWS)
    ]
    largest = np.max(changes, axis=0)
    bounds = np.clip(rounding.TOLERANCE_FACTOR * largest, BOUND, _MAX_BOUND)
    loose = int((bounds > BOUND).sum())
    if not loose:
        return bounds, []
    return bounds, [
        f'float32 does not determine the logits of {pluralize(loose, "clip")} to {BOUND:g}: weights'
        f' moved to a neighboring float32 number, at random ({rounding.DRAWS} draws), change them'
        f' by up to {largest.max():.1e} without packing. The bound of a clip is'
        f' {rounding.TOLERANCE_FACTOR} times its change, at most {_MAX_BOUND:g}.'
    ]


def _differences(logits: Logits, logits_alone: Logits) -> Float[np.ndarray, '_']:
    """Return each clip's largest difference from its logits alone, relative to the largest."""
    largest = np.maximum(np.abs(logits_alone).max(axis=1), np.finfo(np.float32).tiny)
    return np.abs(logits[: len(logits_alone)] - logits_alone).max(axis=1) / largest


def _contrast(logits: Logits) -> float:
    """Return the largest difference of a class between inputs, relative to the largest logit."""
    return float(
        (logits.max(axis=0) - logits.min(axis=0)).max()
        / max(np.abs(logits).max(), np.finfo(np.float32).tiny)
    )


def _sample_evenly(count: int) -> list[int]:
    """Return `_MAX_CLIPS` numbers below `count`, from the first to the last."""
    return np.linspace(0, count - 1, _MAX_CLIPS).round().astype(int).tolist()


def _shorten(name: str) -> str:
    return name if len(name) <= 40 else f'…{name[-39:]}'
