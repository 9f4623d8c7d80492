"""Render sounds: a sum of partials, filtered noise, a room.

Parameters change at a control rate. Partials are sinusoids with levels that are interpolated
between its frames; noise is filtered frame by frame and overlapped (Serra & Smith, 1990).
"""

import numpy as np
from jaxtyping import Float32, Float64
from scipy import signal
from scipy.fft import next_fast_len

from elastic_ast_jax.synthesis.draws import Draws
from elastic_ast_jax.synthesis.sounds import Resonance, Room, Sound
from elastic_ast_jax.utils import philox

__all__ = ['render']

# Frames a second.
_CONTROL_RATE = 200
# Frames of the transform of the noise, in hops.
_OVERLAP = 2
_FLOOR = 1e-3
# Lowest frequency, in Hz, of the logarithmic axis.
_LOWEST = 20.0
_EDGE_SECONDS = 0.002


def render(
    sound: Sound,
    room: Room,
    sounding: int,
    start: int,
    length: int,
    sample_rate: int,
    draws: Draws,
) -> Float32[np.ndarray, 'length']:
    """Render a sound.

    Args:
        sound: Its parameters.
        room: What surrounds it.
        sounding: Samples that the sound is stretched to.
        start: Samples before it.
        length: Samples of the result.
        sample_rate: In Hz.
        draws: Phases and noise.

    Returns:
        Samples whose largest is 1, or all 0.
    """
    hop = max(1, sample_rate // _CONTROL_RATE)
    controls = _Controls(sound, -(-sounding // hop) + 1)
    dry = _partials(sound, controls, hop, sample_rate, draws)
    dry += _noise(controls, hop, sample_rate, draws)
    dry = dry[:sounding]
    edge = min(int(_EDGE_SECONDS * sample_rate), sounding // 2)
    ramp = np.linspace(0, 1, edge, dtype=np.float32)
    dry[:edge] *= ramp
    dry[sounding - edge :] *= ramp[::-1]
    waveform = np.zeros(length, np.float32)
    waveform[start : start + sounding] = dry
    waveform = _place(waveform, room, sample_rate, draws)
    peak = np.abs(waveform).max(initial=0.0)
    return waveform / peak if peak > 0 else waveform


class _Controls:
    """Hold the parameters of a sound at each frame.

    Attributes:
        pitch: Semitones above that of the sound, `[N]`.
        tone, noise: Levels, `[N]`.
        age: Seconds since the onset of the part, `[N]`.
        damping: See `Part`, `[N]`.
        resonances: Center in octaves above the lowest frequency, octaves, gain, `[N, K, 3]`.
        hiss: The same of the noise, `[N, 1, 3]`.
    """

    def __init__(self, sound: Sound, frames: int) -> None:
        seconds = np.arange(frames) * sound.total_seconds / max(1, frames - 1)
        period = sound.seconds + sound.gap
        repeat = np.minimum((seconds / period).astype(int), sound.repeats - 1)
        within = seconds - repeat * period
        silent = within > sound.seconds + 1e-9
        shares = np.array([part.share for part in sound.parts])
        ends = np.cumsum(shares) / shares.sum() * sound.seconds
        index = np.minimum(np.searchsorted(ends, within, side='right'), len(ends) - 1)
        starts = np.concatenate([[0.0], ends[:-1]])
        lengths = np.maximum(ends - starts, 1e-3)
        self.age = within - starts[index]
        place = np.clip(self.age / lengths[index], 0, 1)

        def values(name: str) -> np.ndarray:
            return np.array([getattr(part, name) for part in sound.parts])[index]

        attack = np.maximum(values('attack'), 1e-3)
        level = np.minimum(place / attack, 1.0)
        level = level * np.exp(-values('decay') * np.maximum(place - attack, 0) / (1 - attack))
        level = level * ~silent
        rate, depth = sound.tremolo
        level = level * (1 - depth * (0.5 + 0.5 * np.sin(2 * np.pi * rate * seconds)))
        rate, depth = sound.vibrato
        pitch = values('start') + (values('end') - values('start')) * place
        width = max(1, round(sound.glide * _CONTROL_RATE))
        # A repetition jumps back to its first part.
        smoothed = width if sound.repeats == 1 else 1
        self.pitch = _smooth(pitch, smoothed) + depth * np.sin(2 * np.pi * rate * seconds)
        self.tone = level * _smooth(values('tone'), width)
        self.noise = level * _smooth(values('noise'), width)
        self.damping = values('damping')
        self.resonances = _smooth(_table([p.resonances for p in sound.parts])[index], width)
        self.hiss = _smooth(_table([(p.hiss,) for p in sound.parts])[index], width)


def _table(resonances: list[tuple[Resonance, ...]]) -> Float64[np.ndarray, 'parts K 3']:
    table = np.array(resonances, np.float64)
    table[..., 0] = np.log2(table[..., 0] / _LOWEST)
    return table


def _smooth(values: np.ndarray, width: int) -> np.ndarray:
    """Return the moving average over frames, the first axis."""
    if width < 2:
        return values
    before, after = width // 2, width - 1 - width // 2
    padded = np.concatenate(
        [np.repeat(values[:1], before, 0), values, np.repeat(values[-1:], after, 0)]
    )
    total = np.cumsum(np.concatenate([np.zeros_like(padded[:1]), padded]), axis=0)
    return (total[width:] - total[:-width]) / width


def _envelope(
    octaves: Float64[np.ndarray, 'N F'], table: Float64[np.ndarray, 'N K 3']
) -> Float64[np.ndarray, 'N F']:
    """Return the sum of resonances at frequencies in octaves above the lowest."""
    total = np.full(octaves.shape, _FLOOR)
    for k in range(table.shape[1]):
        center, width, gain = (table[:, k, j : j + 1] for j in range(3))
        total = total + gain * np.exp(-0.5 * ((octaves - center) / width) ** 2)
    return total


def _partials(
    sound: Sound, controls: _Controls, hop: int, sample_rate: int, draws: Draws
) -> Float32[np.ndarray, 'samples']:
    frames = len(controls.pitch)
    phases = np.array([draws.uniform() for _ in sound.ratios])
    if not controls.tone.any():
        return np.zeros(frames * hop, np.float32)
    hertz = sound.hertz * 2 ** (controls.pitch / 12)
    ratios = np.array(sound.ratios)
    partials = hertz[:, None] * ratios
    octaves = np.log2(np.maximum(partials, _LOWEST) / _LOWEST)
    level = _envelope(octaves, controls.resonances)
    level = level * controls.tone[:, None] * np.array(sound.levels)
    level = level * 10 ** (sound.tilt * np.log2(ratios) / 20)
    level = level * np.exp(-(controls.damping * controls.age)[:, None] * partials / 1000)
    level = level * np.clip((sample_rate / 2 - partials) / (0.05 * sample_rate), 0, 1)
    audible = level.max(axis=0) > 1e-3 * level.max()
    level, ratios, phases = level[:, audible], ratios[audible], phases[audible]
    ramp = (np.arange(hop) / hop)[None, :]
    course = hertz[:-1, None] * (1 - ramp) + hertz[1:, None] * ramp
    cycles = np.cumsum(course.reshape(-1)) / sample_rate
    total = np.zeros(len(cycles), np.float32)
    ramp = ramp.astype(np.float32)
    for k, (ratio, phase) in enumerate(zip(ratios.tolist(), phases.tolist(), strict=True)):
        turns = cycles * ratio + phase
        turns -= np.floor(turns)
        start = level[:-1, k, None].astype(np.float32)
        step = np.diff(level[:, k])[:, None].astype(np.float32)
        total += np.sin((2 * np.pi * turns).astype(np.float32)) * (start + step * ramp).reshape(-1)
    return np.concatenate([total, np.zeros(hop, np.float32)])


def _white(draws: Draws, count: int) -> Float32[np.ndarray, 'count']:
    """Return noise of variance 1."""
    return philox.white_noise(draws.words(-(-count // 4)), count)


def _noise(
    controls: _Controls, hop: int, sample_rate: int, draws: Draws
) -> Float32[np.ndarray, 'samples']:
    frames = len(controls.noise)
    size = _OVERLAP * hop
    if not controls.noise.any():
        return np.zeros(frames * hop, np.float32)
    white = _white(draws, (frames + 1) * hop)
    pieces = np.lib.stride_tricks.sliding_window_view(white, size)[::hop][:frames]
    window = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / size)).astype(np.float32)  # Hann
    spectrum = np.fft.rfft(pieces * window, axis=1)
    octaves = np.log2(np.maximum(np.fft.rfftfreq(size, 1 / sample_rate), _LOWEST) / _LOWEST)
    gain = _envelope(np.broadcast_to(octaves, spectrum.shape), controls.hiss)
    gain = gain * controls.noise[:, None]
    pieces = np.fft.irfft(spectrum * gain.astype(np.float32), size, axis=1)
    total = np.zeros((frames + 1) * hop, np.float32)
    total[: frames * hop] += pieces[:, :hop].reshape(-1)
    total[hop:] += pieces[:, hop:].reshape(-1)
    return total[: frames * hop]


def _place(
    waveform: Float32[np.ndarray, 'length'], room: Room, sample_rate: int, draws: Draws
) -> Float32[np.ndarray, 'length']:
    """Return a sound in its room, through its microphone."""
    length = len(waveform)
    if room.seconds > 0:
        count = max(2, int(room.seconds * sample_rate))
        echo = _white(draws, count) * np.exp(-6.9 * np.arange(count) / count)
        echo *= room.level / np.sqrt((echo**2).sum())
        wet = signal.fftconvolve(waveform, echo)[:length]
        waveform = waveform + wet.astype(np.float32)
    power = np.sqrt(np.mean(waveform**2)) if length else 0.0
    noise = _white(draws, length) * np.float32(max(power, 1e-6) * 10 ** (room.noise_db / 20))
    size = next_fast_len(length, real=True) or length
    hertz = np.fft.rfftfreq(size, 1 / sample_rate).astype(np.float32)
    octaves = np.log2(np.maximum(hertz, 50.0) / 1000)
    spectrum = np.fft.rfft(noise, size) * 10 ** (room.noise_tilt * octaves / 20)
    spectrum += np.fft.rfft(waveform, size)
    if room.lowpass:
        spectrum = spectrum / (1 + (hertz / room.lowpass) ** 12)
    if room.highpass:
        spectrum = spectrum * (1 - 1 / (1 + (hertz / room.highpass) ** 6))
    return np.fft.irfft(spectrum, size)[:length].astype(np.float32)
