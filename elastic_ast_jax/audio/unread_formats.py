"""Name formats of sound that libsndfile does not read."""

__all__ = ['HEAD', 'name']

# Bytes at the start of a file that `name` needs.
HEAD = 64

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


def name(head: bytes) -> str | None:
    """Return the name of the format of a file by its first `HEAD` bytes, or None."""
    if head[4:8] == b'ftyp':
        return 'MP4 (M4A, with AAC or ALAC)'
    if head[:4] == b'RIFF' and head[8:12] == b'AVI ':
        return 'AVI'
    if head[:4] == b'OggS' and b'Speex   ' in head:
        return 'Speex'
    if head[:4] == b'caff' and head[28:32] in (b'alac', b'aac '):
        return f'{head[28:32].decode().strip().upper()} in CAF'
    if len(head) > 1 and head[0] == 0xFF and head[1] & 0xF6 == 0xF0:
        return 'AAC'
    return next((format_ for magic, format_ in _MAGIC.items() if head.startswith(magic)), None)
