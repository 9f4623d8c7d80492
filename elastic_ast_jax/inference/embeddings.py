"""Embeddings: one vector for each recording, and one for each of its time steps.

The vector of a recording is what the model's head classifies. A step is one column of a clip's
patch grid: the frames of one time patch, over all mel bands. Steps follow each other by
`patch_frames` frame shifts, 160 ms with AST's 16 frames of 10 ms.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Float32

from elastic_ast_jax.audio.frontend import FrontendSpec
from elastic_ast_jax.audio.windows import Windows
from elastic_ast_jax.inference.clips import Clip


class Steps(NamedTuple):
    """The steps of a recording.

    Attributes:
        vectors: The mean of the encoder's output over the patches of each step.
        times: Centre of each step in milliseconds, ascending.
    """

    vectors: Float32[np.ndarray, 'steps D']
    times: Float[np.ndarray, 'steps']


class ClipEmbedding(NamedTuple):
    """A clip's vector, and its steps where they are wanted."""

    vector: Float[np.ndarray, 'D']
    steps: Steps | None


def step_samples(frontend: FrontendSpec) -> int:
    """Samples from one step to the next."""
    return frontend.patch_frames * frontend.shift()


def step_times(frontend: FrontendSpec, steps: int, start: int = 0) -> Float[np.ndarray, 'steps']:
    """Centres of steps in milliseconds: half-way from the first sample of a patch's first window to
    the last of its last.

    A last step that the recording does not fill has its centre where a full one has it.

    Args:
        frontend: The frontend.
        steps: How many.
        start: Sample of the recording at which the clip begins.
    """
    middle = ((frontend.patch_frames - 1) * frontend.shift() + frontend.window) / 2 - frontend.lead
    samples = start + np.arange(steps) * step_samples(frontend) + middle
    return samples * 1000 / frontend.sample_rate


def clip_steps(
    tokens: Float[np.ndarray, 'tokens D'], frontend: FrontendSpec, start: int, stop: int
) -> Steps:
    """The steps of a clip.

    Columns that hold no frame of it, where `frontend.min_frames` or `frontend.partial='edge'` made
    more of them, are left out.

    Args:
        tokens: The encoder's output at the clip's tokens, frequency-major (see
        `packer.row_layout`).
        frontend: The frontend.
        start, stop: The clip's samples in the recording.
    """
    columns = tokens.reshape(frontend.mel_patches, -1, tokens.shape[-1])
    frames = int(frontend.frames(stop - start, frontend.shift()))
    heard = min(columns.shape[1], -(-frames // frontend.patch_frames))
    return Steps(
        columns[:, :heard].astype(np.float32).mean(axis=0), step_times(frontend, heard, start)
    )


def join_steps(parts: Sequence[Steps]) -> Steps:
    """The steps of a recording from those of its windows, in their order.

    Where two windows overlap, the earlier one is used up to half-way between the later one's first
    step and its own last, the later one from about a step after that on: steps ascend, none is
    double, and each is from the window that knows more of its surroundings. Times are regular if
    the windows begin at whole steps; around a window that does not, as a recording's last, two
    steps are from a half to one and a half of a step apart.
    """
    used = [parts[0]]
    for part in parts[1:]:
        before = used[-1]
        seam = (before.times[-1] + part.times[0]) / 2
        count = max(1, int(np.searchsorted(before.times, seam)))
        used[-1] = before = Steps(before.vectors[:count], before.times[:count])
        apart = part.times[1] - part.times[0] if len(part.times) > 1 else 0.0
        first = int(np.searchsorted(part.times, before.times[-1] + apart / 2, side='right'))
        if first < len(part.times):
            used.append(Steps(part.vectors[first:], part.times[first:]))
    return Steps(
        np.concatenate([part.vectors for part in used]),
        np.concatenate([part.times for part in used]),
    )


def align_windows(cut: Windows, frontend: FrontendSpec) -> Windows:
    """Windows that begin at whole steps, so that the steps of a recording are regular but for its
    last window's.
    """
    step = step_samples(frontend)
    return (
        dataclasses.replace(cut, hop=max(step, cut.hop // step * step)) if cut.hop >= step else cut
    )


def recording_embeddings(
    embedded: Iterable[tuple[Clip, ClipEmbedding | None]], rate: int
) -> Iterator[dict[str, Any]]:
    """The embeddings of recordings from those of their clips; see `Predictor.embed`.

    Args:
        embedded: Clips, in order, with what was embedded; None for one with an error.
        rate: Samples a second.
    """
    for clip, found in embedded:
        if clip.error is not None:
            yield {'path': clip.name, 'error': clip.error}
            continue
        vector, steps = found
        if clip.index == 0:
            total, weight, parts = np.zeros(vector.shape, np.float64), 0, []
        total += (clip.stop - clip.start) * vector.astype(np.float64)
        weight += clip.stop - clip.start
        parts.append(steps)
        if not clip.last:
            continue
        whole = (
            vector.astype(np.float32) if clip.count == 1 else (total / weight).astype(np.float32)
        )
        result = {'path': clip.name, 'seconds': clip.samples / rate, 'embedding': whole}
        if steps is not None:
            joined = join_steps(parts)
            result |= {'timestamp_embeddings': joined.vectors, 'timestamps': joined.times}
        yield result | ({'windows': clip.count} if clip.count > 1 else {})


def interpolate(steps: Steps, times: Float[np.ndarray, 'times']) -> Float32[np.ndarray, 'times D']:
    """Vectors at other times, in milliseconds:

    linear between the two steps beside, that of the first or last step outside.
    """
    if len(steps.times) == 1:
        return np.repeat(steps.vectors, len(times), axis=0)
    left = np.clip(np.searchsorted(steps.times, times, side='right') - 1, 0, len(steps.times) - 2)
    share = (times - steps.times[left]) / (steps.times[left + 1] - steps.times[left])
    share = np.clip(share, 0, 1)[:, None].astype(np.float32)
    return (1 - share) * steps.vectors[left] + share * steps.vectors[left + 1]
