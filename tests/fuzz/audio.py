"""Fuzz the reader of recordings: damaged files of all formats.

python -m tests.fuzz.audio --count 10000
"""

import pathlib
import sys
from typing import Any

import numpy as np
import soundfile

from elastic_ast_jax.audio import mpeg
from tests.fuzz import byte_damage, ogg_flac, runner
from tests.fuzz.target import Target, random_of

__all__ = ['FORMATS', 'AudioFiles', 'original']

# Name, libsndfile's container and encoding, suffix.
FORMATS = [
    ('WAV', 'WAV', 'PCM_16', 'wav'),
    ('WAV of floats', 'WAV', 'FLOAT', 'wav'),
    ('WAV of ADPCM', 'WAV', 'IMA_ADPCM', 'wav'),
    ('WAVEX', 'WAVEX', 'PCM_24', 'wav'),
    ('W64', 'W64', 'PCM_16', 'w64'),
    ('RF64', 'RF64', 'PCM_16', 'rf64'),
    ('AIFF', 'AIFF', 'PCM_16', 'aiff'),
    ('AU', 'AU', 'ULAW', 'au'),
    ('CAF', 'CAF', 'PCM_24', 'caf'),
    ('CAF of ALAC', 'CAF', 'ALAC_16', 'caf'),
    ('FLAC', 'FLAC', 'PCM_16', 'flac'),
    ('Ogg Vorbis', 'OGG', 'VORBIS', 'ogg'),
    ('Ogg Opus', 'OGG', 'OPUS', 'opus'),
    ('Ogg FLAC', 'FLAC', 'PCM_16', 'oga'),
    ('chained Ogg', 'OGG', 'VORBIS', 'ogg'),
    ('MP3', 'MP3', 'MPEG_LAYER_III', 'mp3'),
    ('MP3 of constant bitrate', 'MP3', 'MPEG_LAYER_III', 'mp3'),
    ('MP3 without a header', 'MP3', 'MPEG_LAYER_III', 'mp3'),
    ('MP3 behind a tag', 'MP3', 'MPEG_LAYER_III', 'mp3'),
    ('NIST', 'NIST', 'PCM_16', 'sph'),
    ('SVX', 'SVX', 'PCM_16', 'iff'),
    ('VOC', 'VOC', 'PCM_16', 'voc'),
    ('IRCAM', 'IRCAM', 'PCM_16', 'sf'),
    ('PVF', 'PVF', 'PCM_16', 'pvf'),
    ('MAT4', 'MAT4', 'PCM_16', 'mat'),
    ('MAT5', 'MAT5', 'PCM_16', 'mat'),
    ('PAF', 'PAF', 'PCM_16', 'paf'),
    ('XI', 'XI', 'DPCM_16', 'xi'),
]
_TARGET_RATE = 8000
_BLOCK = 1000


class AudioFiles(Target):
    """Read damaged recordings: header, samples and blocks, which must agree."""

    mebibytes = 1024.0

    def prepare(self, folder: pathlib.Path) -> None:
        """Write a recording of each format."""
        self._originals = [original(folder, i) for i in range(len(FORMATS))]

    def make(self, seed: int, index: int, folder: pathlib.Path) -> pathlib.Path:
        """Damage the recording of a format; the formats take turns."""
        random = random_of(seed, index)
        which = index % len(FORMATS)
        other = random.choice(self._originals)
        # Half of the splices are with the same format, which damages headers less.
        if random.random() < 0.5:
            other = self._originals[which]
        path = folder / f'{index}.{FORMATS[which][3]}'
        path.write_bytes(byte_damage.damage(self._originals[which], random, other))
        return path

    def use(self, path: pathlib.Path) -> str:
        """Read the recording and check that its length is what the header says."""
        from elastic_ast_jax.audio import frontend, reading

        header = reading.read_header(path)
        samples = reading.read(path, _TARGET_RATE)
        expected = frontend.resampled_length(header.frames, header.sample_rate, _TARGET_RATE)
        assert len(samples) == expected, f'{len(samples)} samples, the header says {expected}'
        assert np.isfinite(samples).all(), 'samples are not finite'
        first = next(reading.read_blocks(path, _TARGET_RATE, _BLOCK))
        np.testing.assert_array_equal(first, samples[: len(first)])
        middle = header.frames // 2
        part = reading.read(path, header.sample_rate, middle, min(header.frames, middle + 100))
        assert 0 < len(part) <= 100
        return f'{header.frames} frames, {header.sample_rate} Hz, {header.channels} channels'


def original(folder: pathlib.Path, which: int) -> bytes:
    """Return an undamaged recording of a format: 0.4 s of two tones, mono or stereo."""
    name, container, subtype, _ = FORMATS[which]
    n = np.arange(6400)
    samples = np.stack(
        [0.4 * np.sin(n / 7), 0.3 * np.sin(n / 5) + 0.1 * np.sin(n * n / 9e3)], axis=1
    )
    channels = 1 if container in ('SVX', 'XI') else 1 + which % 2
    path = folder / f'original-{which}'
    options: dict[str, Any] = {'bitrate_mode': 'CONSTANT'} if 'constant' in name else {}
    soundfile.write(
        path, samples[:, :channels], 16000, format=container, subtype=subtype, **options
    )
    content = path.read_bytes()
    if name == 'Ogg FLAC':
        return ogg_flac.from_flac(content)
    if name == 'chained Ogg':
        return content + content
    if name == 'MP3 without a header':
        frame = mpeg.parse_frame(content)
        assert frame is not None
        return content[frame[0] :]
    if name == 'MP3 behind a tag':
        return b'ID3\4\0\0' + bytes((0, 0, 2, 0)) + bytes(256) + content
    return content


if __name__ == '__main__':
    sys.exit(runner.main('tests.fuzz.audio:AudioFiles', 10_000))
