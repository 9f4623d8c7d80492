"""Open recordings for decoding, after a check of what they hold."""

import contextlib
import io
import os
import stat
from collections.abc import Callable, Iterator
from typing import Any, cast

import soundfile

from elastic_ast_jax.audio import containers, decoder_notes, oddities, unread_formats
from elastic_ast_jax.audio.errors import AudioError
from elastic_ast_jax.audio.inspection import Inspection
from elastic_ast_jax.audio.recording import Part, Recording
from elastic_ast_jax.audio.spliced import SplicedFile

__all__ = ['failure', 'open_recording', 'raise_if_unreadable']

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
_BLOCK = 1 << 20  # bytes read at a time
_DAMAGED = 'libmpg123 complains of frames here, or in an MP3 that was read at the same time'


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
def open_recording(path: str | os.PathLike) -> Iterator[Recording]:
    """Yield the open recording, after a check of its header. What is odd about it is a warning.

    Raises:
        AudioError: See `reading.read_header`.
    """
    status = _status(path)
    inspection = _inspect(path, status, containers.inspect)
    silence = _silence(str(path)) if inspection.noisy else contextlib.nullcontext
    with contextlib.ExitStack() as stack:
        try:
            with silence():
                parts = _open_parts(path, inspection, stack)
                if inspection.unknown and parts[0].file.format == 'MP3':
                    inspection = _inspect(path, status, containers.inspect_mpeg)
                    parts = _open_parts(path, inspection, stack)
        except soundfile.SoundFileRuntimeError as error:
            raise_if_unreadable(path)
            raise AudioError(f'{path}: {_refusal(path, error)}') from error
        for part in parts:
            if problem := _header_problem(part, status.st_size, path):
                raise AudioError(f'{path}: {problem}')
        for kind, detail in inspection.oddities:
            oddities.report(str(path), kind, f'{kind}: {detail}' if detail else kind)
        yield Recording(parts, silence, odd=bool(inspection.oddities))


def _inspect(
    path: str | os.PathLike,
    status: os.stat_result,
    inspect: Callable[[str | os.PathLike, os.stat_result], Inspection],
) -> Inspection:
    """Return an inspection that shows no problem."""
    try:
        inspection = inspect(path, status)
    except OSError as error:
        raise unreadable(path, error) from error
    if inspection.problem:
        raise AudioError(f'{path}: {inspection.problem}')
    return inspection


def _silence(name: str) -> Callable[[], contextlib.AbstractContextManager]:
    """Return a function that turns what libmpg123 writes to standard error into a warning."""

    @contextlib.contextmanager
    def silence() -> Iterator[None]:
        with decoder_notes.keep_back() as notes:
            yield
        if notes:
            oddities.report(name, _DAMAGED, f'{_DAMAGED}: {notes[0]}')

    return silence


def _status(path: str | os.PathLike) -> os.stat_result:
    """Return the status of a regular file that is not empty."""
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
        unread = unread_formats.from_extension(path)
        assert unread is not None
        raise AudioError(
            f'{path}: is {unread.name}, so rate and format are unknown: convert it, for example'
            f' with {unread_formats.command(path, unread)}'
        )
    return status


def _open_parts(
    path: str | os.PathLike, inspection: Inspection, stack: contextlib.ExitStack
) -> list[Part]:
    """Return the recordings of a file; `stack` closes them."""
    if not inspection.links:
        file = stack.enter_context(_Sequential(os.fsencode(path)))
        return [Part(file, file.frames, path)]
    parts = []
    for link in inspection.links:
        pieces = stack.enter_context(SplicedFile(path, link.pieces))
        file = stack.enter_context(_Sequential(pieces))
        parts.append(Part(file, file.frames if link.frames is None else link.frames, None))
    return parts


def _refusal(path: str | os.PathLike, error: Exception) -> str:
    """Return why libsndfile cannot read a file, and what to do."""
    with open(path, 'rb') as file:
        unread = unread_formats.recognize(path, file.read(unread_formats.HEAD))
    if unread is None:
        return (
            f'libsndfile cannot read it ({failure(error)}): is it a recording? If so, convert it to'
            ' WAV or FLAC'
        )
    return (
        f'is {unread.name}, which libsndfile cannot read ({failure(error)}): convert it, for'
        f' example with {unread_formats.command(path, unread)}'
    )


def unreadable(path: str | os.PathLike, error: OSError) -> AudioError:
    """Return the error of a file that the system cannot read."""
    if isinstance(error, PermissionError):
        return AudioError(f'{path}: no permission to read it: change its permissions')
    return AudioError(f'{path}: cannot be read ({error.strerror}): check the disk, or get it again')


def raise_if_unreadable(path: str | os.PathLike) -> None:
    """Raise the error of the system if a file cannot be read to its end.

    libsndfile opens files itself and loses these errors. A file that it cannot decode is therefore
    read again.

    Raises:
        AudioError: The file cannot be read. Its cause is the `OSError`.
    """
    try:
        with open(path, 'rb', buffering=0) as file:
            while file.read(_BLOCK):
                pass
    except OSError as error:
        raise unreadable(path, error) from error


def _header_problem(part: Part, size: int, path: str | os.PathLike) -> str | None:
    """Return the fault of a recording of `size` bytes by its header in libsndfile, or None."""
    file, frames = part.file, part.frames
    sample_rate, channels = file.samplerate, file.channels
    low, high = _RATES
    if not low <= sample_rate <= high or channels < 1:
        return (
            f'the header says {sample_rate} Hz and {channels} channels, but sound has'
            f' {low} to {high} Hz and at least one channel: the file is damaged, or its header must'
            ' be corrected'
        )
    if file.format == 'RAW' and os.fspath(path).lower().endswith(('.au', '.snd')):
        return 'its header is missing, so rate and format are unknown: get it again or skip it'
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
