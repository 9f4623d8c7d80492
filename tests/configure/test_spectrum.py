"""Test which frequencies stand out from noise: calls do, noise and recorders do not."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from elastic_ast_jax.configure import spectrum
from elastic_ast_jax.configure.levels import is_silent
from tests.configure.recordings import calls

RATE = 48000


def measure(sounds, rate=RATE, labels=None):
    edges = spectrum.band_edges(rate)
    bands = [spectrum.clip_bands(sound, rate, edges) for sound in sounds]
    return spectrum.summarize(bands, labels or [('a',)] * len(bands), edges)


def measure_band(sounds, labels=None):
    band = measure(sounds, labels=labels).band
    assert band is not None
    return band


def birds(number, noise=1e-3, amplitude=0.3, clips=20):
    sounds = []
    for clip in range(clips):
        rng = np.random.default_rng([number, clip])
        sound = calls('bird', RATE, rng, amplitude=amplitude)
        sounds.append(sound + noise * rng.standard_normal(len(sound)))
    return sounds


def hum(samples, phase=0.0):
    """Return 50 Hz with two harmonics, as of the mains."""
    seconds = np.arange(samples) / RATE
    return sum(0.3 / n * np.sin(2 * np.pi * 50 * n * seconds + phase) for n in (1, 2, 3))


def colored_noise(samples, exponent, rng):
    """Return noise whose power falls by 3 dB an octave for each exponent of 1."""
    white = np.fft.rfft(rng.standard_normal(samples))
    white[1:] /= np.arange(1, len(white)) ** (exponent / 2)
    white[0] = 0
    sound = np.fft.irfft(white, samples)
    return sound / sound.std()


def assert_birds(band):
    assert 2500 < band.low < 3200 and 7500 < band.high < 9000


@pytest.mark.parametrize('rate', [500, 2000, 8000, 11025, 48000, 256000])
def test_bands_cover_all_frequencies_and_average_some(rate):
    edges = spectrum.band_edges(rate)
    assert edges[-1] == rate / 2 and 0 < edges[0] < 17 and (np.diff(edges) > 0).all()
    assert np.diff(edges).min() >= 4 * rate / (1 << int(np.ceil(np.log2(max(1024, rate / 32)))))
    assert (edges[1:] / edges[:-1])[edges[:-1] > 3000].max(initial=1.0) < 1.3


@pytest.mark.parametrize('noise', [0.0, 1e-4, 1e-3, 1e-2])
def test_birds_stand_out_from_any_noise(noise):
    assert_birds(measure_band(birds(1, noise)))


@pytest.mark.parametrize('exponent', [1, 2])
def test_birds_stand_out_from_colored_noise(exponent):
    """Noise of wind, which has more energy than the birds; what is below may count, or not."""
    sounds = [
        sound + 0.01 * colored_noise(len(sound), exponent, np.random.default_rng(number))
        for number, sound in enumerate(birds(2, 1e-5))
    ]
    assert 7500 < measure_band(sounds).high < 9000


@pytest.mark.parametrize('amplitude', [0.1, 0.01, 0.001])
def test_quiet_birds_beside_a_loud_hum_are_not_lost(amplitude):
    """The hum has up to 99.9999 % of the energy."""
    sounds = [
        sound + hum(len(sound), number)
        for number, sound in enumerate(birds(3, 1e-5, amplitude, clips=30))
    ]
    energy = np.quantile([spectrum.band_edge(sound, RATE) for sound in sounds], 0.9)
    assert energy < 250 or amplitude > 0.001
    edge, band = measure(sounds)
    assert band is not None and 6500 < edge < 9000
    assert 6500 < band.high < 9000
    assert band.low < 50  # a steady sound may be what is to be recognized


@pytest.mark.parametrize('rate', [2000, 8000, 16000, 48000])
@pytest.mark.parametrize('clips', [12, 150])
def test_noise_does_not_stand_out_from_itself(rate, clips):
    rng = np.random.default_rng(clips)
    sounds = [0.01 * rng.standard_normal(3 * rate) for _ in range(clips)]
    assert measure(sounds, rate) == (0.0, None)


def test_noise_of_a_few_milliseconds_has_no_clear_range():
    rng = np.random.default_rng(0)
    assert measure([0.01 * rng.standard_normal(480) for _ in range(50)]).band is None


def test_gains_that_differ_widen_the_range_at_most():
    rng = np.random.default_rng(4)
    quieter = [10 ** rng.uniform(-0.4, 0) * sound for sound in birds(5)]
    assert_birds(measure_band(quieter))
    much = [10 ** rng.uniform(-2, 0) * sound for sound in birds(5)]
    band = measure_band(much)
    assert band.low < 3200 and band.high > 7500


def test_steady_sounds_that_differ_between_clips_count():
    """Tones without pauses, of two pitches: nothing comes and goes."""
    rng, seconds = np.random.default_rng(6), np.arange(RATE) / RATE
    sounds = [
        0.1 * np.sin(2 * np.pi * hertz * seconds) + 1e-3 * rng.standard_normal(RATE)
        for hertz in (500, 5000) * 10
    ]
    band = measure_band(sounds)
    assert 300 < band.low < 500 and 5000 < band.high < 7000


def test_sounds_with_energy_everywhere_have_the_whole_range():
    clicks = 0.5 * (np.arange(RATE) % 6000 < 5)
    rng = np.random.default_rng(7)
    sounds = [clicks + 1e-3 * rng.standard_normal(RATE) for _ in range(12)]
    edge, band = measure(sounds)
    assert band is not None and band.low < 50 and band.high > 20_000 and edge > 20_000


def test_a_rare_class_is_within_the_range():
    rng, seconds = np.random.default_rng(8), np.arange(2 * RATE) / RATE
    owls = [
        0.1 * np.sin(2 * np.pi * 400 * seconds) * np.sin(2 * np.pi * seconds) ** 4
        + 1e-3 * rng.standard_normal(2 * RATE)
        for _ in range(2)
    ]
    labels = [('bird',)] * 60 + [('owl',)] * 2
    band = measure_band(birds(9, clips=60) + owls, labels=labels)
    assert band.low < 400 and 7500 < band.high < 9000
    assert_birds(measure_band(birds(9, clips=60) + owls))  # as clips of any class, they are few


def test_few_clips_or_few_sounds_make_no_clear_range():
    edge, band = measure(birds(10, clips=9))
    assert band is None and 6500 < edge < 9000
    rng = np.random.default_rng(11)
    noise = [1e-3 * rng.standard_normal(2 * RATE) for _ in range(25)]
    assert measure(birds(10, clips=20) + noise).band is None


def test_padding_with_zeros_is_no_noise():
    padded = [np.concatenate([sound, np.zeros(2 * RATE)]) for sound in birds(12)]
    assert_birds(measure_band(padded))


def test_clips_of_several_rates_are_compared_at_their_frequencies():
    edges = spectrum.band_edges(RATE)
    bands = []
    for clip in range(20):
        rate = RATE if clip % 2 else 24000
        rng = np.random.default_rng([13, clip])
        sound = calls('bird', rate, rng)
        # Noise of the same density.
        sound += 1e-3 * np.sqrt(rate / RATE) * rng.standard_normal(len(sound))
        bands.append(spectrum.clip_bands(sound, rate, edges))
    assert np.isnan(bands[0].loud[edges[1:] > 12000]).all()
    assert np.isfinite(bands[1].loud).all()
    assert_birds(spectrum.summarize(bands, [('a',)] * 20, edges).band)


RATES = (1, 100, 1000, 8000, 16000, 48000, 384_000)


@st.composite
def short_clips(draw):
    """Draw sample rate and samples of a clip of up to three frames, of silence and sound."""
    rate = draw(st.sampled_from(RATES))
    frame = max(1024, 1 << (rate // 32 - 1).bit_length())
    lengths = {1, 2, frame // 2, frame - 1, frame, frame + 1, frame * 3 // 2, 3 * frame - 1}
    samples = draw(st.sampled_from(sorted(lengths)))
    first, last = sorted(draw(st.tuples(*[st.integers(0, samples)] * 2)))
    sound = np.zeros(samples, np.float32)
    noise = np.random.default_rng(samples).uniform(-1, 1, last - first)
    sound[first:last] = draw(st.sampled_from([1.0, 1e-3, 2e-5])) * noise
    return rate, sound


@settings(max_examples=100, deadline=None)
@given(st.lists(short_clips(), min_size=1, max_size=12))
def test_short_clips_are_measured(clips):
    """No clip raises or warns, and sound has numbers in all bands up to half of its rate."""
    top = max([rate for rate, sound in clips if not is_silent(sound)], default=384_000)
    clips = [(rate, sound) for rate, sound in clips if rate <= top]
    edges = spectrum.band_edges(top)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        bands = [spectrum.clip_bands(sound, rate, edges) for rate, sound in clips]
        edge, band = spectrum.summarize(bands, [('a',)] * len(clips), edges)
        own_edges = [spectrum.band_edge(sound, rate) for rate, sound in clips]
    assert 0 <= edge <= top / 2 and np.isfinite(own_edges).all()
    assert band is None or 0 < band.low < band.high <= top / 2
    for (rate, sound), measured in zip(clips, bands, strict=True):
        covered = (edges[1:] <= rate / 2) & (not is_silent(sound))
        for values in measured:
            assert (np.isfinite(values) == covered).all()


@pytest.mark.parametrize('samples', [1025, 1500, 1536, 2000])
def test_the_end_of_a_clip_counts(samples):
    sound = np.zeros(samples)
    sound[-400:] = 0.1 * np.random.default_rng(samples).standard_normal(400)
    measured = spectrum.clip_bands(sound, 16000, spectrum.band_edges(16000))
    assert (measured.loud > -120).all()
