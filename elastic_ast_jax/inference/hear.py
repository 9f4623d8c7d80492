"""The HEAR interface (https://hearbenchmark.com/hear-api.html): embeddings of this project's models
for that benchmark's tools.

`hear-validator elastic_ast_jax.inference.hear --model WORKDIR`, and the same for heareval. Those
tools ask for a `torch.nn.Module`, so `load_model` gives one where PyTorch is installed; the
computation is JAX's all the same, on JAX's device. The interface takes PyTorch tensors or NumPy
arrays and gives back what it took, tensors on the device of the audio.

The benchmark's data come at 16000, 22050, 32000, 44100 and 48000 Hz, and its tools refuse models of
another `sample_rate`.
"""

import os
from types import ModuleType
from typing import Any

import numpy as np
from jaxtyping import Float64

from elastic_ast_jax.inference import embeddings
from elastic_ast_jax.inference.predictor import Predictor, load
from elastic_ast_jax.utils.errors import UserError

__all__ = ['get_scene_embeddings', 'get_timestamp_embeddings', 'load_model']

# Timestamps this far apart or closer, as the benchmark advises for its tolerance of 50 ms: so many
# a second.
_TIMESTAMPS_A_SECOND = 20


class HearError(UserError):
    """A model or audio that the interface cannot use; says what it must be."""


class _Model:
    """What the interface says of a model.

    Attributes:
        predictor: The model itself.
        sample_rate: Of the audio it takes, in Hz.
        scene_embedding_size, timestamp_embedding_size: The model's width D.
    """

    def __init__(self, predictor: Predictor):
        super().__init__()
        self.predictor = predictor
        self.sample_rate = predictor.config.frontend.sample_rate
        self.scene_embedding_size = self.timestamp_embedding_size = (
            predictor.config.model.resolved_size().width
        )


def load_model(model_file_path: str | os.PathLike = '') -> Any:
    """The model of a workdir, with the attributes of the interface; a `torch.nn.Module` if PyTorch
    is installed.

    Args:
        model_file_path: What `elastic-ast train` made. The name, and that it may be left out, are
            the interface's; this project has no weights of its own to fall back on.

    Raises:
        HearError: No path.
        WorkdirError, CheckpointError: As `elastic_ast_jax.load`.
    """
    if not os.fspath(model_file_path):
        raise HearError(
            'load_model: there is no default model: give the workdir of a training run (--model'
            ' WORKDIR)'
        )
    predictor = load(model_file_path)
    torch = _torch()
    kind = (
        type('Model', (_Model, torch.nn.Module), {'__doc__': _Model.__doc__}) if torch else _Model
    )
    return kind(predictor)


def get_scene_embeddings(audio: Any, model: Any) -> Any:
    """One vector for each sound: what the model's head classifies; of sounds longer than its
    positions, the mean of windows.

    Args:
        audio: Samples in [-1, 1] at `model.sample_rate`, mono, `[n_sounds, n_samples]`; a tensor or
        an array.
        model: Of `load_model`.

    Returns:
        float32 `[n_sounds, scene_embedding_size]`.

    Raises:
        HearError: Another shape, no samples, or values that are not finite.
    """
    found = _embed(audio, model, timestamps=False)
    vectors = np.zeros((len(found), model.scene_embedding_size), np.float32)
    for vector, result in zip(vectors, found, strict=True):
        vector[:] = result['embedding']
    return _like(audio, vectors)


def get_timestamp_embeddings(audio: Any, model: Any) -> tuple[Any, Any]:
    """Vectors at regular times, and the times.

    Times are 0, 50, 100, ... ms up to the sound's end, or those of the model's own step where that
    is shorter. A model with patches of 160 ms knows nothing finer than these: the vector at a time
    is the linear interpolation between the means of the encoder's output at the steps whose centres
    are beside it, and before the first and after the last centre that step's.

    Args:
        audio, model: As in `get_scene_embeddings`.

    Returns:
        float32 `[n_sounds, n_timestamps, timestamp_embedding_size]`, and the times in milliseconds,
        float32 `[n_sounds, n_timestamps]`, the same in each row.

    Raises:
        HearError: As `get_scene_embeddings`.
    """
    found = _embed(audio, model, timestamps=True)
    times = timestamps(
        audio.shape[1], model.sample_rate, embeddings.step_samples(model.predictor.config.frontend)
    )
    vectors = np.zeros((len(found), len(times), model.timestamp_embedding_size), np.float32)
    for sound, result in zip(vectors, found, strict=True):
        sound[:] = embeddings.interpolate(
            embeddings.Steps(result['timestamp_embeddings'], result['timestamps']), times
        )
    return _like(audio, vectors), _like(
        audio, np.repeat(times[None].astype(np.float32), len(vectors), axis=0)
    )


def timestamps(samples: int, rate: int, step: int) -> Float64[np.ndarray, 'times']:
    """The times of `get_timestamp_embeddings`, in milliseconds.

    Counted in whole samples and multiplied out, so that neither the number nor the last of them
    drifts.

    Args:
        samples: Length of the sound.
        rate: Its samples a second.
        step: Samples of a step of the model.
    """
    if step * _TIMESTAMPS_A_SECOND < rate:
        count, apart = samples // step + 1, 1000 * step / rate
    else:
        count, apart = samples * _TIMESTAMPS_A_SECOND // rate + 1, 1000 / _TIMESTAMPS_A_SECOND
    return np.arange(count) * apart


def _embed(audio: Any, model: Any, timestamps: bool) -> list[dict[str, Any]]:
    if audio.ndim != 2 or not audio.shape[1]:
        raise HearError(
            f'audio of shape {list(audio.shape)}: must be [n_sounds, n_samples], with at least one'
            ' sample'
        )
    samples = audio if isinstance(audio, np.ndarray) else audio.detach().cpu().numpy()
    found = model.predictor.embed(list(samples), timestamps=timestamps)
    for result in found:
        if 'error' in result:
            raise HearError(f'audio: {result["error"]}')
    return found


def _like(audio: Any, values: np.ndarray) -> Any:
    """The values as what the audio is."""
    return values if isinstance(audio, np.ndarray) else _torch().from_numpy(values).to(audio.device)


def _torch() -> ModuleType | None:
    """PyTorch, if it is installed."""
    try:
        import torch
    except ImportError:
        return None
    return torch
