"""`elastic-ast parity WORKDIR INPUT...`: whether a trained model's result for a clip depends on the clip alone.

Each clip passes through the model in many ways: alone in a row that just fits, which is the yardstick; alone in a long row;
packed in random company; in rows of other lengths; by every implementation of attention; on several devices. Its logits must be
the same to the rounding of float32. A model that ignores its input would pass all of that, so clips must also differ.
"""

import dataclasses
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, Float32, Int

from elastic_ast_jax import build, device, packing, sharding, windows
from elastic_ast_jax.batch import BatchShape
from elastic_ast_jax.errors import UserError
from elastic_ast_jax.inference import clips
from elastic_ast_jax.logs import Progress, counted, printable, without_nan
from elastic_ast_jax.models import attention
from elastic_ast_jax.models.ast import AST
from elastic_ast_jax.models.attention import Attend
from elastic_ast_jax.predict import expand
from elastic_ast_jax.trained import Trained, open_model

__all__ = ['BOUND', 'Certificate', 'CertificateError', 'certify', 'run', 'show']

# Largest difference of a clip's logits, relative to its largest logit, in float32 (docs/design.md, promise 1) ...
BOUND = 1e-5
# ... and how many times that different inputs must differ at least.
_TELLING = 1000
# Clips that are tried; of more, these are spread over them.
_MOST = 64
# Lengths of rows that just fit: each costs a compilation, and of more lengths, some rows have a little room.
_MOST_LENGTHS = 6
# Random arrangements; virtual devices of a processor; clips shown of many.
_ARRANGEMENTS = 3
_DEVICES = 8
_SHOWN = 10
# About the deviation of normalised log-mels.
_NOISE = 0.5

Patches = Float32[np.ndarray, '_ P']
Logits = Float32[np.ndarray, '_ C']


class CertificateError(UserError):
    """Clips that cannot be tried; names the first."""


@dataclasses.dataclass(frozen=True)
class Certificate:
    """What was found.

    Attributes:
        names: Of the clips.
        differences: Of each condition, the largest difference of each clip's logits from those alone, relative to the largest
            of them.
        contrast: The largest difference between the logits of different inputs, relative to the largest logit.
        notes: What has to be said besides.
    """

    names: tuple[str, ...]
    differences: Mapping[str, Float[np.ndarray, '_']]
    contrast: float
    notes: tuple[str, ...] = ()

    @property
    def failed(self) -> list[str]:
        """Conditions under which a clip's logits are others; NaN is other."""
        return [name for name, column in self.differences.items() if not (column <= BOUND).all()]

    @property
    def tells(self) -> bool:
        """Whether the logits depend on the input at all."""
        return self.contrast >= _TELLING * BOUND

    @property
    def passed(self) -> bool:
        return not self.failed and self.tells


@dataclasses.dataclass(frozen=True)
class _Setting:
    """One way for clips through the model: rows, their arrangement, attention, devices."""

    shape: BatchShape
    rows: Sequence[Sequence[int]]
    attend: Attend | None = None
    devices: int = 1


def run(
    workdir: str | os.PathLike, inputs: Iterable[str], checkpoint: str = 'latest', seed: int = 0, as_json: bool = False
) -> int:
    """Prints the certificate of a workdir's model: a table, or JSON.

    A processor shows eight virtual devices for it.

    Args:
        workdir: Of a training run or a conversion.
        inputs: Recordings, and folders of recordings; long ones are cut into windows, as in prediction.
        checkpoint: See `Checkpoints.restore_params`.
        seed: Of the random company.
        as_json: Print JSON.

    Returns:
        The exit code: 1 if a condition fails, or the logits do not depend on the input.

    Raises:
        CertificateError: A recording that cannot be used.
        WorkdirError, CheckpointError: As `open_model`.
    """
    try:
        jax.config.update('jax_num_cpu_devices', _DEVICES)
    except RuntimeError:  # JAX is in use already, with the devices that there are
        pass
    device.use_compilation_cache()
    progress = Progress()
    model = open_model(workdir, checkpoint)
    frontend = model.config.frontend
    names, patches = [], []
    for clip in clips.read(expand(inputs), frontend, windows.choose(frontend, model.config.data.overlap)):
        if clip.error is not None:
            raise CertificateError(clip.error)
        names.append(clip.name if clip.count == 1 else f'{clip.name}, window {clip.index + 1}')
        patches.append(clip.patches)
    made = certify(model, names, patches, seed, progress)
    progress.clear()
    return show(made, model, as_json)


def show(made: Certificate, model: Trained, as_json: bool = False) -> int:
    """Prints a certificate; the exit code is 1 if it is none."""
    devices = counted(jax.device_count(), f'{jax.default_backend()} device')
    where = f'{model.description}, float32 on {devices}, matrix products in the highest precision, JAX {jax.__version__}'
    if as_json:
        print(json.dumps(without_nan({
            'where': where, 'passed': made.passed, 'bound': BOUND, 'contrast': made.contrast, 'clips': list(made.names),
            'differences': {name: column.tolist() for name, column in made.differences.items()}, 'notes': list(made.notes),
        }), indent=2))  # fmt: skip
        return 0 if made.passed else 1
    worst = np.max(list(made.differences.values()), axis=0)
    order = np.argsort(-worst, kind='stable')[:_SHOWN]
    wide = max(len('condition'), *map(len, made.differences))
    print("Largest difference of a clip's logits from those alone in a row that just fits, relative to the largest of them:\n")
    print(f'{"condition":<{wide}}  {"all clips":>9}  worst clip')
    for name, column in made.differences.items():
        verdict = 'pass' if (column <= BOUND).all() else 'FAIL'
        print(f'{name:<{wide}}  {column.max():9.1e}  {printable(_short(made.names[int(column.argmax())])):<40}  {verdict}')
    more = f', the worst {len(order)} of {len(made.names)}' if len(made.names) > len(order) else ''
    print(f'\nBy clip{more}:')
    for clip in order:
        print(f'  {worst[clip]:9.1e}  {printable(_short(made.names[clip]))}')
    print()
    for note in made.notes:
        print(note)
    tells = (f'Different inputs differ by up to {made.contrast:.1e}' if made.tells else
             f'The logits do not depend on the input: different inputs differ by {made.contrast:.1e} at most, and at least '
             f'{_TELLING * BOUND:g} is asked for')  # fmt: skip
    failed = f'{len(made.failed)} of {len(made.differences)} conditions fail' if made.failed else (
        f'{counted(len(made.differences), "condition")}, all within {BOUND:g}')  # fmt: skip
    print(f'{tells}.\n{where}: {failed}; {"pass" if made.passed else "FAIL"}')
    return 0 if made.passed else 1


def certify(
    model: Trained, names: Sequence[str], patches: Sequence[Patches], seed: int = 0, progress: Progress | None = None,
    attends: Mapping[str, Attend] | None = None,
) -> Certificate:  # fmt: skip
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
        raise CertificateError('there are no clips to try: name recordings, or folders that hold some')
    progress, notes = progress or Progress(), []
    if len(patches) > _MOST:
        chosen = np.linspace(0, len(patches) - 1, _MOST).round().astype(int)
        notes.append(f'Of {len(patches)} clips, {_MOST} are tried, spread over them.')
        names, patches = [names[i] for i in chosen], [patches[i] for i in chosen]
    random = np.random.default_rng(seed)
    company = [*patches, *_noise(model, patches, random)]
    count, passes = len(patches), _Passes(model, company)
    with jax.default_matmul_precision('highest'):
        alone = np.zeros((len(company), len(model.labels)), np.float32)
        own = _lengths(company)
        for length in np.unique(own):
            rows = np.flatnonzero(own == length)
            alone[rows] = passes.logits(_Setting(_fitting(model, int(length)), rows[:, None].tolist()))[rows]
        largest = np.abs(alone[:count]).max(axis=1)
        differences = {}
        for name, setting in _settings(model, company, random, attention.available() if attends is None else attends):
            progress.show(f'{counted(count, "clip")}: {name}')
            found = passes.logits(setting)[:count]
            differences[name] = np.abs(found - alone[:count]).max(axis=1) / np.maximum(largest, np.finfo(np.float32).tiny)
    contrast = (alone.max(axis=0) - alone.min(axis=0)).max() / max(float(np.abs(alone).max()), np.finfo(np.float32).tiny)
    return Certificate(tuple(names), differences, float(contrast), tuple(notes))


def _settings(
    model: Trained, company: Sequence[Patches], random: np.random.Generator, attends: Mapping[str, Attend]
) -> Iterator[tuple[str, _Setting]]:
    """Every condition, and what it is."""
    lengths = [len(patch) for patch in company]
    base = _shape(model, 1.0, max(lengths))
    yield f'alone, padded to {base.tokens} tokens', _Setting(base, [[i] for i in range(len(company))])
    for number in range(_ARRANGEMENTS):
        yield f'random company, arrangement {number + 1}', _Setting(base, _arranged(lengths, base, random))
    for share in (0.5, 1.5, 2.0):
        shape = _shape(model, share, max(lengths))
        if shape.tokens != base.tokens:
            yield f'rows of {shape.tokens} tokens', _Setting(shape, _arranged(lengths, shape, random))
    for name, attend in attends.items():
        yield f'attention: {name}', _Setting(base, _arranged(lengths, base, random), attend)
    devices, several = 2, dataclasses.replace(base, rows=_DEVICES)
    while devices <= min(_DEVICES, jax.device_count()):
        yield f'{devices} devices', _Setting(several, _arranged(lengths, base, random), devices=devices)
        devices *= 2


def _arranged(lengths: Sequence[int], shape: BatchShape, random: np.random.Generator) -> list[list[int]]:
    """Rows of the clips in a random order."""
    order = random.permutation(len(lengths))
    rows = packing.pack([lengths[i] for i in order], shape.tokens, shape.slots)
    return [[int(order[i]) for i in row] for row in rows]


def _shape(model: Trained, share: float, longest: int) -> BatchShape:
    """Rows of about this share of the config's; AST's hold as many clips as they have slots."""
    shape = build.batch_shape(model.config, len(model.labels))
    tokens = max(longest, int(shape.tokens * share))
    if isinstance(model.network, AST):
        slots = max(1, tokens // longest)
        return dataclasses.replace(shape, tokens=slots * longest, slots=slots)
    return dataclasses.replace(shape, tokens=tokens)


def _fitting(model: Trained, length: int) -> BatchShape:
    """One row that one clip fills."""
    return dataclasses.replace(build.batch_shape(model.config, len(model.labels)), rows=1, tokens=length, slots=1)


def _lengths(company: Sequence[Patches]) -> Int[np.ndarray, '_']:
    """Tokens of the row that each clip is alone in: its own, or the next of a few if there are many lengths."""
    own = np.array([len(patch) for patch in company])
    different = np.unique(own)
    if len(different) > _MOST_LENGTHS:
        different = different[np.linspace(0, len(different) - 1, _MOST_LENGTHS + 1).round().astype(int)[1:]]
    return different[np.searchsorted(different, own)]


def _noise(model: Trained, patches: Sequence[Patches], random: np.random.Generator) -> list[Patches]:
    """As many clips of noise as there are clips, of the lengths that the model takes."""
    frontend = model.config.frontend
    most = frontend.max_time_patches
    fewest = max(1, frontend.min_frames // frontend.patch_frames)
    columns = random.integers(fewest, most, size=max(2, len(patches)), endpoint=True)
    return [_NOISE * random.standard_normal((frontend.mel_patches * int(n), frontend.patch_size), np.float32) for n in columns]


class _Passes:
    """Clips on their way through the model, compiled once for each attention, number of devices and shape."""

    def __init__(self, model: Trained, company: Sequence[Patches]):
        self._model, self._company = model, company
        self._network = model.network.clone(dtype=jnp.dtype('float32'))
        self._steps: dict[tuple[Attend, int], tuple[Mesh, Any, Any]] = {}

    def logits(self, setting: _Setting) -> Logits:
        """Of all clips; NaN of those that are in no row."""
        mesh, step, params = self._step(setting.attend or self._network.attend, setting.devices)
        scores = np.full((len(self._company), len(self._model.labels)), np.nan, np.float32)
        for first in range(0, len(setting.rows), setting.shape.rows):
            rows = setting.rows[first : first + setting.shape.rows]
            batch = packing.fill_batch(rows, self._company, self._model.config.frontend.mel_patches, setting.shape)
            logits = np.asarray(step(params, sharding.place_batch(batch, mesh)))
            scores[batch.clip_id[batch.valid]] = logits[batch.valid]
        return scores

    def _step(self, attend: Attend, devices: int) -> tuple[Mesh, Any, Any]:
        """Mesh, compiled step and parameters."""
        if (attend, devices) not in self._steps:
            mesh = sharding.make_mesh(devices=jax.devices()[:devices])
            network = self._network.clone(attend=attend if devices == 1 else sharding.sharded_attention(attend, mesh))

            def apply(params: Any, batch: Any) -> Any:
                return network.apply({'params': params}, batch)

            params = jax.device_put(self._model.params, sharding.replicated(mesh))
            self._steps[attend, devices] = mesh, sharding.jit_eval_step(apply, mesh), params
        return self._steps[attend, devices]


def _short(name: str) -> str:
    return name if len(name) <= 40 else f'…{name[-39:]}'
