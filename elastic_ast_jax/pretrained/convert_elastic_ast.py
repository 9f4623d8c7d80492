"""Convert weights of the published PyTorch ElasticAST to a workdir."""

import dataclasses
import os
import types
from collections.abc import Mapping
from pathlib import Path

import numpy as np

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
    new_workdir,
    report,
    save,
)
from elastic_ast_jax.utils.files import replaced, write_text
from elastic_ast_jax.utils.text import printable

__all__ = ['RECIPES', 'UNUSED_TENSORS', 'run', 'tensor_table']

# In a workdir: tensors of the source that the published code needs, and the model does not.
UNUSED_TENSORS = 'unused.npz'


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
    said = report(str(state.path), notes, tensor_table(layout))
    check(config, names, labels or source)
    workdir.prepare(config)
    kept = workdir.path / UNUSED_TENSORS
    kept.unlink(missing_ok=True)  # of a conversion that was interrupted
    if not_used := elastic_ast_torch.unused_tensors(layout):
        with replaced(kept) as temporary:
            np.savez(temporary, **{name: state.tensors[name] for name in not_used})
    write_text(workdir.path / REPORT, said + '\n')
    save(workdir, config, names, elastic_ast_torch.to_params(state.tensors, layout))
    print(said)
    print(f'written: {printable(str(workdir.path))}')


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


def tensor_table(layout: Layout) -> list[tuple[str, tuple[int, ...], str]]:
    """Return the name, shape and place of every tensor of a state dict."""
    return [
        (row.source, row.shape, row.destination())
        for row in elastic_ast_torch.tensor_mappings(layout)
    ]
