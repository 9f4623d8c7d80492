"""`elastic-ast convert elasticast_torch` and `to_elasticast_torch`:

the published PyTorch ElasticAST's weights, in and out.
"""

import dataclasses
import os
import types
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from elastic_ast_jax.audio.frontend import FrontendSpec
from elastic_ast_jax.checkpointing.load_model import load_model
from elastic_ast_jax.config import loading
from elastic_ast_jax.config.model_sizes import SIZES
from elastic_ast_jax.config.schema import Augment, Config, Packing
from elastic_ast_jax.data.sources import audioset_json, text_files
from elastic_ast_jax.models.elastic_ast import ElasticAST
from elastic_ast_jax.models.encoder import LAYER_NORM_EPSILON
from elastic_ast_jax.pretrained import elastic_ast_torch, state_dict
from elastic_ast_jax.pretrained.elastic_ast_torch import Layout
from elastic_ast_jax.pretrained.save_workdir import (
    NO_DATA,
    REPORT,
    ConvertError,
    check,
    new_workdir,
    report,
    save,
)
from elastic_ast_jax.pretrained.state_dict import StateDict, TensorFileError
from elastic_ast_jax.utils import files
from elastic_ast_jax.utils.files import replaced, write_text
from elastic_ast_jax.utils.gcs import BucketPath
from elastic_ast_jax.utils.text import printable

__all__ = ['RECIPES', 'run', 'run_back']

# In a workdir: tensors of the source that the model has no use for, which the published code wants
# back.
_UNUSED = 'unused.npz'


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What the published code did on a data set, as far as the weights do not tell.

    Attributes:
        classes: By which it is recognised.
        frontend: Mel bins, patch and length aside, which the weights tell.
        loss: `train.loss`; it tells whether probabilities are a softmax or sigmoids.
    """

    classes: int
    frontend: FrontendSpec
    loss: str


# Source: arXiv 2407.08691 and its code. On AudioSet and VGGSound that also cuts or fills up every
# clip to `int(1024 / r)` frames, the length of its clips of 10.24 s; here a clip keeps its own
# length.
RECIPES: Mapping[str, Recipe] = types.MappingProxyType(
    {
        'audioset': Recipe(527, FrontendSpec(mean=-4.414, std=4.905, partial='floor'), 'bce'),
        'vggsound': Recipe(309, FrontendSpec(mean=-5.08, std=4.453, partial='floor'), 'bce'),
        'voxceleb': Recipe(
            1251, FrontendSpec(mean=-5.842545, std=3.88305, partial='floor'), 'cross_entropy'
        ),
        # Its features are not normalised: (x - 0) / (2 * 0.5).
        'epic_sounds': Recipe(
            44,
            FrontendSpec(
                kind='librosa',
                sample_rate=24000,
                window_ms=10.0,
                shift_ms=5.0,
                fft=2048,
                mean=0.0,
                std=0.5,
                partial='edge',
                min_frames=192,
            ),
            'cross_entropy',
        ),
    }
)
_FALLBACK = 'audioset'


def run(
    source: str | os.PathLike,
    out: str | os.PathLike,
    heads: int | None = None,
    pool: str = 'attention',
    mean: float | None = None,
    std: float | None = None,
    labels: str | None = None,
    recipe: str | None = None,
    loss: str | None = None,
    scaled: bool = False,
) -> None:
    """Makes a workdir of a state dict of the published code, and prints where every tensor went.

    Args:
        source: See `state_dict.read`.
        out: A new or empty folder.
        heads, pool: See `elastic_ast_torch.infer_layout`.
        mean, std: Of the log-mel that the model was trained on; those of the recipe if None.
        labels: A text file with a name a line, or a CSV with the columns index, mid and
            display_name. Without, classes are called 'class 0' and so on.
        recipe: Key of `RECIPES`; if None, that of as many classes, or AudioSet's.
        loss: `train.loss`; that of the recipe if None.
        scaled: Whether the weights expect attention logits divided by sqrt(head width), which the
        published code does not do.

    Raises:
        TensorFileError, LayoutError: The file cannot be used.
        ConvertError: `out` holds a model, or the labels are not as many as the classes, or not
        distinct.
        DataError: The file of the labels cannot be read.
        ConfigError: Values that do not go together.
        WorkdirError, CheckpointError, WriteError: `out` cannot be written.
    """
    workdir = new_workdir(out)
    state = state_dict.read(source)
    try:
        layout = elastic_ast_torch.infer_layout(state.tensors, heads, pool)
    except elastic_ast_torch.LayoutError as error:
        raise elastic_ast_torch.LayoutError(f'{state.path}: {error}') from error
    known = next((name for name, entry in RECIPES.items() if entry.classes == layout.classes), None)
    chosen = recipe or known or _FALLBACK
    config = _config(layout, RECIPES[chosen], mean, std, loss, scaled)
    names = (
        [f'class {i}' for i in range(layout.classes)]
        if labels is None
        else _labels(labels, layout.classes)
    )
    guess = (
        ''
        if recipe or known
        else f' (assumed, as no published model has {layout.classes} classes: see --recipe)'
    )
    frontend, classes = (
        config.frontend,
        '' if labels else f', called {names[0]!r} and so on without --labels',
    )
    notes = [
        f'ElasticAST of {layout.describe()}; {layout.size.heads} heads, {layout.pool} pooling',
        (
            f'features and loss as for {chosen}{guess}: {frontend.kind}, {frontend.sample_rate} Hz,'
            f' mean {frontend.mean}, std {frontend.std}; {config.train.loss}'
        ),
        f'{len(names)} classes{classes}',
        *state.notes,
    ]
    said = report(str(state.path), notes, _table(layout))
    check(config, names, labels or source)
    workdir.prepare(config)
    kept = workdir.path / _UNUSED
    kept.unlink(missing_ok=True)  # of a conversion that was interrupted
    if not_used := elastic_ast_torch.unused_tensors(layout):
        with replaced(kept) as temporary:
            np.savez(temporary, **{name: state.tensors[name] for name in not_used})
    write_text(workdir.path / REPORT, said + '\n')
    save(workdir, config, names, elastic_ast_torch.to_params(state.tensors, layout))
    print(said)
    print(f'written: {printable(str(workdir.path))}')


def run_back(path: str | os.PathLike, out: str | os.PathLike, checkpoint: str = 'latest') -> None:
    """Writes the model of a workdir as a state dict that the published code loads strictly, and
    prints where each came from.

    The published code does not divide attention logits by sqrt(head width). Of a model that does,
    queries are divided instead, so that the logits are the same.

    Args:
        path: Of the workdir.
        out: A file that ends in `.safetensors`.
        checkpoint: See `Checkpoints.restore_params`.

    Raises:
        ConvertError: The published code has no such model.
        TensorFileError, WriteError: `out` cannot be written.
        WorkdirError, CheckpointError: As `load_model.load_model`.
    """
    model = load_model(path, checkpoint)
    config, frontend = model.config, model.config.frontend
    if not isinstance(model.network, ElasticAST):
        raise ConvertError(
            f'{os.fspath(path)}: is a fixed-length AST, and the published code is of ElasticAST:'
            ' give the workdir of one'
        )
    if frontend.patch_mels != frontend.patch_frames:
        raise ConvertError(
            f'{os.fspath(path)}: has patches of {frontend.patch_mels} x {frontend.patch_frames},'
            ' and those of the published code are squares: it cannot be converted'
        )
    layout = Layout(
        config.model.resolved_size(),
        len(model.labels),
        (frontend.mel_patches, frontend.max_time_patches),
        frontend.patch_mels,
        config.model.pool,
    )
    found, notes = (
        elastic_ast_torch.from_params(model.params, layout),
        [f'parameters of {model.description}'],
    )
    if model.network.scaled:
        width = layout.size.width // layout.size.heads
        for name in found:
            if '.to_q.' in name:
                found[name] = found[name] * np.float32(width**-0.5)
        notes.append(
            f'queries divided by sqrt({width}), as the published code does not divide attention'
            ' logits by it'
        )
    if model.network.epsilon != LAYER_NORM_EPSILON:
        notes.append(
            f'LayerNorms have epsilon {model.network.epsilon:g} here and {LAYER_NORM_EPSILON:g} in'
            ' the published code: results differ by that'
        )
    if missing := elastic_ast_torch.unused_tensors(layout):
        kept = files.at(path) / _UNUSED
        more = (
            _kept(kept, missing)
            if kept.exists()
            else {name: np.zeros(shape, np.float32) for name, shape in missing.items()}
        )
        notes.append(
            'tensors that mean pooling does not use:'
            f' {"as in the source" if kept.exists() else "zeros"}'
        )
        found |= more
    state_dict.write(
        out, {row.source: found[row.source] for row in elastic_ast_torch.tensor_mappings(layout)}
    )
    print(report(os.fspath(out), notes, _table(layout)))
    print(f'written: {printable(os.fspath(out))}')


def _config(
    layout: Layout,
    recipe: Recipe,
    mean: float | None,
    std: float | None,
    loss: str | None,
    scaled: bool,
) -> Config:
    front, size = recipe.frontend, layout.size
    frontend = dataclasses.asdict(front) | {
        'mel_bins': layout.grid[0] * layout.patch,
        'max_frames': layout.grid[1] * layout.patch,
        'patch_mels': layout.patch,
        'patch_frames': layout.patch,
        'mean': front.mean if mean is None else mean,
        'std': front.std if std is None else std,
        'min_frames': min(front.min_frames, layout.grid[1] * layout.patch),
    }
    named = [name for name, entry in SIZES.items() if entry == size]
    return loading.from_dict(
        {
            'data': NO_DATA,
            'frontend': frontend,
            'augment': {'freq_mask': min(Augment.freq_mask, frontend['mel_bins'])},
            'packing': {'tokens': max(Packing.tokens, layout.grid[0] * layout.grid[1])},
            'model': (
                ({'size': named[0]} if named else dataclasses.asdict(size))
                | {'pool': layout.pool, 'scaled': scaled}
            ),
            'train': {'loss': loss or recipe.loss},
        }
    )


def _labels(path: str, classes: int) -> list[str]:
    if path.endswith('.csv'):
        names = list(audioset_json.classes(path).values())
    else:
        names = [
            line.strip()
            for line in text_files.read_text(
                Path(path), 'file of labels', '.txt or .csv'
            ).splitlines()
            if line.strip()
        ]
    if len(names) != classes:
        raise ConvertError(
            f'{path}: names {len(names)} classes, and the model has {classes}: write a name a line,'
            ' in the order of the logits'
        )
    return names


def _kept(
    path: Path | BucketPath, shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, Float32[np.ndarray, '...']]:
    with files.local(path) as here:
        state: StateDict = state_dict.read(here)
    there = {name: array.shape for name, array in state.tensors.items()}
    if wrong := [name for name, shape in shapes.items() if there.get(name) != shape]:
        raise TensorFileError(
            f'{path}: {wrong[0]} has the shape {there.get(wrong[0], "of nothing")}, expected '
            f'{shapes[wrong[0]]}: remove the file to have zeros instead'
        )
    return state.tensors


def _table(layout: Layout) -> list[tuple[str, tuple[int, ...], str]]:
    return [
        (row.source, row.shape, row.destination())
        for row in elastic_ast_torch.tensor_mappings(layout)
    ]
