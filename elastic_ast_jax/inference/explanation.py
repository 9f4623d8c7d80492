"""What a model listened to in a recording:

the attention of its pooling, patch by patch, for `predict --explain`.
"""

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from elastic_ast_jax.audio.frontend import FrontendSpec
from elastic_ast_jax.audio.windows import Windows
from elastic_ast_jax.inference import clips
from elastic_ast_jax.inference.clips import Clip
from elastic_ast_jax.inference.predictor import Predictor, Progress
from elastic_ast_jax.utils.errors import UserError

# What matplotlib writes with translucent colours.
_SUFFIXES = ('.png', '.jpg', '.jpeg', '.pdf', '.svg', '.tif', '.tiff', '.webp')
# More columns than this cannot be told apart on a page.
_MOST_COLUMNS = 2000


class ExplanationError(UserError):
    """A recording cannot be explained, or not in the file asked for; says what is possible."""


class Explanation(NamedTuple):
    """What a model listened to, and what it heard.

    Attributes:
        log_mel: As the model saw it, normalised, by frames, or by several together if the recording
            is long; where windows overlap, their mean. NaN where there is no frame.
        frame_edges: Where these begin and end, in seconds.
        attention: Share of the pooled vector that came from each piece of the recording, mean over
            heads: columns are as long as a patch, or several, and bands are mel patches from the
            lowest. Sums to 1. Windows contribute by their lengths, as to the recording's result;
            their patches need not begin where columns do, and are spread over their frames.
        even: The same of a model that listens to all patches of a window alike. Where windows
        overlap, there is more of it.
        patch_edges: Where these columns begin and end, in seconds. A patch that the recording does
        not fill reaches beyond it.
        seconds: Length of the recording.
        windows: How many it was cut into.
        predictions: The likeliest classes and their probabilities.
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
    """Whether an explanation can be drawn to a file.

    Raises:
        ExplanationError: Not in a format of this suffix, or there is no such folder.
    """
    path = Path(file)
    if path.suffix.lower() not in _SUFFIXES:
        raise ExplanationError(
            f'--explain={file}: the suffix says the format of the drawing: use one of'
            f' {" ".join(_SUFFIXES)}'
        )
    if path.is_dir():
        raise ExplanationError(f'--explain={file}: is a folder; give the name of a file')
    if not path.parent.is_dir():
        raise ExplanationError(
            f'--explain={file}: there is no folder {path.parent}: make it, or choose another'
        )


def check_model(model: Predictor) -> None:
    """Whether what a model listens to can be told.

    Raises:
        ExplanationError: It is the fixed-length AST, whose head reads two tokens that are no part
        of the recording.
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
    """What a model listens to in a recording; arguments and errors are those of `run`."""
    frontend = model.config.frontend
    rate = frontend.sample_rate
    cut = model.windows(window, overlap)
    classes = min(top_k, len(model.labels))

    def keep(clip: Clip, parts: dict[str, np.ndarray]) -> tuple:
        if progress is not None:
            progress(clip.name, clip.stop / rate, clip.samples / rate)
        shares = parts['shares'].astype(np.float64).mean(axis=1).reshape(frontend.mel_patches, -1)
        return parts['logits'].astype(np.float64), shares

    logits, canvas = 0.0, None
    for clip, found in model.clip_outputs(
        clips.read_clips([path], frontend, cut), ('logits', 'shares'), keep
    ):
        if clip.error is not None:
            raise ExplanationError(clip.error)
        if canvas is None:
            canvas = _Canvas(frontend, clip, cut)
        weight = canvas.weight(clip)
        logits = logits + weight * found[0]
        canvas.add(clip, found[1])
    probabilities = model.probabilities(logits)
    best = np.argsort(-probabilities, kind='stable')[:classes]
    return Explanation(
        *canvas.drawn(),
        clip.samples / rate,
        clip.count,
        [(model.labels[number], float(probabilities[number])) for number in best],
    )


class _Canvas:
    """Frames of a whole recording, to which its windows add theirs."""

    def __init__(self, frontend: FrontendSpec, clip: Clip, cut: Windows):
        self._frontend = frontend
        self._total = sum(stop - start for start, stop in cut.spans(clip.samples))
        last, _ = cut.span(clip.samples, clip.count - 1)
        patches = (
            -(-self._first_frame(last) // frontend.patch_frames)
            + len(clip.patches) // frontend.mel_patches
        )
        # Frames that share a column of the spectrogram, and of the attention.
        self._together = -(-patches * frontend.patch_frames // _MOST_COLUMNS)
        self._wide = -(-patches // _MOST_COLUMNS) * frontend.patch_frames
        columns, wide_columns = (
            -(-patches * frontend.patch_frames // group) for group in (self._together, self._wide)
        )
        self._sound, self._counts = np.zeros((columns, frontend.mel_bins)), np.zeros((columns, 1))
        self._attention, self._even = np.zeros((2, wide_columns, frontend.mel_patches))

    def _first_frame(self, start: int) -> int:
        """Of a window; windows need not begin at whole frames."""
        return round(start / self._frontend.shift())

    def weight(self, clip: Clip) -> float:
        """Share of the recording's result that a window has."""
        return (clip.stop - clip.start) / self._total

    def add(self, clip: Clip, shares: Float[np.ndarray, 'bands patches']) -> None:
        """Adds a window's features, and the attention on each of its patches, by the window's
        weight.
        """
        frontend = self._frontend
        grid = clip.patches.reshape(
            frontend.mel_patches, -1, frontend.patch_mels, frontend.patch_frames
        )
        features = grid.transpose(1, 3, 0, 2).reshape(-1, frontend.mel_bins)
        place = self._first_frame(clip.start) + np.arange(len(features))
        of_a_frame = self.weight(clip) / frontend.patch_frames
        np.add.at(
            self._attention,
            place // self._wide,
            of_a_frame * np.repeat(shares.T, frontend.patch_frames, axis=0),
        )
        np.add.at(self._even, place // self._wide, of_a_frame / shares.size)
        frames = min(len(features), int(frontend.frames(clip.stop - clip.start, frontend.shift())))
        column = place[:frames] // self._together
        np.add.at(self._sound, column, features[:frames])
        np.add.at(self._counts, column, 1)

    def drawn(self) -> tuple[np.ndarray, ...]:
        """The first five fields of `Explanation`."""
        sound = np.divide(
            self._sound, self._counts, out=np.full_like(self._sound, np.nan), where=self._counts > 0
        )
        return (
            sound,
            self._edges(len(sound), self._together),
            self._attention,
            self._even,
            self._edges(len(self._attention), self._wide),
        )

    def _edges(self, columns: int, frames: int) -> Float[np.ndarray, 'edges']:
        """In seconds.

        A frame is drawn around the middle of its window, as wide as frames are apart.
        """
        frontend = self._frontend
        first = (frontend.window - frontend.shift()) / 2 - frontend.lead
        return (first + np.arange(columns + 1) * frames * frontend.shift()) / frontend.sample_rate
