"""Convert weights of the published PyTorch ElasticAST to a workdir."""

import dataclasses
import os
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped

from elastic_ast_jax.audio.frontend import FrontendSpec
from elastic_ast_jax.config import loading
from elastic_ast_jax.config.model_sizes import SIZES
from elastic_ast_jax.config.schema import Augment, Config, Packing
from elastic_ast_jax.data.sources import audioset_json, text_files
from elastic_ast_jax.pretrained import elastic_ast_torch, state_dict
from elastic_ast_jax.pretrained.elastic_ast_torch import Layout
from elastic_ast_jax.pretrained.save_workdir import (
    NO_DATA,
    REPORT,
    ConvertError,
    check,
    hold_new,
    new_workdir,
    report,
    save,
)
from elastic_ast_jax.utils.files import atomic_write, write_text
from elastic_ast_jax.utils.gcs import BucketPath
from elastic_ast_jax.utils.text import printable

__all__ = ['RECIPES', 'UNUSED_TENSORS', 'Recipe', 'run', 'tensor_table']

# In a workdir: tensors of the source that the published code needs, and the model does not.
UNUSED_TENSORS = 'unused.npz'


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Training of the published code on a data set, as far as the weights do not show it.

    Attributes:
        classes: Number of classes. Weights with as many are taken for this recipe's.
        frontend: The features. The weights show the mel bins, the patch and the length.
        loss: `train.loss`: probabilities are a softmax or sigmoids.
    """

    classes: int
    frontend: FrontendSpec
    loss: str


# Source: arXiv 2407.08691 and its code. On AudioSet and VGGSound, that code also crops or pads
# every clip to `int(1024 / r)` frames, the length of its clips of 10.24 s. In this project, a clip
# keeps its own length.
RECIPES: Mapping[str, Recipe] = types.MappingProxyType(
    {
        'audioset': Recipe(527, FrontendSpec(mean=-4.414, std=4.905, partial='floor'), 'bce'),
        'vggsound': Recipe(309, FrontendSpec(mean=-5.08, std=4.453, partial='floor'), 'bce'),
        'voxceleb': Recipe(
            1251, FrontendSpec(mean=-5.842545, std=3.88305, partial='floor'), 'cross_entropy'
        ),
        # Its features are not normalized: (x - 0) / (2 * 0.5).
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
    *,
    heads: int | None = None,
    pool: str = 'attention',
    mean: float | None = None,
    std: float | None = None,
    labels: str | None = None,
    recipe: str | None = None,
    loss: str | None = None,
    scaled: bool = False,
) -> None:
    """Write a workdir of a state dict of the published code, and print the place of every tensor.

    Args:
        source: See `state_dict.read`.
        out: A new or empty folder.
        heads: See `elastic_ast_torch.infer_layout`.
        pool: See `elastic_ast_torch.infer_layout`.
        mean: Mean of the log-mel that the model was trained on; None: the recipe's.
        std: Deviation of the log-mel that the model was trained on; None: the recipe's.
        labels: A text file with a name on each line, or a CSV with the columns index, mid and
            display_name. None: classes are called 'class 0' and so on.
        recipe: Key of `RECIPES`. None: the one with as many classes, or AudioSet's.
        loss: `train.loss`; None: the recipe's.
        scaled: Whether the weights expect attention logits divided by sqrt(head width). The
            published code does not divide them.

    Raises:
        TensorFileError, LayoutError: The file cannot be used.
        ConvertError: `out` holds a model, or the labels are not as many as the classes, or not
            distinct.
        DataError: The file of the labels cannot be read.
        ConfigError: Values that do not go together.
        WorkdirError, CheckpointError, WriteError: `out` cannot be written.
    """
    new_workdir(out)  # before the work
    state = state_dict.read(source)
    try:
        layout = elastic_ast_torch.infer_layout(state.tensors, heads, pool)
    except elastic_ast_torch.LayoutError as error:
        raise elastic_ast_torch.LayoutError(f'{state.path}: {error}') from error
    matching = [name for name, entry in RECIPES.items() if entry.classes == layout.classes]
    recipe_name = recipe or next(iter(matching), _FALLBACK)
    config = _config(layout, RECIPES[recipe_name], mean=mean, std=std, loss=loss, scaled=scaled)
    if labels is None:
        names = [f'class {i}' for i in range(layout.classes)]
        called = f', called {names[0]!r} and so on without --labels'
    else:
        names, called = _read_labels(labels, layout.classes), ''
    assumed = ''
    if not (recipe or matching):
        assumed = f' (assumed, as no published model has {layout.classes} classes: see --recipe)'
    frontend = config.frontend
    notes = [
        f'ElasticAST of {layout.describe()}; {layout.size.heads} heads, {layout.pool} pooling',
        f'features and loss as for {recipe_name}{assumed}: {frontend.kind},'
        f' {frontend.sample_rate} Hz, mean {frontend.mean}, std {frontend.std};'
        f' {config.train.loss}',
        f'{len(names)} classes{called}',
        *state.notes,
    ]
    summary = report(str(state.path), notes, tensor_table(layout))
    check(config, names, labels or source)
    params = elastic_ast_torch.to_params(state.tensors, layout)
    with hold_new(out) as workdir:
        workdir.prepare(config)
        _save_unused(workdir.path / UNUSED_TENSORS, state.tensors, layout)
        write_text(workdir.path / REPORT, summary + '\n')
        save(workdir, config, names, params)
    print(summary)
    print(f'written: {printable(str(workdir.path))}')


def _config(
    layout: Layout,
    recipe: Recipe,
    *,
    mean: float | None,
    std: float | None,
    loss: str | None,
    scaled: bool,
) -> Config:
    """Return the config of a model with this layout."""
    features, size = recipe.frontend, layout.size
    frontend = dataclasses.asdict(features) | {
        'mel_bins': layout.grid[0] * layout.patch,
        'max_frames': layout.grid[1] * layout.patch,
        'patch_mels': layout.patch,
        'patch_frames': layout.patch,
        'mean': features.mean if mean is None else mean,
        'std': features.std if std is None else std,
        'min_frames': min(features.min_frames, layout.grid[1] * layout.patch),
    }
    size_names = [name for name, entry in SIZES.items() if entry == size]
    model = {'size': size_names[0]} if size_names else dataclasses.asdict(size)
    return loading.from_dict(
        {
            'data': NO_DATA,
            'frontend': frontend,
            'augment': {'freq_mask': min(Augment.freq_mask, frontend['mel_bins'])},
            'packing': {'tokens': max(Packing.tokens, layout.grid[0] * layout.grid[1])},
            'model': model | {'pool': layout.pool, 'scaled': scaled},
            'train': {'loss': loss or recipe.loss},
        }
    )


def _read_labels(path: str, classes: int) -> list[str]:
    """Return the names of the classes, in the order of the logits."""
    if path.endswith('.csv'):
        names = list(audioset_json.classes(path).values())
    else:
        text = text_files.read_text(Path(path), 'file of labels', '.txt or .csv')
        names = [line.strip() for line in text.splitlines() if line.strip()]
    if len(names) != classes:
        raise ConvertError(
            f'{path}: names {len(names)} classes, and the model has {classes}: write a name a line,'
            ' in the order of the logits'
        )
    return names


def _save_unused(
    file: Path | BucketPath, tensors: Mapping[str, Shaped[np.ndarray, '...']], layout: Layout
) -> None:
    """Store the tensors that the model does not use, for the way back."""
    file.unlink(missing_ok=True)  # of an interrupted conversion
    unused: dict[str, Any] = {
        name: tensors[name] for name in elastic_ast_torch.unused_tensors(layout)
    }
    if unused:
        with atomic_write(file) as temporary:
            np.savez(temporary, **unused)


def tensor_table(layout: Layout) -> list[tuple[str, tuple[int, ...], str]]:
    """Return the name, shape and place of every tensor of a state dict."""
    return [
        (row.source, row.shape, row.destination())
        for row in elastic_ast_torch.tensor_mappings(layout)
    ]
