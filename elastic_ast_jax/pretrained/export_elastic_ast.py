"""Convert a workdir to weights of the published PyTorch ElasticAST."""

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from elastic_ast_jax.checkpointing.load_model import load_model
from elastic_ast_jax.models.elastic_ast import ElasticAST
from elastic_ast_jax.models.encoder import LAYER_NORM_EPSILON
from elastic_ast_jax.pretrained import elastic_ast_torch, state_dict
from elastic_ast_jax.pretrained.convert_elastic_ast import UNUSED_TENSORS, tensor_table
from elastic_ast_jax.pretrained.elastic_ast_torch import Layout
from elastic_ast_jax.pretrained.save_workdir import ConvertError, report
from elastic_ast_jax.pretrained.state_dict import TensorFileError
from elastic_ast_jax.utils import files
from elastic_ast_jax.utils.gcs import BucketPath
from elastic_ast_jax.utils.text import printable

__all__ = ['run']


def run(path: str | os.PathLike, out: str | os.PathLike, *, checkpoint: str = 'latest') -> None:
    """Write the model of a workdir as a state dict, and print the place of every tensor.

    The published code loads the state dict strictly. It does not divide attention logits by
    sqrt(head width). If the model does, its queries are divided instead, so that the logits are the
    same.

    Args:
        path: The workdir.
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
    if model.network.statistics:
        raise ConvertError(
            f'{os.fspath(path)}: has model.statistics=True, and the published code has no such'
            ' layer: its logits would be others'
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
    tensors = elastic_ast_torch.from_params(model.params, layout)
    notes = [f'parameters of {model.description}']
    if model.network.scaled:
        width = layout.size.width // layout.size.heads
        for name in tensors:
            if '.to_q.' in name:
                tensors[name] = tensors[name] * np.float32(width**-0.5)
        notes.append(
            f'queries divided by sqrt({width}), as the published code does not divide attention'
            ' logits by it'
        )
    if model.network.epsilon != LAYER_NORM_EPSILON:
        notes.append(
            f'LayerNorms have epsilon {model.network.epsilon:g} here and {LAYER_NORM_EPSILON:g} in'
            ' the published code: results differ by that'
        )
    if frontend.f_min or frontend.f_max:
        notes.append(
            f'log-mels from {frontend.lowest_hertz:g} to {frontend.highest_hertz:g} Hz: call'
            ' torchaudio.compliance.kaldi.fbank with'
            f' low_freq={frontend.lowest_hertz:g}, high_freq={frontend.highest_hertz:g}'
        )
    if shapes := elastic_ast_torch.unused_tensors(layout):
        file = files.as_path(path) / UNUSED_TENSORS
        exists = file.exists()
        notes.append(
            f'tensors that mean pooling does not use: {"as in the source" if exists else "zeros"}'
        )
        if exists:
            tensors |= _read_unused(file, shapes)
        else:
            tensors |= {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    mappings = elastic_ast_torch.tensor_mappings(layout)
    state_dict.write(out, {mapping.source: tensors[mapping.source] for mapping in mappings})
    print(report(os.fspath(out), notes, tensor_table(layout)))
    print(f'written: {printable(os.fspath(out))}')


def _read_unused(
    file: Path | BucketPath, shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, Float32[np.ndarray, '...']]:
    """Read the tensors that the model does not use.

    Raises:
        TensorFileError: The file has others.
    """
    with files.local_copy(file) as local_file:
        tensors = state_dict.read(local_file).tensors
    for name, shape in shapes.items():
        stored = tensors[name].shape if name in tensors else 'of nothing'
        if stored != shape:
            raise TensorFileError(
                f'{file}: {name} has the shape {stored}, expected {shape}: remove the file to have'
                ' zeros instead'
            )
    return tensors
