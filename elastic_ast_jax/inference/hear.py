"""Provide the HEAR interface (https://hearbenchmark.com/hear-api.html) for that benchmark.

Run `hear-validator elastic_ast_jax.inference.hear --model WORKDIR`, and the same for heareval.
Those tools require a `torch.nn.Module`, so `load_model` returns one if PyTorch is installed. JAX
computes the embeddings all the same, on JAX's device. The interface takes PyTorch tensors or NumPy
arrays and returns the same kind; tensors are on the device of the audio.

The benchmark's data have sample rates of 16000, 22050, 32000, 44100 and 48000 Hz, and its tools
refuse models of another `sample_rate`.
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

# Timestamps are 50 ms apart or closer, as the benchmark advises for its tolerance of 50 ms.
_TIMESTAMPS_PER_SECOND = 20


class HearError(UserError):
    """Reports a model or audio that the interface cannot use."""


class _Model:
    """A model with the attributes of the interface.

    Attributes:
        predictor: The model itself.
        sample_rate: Sample rate of its audio, in Hz.
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
    """Load the model of a workdir; it is a `torch.nn.Module` if PyTorch is installed.

    Args:
        model_file_path: Output folder of `elastic-ast train`. The interface sets the name, and that
            it is optional; this project has no default weights.

    Raises:
        HearError: There is no path.
        WorkdirError, CheckpointError: See `elastic_ast_jax.load`.
    """
    if not os.fspath(model_file_path):
        raise HearError(
            'load_model: there is no default model: give the workdir of a training run (--model'
            ' WORKDIR)'
        )
    predictor = load(model_file_path)
    if (torch := _torch()) is None:
        return _Model(predictor)
    return type('Model', (_Model, torch.nn.Module), {'__doc__': _Model.__doc__})(predictor)


def get_scene_embeddings(audio: Any, model: Any) -> Any:
    """Return one vector for each sound: the vector that the model's head classifies.

    The vector of a sound that is longer than the model's positions is the mean of its windows.

    Args:
        audio: Samples in [-1, 1] at `model.sample_rate`, mono, `[n_sounds, n_samples]`; a tensor or
            an array.
        model: Model from `load_model`.

    Returns:
        float32 `[n_sounds, scene_embedding_size]`.

    Raises:
        HearError: The audio has another shape, no samples, or values that are not finite.
    """
    results = _embed(audio, model, timestamps=False)
    vectors = np.zeros((len(results), model.scene_embedding_size), np.float32)
    for vector, result in zip(vectors, results, strict=True):
        vector[:] = result['embedding']
    return _like(audio, vectors)


def get_timestamp_embeddings(audio: Any, model: Any) -> tuple[Any, Any]:
    """Return vectors at regular times, and the times.

    Times are 0, 50, 100, ... ms up to the sound's end, or multiples of the model's step if that is
    shorter. A model with patches of 160 ms has no finer resolution: the vector at a time is the
    linear interpolation between the vectors of the two neighboring steps, which are means of the
    encoder's output. Before the first center and after the last center, it is the vector of that
    step.

    Args:
        audio: See `get_scene_embeddings`.
        model: See `get_scene_embeddings`.

    Returns:
        float32 `[n_sounds, n_timestamps, timestamp_embedding_size]`, and the times in milliseconds,
        float32 `[n_sounds, n_timestamps]`, the same in each row.

    Raises:
        HearError: See `get_scene_embeddings`.
    """
    results = _embed(audio, model, timestamps=True)
    times = timestamps(
        audio.shape[1], model.sample_rate, embeddings.step_samples(model.predictor.config.frontend)
    )
    vectors = np.zeros((len(results), len(times), model.timestamp_embedding_size), np.float32)
    for sound, result in zip(vectors, results, strict=True):
        steps = embeddings.Steps(result['timestamp_embeddings'], result['timestamps'])
        sound[:] = embeddings.interpolate(steps, times)
    all_times = np.repeat(times[None].astype(np.float32), len(vectors), axis=0)
    return _like(audio, vectors), _like(audio, all_times)


def timestamps(samples: int, sample_rate: int, step: int) -> Float64[np.ndarray, 'times']:
    """Return the times of `get_timestamp_embeddings`, in milliseconds.

    Times are counted in whole samples and then multiplied, so that neither their number nor the
    last time drifts.

    Args:
        samples: Length of the sound.
        sample_rate: Sample rate of the sound.
        step: Samples of a step of the model.
    """
    if step * _TIMESTAMPS_PER_SECOND < sample_rate:
        count, interval = samples // step + 1, 1000 * step / sample_rate
    else:
        count = samples * _TIMESTAMPS_PER_SECOND // sample_rate + 1
        interval = 1000 / _TIMESTAMPS_PER_SECOND
    return np.arange(count) * interval


def _embed(audio: Any, model: Any, *, timestamps: bool) -> list[dict[str, Any]]:
    if audio.ndim != 2 or not audio.shape[1]:
        raise HearError(
            f'audio of shape {list(audio.shape)}: must be [n_sounds, n_samples], with at least one'
            ' sample'
        )
    samples = audio if isinstance(audio, np.ndarray) else audio.detach().cpu().numpy()
    results = model.predictor.embed(list(samples), timestamps=timestamps)
    for result in results:
        if 'error' in result:
            raise HearError(f'audio: {result["error"]}')
    return results


def _like(audio: Any, values: np.ndarray) -> Any:
    """Return the values as an array or a tensor, like the audio."""
    if isinstance(audio, np.ndarray):
        return values
    import torch  # the audio is a tensor

    return torch.from_numpy(values).to(audio.device)


def _torch() -> ModuleType | None:
    """Return PyTorch, if it is installed."""
    try:
        import torch
    except ImportError:
        return None
    return torch
