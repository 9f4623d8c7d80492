"""Write recordings with the encoders that people use, in many settings, for the audit.

    python -m tests.audio.encode FOLDER

This needs ffmpeg, sox, lame, flac, oggenc, opusenc, twolame and speexenc (Debian packages `ffmpeg
sox libsox-fmt-all lame flac vorbis-tools opus-tools twolame speex`). A setting that an encoder
refuses is listed and left out. Names say encoder, setting, sample rate and channels.
"""

import argparse
import itertools
import pathlib
import shlex
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import soundfile

__all__ = ['COMMANDS', 'joined', 'sound', 'write_all']

# Sample rate, channels, seconds.
SHAPES = (
    (8000, 1, 2.0),
    (11025, 1, 1.3),
    (16000, 1, 2.0),
    (22050, 2, 1.7),
    (32000, 1, 1.0),
    (44100, 1, 0.05),
    (44100, 2, 2.5),
    (48000, 2, 1.5),
    (48000, 6, 1.0),
    (96000, 2, 1.0),
)

# {i}: a WAV of 16 bits; {o}: the file to write. `cat {i} |` and `pipe:1 >` write as into a pipe,
# without the length in the header.
_FFMPEG = 'ffmpeg -nostdin -v error -y -i {i}'
COMMANDS = {
    # ffmpeg's muxers and encoders
    **{
        f'ffmpeg-{codec}.{suffix}': f'{_FFMPEG} -c:a {codec} {{o}}'
        for suffix, codecs in {
            'wav': 'pcm_u8 pcm_s16le pcm_s24le pcm_s32le pcm_f32le pcm_f64le pcm_alaw pcm_mulaw'
            ' adpcm_ima_wav adpcm_ms adpcm_g726',
            'w64': 'pcm_s16le pcm_s24le pcm_f32le',
            'aiff': 'pcm_s8 pcm_s16be pcm_s24be pcm_s32be',
            'aifc': 'pcm_s16le pcm_f32be pcm_f64be pcm_mulaw',
            'au': 'pcm_s8 pcm_s16be pcm_s24be pcm_f32be pcm_mulaw pcm_alaw',
            'caf': 'pcm_s16be pcm_s24le pcm_f32be pcm_mulaw alac',
            'voc': 'pcm_u8 pcm_s16le',
            'sf': 'pcm_s16le pcm_f32le',
            'flac': 'flac',
            'ogg': 'libvorbis',
            'opus': 'libopus',
            'oga': 'flac libvorbis',
            'mp3': 'libmp3lame',
            'mp2': 'mp2',
            'm4a': 'aac alac',
            'wv': 'wavpack',
            'mka': 'pcm_s16le libvorbis',
            'webm': 'libopus',
        }.items()
        for codec in codecs.split()
    },
    'ffmpeg-native.ogg': f'{_FFMPEG} -c:a vorbis -strict -2 -ac 2 {{o}}',
    'ffmpeg-rf64.wav': f'{_FFMPEG} -rf64 always {{o}}',
    'ffmpeg-rf64-auto.wav': f'{_FFMPEG} -rf64 auto {{o}}',
    'ffmpeg-bext.wav': f'{_FFMPEG} -write_bext 1 -metadata description=odd {{o}}',
    'ffmpeg-peak.wav': f'{_FFMPEG} -write_peak on {{o}}',
    'ffmpeg-tags.aiff': f'{_FFMPEG} -write_id3v2 1 -metadata title=x {{o}}',
    'ffmpeg-tags.mp3': f'{_FFMPEG} -id3v2_version 3 -write_id3v1 1 -metadata title=x {{o}}',
    'ffmpeg-no-xing.mp3': f'{_FFMPEG} -write_xing 0 {{o}}',
    'ffmpeg-no-tags.mp3': f'{_FFMPEG} -id3v2_version 0 -write_xing 0 {{o}}',
    **{f'ffmpeg-{b}k.mp3': f'{_FFMPEG} -b:a {b}k {{o}}' for b in (32, 64, 128, 320)},
    **{f'ffmpeg-q{q}.mp3': f'{_FFMPEG} -q:a {q} {{o}}' for q in (0, 4, 9)},
    **{
        f'ffmpeg-pipe-{kind}.{suffix}': f'{_FFMPEG} {more} -f {kind} pipe:1 > {{o}}'
        for kind, suffix, more in (
            ('wav', 'wav', ''),
            ('w64', 'w64', ''),
            ('aiff', 'aiff', ''),
            ('au', 'au', ''),
            ('caf', 'caf', ''),
            ('flac', 'flac', ''),
            ('ogg', 'ogg', '-c:a libvorbis'),
            ('opus', 'opus', '-c:a libopus'),
            ('mp3', 'mp3', ''),
            ('adts', 'aac', '-c:a aac'),
        )
    },
    **{f'ffmpeg-opus-{b}k.opus': f'{_FFMPEG} -c:a libopus -b:a {b}k {{o}}' for b in (8, 24, 96)},
    # sox
    **{
        f'sox-{encoding}-{bits}.{suffix}': f'sox {{i}} -e {encoding} -b {bits} {{o}}'
        for suffix, encoding, bits in (
            ('wav', 'unsigned-integer', 8),
            ('wav', 'signed-integer', 16),
            ('wav', 'signed-integer', 24),
            ('wav', 'signed-integer', 32),
            ('wav', 'floating-point', 32),
            ('wav', 'floating-point', 64),
            ('wav', 'a-law', 8),
            ('wav', 'ms-adpcm', 4),
            ('wav', 'ima-adpcm', 4),
            ('aiff', 'signed-integer', 8),
            ('aiff', 'signed-integer', 24),
            ('aifc', 'signed-integer', 16),
            ('au', 'mu-law', 8),
            ('au', 'floating-point', 32),
            ('caf', 'signed-integer', 16),
            ('caf', 'floating-point', 32),
            ('w64', 'signed-integer', 16),
            ('sph', 'signed-integer', 16),
            ('sph', 'mu-law', 8),
            ('sf', 'signed-integer', 16),
            ('voc', 'unsigned-integer', 8),
            ('voc', 'signed-integer', 16),
            ('mat', 'floating-point', 64),
            ('mat4', 'signed-integer', 16),
            ('mat5', 'signed-integer', 16),
            ('paf', 'signed-integer', 16),
            ('pvf', 'signed-integer', 16),
            ('avr', 'signed-integer', 16),
            ('wve', 'a-law', 8),
        )
    },
    'sox-gsm.wav': 'sox {i} -e gsm-full-rate {o}',
    'sox.8svx': 'sox {i} {o}',
    'sox.htk': 'sox {i} {o}',
    'sox-pipe.wav': 'sox {i} -t wav - > {o}',
    'sox-pipe.aiff': 'sox {i} -t aiff - > {o}',
    'sox-pipe.au': 'sox {i} -t au - > {o}',
    'sox-pipe.w64': 'sox {i} -t w64 - > {o}',
    'sox-big-endian.wav': 'sox {i} -B {o}',
    'sox.flac': 'sox {i} {o}',
    **{f'sox-{q}.ogg': f'sox {{i}} -C {q} {{o}}' for q in (-1, 3, 10)},
    **{f'sox-{q}.mp3': f'sox {{i}} -C {q} {{o}}' for q in (64.2, 128.2, -4.2)},
    # lame
    **{f'lame-cbr{b}.mp3': f'lame --quiet --cbr -b {b} {{i}} {{o}}' for b in (16, 40, 128, 320)},
    **{f'lame-v{v}.mp3': f'lame --quiet -V {v} {{i}} {{o}}' for v in (0, 2, 5, 9)},
    'lame-abr.mp3': 'lame --quiet --abr 96 {i} {o}',
    'lame-no-note.mp3': 'lame --quiet -t {i} {o}',
    'lame-no-note-vbr.mp3': 'lame --quiet -t -V 4 {i} {o}',
    'lame-crc.mp3': 'lame --quiet -p {i} {o}',
    'lame-mono.mp3': 'lame --quiet -m m {i} {o}',
    'lame-joint.mp3': 'lame --quiet -m j -b 96 {i} {o}',
    'lame-dual.mp3': 'lame --quiet -m d -b 128 {i} {o}',
    'lame-no-reservoir.mp3': 'lame --quiet --nores -b 128 {i} {o}',
    'lame-free.mp3': 'lame --quiet --freeformat -b 144 {i} {o}',
    'lame-tags.mp3': 'lame --quiet --tt title --add-id3v2 --pad-id3v2-size 5000 {i} {o}',
    'lame-tags-v1.mp3': 'lame --quiet --tt title --id3v1-only {i} {o}',
    'lame-pipe.mp3': 'cat {i} | lame --quiet - - > {o}',
    'lame-resampled.mp3': 'lame --quiet --resample 16 {i} {o}',
    # flac
    **{f'flac-{level}.flac': f'flac -s -f -{level} -o {{o}} {{i}}' for level in (0, 5, 8)},
    'flac-ogg.oga': 'flac -s -f --ogg -o {o} {i}',
    'flac-pipe.flac': 'cat {i} | flac -s -f - -c > {o}',
    'flac-unknown.flac': 'cat {i} | flac -s -f --ignore-chunk-sizes - -c > {o}',
    'flac-no-seektable.flac': 'flac -s -f --no-seektable --no-padding -o {o} {i}',
    'flac-block.flac': 'flac -s -f --blocksize=576 -o {o} {i}',
    'flac-lax.flac': 'flac -s -f --lax --blocksize=32 -l 0 -o {o} {i}',
    'flac-padding.flac': 'flac -s -f -P 100000 -T ARTIST=x -o {o} {i}',
    # oggenc, opusenc and others
    **{f'oggenc-q{q}.ogg': f'oggenc -Q -q {q} -o {{o}} {{i}}' for q in (-1, 3, 6, 10)},
    'oggenc-managed.ogg': 'oggenc -Q --managed -b 64 -o {o} {i}',
    'oggenc-downmix.ogg': 'oggenc -Q --downmix -o {o} {i}',
    'oggenc-resampled.ogg': 'oggenc -Q --resample 16000 -o {o} {i}',
    'oggenc-tags.ogg': 'oggenc -Q -t title -c K=V -o {o} {i}',
    'oggenc-skeleton.ogg': 'oggenc -Q -k -t title -o {o} {i}',
    'oggenc-pipe.ogg': 'cat {i} | oggenc -Q - > {o}',
    **{f'opusenc-{b}.opus': f'opusenc --quiet --bitrate {b} {{i}} {{o}}' for b in (8, 16, 64, 160)},
    **{f'opusenc-{m}.opus': f'opusenc --quiet --{m} {{i}} {{o}}' for m in ('hard-cbr', 'cvbr')},
    'opusenc-60ms.opus': 'opusenc --quiet --framesize 60 {i} {o}',
    'opusenc-2.5ms.opus': 'opusenc --quiet --framesize 2.5 {i} {o}',
    'opusenc-mono.opus': 'opusenc --quiet --downmix-mono {i} {o}',
    'opusenc-delay.opus': 'opusenc --quiet --max-delay 0 {i} {o}',
    'opusenc-speech.opus': 'opusenc --quiet --speech {i} {o}',
    'opusenc-pipe.opus': 'cat {i} | opusenc --quiet - - > {o}',
    'opusenc-as-ogg.ogg': 'opusenc --quiet {i} {o}',
    'twolame.mp2': 'twolame --quiet {i} {o}',
    'twolame-as-mp3.mp3': 'twolame --quiet -b 128 {i} {o}',
    'speexenc.spx': 'speexenc {i} {o}',
}


def sound(sample_rate: int, channels: int, seconds: float) -> np.ndarray:
    """Return a sweep in noise below half of the band, which decays: `[samples, channels]`."""
    random = np.random.default_rng(sample_rate + channels)
    time = np.arange(round(sample_rate * seconds)) / sample_rate
    top = min(sample_rate, 16000) / 4
    sweep = np.sin(2 * np.pi * (100 * time + (top - 100) * time**2 / (2 * seconds)))
    hum = np.sin(2 * np.pi * 180 * time + np.arange(channels)[:, None])
    noise = random.standard_normal((channels, len(time)))
    return (np.exp(-time) * (0.3 * sweep + 0.2 * hum) + 0.003 * noise).T


def write_all(folder: pathlib.Path) -> list[str]:
    """Write all recordings and return the commands that an encoder refused."""
    folder.mkdir(parents=True, exist_ok=True)
    refused = []
    for rate, channels, seconds in SHAPES:
        source = folder / f'source-{rate}-{channels}.wav'
        soundfile.write(source, sound(rate, channels, seconds), rate, subtype='PCM_16')
        for name, command in COMMANDS.items():
            stem, _, suffix = name.rpartition('.')
            path = folder / f'{stem}-{rate}-{channels}.{suffix}'
            line = command.format(i=shlex.quote(str(source)), o=shlex.quote(str(path)))
            result = subprocess.run(
                ['bash', '-o', 'pipefail', '-c', line], capture_output=True, timeout=120
            )
            if result.returncode or not path.exists() or not path.stat().st_size:
                refused.append(line)
                path.unlink(missing_ok=True)
    for name, content in joined(folder):
        (folder / name).write_bytes(content)
    return refused


def joined(folder: pathlib.Path) -> Iterator[tuple[str, bytes]]:
    """Yield name and content of recordings that are several in one file, as `cat` joins them."""
    kinds = ('oggenc-q3', 'opusenc-64', 'lame-v5', 'lame-cbr128', 'ffmpeg-no-xing')
    for kind, suffix in zip(kinds, ('ogg', 'opus', 'mp3', 'mp3', 'mp3'), strict=True):
        paths = sorted(folder.glob(f'{kind}-*.{suffix}'))
        for first, second in itertools.product(paths, paths[::3]):
            name = f'joined-{first.stem}+{second.stem}.{suffix}'
            yield name, first.read_bytes() + second.read_bytes()


def main(argv: list[str] | None = None) -> int:
    """Write the recordings and list what encoders refused."""
    parser = argparse.ArgumentParser(prog='python -m tests.audio.encode')
    parser.add_argument('folder', type=pathlib.Path)
    options = parser.parse_args(argv)
    refused = write_all(options.folder)
    print(*refused, sep='\n')
    print(f'{len(list(options.folder.iterdir()))} recordings; {len(refused)} settings refused')
    return 0


if __name__ == '__main__':
    sys.exit(main())
