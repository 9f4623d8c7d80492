"""Compute embeddings: one vector for each recording, and one for each of its time steps.

The vector of a recording is the vector that the model's head classifies. A step is one column of a
clip's patch grid: the frames of one time patch, over all mel bands. Steps are `patch_frames` frame
shifts apart, 160 ms with AST's 16 frames of 10 ms.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Float32

from elastic_ast_jax.audio.frontend import FrontendSpec
from elastic_ast_jax.audio.windows import Windows
from elastic_ast_jax.inference.clips import Clip
from elastic_ast_jax.inference.window_mean import WindowMean


class Steps(NamedTuple):
    """The steps of a recording.

    Attributes:
        vectors: Mean of the encoder's output over the patches of each step.
        times: Center of each step in milliseconds, ascending.
    """

    vectors: Float32[np.ndarray, 'steps D']
    times: Float[np.ndarray, 'steps']


class ClipEmbedding(NamedTuple):
    """A clip's vector, and its steps if they were requested."""

    vector: Float[np.ndarray, 'D']
    steps: Steps | None


def step_samples(frontend: FrontendSpec) -> int:
    """Return the samples from one step to the next."""
    return frontend.patch_frames * frontend.shift()


def step_times(frontend: FrontendSpec, steps: int, start: int = 0) -> Float[np.ndarray, 'steps']:
    """Return the centers of steps in milliseconds.

    The center is half-way from the first sample of a patch's first frame to the last sample of its
    last frame. If the recording does not fill its last step, that step is treated as full.

    Args:
        frontend: The frontend.
        steps: Number of steps.
        start: Sample of the recording at which the clip begins.
    """
    middle = (
        (frontend.patch_frames - 1) * frontend.shift() + frontend.window
    ) / 2 - frontend.lead_samples
    samples = start + np.arange(steps) * step_samples(frontend) + middle
    return samples * 1000 / frontend.sample_rate


def clip_steps(
    tokens: Float[np.ndarray, 'tokens D'], frontend: FrontendSpec, start: int, stop: int
) -> Steps:
    """Return the steps of a clip.

    Columns without a frame of the clip are dropped. The grid has such columns if
    `frontend.min_frames` or `frontend.partial='edge'` adds them.

    Args:
        tokens: The encoder's output at the clip's tokens, frequency-major (see
            `packer.row_layout`).
        frontend: The frontend.
        start: First sample of the clip in the recording.
        stop: Sample of the recording at which the clip ends.
    """
    columns = tokens.reshape(frontend.mel_patches, -1, tokens.shape[-1])
    frames = int(frontend.frames(stop - start, frontend.shift()))
    steps = min(columns.shape[1], -(-frames // frontend.patch_frames))
    vectors = columns[:, :steps].astype(np.float32).mean(axis=0)
    return Steps(vectors, step_times(frontend, steps, start))


def join_steps(windows: Sequence[Steps]) -> Steps:
    """Join the steps of a recording's windows, in their order.

    Where two windows overlap, the earlier window is used up to half-way between the later window's
    first step and its own last step. The later window is used from about one step after that. So
    steps ascend, no step occurs twice, and each step is from the window that has more context
    around it. Times are regular if the windows begin at whole steps. Around a window that does not,
    such as the last window of a recording, two steps are between a half and one and a half steps
    apart.
    """
    parts = [windows[0]]
    for window in windows[1:]:
        previous = parts[-1]
        seam = (previous.times[-1] + window.times[0]) / 2
        count = max(1, int(np.searchsorted(previous.times, seam)))
        parts[-1] = previous = Steps(previous.vectors[:count], previous.times[:count])
        step = window.times[1] - window.times[0] if len(window.times) > 1 else 0.0
        first = int(np.searchsorted(window.times, previous.times[-1] + step / 2, side='right'))
        if first < len(window.times):
            parts.append(Steps(window.vectors[first:], window.times[first:]))
    return Steps(
        np.concatenate([part.vectors for part in parts]),
        np.concatenate([part.times for part in parts]),
    )


def align_windows(windows: Windows, frontend: FrontendSpec) -> Windows:
    """Return windows that begin at whole steps.

    The steps of a recording are then regular, except for those of its last window.
    """
    step = step_samples(frontend)
    if windows.hop < step:
        return windows
    return dataclasses.replace(windows, hop=max(step, windows.hop // step * step))


def recording_embeddings(
    embedded: Iterable[tuple[Clip, ClipEmbedding | None]], sample_rate: int
) -> Iterator[dict[str, Any]]:
    """Yield the embeddings of recordings from those of their clips; see `Predictor.embed`.

    Args:
        embedded: Clips in their order, with their embeddings; None for a clip with an error.
        sample_rate: Sample rate of the recordings.
    """
    mean, steps = WindowMean(), []
    for clip, embedding in embedded:
        if clip.error is not None:
            yield {'path': clip.name, 'error': clip.error}
            continue
        assert embedding is not None
        if clip.index == 0:
            steps = []
        mean.add(clip, embedding.vector)
        if embedding.steps is not None:
            steps.append(embedding.steps)
        if not clip.is_last:
            continue
        result = {
            'path': clip.name,
            'seconds': clip.samples / sample_rate,
            'embedding': mean.value().astype(np.float32),
        }
        if steps:
            joined = join_steps(steps)
            result |= {'timestamp_embeddings': joined.vectors, 'timestamps': joined.times}
        yield result | ({'windows': clip.count} if clip.count > 1 else {})


def interpolate(steps: Steps, times: Float[np.ndarray, 'times']) -> Float32[np.ndarray, 'times D']:
    """Return vectors at other times, in milliseconds.

    Vectors are linear between two neighboring steps. Outside, they are those of the first or last
    step.
    """
    if len(steps.times) == 1:
        return np.repeat(steps.vectors, len(times), axis=0)
    lower = np.clip(np.searchsorted(steps.times, times, side='right') - 1, 0, len(steps.times) - 2)
    share = (times - steps.times[lower]) / (steps.times[lower + 1] - steps.times[lower])
    share = np.clip(share, 0, 1)[:, None].astype(np.float32)
    return (1 - share) * steps.vectors[lower] + share * steps.vectors[lower + 1]
