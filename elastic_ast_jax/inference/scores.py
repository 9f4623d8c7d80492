"""Compute probabilities of recordings and of their windows from the logits of clips."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Float32

from elastic_ast_jax.inference.clips import Clip
from elastic_ast_jax.inference.window_mean import WindowMean


class RecordingScores(NamedTuple):
    """Scores of a recording and of its windows.

    Attributes:
        result: See `Predictor.predict`.
        spans: Start and stop of each window, in samples.
        probabilities: Probabilities of each window.
    """

    result: dict[str, Any]
    spans: list[tuple[int, int]]
    probabilities: list[Float32[np.ndarray, 'C']]


def to_probabilities(logits: Float[np.ndarray, 'C'], loss: str) -> Float[np.ndarray, 'C']:
    """Return the sigmoids of logits if the loss is `'bce'`, otherwise their softmax."""
    if loss == 'bce':
        return np.exp(-np.logaddexp(0, -logits))
    weights = np.exp(logits - logits.max())
    return weights / weights.sum()


def recording_scores(
    scored: Iterable[tuple[Clip, Float[np.ndarray, 'C'] | None]],
    labels: Sequence[str],
    sample_rate: int,
    loss: str,
    top_k: int,
    *,
    keep_windows: bool = False,
) -> Iterator[RecordingScores]:
    """Yield the scores of recordings from the logits of their clips.

    Args:
        scored: Clips in their order, with their logits; None for a clip with an error.
        labels: Name of each class.
        sample_rate: Sample rate of the recordings.
        loss: Loss of the training run, see `to_probabilities`.
        top_k: Number of classes to return.
        keep_windows: Also keep the scores of windows.
    """
    mean, spans, probabilities = WindowMean(), [], []
    for clip, logits in scored:
        if clip.error is not None:
            yield RecordingScores({'path': clip.name, 'error': clip.error}, [], [])
            continue
        assert logits is not None
        if clip.index == 0:
            spans, probabilities = [], []
        logits = logits.astype(np.float64)
        mean.add(clip, logits)
        if keep_windows:
            spans.append((clip.start, clip.stop))
            probabilities.append(to_probabilities(logits, loss).astype(np.float32))
        if not clip.is_last:
            continue
        result = {
            'path': clip.name,
            'seconds': clip.samples / sample_rate,
            'predictions': [
                {'label': label, 'probability': probability}
                for label, probability in top_classes(
                    to_probabilities(mean.value(), loss), labels, top_k
                )
            ],
        }
        if clip.count > 1:
            result['windows'] = clip.count
        yield RecordingScores(result, spans, probabilities)


def top_classes(
    probabilities: Float[np.ndarray, 'C'], labels: Sequence[str], count: int
) -> list[tuple[str, float]]:
    """Return the most probable classes with their probabilities, most probable first."""
    best = np.argsort(-probabilities, kind='stable')[:count]
    return [(labels[int(number)], float(probabilities[number])) for number in best]
