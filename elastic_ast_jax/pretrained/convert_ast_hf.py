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
    hold_new,
    new_workdir,
    report,
    save,
)
from elastic_ast_jax.pretrained.weights import brief
from elastic_ast_jax.utils.files import write_text
from elastic_ast_jax.utils.text import printable

__all__ = ['run']

# AudioSet's clips have several labels. Its models do not always name their loss.
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
        loss: `train.loss`: probabilities are a softmax or sigmoids. None: the one that the
            directory names, or else 'bce' for AudioSet's 527 classes and 'cross_entropy' for
            others.

    Raises:
        AstHfError, TensorFileError: The directory cannot be used.
        ConvertError: `out` holds a model, or no model is possible with these labels or features.
        WorkdirError, CheckpointError, WriteError: `out` cannot be written.
    """
    new_workdir(out)  # before the work
    converted = ast_hf.load(source)
    model, frontend = converted.model, converted.frontend
    named_loss = _LOSSES.get(converted.problem_type or '')
    if converted.problem_type and not (loss or named_loss):
        raise ConvertError(
            f'{os.fspath(source)}: {ast_hf.CONFIG}: problem_type={brief(converted.problem_type)}'
            f' must be one of {", ".join(map(repr, _LOSSES))}, or give --loss'
        )
    default_loss = 'bce' if model.classes == _MULTI_LABEL_CLASSES else 'cross_entropy'
    config = _config(converted, loss or named_loss or default_loss)
    assumed = ''
    if not (loss or named_loss):
        assumed = f' (assumed, as {ast_hf.CONFIG} has no problem_type: see --loss)'
    notes = [
        f'AST: width {model.size.width}, {model.size.depth} blocks, {model.size.heads} heads,'
        f' {model.classes} classes, patches of {model.patch[0]} x {model.patch[1]} every'
        f' {model.stride[0]} x {model.stride[1]}, {model.frames} frames',
        f'features: {frontend.sample_rate} Hz, {frontend.mel_bins} mel bins, mean {frontend.mean},'
        f' std {frontend.std}; {config.train.loss}{assumed}',
        'evaluation crops clips beyond its length, as transformers does; prediction splits them'
        ' into windows',
        *converted.notes,
    ]
    table = [(row.source, row.shape, row.destination()) for row in converted.mappings]
    summary = report(os.fspath(source), notes, table)
    check(config, converted.labels, source)
    with hold_new(out) as workdir:
        workdir.prepare(config)
        write_text(workdir.path / REPORT, summary + '\n')
        save(workdir, config, converted.labels, converted.params)
    print(summary)
    print(f'written: {printable(str(workdir.path))}')


def _config(converted: ConvertedAst, loss: str) -> Config:
    """Return the config of a converted model."""
    model, frontend = converted.model, converted.frontend
    tokens = frontend.mel_patches * frontend.max_time_patches
    slots = max(1, Packing.tokens // tokens)
    size_names = [name for name, size in SIZES.items() if size == model.size]
    size = {'size': size_names[0]} if size_names else dataclasses.asdict(model.size)
    freq_mask = min(Augment.freq_mask, frontend.mel_bins)
    return loading.from_dict(
        {
            'data': NO_DATA | {'too_long': 'crop'},
            'frontend': dataclasses.asdict(frontend),
            'augment': {'freq_mask': freq_mask, 'token_dropout': 0.0},
            'packing': {'tokens': slots * tokens, 'slots': slots},
            'model': size
            | {
                'kind': 'ast',
                'stride': model.stride,
                'frames': model.frames if model.frames != frontend.max_frames else 0,
                'eps': model.epsilon,
            },
            'train': {'loss': loss},
        }
    )
