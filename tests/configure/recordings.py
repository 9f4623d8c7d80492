"""Write recordings of calls like those of animals, with noise, into class folders."""

import numpy as np
import soundfile

# Lowest and highest frequency in Hz, seconds of a call, and calls and seconds of a recording.
ANIMALS = {
    'whale': (20.0, 200.0, 1.5, 3, 6.0),
    'bird': (3000.0, 8000.0, 0.2, 3, 2.0),
    'bat': (30_000.0, 90_000.0, 0.005, 8, 1.0),
}
CLIPS = 12


def write_calls(
    root, animal, rate, *, amplitude=0.3, noise=1e-3, clips=CLIPS, add=None, subtype='PCM_16'
):
    """Write `clips` recordings of rising and of falling calls, a class each.

    `add` returns a further sound at given seconds.
    """
    for name in ('rising', 'falling'):
        (root / name).mkdir(parents=True, exist_ok=True)
        for clip in range(clips):
            rng = np.random.default_rng([clip, name == 'rising'])
            sound = calls(animal, rate, rng, falling=name == 'falling', amplitude=amplitude)
            sound += noise * rng.standard_normal(len(sound))
            if add is not None:
                sound += add(np.arange(len(sound)) / rate, rng)
            soundfile.write(root / name / f'{clip}.wav', sound, rate, subtype)
    return root


def calls(animal, rate, rng, *, falling=False, amplitude=0.3):
    """Return calls that sweep over the frequencies of an animal, at random times."""
    low, high, seconds, count, duration = ANIMALS[animal]
    sound = np.zeros(int(duration * rate))
    samples = int(seconds * rate)
    for start in rng.integers(0, len(sound) - samples, count):
        hertz = np.geomspace(low * rng.uniform(1, 1.2), high * rng.uniform(0.85, 1), samples)
        phase = 2 * np.pi * np.cumsum(hertz[::-1] if falling else hertz) / rate
        sound[start : start + samples] += amplitude * np.hanning(samples) * np.sin(phase)
    return sound
