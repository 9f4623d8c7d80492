"""Explain predictions by the attention of the model's pooling on each patch of a recording."""

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from elastic_ast_jax.audio.frontend import FrontendSpec
from elastic_ast_jax.audio.windows import Windows
from elastic_ast_jax.inference import clips
from elastic_ast_jax.inference.batching import ClipOutputs
from elastic_ast_jax.inference.clips import Clip
from elastic_ast_jax.inference.predictor import Predictor, Progress
from elastic_ast_jax.inference.scores import top_classes
from elastic_ast_jax.inference.window_mean import WindowMean
from elastic_ast_jax.utils.errors import UserError

# Formats that matplotlib writes with translucent colors.
_SUFFIXES = ('.png', '.jpg', '.jpeg', '.pdf', '.svg', '.tif', '.tiff', '.webp')
# More columns cannot be distinguished on a page.
_MAX_COLUMNS = 2000


class ExplanationError(UserError):
    """Reports that a recording cannot be explained, or not in the requested file."""


class Explanation(NamedTuple):
    """The attention of a model on a recording, and its predictions.

    Attributes:
        log_mel: Normalized log-mel, the model's input. A column is a frame, or several frames of a
            long recording. Where windows overlap, their mean; NaN where there is no frame.
        frame_edges: Edges of these columns in seconds.
        attention: Share of the pooled vector that comes from each piece of the recording, averaged
            over heads. A column is as long as a patch, or several patches; bands are mel patches
            from the lowest. Sums to 1. Windows contribute by their lengths, as to the recording's
            result. Their patches need not begin where columns do, and are spread over their frames.
        uniform: Attention of a model that attends to all patches of a window alike. Larger where
            windows overlap.
        patch_edges: Edges of these columns in seconds. A patch that the recording does not fill
            extends beyond its end.
        seconds: Length of the recording.
        windows: Number of windows that the recording was split into.
        predictions: The most probable classes and their probabilities.
    """

    log_mel: Float[np.ndarray, 'columns mels']
    frame_edges: Float[np.ndarray, 'columns+1']
    attention: Float[np.ndarray, 'patches bands']
    uniform: Float[np.ndarray, 'patches bands']
    patch_edges: Float[np.ndarray, 'patches+1']
    seconds: float
    windows: int
    predictions: list[tuple[str, float]]


def check_file(file: str | os.PathLike) -> None:
    """Check that an explanation can be drawn to a file.

    Raises:
        ExplanationError: There is no format of this suffix, or no such folder.
    """
    path = Path(file)
    if path.suffix.lower() not in _SUFFIXES:
        raise ExplanationError(
            f'--explain={file}: the suffix sets the format of the drawing: use one of'
            f' {" ".join(_SUFFIXES)}'
        )
    if path.is_dir():
        raise ExplanationError(f'--explain={file}: is a folder; give the name of a file')
    if not path.parent.is_dir():
        raise ExplanationError(
            f'--explain={file}: there is no folder {path.parent}: make it, or choose another'
        )


def check_model(model: Predictor) -> None:
    """Check that the attention of a model's pooling can be drawn.

    Raises:
        ExplanationError: The model is the fixed-length AST, whose head reads two tokens that are
            not part of the recording.
    """
    if model.config.model.kind == 'ast':
        raise ExplanationError(
            "--explain draws the attention of ElasticAST's pooling, and this model, a fixed-length"
            ' AST, has none: leave it out'
        )


def explain(
    model: Predictor,
    path: str | os.PathLike,
    top_k: int = 5,
    window: float | None = None,
    overlap: float | None = None,
    progress: Progress | None = None,
) -> Explanation:
    """Explain the predictions of a model for one recording.

    Args:
        model: The model.
        path: Path of the recording.
        top_k: Number of classes to return.
        window: See `Predictor.predict`.
        overlap: See `Predictor.predict`.
        progress: Is called after each clip.

    Raises:
        ExplanationError: The recording cannot be used.
        WindowError: The model does not take such windows.
    """
    frontend = model.config.frontend
    windows = model.windows(window, overlap)

    def summarize(_: Clip, outputs: ClipOutputs) -> tuple[np.ndarray, np.ndarray]:
        shares = outputs['shares'].astype(np.float64).mean(axis=1)
        return outputs['logits'], shares.reshape(frontend.mel_patches, -1)

    recording = clips.read_clips([path], frontend, windows)
    mean, canvas = WindowMean(), None
    for clip, summary in model.clip_outputs(
        recording, ('logits', 'shares'), summarize, progress=progress
    ):
        if clip.error is not None:
            raise ExplanationError(clip.error)
        assert summary is not None
        if canvas is None:
            canvas = _Canvas(frontend, clip, windows)
        logits, shares = summary
        mean.add(clip, logits)
        canvas.add(clip, shares)
    assert canvas is not None  # each input yields at least one clip
    probabilities = model.probabilities(mean.value())
    return Explanation(
        *canvas.columns(),
        seconds=clip.samples / frontend.sample_rate,
        windows=clip.count,
        predictions=top_classes(probabilities, model.labels, top_k),
    )


class _Canvas:
    """Collects the features and the attention of a recording's windows."""

    def __init__(self, frontend: FrontendSpec, clip: Clip, windows: Windows):
        self._frontend = frontend
        self._total = sum(stop - start for start, stop in windows.spans(clip.samples))
        last_start, _ = windows.span(clip.samples, clip.count - 1)
        patches = (
            -(-self._first_frame(last_start) // frontend.patch_frames)
            + len(clip.patches) // frontend.mel_patches
        )
        frames = patches * frontend.patch_frames
        # Frames of a column of the spectrogram, and of the attention.
        self._mel_frames = -(-frames // _MAX_COLUMNS)
        self._attention_frames = -(-patches // _MAX_COLUMNS) * frontend.patch_frames
        mel_columns = -(-frames // self._mel_frames)
        attention_columns = -(-frames // self._attention_frames)
        self._log_mel = np.zeros((mel_columns, frontend.mel_bins))
        self._counts = np.zeros((mel_columns, 1))
        self._attention = np.zeros((attention_columns, frontend.mel_patches))
        self._uniform = np.zeros_like(self._attention)

    def add(self, clip: Clip, shares: Float[np.ndarray, 'bands patches']) -> None:
        """Add a window's features, and the attention on its patches by the window's weight."""
        frontend = self._frontend
        grid = clip.patches.reshape(
            frontend.mel_patches, -1, frontend.patch_mels, frontend.patch_frames
        )
        features = grid.transpose(1, 3, 0, 2).reshape(-1, frontend.mel_bins)
        frames = self._first_frame(clip.start) + np.arange(len(features))
        # Share of the recording's result that each frame of the window has.
        frame_weight = (clip.stop - clip.start) / self._total / frontend.patch_frames
        frame_shares = frame_weight * np.repeat(shares.T, frontend.patch_frames, axis=0)
        np.add.at(self._attention, frames // self._attention_frames, frame_shares)
        np.add.at(self._uniform, frames // self._attention_frames, frame_weight / shares.size)
        count = min(len(features), int(frontend.frames(clip.stop - clip.start, frontend.shift())))
        columns = frames[:count] // self._mel_frames
        np.add.at(self._log_mel, columns, features[:count])
        np.add.at(self._counts, columns, 1)

    def columns(self) -> tuple[np.ndarray, ...]:
        """Return the first five fields of `Explanation`."""
        unknown = np.full_like(self._log_mel, np.nan)
        log_mel = np.divide(self._log_mel, self._counts, out=unknown, where=self._counts > 0)
        return (
            log_mel,
            self._edges(len(log_mel), self._mel_frames),
            self._attention,
            self._uniform,
            self._edges(len(self._attention), self._attention_frames),
        )

    def _first_frame(self, start: int) -> int:
        """Return the first frame of a window; windows need not begin at whole frames."""
        return round(start / self._frontend.shift())

    def _edges(self, columns: int, frames: int) -> Float[np.ndarray, 'edges']:
        """Return the edges of columns of so many frames, in seconds.

        A frame is drawn around the center of its window, as wide as the frame shift.
        """
        frontend = self._frontend
        first = (frontend.window - frontend.shift()) / 2 - frontend.lead_samples
        return (first + np.arange(columns + 1) * frames * frontend.shift()) / frontend.sample_rate
