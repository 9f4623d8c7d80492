"""Draw presets: sounds of several families whose parameters are random.

The families resemble speech, instruments, struck objects, animals, machines, and noises. No sound
imitates a certain word, instrument or animal.
"""

import types
from collections.abc import Callable

import numpy as np

from elastic_ast_jax.synthesis.draws import Draws, Number
from elastic_ast_jax.synthesis.sounds import Part, Resonance, Sound

__all__ = ['FAMILIES', 'draw_preset']

_HARMONICS = 40
_FLAT = Resonance(1000.0, 8.0, 1.0)
_STILL = (0.0, 0.0)


def draw_preset(draws: Draws) -> tuple[str, Sound]:
    """Return a random family and a sound of it."""
    names = list(FAMILIES)
    bounds = np.cumsum([share for share, _ in FAMILIES.values()])
    number = int(np.searchsorted(bounds, draws.uniform(0, bounds[-1]), side='right'))
    name = names[min(number, len(names) - 1)]
    return name, FAMILIES[name][1](draws)


def _harmonics(draws: Draws) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return ratios and levels of a harmonic sound: all, or odd ones, or some that stand out."""
    count = draws.integer(3, _HARMONICS)
    stretch = draws.log_uniform(1e-6, 1e-3) if draws.chance(0.3) else 0.0
    odd = draws.chance(0.25)
    ragged = draws.uniform(0, 1) if draws.chance(0.5) else 0.0
    ratios, levels = [], []
    for k in range(1, count + 1):
        ratios.append(k * (1 + stretch * k * k) ** 0.5)
        level = (0.1 if odd and k % 2 == 0 else 1.0) * draws.uniform(1 - ragged, 1)
        levels.append(max(level, 1e-3))
    return tuple(ratios), tuple(levels)


def _resonances(draws: Draws, count: int, low: Number, high: Number) -> tuple[Resonance, ...]:
    return tuple(
        Resonance(
            draws.log_uniform(low, high), draws.log_uniform(0.1, 1.0), draws.log_uniform(0.1, 1.0)
        )
        for _ in range(count)
    )


def _hiss(draws: Draws, low: Number = 200.0, high: Number = 7000.0) -> Resonance:
    return Resonance(draws.log_uniform(low, high), draws.log_uniform(0.15, 2.5), 1.0)


def _speech(draws: Draws) -> Sound:
    """Return voiced and unvoiced parts with three formants that glide from one to the next."""
    parts = []
    for _ in range(draws.integer(1, 5)):
        kind = draws.uniform()
        formants = (
            Resonance(draws.log_uniform(250, 900), draws.uniform(0.15, 0.4), 1.0),
            Resonance(draws.log_uniform(700, 2500), draws.uniform(0.1, 0.3), draws.uniform(0.1, 1)),
            Resonance(
                draws.log_uniform(2000, 3600), draws.uniform(0.1, 0.3), draws.uniform(0, 0.5)
            ),
        )
        voiced, fricative = kind < 0.6, 0.6 <= kind < 0.9
        parts.append(
            Part(
                share=draws.log_uniform(0.4, 2.0) * (1.0 if voiced else 0.6),
                start=draws.uniform(-3, 3),
                end=draws.uniform(-4, 2),
                tone=draws.uniform(0.5, 1.0) if voiced else 0.0,
                noise=draws.log_uniform(0.05, 0.6) if fricative else draws.uniform(0, 0.03),
                attack=draws.log_uniform(0.02, 0.4),
                decay=draws.uniform(0, 1.0) if voiced or fricative else draws.uniform(3, 8),
                damping=0.0,
                resonances=formants,
                hiss=_hiss(draws, 900, 7000),
            )
        )
    ratios = tuple(float(k) for k in range(1, _HARMONICS + 1))
    return Sound(
        seconds=draws.log_uniform(0.15, 0.9),
        hertz=draws.log_uniform(80, 320),
        parts=tuple(parts),
        ratios=ratios,
        levels=(1.0,) * _HARMONICS,
        tilt=draws.uniform(-9, -3),
        glide=draws.log_uniform(0.02, 0.12),
        vibrato=_STILL,
        tremolo=_STILL,
        repeats=1,
        gap=0.0,
    )


def _instrument(draws: Draws) -> Sound:
    """Return a pitched sound that is blown, bowed, plucked or played by keys."""
    ratios, levels = _harmonics(draws)
    plucked = draws.chance(0.5)
    resonances = (_FLAT, *_resonances(draws, draws.integer(1, 3), 200, 5000))
    onset = Part(
        share=draws.log_uniform(0.01, 0.15),
        start=draws.uniform(-0.5, 0.2),
        end=0.0,
        tone=draws.uniform(0.3, 1.0),
        noise=draws.log_uniform(0.003, 0.5),
        attack=draws.log_uniform(0.01, 0.9),
        decay=0.0,
        damping=0.0,
        resonances=resonances,
        hiss=_hiss(draws),
    )
    body = onset._replace(
        share=1.0,
        start=0.0,
        tone=1.0,
        noise=draws.log_uniform(0.001, 0.1),
        attack=0.001,
        decay=draws.uniform(2, 7) if plucked else draws.uniform(0, 1.5),
        damping=draws.log_uniform(0.1, 6.0) if plucked else draws.uniform(0, 0.2),
    )
    return Sound(
        seconds=draws.log_uniform(0.2, 3.0),
        hertz=draws.log_uniform(40, 1600),
        parts=(onset, body),
        ratios=ratios,
        levels=levels,
        tilt=draws.uniform(-14, 0),
        glide=draws.log_uniform(0.01, 0.1),
        vibrato=(draws.uniform(3, 8), draws.uniform(0, 0.6)) if draws.chance(0.3) else _STILL,
        tremolo=(draws.uniform(3, 12), draws.uniform(0, 0.7)) if draws.chance(0.2) else _STILL,
        repeats=1,
        gap=0.0,
    )


def _struck(draws: Draws) -> Sound:
    """Return inharmonic partials that die away after a burst of noise: drums, bells, wood."""
    ratio, ratios = 1.0, [1.0]
    for _ in range(draws.integer(0, 14)):
        ratio *= draws.log_uniform(1.05, 1.8)
        ratios.append(ratio)
    levels = tuple(draws.log_uniform(0.1, 1.0) for _ in ratios)
    sweep = draws.uniform(0, 24) if draws.chance(0.4) else 0.0
    burst = Part(
        share=draws.log_uniform(0.02, 0.2),
        start=sweep,
        end=sweep * draws.uniform(0, 0.5),
        tone=draws.uniform(0.1, 1.0),
        noise=draws.log_uniform(0.02, 2.0),
        attack=0.005,
        decay=draws.uniform(0, 3),
        damping=0.0,
        resonances=(_FLAT,),
        hiss=_hiss(draws, 100, 8000),
    )
    tail = burst._replace(
        share=1.0,
        start=burst.end,
        end=0.0,
        noise=draws.log_uniform(0.002, 0.5),
        attack=0.001,
        decay=draws.uniform(3, 9),
        damping=draws.log_uniform(0.3, 20.0),
        hiss=_hiss(draws, 100, 8000),
    )
    noisy = draws.chance(0.3)  # cymbals, shakers
    return Sound(
        seconds=draws.log_uniform(0.1, 2.0),
        hertz=draws.log_uniform(45, 2500),
        parts=tuple(part._replace(tone=0.0) for part in (burst, tail)) if noisy else (burst, tail),
        ratios=tuple(ratios),
        levels=levels,
        tilt=draws.uniform(-6, 2),
        glide=0.01,
        vibrato=_STILL,
        tremolo=_STILL,
        repeats=1 if draws.chance(0.8) else draws.integer(2, 5),
        gap=draws.uniform(0, 0.1),
    )


def _animal(draws: Draws) -> Sound:
    """Return calls with strong glides, once or several times: birds, frogs, dogs, insects."""
    count = draws.integer(1, 3)
    noisy = draws.log_uniform(0.002, 1.0)
    parts = []
    for _ in range(count):
        width = draws.log_uniform(0.5, 18)
        parts.append(
            Part(
                share=draws.log_uniform(0.3, 2.0),
                start=draws.uniform(-width, width),
                end=draws.uniform(-width, width),
                tone=1.0,
                noise=noisy * draws.log_uniform(0.2, 1.0),
                attack=draws.log_uniform(0.02, 0.8),
                decay=draws.uniform(0, 4),
                damping=0.0,
                resonances=(
                    Resonance(1000.0, 4.0, 0.2),
                    *_resonances(draws, 2, 300, 6000),
                ),
                hiss=_hiss(draws, 300, 7500),
            )
        )
    ratios, levels = _harmonics(draws)
    buzzing = draws.chance(0.3)
    return Sound(
        seconds=draws.log_uniform(0.04, 0.8),
        hertz=draws.log_uniform(120, 5000),
        parts=tuple(parts),
        ratios=ratios,
        levels=levels,
        tilt=draws.uniform(-18, -2),
        glide=draws.log_uniform(0.01, 0.05),
        vibrato=(draws.uniform(5, 40), draws.uniform(0, 3)) if draws.chance(0.3) else _STILL,
        tremolo=(draws.uniform(8, 90), draws.uniform(0.3, 1)) if buzzing else _STILL,
        repeats=draws.integer(1, 8) if draws.chance(0.6) else 1,
        gap=draws.log_uniform(0.01, 0.3),
    )


def _machine(draws: Draws) -> Sound:
    """Return steady hums, alarms, motors and ticking: tones and noise in a regular rhythm."""
    ratios, levels = _harmonics(draws)
    alternating = draws.integer(1, 3)
    noise = draws.log_uniform(0.01, 1.0)
    part = Part(
        share=1.0,
        start=0.0,
        end=0.0,
        tone=1.0 if draws.chance(0.8) else 0.0,
        noise=noise,
        attack=draws.log_uniform(0.01, 0.2),
        decay=draws.uniform(0, 5) if draws.chance(0.3) else 0.0,
        damping=0.0,
        resonances=(_FLAT, *_resonances(draws, 2, 200, 6000)),
        hiss=_hiss(draws, 100, 7000),
    )
    parts = []
    for _ in range(alternating):
        pitch = draws.uniform(-9, 9) if alternating > 1 else 0.0
        slide = draws.uniform(-12, 12) if draws.chance(0.25) else 0.0
        parts.append(part._replace(start=pitch, end=pitch + slide))
    pulsing = draws.chance(0.5)
    return Sound(
        seconds=draws.log_uniform(0.1, 1.2),
        hertz=draws.log_uniform(35, 3000),
        parts=tuple(parts),
        ratios=ratios,
        levels=levels,
        tilt=draws.uniform(-10, 0),
        glide=draws.log_uniform(0.005, 0.1),
        vibrato=_STILL,
        tremolo=(draws.log_uniform(2, 60), draws.uniform(0.2, 1)) if pulsing else _STILL,
        repeats=draws.integer(1, 6),
        gap=draws.uniform(0, 0.2),
    )


def _noises(draws: Draws) -> Sound:
    """Return noise whose band moves: wind, water, steps, doors, breath."""
    parts = tuple(
        Part(
            share=draws.log_uniform(0.2, 2.0),
            start=0.0,
            end=0.0,
            tone=0.0,
            noise=draws.log_uniform(0.1, 1.0),
            attack=draws.log_uniform(0.01, 0.9),
            decay=draws.uniform(0, 6),
            damping=0.0,
            resonances=(_FLAT,),
            hiss=_hiss(draws, 80, 8000),
        )
        for _ in range(draws.integer(1, 4))
    )
    grainy = draws.chance(0.4)
    return Sound(
        seconds=draws.log_uniform(0.1, 2.0),
        hertz=100.0,
        parts=parts,
        ratios=(1.0,),
        levels=(1.0,),
        tilt=0.0,
        glide=draws.log_uniform(0.005, 0.3),
        vibrato=_STILL,
        tremolo=(draws.log_uniform(3, 80), draws.uniform(0.3, 1)) if grainy else _STILL,
        repeats=1 if draws.chance(0.6) else draws.integer(2, 6),
        gap=draws.uniform(0, 0.15),
    )


# Families by name, with their shares of the presets.
FAMILIES: types.MappingProxyType[str, tuple[float, Callable[[Draws], Sound]]] = (
    types.MappingProxyType(
        {
            'speech': (0.3, _speech),
            'instrument': (0.2, _instrument),
            'struck': (0.15, _struck),
            'animal': (0.15, _animal),
            'machine': (0.1, _machine),
            'noise': (0.1, _noises),
        }
    )
)
