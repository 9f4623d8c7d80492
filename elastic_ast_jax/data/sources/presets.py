"""Render a data set of random sounds, labelled with their presets and their parameters.

Each clip is a take of a random preset: another pitch, tempo, size and room. It is rendered when it
is read. Everything is a pure function of (seed, split, clip): a run over many clips never hears the
same sound twice, and adding clips changes none of the others. Both splits have the same presets.
"""

import hashlib
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32

from elastic_ast_jax.synthesis.attributes import ATTRIBUTES, attributes
from elastic_ast_jax.synthesis.draws import Draws
from elastic_ast_jax.synthesis.presets import draw_preset
from elastic_ast_jax.synthesis.rendering import render
from elastic_ast_jax.synthesis.rooms import draw_room
from elastic_ast_jax.synthesis.sounds import Room, Sound
from elastic_ast_jax.synthesis.variations import vary

__all__ = ['PresetSource']

# Part of the fingerprint: raise it with any change of the sounds.
VERSION = 2
_SPLITS = ('train', 'test')
# What a stream of random words is for. Streams of other sources have smaller numbers.
_CLIP, _SOUND, _PRESET = 8, 9, 10
# Longest silence before and after a sound, as a share of it.
_SILENCE = 0.2
_SHORTEST, _LONGEST = 0.1, 5.0
_PEAKS_DB = (-30.0, 0.0)


class PresetSource:
    """Hold the clips of one split of presets: a `Source`.

    Args:
        split: `'train'` or `'test'`. They share no sound.
        clips: Number of clips.
        presets: Number of presets.
        seed: The sounds of another seed are others.
        sample_rate: Sample rate in Hz.
    """

    skipped = ()

    def __init__(self, split: str, clips: int, presets: int, seed: int, sample_rate: int) -> None:
        self.sample_rate, self._seed = sample_rate, seed
        self._split = 1 + _SPLITS.index(split)
        self._presets = [draw_preset(self._draws(0, _PRESET, i)) for i in range(presets)]
        names = tuple(f'preset {i:0{len(str(presets - 1))}d}' for i in range(presets))
        self.classes = (*names, *ATTRIBUTES)
        self.keys = [f'presets/{split}/{clip:07d}' for clip in range(clips)]
        self.labels: list[tuple[str, ...]] = []
        samples = []
        for clip in map(self._draw, range(clips)):
            family, _ = self._presets[clip.preset]
            self.labels.append(
                (names[clip.preset], *attributes(clip.sound, clip.room, family, clip.seconds))
            )
            samples.append(clip.samples)
        self.samples = np.array(samples, np.int64)
        content = (
            f'presets version={VERSION} seed={seed} split={split} clips={clips} presets={presets}'
        )
        self.fingerprint = hashlib.sha256(f'{content} rate={sample_rate}'.encode()).hexdigest()

    def read(self, i: int) -> Float32[np.ndarray, 'samples']:
        """Render clip `i`, the same bits each time. Safe to call from several threads."""
        clip = self._draw(i)
        draws = self._draws(self._split, _SOUND, i)
        waveform = render(
            clip.sound,
            clip.room,
            int(clip.seconds * self.sample_rate),
            int(clip.silence * self.sample_rate),
            clip.samples,
            self.sample_rate,
            draws,
        )
        return waveform * np.float32(10 ** (draws.uniform(*_PEAKS_DB) / 20))

    def _draw(self, i: int) -> '_Clip':
        draws = self._draws(self._split, _CLIP, i)
        preset = draws.integer(0, len(self._presets) - 1)
        sound = vary(self._presets[preset][1], draws)
        room = draw_room(draws)
        seconds = min(max(sound.total_seconds, _SHORTEST), _LONGEST)
        before, after = (_SILENCE * seconds * draws.uniform() ** 2 for _ in range(2))
        samples = int((before + seconds + after) * self.sample_rate) + 1
        return _Clip(preset, sound, room, seconds, before, samples)

    def _draws(self, split: int, purpose: int, index: int) -> Draws:
        return Draws((self._seed, split << 60 | purpose << 56 | index))


class _Clip(NamedTuple):
    """Hold the parameters of a clip: preset, sound, silence before it, and its length."""

    preset: int
    sound: Sound
    room: Room
    seconds: float
    silence: float
    samples: int
