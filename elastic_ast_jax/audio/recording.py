"""Join the recordings that follow each other in a file, and read them as mono samples."""

import contextlib
import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import soundfile
from jaxtyping import Float32

from elastic_ast_jax.audio import frontend
from elastic_ast_jax.audio.ogg_pages import last_page_frames
from elastic_ast_jax.audio.waveforms import mix_to_mono

__all__ = ['Chain', 'Part', 'Recording', 'Section']

# Samples that a decoder of MP3 needs before the first result. An MPEG frame (up to 1152 samples)
# uses up to 511 bytes of the previous frames, which are 22 frames of the smallest kind.
_MPEG_MEMORY = 24 * 1152

# Returns a context for each call of a decoder.
Silence = Callable[[], contextlib.AbstractContextManager]


class Part(NamedTuple):
    """An open recording.

    Attributes:
        file: Decodes it.
        frames: Samples per channel.
        path: The file if it holds nothing else; None for a part of it.
    """

    file: soundfile.SoundFile
    frames: int
    path: str | os.PathLike | None

    def seek(self, frame: int) -> int:
        """Go to a frame at or before `frame` and return it.

        Decoding from it gives the same samples as decoding from the start of the recording. Nothing
        was decoded yet.

        Raises:
            soundfile.SoundFileRuntimeError: The file is damaged.
        """
        exact = max(0, self._exact_frame(frame))
        if not exact or not soundfile.SoundFile.seekable(self.file):
            return 0
        self.file.seek(exact)
        return exact

    def _exact_frame(self, frame: int) -> int:
        if self.file.format == 'MP3':
            return frame - _MPEG_MEMORY
        if self.file.format == 'OGG' and self.path is None:
            return 0
        if self.file.subtype == 'VORBIS' and frame:
            # Within the last page, libsndfile 1.2 seeks too far, by the padding of the last block.
            assert self.path is not None
            last_page = last_page_frames(self.path, os.path.getsize(self.path))
            return min(frame, self.frames - last_page - 1)
        return frame


class Chain:
    """Join consecutive recordings of one sample rate.

    Attributes:
        samplerate: Sample rate in Hz.
        frames: Samples per channel of all together.
        channels: The largest number of channels.

    Args:
        parts: The recordings.
        silence: Surrounds all decoding.
    """

    def __init__(self, parts: Sequence[Part], silence: Silence = contextlib.nullcontext):
        self._silence = silence
        self._parts, self._index, self._remaining = parts, 0, parts[0].frames
        self.samplerate = parts[0].file.samplerate
        self.frames = sum(part.frames for part in parts)
        self.channels = max(part.file.channels for part in parts)

    def seek(self, frame: int) -> int:
        """Go to a frame at or before `frame` and return it, see `Part.seek`."""
        index, begin = 0, 0
        while frame >= begin + self._parts[index].frames:
            begin += self._parts[index].frames
            index += 1
        with self._silence():
            position = self._parts[index].seek(frame - begin)
        self._index, self._remaining = index, self._parts[index].frames - position
        return begin + position

    def read(self, frames: int) -> Float32[np.ndarray, '_']:
        """Return the next frames, mono; fewer if a recording decodes to less than it promises.

        Raises:
            soundfile.SoundFileRuntimeError: The recording cannot be decoded.
        """
        pieces = []
        while True:
            count = min(frames, self._remaining)
            with self._silence():
                block = self._parts[self._index].file.read(count, dtype='float32')
            pieces.append(mix_to_mono(block))
            frames, self._remaining = frames - len(block), self._remaining - len(block)
            if not frames or len(block) < count or self._index + 1 == len(self._parts):
                return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
            self._index += 1
            self._remaining = self._parts[self._index].frames


class Section(NamedTuple):
    """A range of a chain.

    Attributes:
        chain: The chain.
        start: First frame, at the rate of the chain.
        stop: The frame behind the last one.
        samples: Samples that it becomes at the requested sample rate.
    """

    chain: Chain
    start: int
    stop: int
    samples: int


class Recording:
    """Hold an open file: chains of different sample rates, one after another.

    Attributes:
        samplerate: The highest sample rate in Hz, at which frames are counted.
        frames: Samples per channel.
        channels: The largest number of channels.
        odd: Whether opening it gave a warning.

    Args:
        parts: The recordings in the file.
        silence: Surrounds all decoding.
        odd: Whether opening it gave a warning.
    """

    def __init__(
        self,
        parts: Sequence[Part],
        silence: Silence = contextlib.nullcontext,
        *,
        odd: bool = False,
    ):
        groups: list[list[Part]] = []
        for part in parts:
            if not groups or groups[-1][0].file.samplerate != part.file.samplerate:
                groups.append([])
            groups[-1].append(part)
        self._chains = [Chain(group, silence) for group in groups]
        self.samplerate = max(chain.samplerate for chain in self._chains)
        self.channels = max(chain.channels for chain in self._chains)
        self._ends = list(itertools.accumulate(map(self._counted, self._chains)))
        self.frames, self.odd = self._ends[-1], odd

    def sections(self, start: int, stop: int, sample_rate: int) -> Iterator[Section]:
        """Yield what frames `[start, stop)` consist of.

        Their samples together are `frontend.resampled_length(stop - start, ...)`.
        """
        begin, samples = 0, 0
        for chain, end in zip(self._chains, self._ends, strict=True):
            if start < end and begin < stop:
                covered = frontend.resampled_length(
                    min(stop, end) - start, self.samplerate, sample_rate
                )
                ratio = chain.samplerate / self.samplerate
                first = min(round(max(0, start - begin) * ratio), chain.frames - 1)
                last = chain.frames if stop >= end else round((stop - begin) * ratio)
                yield Section(chain, first, max(first + 1, last), covered - samples)
                samples = covered
            begin = end

    def _counted(self, chain: Chain) -> int:
        """Return the frames of a chain at the sample rate of the recording."""
        return int(frontend.resampled_length(chain.frames, chain.samplerate, self.samplerate))
