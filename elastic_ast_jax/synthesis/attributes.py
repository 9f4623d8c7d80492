"""Describe a sound by attributes: its parameters, each in one of a few ranges.

A network that names them has to hear pitch, resonances, noise, envelope, rhythm and room, and when
each of them changes.
"""

import math
import types
from collections.abc import Iterator, Sequence

from elastic_ast_jax.synthesis.presets import FAMILIES
from elastic_ast_jax.synthesis.sounds import Part, Room, Sound

__all__ = ['ATTRIBUTES', 'attributes']

# Level below which a tone or a noise is not heard beside the other.
_QUIET = 0.05
# Times in a repetition, as shares of it.
_MOMENTS = (1 / 6, 3 / 6, 5 / 6)
_VOWEL_HERTZ = (350, 500, 700, 1000, 1400, 2000, 2800, 4000)
_HISS_HERTZ = (200, 400, 800, 1500, 2500, 4000, 6000)
# Number of ranges of each parameter of a sound, and of each parameter of a moment.
_OF_SOUND = types.MappingProxyType(
    {
        'seconds': 6,
        'repeats': 6,
        'period': 6,
        'attack': 6,
        'decay': 6,
        'tremolo': 6,
        'vibrato': 4,
        'tilt': 5,
        'partials': 6,
        'damping': 7,
        'inharmonic': 2,
        'echo': 4,
        'background': 5,
        'lowpass': 2,
    }
)
_OF_MOMENT = types.MappingProxyType(
    {
        'pitch': 15,
        'bend': 6,
        'first peak': 1 + len(_VOWEL_HERTZ),
        'second peak': 1 + len(_VOWEL_HERTZ),
        'hiss': 1 + len(_HISS_HERTZ),
        'hiss width': 5,
        'noisiness': 6,
    }
)
ATTRIBUTES: tuple[str, ...] = (
    *(f'family {name}' for name in FAMILIES),
    *(f'{name} {n}' for name, count in _OF_SOUND.items() for n in range(count)),
    *(
        f'{name} at {when}: {n}'
        for name, count in _OF_MOMENT.items()
        for when in range(len(_MOMENTS))
        for n in range(count)
    ),
)


def attributes(sound: Sound, room: Room, family: str, seconds: float) -> tuple[str, ...]:
    """Return the attributes of a sound, some of `ATTRIBUTES`.

    Args:
        sound: Its parameters.
        room: What surrounds it.
        family: The family of its preset.
        seconds: Its length.
    """
    values = {**dict(_whole(sound, seconds)), **dict(_surroundings(room))}
    return (
        f'family {family}',
        *(f'{name} {_number(value, _OF_SOUND[name])}' for name, value in values.items()),
        *(
            f'{name} at {when}: {_number(value, _OF_MOMENT[name])}'
            for when, moment in enumerate(_MOMENTS)
            for name, value in _moment(sound, moment)
        ),
    )


def _whole(sound: Sound, seconds: float) -> Iterator[tuple[str, float]]:
    """Yield parameters of a sound, in units of their ranges."""
    stretch = seconds / sound.total_seconds  # rendering stretches a sound to its clip
    yield 'seconds', _octaves(seconds, 0.1)
    yield 'repeats', float(sound.repeats - 1)
    if sound.repeats > 1:
        yield 'period', _octaves((sound.seconds + sound.gap) * stretch, 0.05)
    longest = max(sound.parts, key=lambda part: part.share)
    yield 'attack', _octaves(longest.attack, 0.01)
    yield 'decay', longest.decay / 1.5
    rate, depth = sound.tremolo
    if depth > 0.2:
        yield 'tremolo', _octaves(rate / stretch, 2.0)
    rate, depth = sound.vibrato
    if depth > 0.1:
        yield 'vibrato', _octaves(rate / stretch, 3.0)
    if any(part.tone > _QUIET for part in sound.parts):
        yield 'tilt', -sound.tilt / 4
        yield 'partials', _octaves(float(len(sound.ratios)), 1.0)
        yield 'damping', _octaves(longest.damping / stretch, 0.1)
        yield 'inharmonic', float(any(abs(ratio - round(ratio)) > 0.1 for ratio in sound.ratios))


def _moment(sound: Sound, moment: float) -> Iterator[tuple[str, float]]:
    """Yield parameters at a share of the time of one repetition."""
    part, place = _part_at(sound.parts, moment)
    if part.tone > _QUIET:
        semitones = part.start + (part.end - part.start) * place
        yield 'pitch', 2 * math.log2(sound.hertz * 2 ** (semitones / 12) / 30)
        yield 'bend', (part.end - part.start) / 3 + 3
        peaks = sorted(peak.hertz for peak in part.resonances if peak.octaves < 2)
        for name, hertz in zip(('first peak', 'second peak'), peaks, strict=False):
            yield name, float(_between(hertz, _VOWEL_HERTZ))
    if part.noise > _QUIET:
        yield 'hiss', float(_between(part.hiss.hertz, _HISS_HERTZ))
        yield 'hiss width', _octaves(part.hiss.octaves, 0.15)
    yield 'noisiness', math.log2((part.noise + 1e-3) / (part.tone + 1e-3)) / 2 + 3


def _surroundings(room: Room) -> Iterator[tuple[str, float]]:
    yield 'echo', _octaves(room.seconds, 0.05)
    yield 'background', max(0.0, (room.noise_db + 70) / 12)
    if room.lowpass:
        yield 'lowpass', _octaves(room.lowpass, 2500.0)


def _part_at(parts: Sequence[Part], moment: float) -> tuple[Part, float]:
    """Return the part at a share of the time, and the place in it."""
    total = sum(part.share for part in parts)
    start = 0.0
    for part in parts:
        share = part.share / total
        if moment < start + share:
            return part, (moment - start) / share
        start += share
    return parts[-1], 1.0


def _octaves(value: float, lowest: float) -> float:
    """Return the octaves above the lowest value."""
    return math.log2(max(value, lowest) / lowest)


def _number(value: float, count: int) -> int:
    """Return the number of a range."""
    return min(max(int(value), 0), count - 1)


def _between(value: float, bounds: Sequence[int]) -> int:
    """Return how many bounds a value reaches."""
    return sum(value >= bound for bound in bounds)
