"""Name formats of sound that libsndfile does not read, and the command that converts a file."""

import os
import shlex
from typing import NamedTuple

__all__ = ['HEAD', 'UnreadFormat', 'command', 'from_extension', 'recognize']

# Bytes at the start of a file that `recognize` needs.
HEAD = 64


class UnreadFormat(NamedTuple):
    """A format of sound.

    Attributes:
        name: The name, which follows 'is'.
        options: What ffmpeg must know to read it, besides the file.
        advice: What the user must set among the options.
    """

    name: str
    options: str = ''
    advice: str = ''


_MAGIC = {
    b'\x1aE\xdf\xa3': 'Matroska or WebM',
    b'wvpk': 'WavPack',
    b'0&\xb2u\x8ef\xcf\x11': 'Windows Media (WMA)',
    b'#!AMR': 'AMR',
    b'MAC ': "Monkey's Audio",
    b'TTA1': 'True Audio',
    b'MPCK': 'Musepack',
    b'MP+': 'Musepack',
    b'FLV': 'Flash video',
    b'DSD ': 'DSD',
    b'.RMF': 'RealMedia',
    b'MThd': 'MIDI, which is notes and no sound',
}
# Of WAV files, by the number of the format.
_WAV_CODECS = {
    0x0022: 'TrueSpeech',
    0x0042: 'G.723.1',
    0x0045: 'G.726',
    0x0050: 'MPEG audio',
    0x0055: 'MP3',
    0x0064: 'G.726',
    0x0065: 'G.722',
    0x0083: 'G.729',
    0x00FF: 'AAC',
    0x0130: 'Sipro speech',
    0x0160: 'Windows Media (WMA)',
    0x0161: 'Windows Media (WMA)',
    0x0162: 'Windows Media (WMA)',
    0x0163: 'Windows Media (WMA)',
    0x0270: 'ATRAC3',
    0x028F: 'G.722',
    0x1600: 'AAC',
    0x1610: 'AAC',
    0x2000: 'AC-3',
    0x2001: 'DTS',
    0xA106: 'AAC',
    0xF1AC: 'FLAC',
}
_BARE = 'without a header'
_CODE_SIZE = 'set -code_size to the bits of a sample (2 to 5; 4 at 32 kbit/s) and -ar to its rate'
_RATE = 'set -ar to its sample rate'
_LAYOUT = 'set -f to the format of a sample, -ar to the sample rate and -ac to the channels'
_G726 = UnreadFormat(f'G.726 {_BARE}', '-f g726 -code_size 4 -ar 8000', _CODE_SIZE)
_G726_REVERSED = UnreadFormat(f'G.726 {_BARE}', '-f g726le -code_size 4 -ar 8000', _CODE_SIZE)
_G722 = UnreadFormat(f'G.722 {_BARE}, always of 16000 Hz', '-f g722')
_MU_LAW = UnreadFormat(f'mu-law {_BARE}', '-f mulaw -ar 8000', _RATE)
_A_LAW = UnreadFormat(f'A-law {_BARE}', '-f alaw -ar 8000', _RATE)
_SAMPLES = UnreadFormat(f'raw samples {_BARE}', '-f s16le -ar 16000 -ac 1', _LAYOUT)
# Files without a header. The extension is all that they show.
_EXTENSIONS = {
    '.g722': _G722,
    '.722': _G722,
    '.g726': _G726,
    '.g726le': _G726_REVERSED,
    '.g723_1': UnreadFormat(f'G.723.1 {_BARE}', '-f g723_1'),
    '.g729': UnreadFormat(f'G.729 {_BARE}', '-f g729'),
    '.ul': _MU_LAW,
    '.ulaw': _MU_LAW,
    '.mulaw': _MU_LAW,
    '.al': _A_LAW,
    '.alaw': _A_LAW,
    '.sln': UnreadFormat(f'16-bit samples {_BARE}', '-f sln -ar 8000', _RATE),
    '.pcm': _SAMPLES,
    '.raw': _SAMPLES,
    '.s16': _SAMPLES,
    '.s16le': _SAMPLES,
    '.sw': _SAMPLES,
}


def from_extension(path: str | os.PathLike) -> UnreadFormat | None:
    """Return the format of a file without a header, as far as its extension says so, or None."""
    return _EXTENSIONS.get(os.path.splitext(os.fspath(path))[1].lower())


def recognize(path: str | os.PathLike, head: bytes) -> UnreadFormat | None:
    """Return the format of a file by its first `HEAD` bytes and its extension, or None."""
    if name := _name(head):
        return UnreadFormat(name)
    if unread := from_extension(path):
        return unread
    # Two bytes prove little.
    is_aac = len(head) > 1 and head[0] == 0xFF and head[1] & 0xF6 == 0xF0
    return UnreadFormat('AAC') if is_aac else None


def command(path: str | os.PathLike, unread: UnreadFormat) -> str:
    """Return how to convert a file, in its folder."""
    source = os.path.basename(os.fspath(path))
    stem, extension = os.path.splitext(source)
    target = f'{stem}_pcm.wav' if extension.lower() == '.wav' else f'{stem}.wav'
    source, target = (
        shlex.quote(f'./{name}' if name.startswith('-') else name) for name in (source, target)
    )
    words = ['ffmpeg', *([unread.options] if unread.options else []), '-i', source, target]
    advice = f' ({unread.advice})' if unread.advice else ''
    return f'{" ".join(words)}{advice}'


def _name(head: bytes) -> str | None:
    if head[4:8] == b'ftyp':
        return 'MP4 (M4A, with AAC or ALAC)'
    if head[:4] == b'RIFF' and head[8:12] == b'AVI ':
        return 'AVI'
    if head[:4] == b'RIFF' and head[8:16] == b'WAVEfmt ':
        codec = _WAV_CODECS.get(int.from_bytes(head[20:22], 'little'))
        return codec and f'{codec} in WAV'
    if head[:4] == b'OggS' and b'Speex   ' in head:
        return 'Speex'
    if head[:4] == b'caff' and head[28:32] in (b'alac', b'aac '):
        return f'{head[28:32].decode().strip().upper()} in CAF'
    return next((format_ for magic, format_ in _MAGIC.items() if head.startswith(magic)), None)
