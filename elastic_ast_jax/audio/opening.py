"""Open recordings for decoding, after a check of what they hold."""

import contextlib
import io
import os
import stat
from collections.abc import Iterator
from typing import Any, cast

import soundfile

from elastic_ast_jax.audio import containers, mpeg, ogg
from elastic_ast_jax.audio.errors import AudioError

__all__ = ['failure', 'open_recording']

# Sample rates of sound, from infrasound to ultrasound. Other rates show a damaged header, and would
# need absurd resampling.
_RATES = (100, 10_000_000)
# Bytes of a sample in formats of constant width, by libsndfile's names.
_WIDTHS = {
    'PCM_S8': 1,
    'PCM_U8': 1,
    'PCM_16': 2,
    'PCM_24': 3,
    'PCM_32': 4,
    'FLOAT': 4,
    'DOUBLE': 8,
    'ULAW': 1,
    'ALAW': 1,
}
# FLAC compresses most: 65535 frames of silence may take about ten bytes.
_FRAMES_PER_BYTE = 8192


class _Sequential(soundfile.SoundFile):
    """Read a recording sequentially, without seeking.

    soundfile seeks to the current position after every call of `read`. In an MP3 the decoder then
    forgets the previous frames, whose bits it needs, and the next samples are wrong.
    """

    def __init__(self, file: bytes | io.RawIOBase):
        """Open a path, encoded as the file system does, or a file object."""
        super().__init__(cast(Any, file))  # the annotations of soundfile lack both types

    def seekable(self) -> bool:
        """Return False, so that soundfile does not seek."""
        return False


@contextlib.contextmanager
def open_recording(path: str | os.PathLike) -> Iterator[soundfile.SoundFile | ogg.Chain]:
    """Yield the open recording, after a check of its header."""
    try:
        status = os.stat(path)
    except FileNotFoundError as error:
        raise AudioError(_absence(os.fspath(path))) from error
    except (OSError, ValueError) as error:  # ValueError: an impossible path
        raise AudioError(
            f'{path}: cannot be opened ({getattr(error, "strerror", None) or error}): check the'
            ' path'
        ) from error
    if stat.S_ISDIR(status.st_mode):
        raise AudioError(f'{path}: is a folder, not a recording: pass the files in it')
    if not stat.S_ISREG(status.st_mode):
        raise AudioError(
            f'{path}: is not a regular file, so its length cannot be known: save the sound to a'
            ' file'
        )
    if not status.st_size:
        raise AudioError(f'{path}: the file is empty (0 bytes): get it again or skip it')
    if os.fspath(path).lower().endswith('.raw'):
        raise AudioError(
            f'{path}: raw samples without a header, so rate and format are unknown: convert to WAV'
        )
    try:
        problem = containers.problem(path, status.st_size)
    except PermissionError as error:
        raise AudioError(f'{path}: no permission to read it: change its permissions') from error
    except OSError as error:
        raise AudioError(
            f'{path}: cannot be read ({error.strerror}): check the disk, or get it again'
        ) from error
    if problem:
        raise AudioError(f'{path}: {problem}')
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(_Sequential(os.fsencode(path)))
            if file.format == 'MP3' and (measured := mpeg.with_frame_count(path, status.st_size)):
                file = stack.enter_context(_Sequential(stack.enter_context(measured)))
            elif file.format == 'OGG' and len(links := ogg.links(path, status.st_size)) > 1:
                parts = [stack.enter_context(ogg.Part(path, begin, end)) for begin, end in links]
                file = ogg.Chain([stack.enter_context(_Sequential(part)) for part in parts])
        except soundfile.SoundFileRuntimeError as error:
            raise AudioError(
                f'{path}: libsndfile cannot read it ({failure(error)}): is it a recording? '
                'If so, convert it to WAV or FLAC'
            ) from error
        except ogg.ChainError as error:
            raise AudioError(f'{path}: {error}: split it, or convert it to WAV or FLAC') from error
        problem = _header_problem(file, status.st_size)
        if problem:
            raise AudioError(f'{path}: {problem}')
        yield file


def _header_problem(file: soundfile.SoundFile | ogg.Chain, size: int) -> str | None:
    """Return the fault of a recording of `size` bytes by its header in libsndfile, or None."""
    frames, sample_rate, channels = file.frames, file.samplerate, file.channels
    low, high = _RATES
    if not low <= sample_rate <= high or channels < 1:
        return (
            f'the header says {sample_rate} Hz and {channels} channels, but sound has'
            f' {low} to {high} Hz and at least one channel: the file is damaged, or its header must'
            ' be corrected'
        )
    if frames < 1:
        return 'the recording holds no samples: get it again or skip it'
    if frames >= 1 << 62:  # libsndfile's mark for an unknown length
        return 'the header does not note the length: convert it to WAV or FLAC'
    if frames * channels > size:  # skip the lookup of the format for most files
        width = 0 if file.format == 'FLAC' else _WIDTHS.get(file.subtype, 0)
        if frames * channels * width > size or frames > size * _FRAMES_PER_BYTE:
            return (
                f'the header promises {frames} frames of {channels} channels, which {size} bytes'
                ' cannot hold: the file is damaged or truncated; get it again or skip it'
            )
    return None


def failure(error: Exception) -> str:
    """Return libsndfile's message, without the path that soundfile prepends."""
    return getattr(error, 'error_string', str(error)).rstrip('.')


def _absence(path: str) -> str:
    """Return a message that there is no file at a path."""
    if not path:
        return "'': an empty path names no recording: check the command or the list"
    if '://' in path:
        return f'{path}: is an address, and only local files are read: copy the recording here'
    if os.path.islink(path):
        target = os.readlink(path)
        return f'{path}: no such file, but a link to {target}, which does not exist: restore it'
    return f'{path}: no such file: check the path'
