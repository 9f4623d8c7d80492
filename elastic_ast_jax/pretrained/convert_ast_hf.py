"""Convert a fixed-length AST that transformers wrote to a workdir."""

import dataclasses
import os
from collections.abc import Mapping

from elastic_ast_jax.config import loading
from elastic_ast_jax.config.model_sizes import SIZES
from elastic_ast_jax.config.schema import Augment, Config, Packing
from elastic_ast_jax.pretrained import ast_hf
from elastic_ast_jax.pretrained.ast_hf import ConvertedAst
from elastic_ast_jax.pretrained.save_workdir import (
    NO_DATA,
    REPORT,
    ConvertError,
    check,
    new_workdir,
    report,
    save,
)
from elastic_ast_jax.utils.files import write_text
from elastic_ast_jax.utils.text import printable

__all__ = ['run']

# AudioSet's, whose clips have several labels; its models do not always say so.
_MULTI_LABEL_CLASSES = 527
_LOSSES: Mapping[str, str] = {
    'multi_label_classification': 'bce',
    'single_label_classification': 'cross_entropy',
}


def run(source: str | os.PathLike, out: str | os.PathLike, *, loss: str | None = None) -> None:
    """Write a workdir of an AST, and print the place of every tensor.

    Args:
        source: See `ast_hf.load`.
        out: A new or empty folder.
        loss: `train.loss`, which tells whether probabilities are a softmax or sigmoids. If None,
            what the directory says; where it says nothing, 'bce' for AudioSet's 527 classes and
            'cross_entropy' else.

    Raises:
        AstHfError, TensorFileError: The directory cannot be used.
        ConvertError: `out` holds a model, or labels or features are such as no model can be used
        with.
        WorkdirError, CheckpointError, WriteError: `out` cannot be written.
    """
    workdir = new_workdir(out)
    found = ast_hf.load(source)
    stated = _LOSSES.get(found.problem_type or '')
    if found.problem_type and not (loss or stated):
        raise ConvertError(
            f'{os.fspath(source)}: {ast_hf.CONFIG}: problem_type={found.problem_type!r} must be one'
            f' of {", ".join(map(repr, _LOSSES))}, or give --loss'
        )
    chosen = (
        loss
        or stated
        or ('bce' if found.model.classes == _MULTI_LABEL_CLASSES else 'cross_entropy')
    )
    config = _config(found, chosen)
    model, front = found.model, found.frontend
    guess = (
        '' if loss or stated else f' (assumed, as {ast_hf.CONFIG} has no problem_type: see --loss)'
    )
    notes = [
        (
            f'AST: width {model.size.width}, {model.size.depth} blocks, {model.size.heads} heads,'
            f' {model.classes} classes, patches of {model.patch[0]} x {model.patch[1]} every'
            f' {model.stride[0]} x {model.stride[1]}, {model.frames} frames'
        ),
        (
            f'features: {front.sample_rate} Hz, {front.mel_bins} mel bins, mean {front.mean}, std'
            f' {front.std}; {chosen}{guess}'
        ),
        (
            'clips beyond its length are cut in evaluation, as transformers does, and heard in'
            ' windows in prediction'
        ),
        *found.notes,
    ]
    said = report(
        os.fspath(source),
        notes,
        [(row.source, row.shape, row.destination()) for row in found.mappings],
    )
    check(config, found.labels, source)
    workdir.prepare(config)
    write_text(workdir.path / REPORT, said + '\n')
    save(workdir, config, found.labels, found.params)
    print(said)
    print(f'written: {printable(str(workdir.path))}')


def _config(found: ConvertedAst, loss: str) -> Config:
    model, front = found.model, found.frontend
    tokens = front.mel_patches * front.max_time_patches
    slots = max(1, Packing.tokens // tokens)
    named = [name for name, size in SIZES.items() if size == model.size]
    return loading.from_dict(
        {
            'data': NO_DATA | {'too_long': 'crop'},
            'frontend': dataclasses.asdict(front),
            'augment': {'freq_mask': min(Augment.freq_mask, front.mel_bins), 'token_dropout': 0.0},
            'packing': {'tokens': slots * tokens, 'slots': slots},
            'model': (
                ({'size': named[0]} if named else dataclasses.asdict(model.size))
                | {
                    'kind': 'ast',
                    'stride': model.stride,
                    'frames': model.frames if model.frames != front.max_frames else 0,
                    'eps': model.epsilon,
                }
            ),
            'train': {'loss': loss},
        }
    )
