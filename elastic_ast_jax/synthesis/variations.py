"""Vary a preset, as takes of one sound differ: pitch, tempo, size of the source, levels."""

import dataclasses

from elastic_ast_jax.synthesis.draws import Draws
from elastic_ast_jax.synthesis.sounds import Part, Resonance, Sound

__all__ = ['vary']

# Largest changes of the pitch and of the pitches within a sound, in semitones.
_PITCH, _GLIDE = 7.0, 1.0
# Largest change of the slope of the partials in dB an octave.
_TILT = 3.0
# Largest factors, up or down. The size moves all resonances together, as a larger or smaller body.
_TEMPO, _SIZE = 1.5, 1.2
_RHYTHM, _SPEED = 1.3, 1.2
_PLACE, _WIDTH = 1.05, 1.25
_LEVEL, _PARTIAL = 1.5, 1.6


def vary(sound: Sound, draws: Draws) -> Sound:
    """Return another take of a sound."""
    size, tempo = _factor(draws, _SIZE), _factor(draws, _TEMPO)
    depth = draws.uniform(0.6, 1.4)
    return dataclasses.replace(
        sound,
        seconds=sound.seconds * tempo,
        hertz=sound.hertz * 2 ** (draws.uniform(-_PITCH, _PITCH) / 12),
        parts=tuple(_vary_part(part, size, depth, draws) for part in sound.parts),
        levels=tuple(level * _factor(draws, _PARTIAL) for level in sound.levels),
        tilt=sound.tilt + draws.uniform(-_TILT, _TILT),
        vibrato=(sound.vibrato[0] * _factor(draws, _SPEED), sound.vibrato[1]),
        tremolo=(sound.tremolo[0] * _factor(draws, _SPEED), sound.tremolo[1]),
        repeats=max(2, sound.repeats + draws.integer(-1, 1)) if sound.repeats > 1 else 1,
        gap=sound.gap * tempo * _factor(draws, _RHYTHM),
    )


def _factor(draws: Draws, largest: float) -> float:
    """Return a factor up to the largest, or down to its inverse."""
    return draws.log_uniform(1 / largest, largest)


def _vary_part(part: Part, size: float, depth: float, draws: Draws) -> Part:
    slide = draws.uniform(-_GLIDE, _GLIDE)
    return part._replace(
        share=part.share * _factor(draws, _RHYTHM),
        start=part.start * depth + slide,
        end=part.end * depth + slide,
        tone=part.tone * _factor(draws, _LEVEL),
        noise=part.noise * _factor(draws, _LEVEL),
        attack=part.attack * _factor(draws, _LEVEL),
        decay=part.decay * _factor(draws, _WIDTH),
        damping=part.damping * _factor(draws, _LEVEL),
        resonances=tuple(_move(peak, size, draws) for peak in part.resonances),
        hiss=_move(part.hiss, size, draws),
    )


def _move(peak: Resonance, size: float, draws: Draws) -> Resonance:
    return Resonance(
        peak.hertz * size * _factor(draws, _PLACE),
        peak.octaves * _factor(draws, _WIDTH),
        peak.gain * _factor(draws, _LEVEL),
    )
