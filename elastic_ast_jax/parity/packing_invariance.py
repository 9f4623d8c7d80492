"""`elastic-ast parity WORKDIR INPUT...`: whether a trained model's result for a clip depends on the
clip alone.

Each clip passes through the model in many ways: alone in a row that just fits, which is the
yardstick; alone in a long row; packed in random company; in rows of other lengths; by every
implementation of attention; on several devices. Its logits must be the same to the rounding of
float32. A model that ignores its input would pass all of that, so clips must also differ.

Some models make near-hard choices, so that rounding alone moves their logits by more than the
bound. Where a clip is beyond it, the model's weights are moved by a rounding and nothing else is
changed: what that moves its logits is not packing's doing.
"""

import dataclasses
import json
import os
from collections.abc import Iterable, Mapping, Sequence

import jax
import numpy as np
from jaxtyping import Float

from elastic_ast_jax.audio import windows
from elastic_ast_jax.audio.reading import expand
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
    conditions,
    noise_clips,
)
from elastic_ast_jax.utils import jax_cache
from elastic_ast_jax.utils.errors import UserError
from elastic_ast_jax.utils.progress import Progress
from elastic_ast_jax.utils.text import counted, printable, without_nan

__all__ = ['BOUND', 'PackingReport', 'PackingCheckError', 'check_packing', 'run', 'print_report']

# Largest difference of a clip's logits, relative to its largest logit, in float32 (docs/design.md,
# promise 1) ...
BOUND = 1e-5
# ... or this at most, where rounding alone moves the logits by more ...
_LOOSEST = 1e-3
# ... and how many times the bound different inputs must differ at least.
_TELLING = 1000
# Clips that are tried; of more, these are spread over them.
_MOST = 64
# Clips shown of many.
_SHOWN = 10


class PackingCheckError(UserError):
    """Clips that cannot be tried; names the first."""


@dataclasses.dataclass(frozen=True)
class PackingReport:
    """What was found.

    Attributes:
        names: Of the clips.
        differences: Of each condition, the largest difference of each clip's logits from those
            alone, relative to the largest of them.
        bounds: Of each clip.
        contrast: The largest difference between the logits of different inputs, relative to the
        largest logit.
        notes: What has to be said besides.
    """

    names: tuple[str, ...]
    differences: Mapping[str, Float[np.ndarray, '_']]
    bounds: Float[np.ndarray, '_']
    contrast: float
    notes: tuple[str, ...] = ()

    @property
    def failed(self) -> list[str]:
        """Conditions under which a clip's logits are others; NaN is other."""
        return [
            name for name, column in self.differences.items() if not (column <= self.bounds).all()
        ]

    @property
    def tells(self) -> bool:
        """Whether the logits depend on the input at all."""
        return self.contrast >= _TELLING * BOUND

    @property
    def passed(self) -> bool:
        return not self.failed and self.tells


def run(
    workdir: str | os.PathLike,
    inputs: Iterable[str],
    checkpoint: str = 'latest',
    seed: int = 0,
    as_json: bool = False,
) -> int:
    """Prints the certificate of a workdir's model: a table, or JSON.

    A processor shows eight virtual devices for it.

    Args:
        workdir: Of a training run or a conversion.
        inputs: Recordings, and folders of recordings; long ones are cut into windows, as in
        prediction.
        checkpoint: See `Checkpoints.restore_params`.
        seed: Of the random company.
        as_json: Print JSON.

    Returns:
        The exit code: 1 if a condition fails, or the logits do not depend on the input.

    Raises:
        CertificateError: A recording that cannot be used.
        WorkdirError, CheckpointError: As `load_model`.
    """
    try:
        jax.config.update('jax_num_cpu_devices', DEVICES)
    except RuntimeError:  # JAX is in use already, with the devices that there are
        pass
    jax_cache.use_compilation_cache()
    progress = Progress()
    model = load_model(workdir, checkpoint)
    frontend = model.config.frontend
    recordings, notes = list(expand(inputs)), ()
    if len(recordings) > _MOST:
        notes = (f'Of {len(recordings)} recordings, {_MOST} are tried, spread over them.',)
        recordings = [recordings[i] for i in _spread(len(recordings))]
    names, patches = [], []
    for clip in clips.read_clips(
        recordings, frontend, windows.choose(frontend, model.config.data.overlap)
    ):
        if clip.error is not None:
            raise PackingCheckError(clip.error)
        names.append(clip.name if clip.count == 1 else f'{clip.name}, window {clip.index + 1}')
        patches.append(clip.patches)
    made = check_packing(model, names, patches, seed, progress)
    progress.clear()
    return print_report(dataclasses.replace(made, notes=notes + made.notes), model, as_json)


def print_report(made: PackingReport, model: LoadedModel, as_json: bool = False) -> int:
    """Prints a certificate; the exit code is 1 if it is none."""
    devices = counted(jax.device_count(), f'{jax.default_backend()} device')
    where = (
        f'{model.description}, float32 on {devices}, matrix products in the highest precision, JAX'
        f' {jax.__version__}'
    )
    if as_json:
        print(
            json.dumps(
                without_nan(
                    {
                        'where': where,
                        'passed': made.passed,
                        'contrast': made.contrast,
                        'clips': list(made.names),
                        'bounds': made.bounds.tolist(),
                        'differences': {
                            name: column.tolist() for name, column in made.differences.items()
                        },
                        'notes': list(made.notes),
                    }
                ),
                indent=2,
            )
        )
        return 0 if made.passed else 1
    worst = np.max(list(made.differences.values()), axis=0)
    order = np.argsort(-worst, kind='stable')[:_SHOWN]
    wide = max(len('condition'), *map(len, made.differences))
    print(
        "Largest difference of a clip's logits from those alone in a row that just fits, relative"
        ' to the largest of them:\n'
    )
    print(f'{"condition":<{wide}}  {"all clips":>9}  worst clip')
    for name, column in made.differences.items():
        verdict = 'FAIL' if name in made.failed else 'pass'
        print(
            f'{name:<{wide}}  {column.max():9.1e} '
            f' {printable(_short(made.names[int(column.argmax())])):<40}  {verdict}'
        )
    more = f', the worst {len(order)} of {len(made.names)}' if len(made.names) > len(order) else ''
    print(f'\nBy clip{more}:')
    for clip in order:
        print(f'  {worst[clip]:9.1e}  {printable(_short(made.names[clip]))}')
    print()
    for note in made.notes:
        print(note)
    tells = (
        f'Different inputs differ by up to {made.contrast:.1e}'
        if made.tells
        else (
            f'The logits do not depend on the input: different inputs differ by {made.contrast:.1e}'
            f' at most, and at least {_TELLING * BOUND:g} is asked for'
        )
    )
    failed = (
        f'{len(made.failed)} of {len(made.differences)} conditions fail'
        if made.failed
        else (
            f'{counted(len(made.differences), "condition")}, all within {BOUND:g}'
            f'{" or what rounding moves" if made.bounds.max() > BOUND else ""}'
        )
    )
    print(f'{tells}.\n{where}: {failed}; {"pass" if made.passed else "FAIL"}')
    return 0 if made.passed else 1


def check_packing(
    model: LoadedModel,
    names: Sequence[str],
    patches: Sequence[Patches],
    seed: int = 0,
    progress: Progress | None = None,
    attends: Mapping[str, Attend] | None = None,
) -> PackingReport:
    """Tries a model with clips.

    Args:
        model: The model; its computation is in float32, whatever the config says.
        names: Of the clips.
        patches: Of each clip, see `clips.patches_of`.
        seed: Of the random company.
        progress: Shows what is being tried.
        attends: Implementations of attention by name; those of this machine if None.

    Raises:
        CertificateError: There are no clips.
    """
    if not patches:
        raise PackingCheckError(
            'there are no clips to try: name recordings, or folders that hold some'
        )
    progress, notes = progress or Progress(), []
    if len(patches) > _MOST:
        notes.append(f'Of {len(patches)} clips, {_MOST} are tried, spread over them.')
        names, patches = ([each[i] for i in _spread(len(patches))] for each in (names, patches))
    random = np.random.default_rng(seed)
    company = [*patches, *noise_clips(model, patches, random)]
    passes = ModelRunner(model, company)
    with jax.default_matmul_precision('highest'):
        alone = passes.alone(range(len(patches)))
        largest = np.maximum(np.abs(alone).max(axis=1), np.finfo(np.float32).tiny)

        def apart(found: Logits) -> Float[np.ndarray, '_']:
            return np.abs(found[: len(patches)] - alone).max(axis=1) / largest

        differences = {}
        attends = registry.available() if attends is None else attends
        for name, setting in conditions(model, company, len(patches), random, attends):
            progress.show(f'{counted(len(patches), "clip")}: {name}')
            differences[name] = apart(passes.logits(setting))
        bounds = np.full(len(patches), BOUND)
        if max(column.max() for column in differences.values()) > BOUND:
            rounded = np.max(
                [
                    apart(passes.alone(range(len(patches)), rounding.perturb(model.params, draw)))
                    for draw in range(rounding.DRAWS)
                ],
                axis=0,
            )
            bounds = np.clip(rounding.TOLERANCE_FACTOR * rounded, BOUND, _LOOSEST)
            if loose := int((bounds > BOUND).sum()):
                notes.append(
                    f'float32 does not determine the logits of {counted(loose, "clip")} to'
                    f' {BOUND:g}: weights moved to a neighbouring float32 number, at random'
                    f' ({rounding.DRAWS} draws), move them by up to {rounded.max():.1e}, alone. The'
                    f' bound of a clip is {rounding.TOLERANCE_FACTOR} times that, at most'
                    f' {_LOOSEST:g}.'
                )
        contrast = _contrast(alone)
        if (
            contrast < _TELLING * BOUND
        ):  # one clip, or clips that sound alike: does noise make a difference?
            contrast = _contrast(
                np.concatenate([alone, passes.alone(range(len(patches), len(company)))])
            )
    return PackingReport(tuple(names), differences, bounds, contrast, tuple(notes))


def _contrast(logits: Logits) -> float:
    """The largest difference of a class between inputs, relative to the largest logit."""
    return float(
        (logits.max(axis=0) - logits.min(axis=0)).max()
        / max(np.abs(logits).max(), np.finfo(np.float32).tiny)
    )


def _spread(count: int) -> list[int]:
    """`_MOST` numbers below `count`, from the first to the last."""
    return np.linspace(0, count - 1, _MOST).round().astype(int).tolist()


def _short(name: str) -> str:
    return name if len(name) <= 40 else f'…{name[-39:]}'
