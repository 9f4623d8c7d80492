"""Define a sound, as parameters of harmonics plus filtered noise that change from part to part."""

import dataclasses
import math
from typing import NamedTuple

__all__ = ['Part', 'Resonance', 'Room', 'Sound']


class Resonance(NamedTuple):
    """Emphasize a band: a Gaussian over the octaves of frequency.

    Attributes:
        hertz: Its center.
        octaves: Its width.
        gain: Its height.
    """

    hertz: float
    octaves: float
    gain: float


class Part(NamedTuple):
    """Describe a part of a sound, between its onset and its end.

    Attributes:
        share: Length, relative to that of the other parts.
        start, end: Pitch in semitones above that of the sound.
        tone: Level of the partials.
        noise: Level of the noise.
        attack: Share of the part until the full level.
        decay: Nepers that the level falls from there to the end of the part.
        damping: Nepers a second that partials fall, for each kilohertz of theirs.
        resonances: Of the partials.
        hiss: Of the noise.
    """

    share: float
    start: float
    end: float
    tone: float
    noise: float
    attack: float
    decay: float
    damping: float
    resonances: tuple[Resonance, ...]
    hiss: Resonance


class Room(NamedTuple):
    """Describe what surrounds a sound.

    Attributes:
        seconds: Until the echo has fallen by 60 dB; 0 for none.
        level: Level of the echo.
        noise_db: Level of background noise relative to the sound's.
        noise_tilt: Its slope in dB an octave.
        lowpass: Hz above which the microphone hears nothing; 0 for no limit.
        highpass: Hz below which it hears nothing; 0 for no limit.
    """

    seconds: float = 0.0
    level: float = 0.0
    noise_db: float = -math.inf
    noise_tilt: float = 0.0
    lowpass: float = 0.0
    highpass: float = 0.0


@dataclasses.dataclass(frozen=True)
class Sound:
    """Hold the parameters of a sound.

    Attributes:
        seconds: Length of one repetition.
        hertz: Pitch.
        parts: One after another.
        ratios: Frequencies of the partials, relative to the pitch.
        levels: Levels of the partials.
        tilt: Slope of the partials' levels in dB an octave.
        glide: Seconds in which one part becomes the next.
        vibrato: Cycles a second, and semitones.
        tremolo: Cycles a second, and share of the level.
        repeats: Times that the parts are played.
        gap: Seconds between repetitions.
    """

    seconds: float
    hertz: float
    parts: tuple[Part, ...]
    ratios: tuple[float, ...]
    levels: tuple[float, ...]
    tilt: float
    glide: float
    vibrato: tuple[float, float]
    tremolo: tuple[float, float]
    repeats: int
    gap: float

    @property
    def total_seconds(self) -> float:
        """Return the length of all repetitions in seconds."""
        return self.repeats * self.seconds + (self.repeats - 1) * self.gap
