"""Test synthesized sounds: what is drawn is heard, and the same numbers give the same bits."""

import dataclasses
import hashlib

import numpy as np
import pytest

from elastic_ast_jax.data.sources.base import Source
from elastic_ast_jax.data.sources.presets import PresetSource
from elastic_ast_jax.synthesis.attributes import ATTRIBUTES, attributes
from elastic_ast_jax.synthesis.draws import Draws
from elastic_ast_jax.synthesis.presets import FAMILIES
from elastic_ast_jax.synthesis.rendering import render
from elastic_ast_jax.synthesis.sounds import Part, Resonance, Room, Sound
from elastic_ast_jax.synthesis.variations import vary

RATE = 16000
DRY = Room()
FLAT = Resonance(1000.0, 8.0, 1.0)
PART = Part(
    share=1.0,
    start=0.0,
    end=0.0,
    tone=1.0,
    noise=0.0,
    attack=0.01,
    decay=0.0,
    damping=0.0,
    resonances=(FLAT,),
    hiss=FLAT,
)
TONE = Sound(
    seconds=0.5,
    hertz=440.0,
    parts=(PART,),
    ratios=(1.0, 2.0, 3.0),
    levels=(1.0, 1.0, 1.0),
    tilt=0.0,
    glide=0.0,
    vibrato=(0.0, 0.0),
    tremolo=(0.0, 0.0),
    repeats=1,
    gap=0.0,
)


def rendered(sound, room=DRY, start=0, length=8000):
    return render(sound, room, 8000, start, max(length, start + 8000), RATE, Draws((0, 0)))


def spectrum(waveform):
    """Return frequencies and magnitudes."""
    window = np.hanning(len(waveform))
    return np.fft.rfftfreq(len(waveform), 1 / RATE), np.abs(np.fft.rfft(waveform * window))


def strongest(waveform):
    hertz, magnitude = spectrum(waveform)
    return hertz[magnitude.argmax()]


def energy(waveform, low, high):
    hertz, magnitude = spectrum(waveform)
    return (magnitude[(hertz >= low) & (hertz < high)] ** 2).sum() / (magnitude**2).sum()


def with_part(**changes):
    return dataclasses.replace(TONE, parts=(PART._replace(**changes),))


def test_partials_have_their_frequencies():
    hertz, magnitude = spectrum(rendered(TONE))
    for partial in (440, 880, 1320):
        near = magnitude[np.abs(hertz - partial) < 10].max()
        assert near > 0.5 * magnitude.max()
    assert energy(rendered(TONE), 1500, 8000) < 1e-3


def test_pitch_glides():
    single = dataclasses.replace(with_part(end=12.0), ratios=(1.0,), levels=(1.0,))
    waveform = rendered(single)
    assert strongest(waveform[:1600]) == pytest.approx(440 * 2 ** (0.1), rel=0.05)
    assert strongest(waveform[-1600:]) == pytest.approx(440 * 2 ** (0.9), rel=0.05)


def test_resonances_filter_the_partials():
    many = dataclasses.replace(
        with_part(resonances=(Resonance(1760.0, 0.2, 1.0),)),
        ratios=tuple(float(k) for k in range(1, 17)),
        levels=(1.0,) * 16,
    )
    assert strongest(rendered(many)) == pytest.approx(1760, abs=10)


def test_noise_has_its_band():
    noise = with_part(tone=0.0, noise=1.0, hiss=Resonance(3000.0, 0.2, 1.0))
    assert energy(rendered(noise), 2000, 4500) > 0.95


def test_decay_and_tremolo_change_the_level():
    falling = rendered(with_part(decay=6.0))
    assert np.abs(falling[-1600:]).max() < 0.02 * np.abs(falling[:1600]).max()
    pulsing = rendered(dataclasses.replace(TONE, tremolo=(4.0, 1.0)))
    levels = np.abs(pulsing).reshape(20, -1).max(axis=1)
    assert levels.min() < 0.1 < 0.9 < levels.max()


def test_repetitions_have_gaps():
    twice = dataclasses.replace(TONE, seconds=0.2, repeats=2, gap=0.1)
    waveform = rendered(twice)
    assert np.abs(waveform[3400:4600]).max() < 1e-3 < 0.5 < np.abs(waveform[5000:]).max()


def test_silence_surrounds_a_sound():
    waveform = rendered(TONE, start=1000, length=10000)
    assert np.abs(waveform[:1000]).max() < 1e-6 and np.abs(waveform[9000:]).max() < 1e-6


def test_rooms_echo_and_microphones_are_deaf():
    waveform = rendered(TONE, Room(seconds=0.3, level=0.5), length=10000)
    assert np.abs(waveform[8200:9000]).max() > 1e-3
    noisy = with_part(noise=0.5)
    assert energy(rendered(noisy, Room(lowpass=2000.0)), 4000, 8000) < 1e-3
    assert energy(rendered(noisy, Room(highpass=800.0)), 0, 300) < 1e-3
    assert energy(rendered(TONE, Room(noise_db=-10.0)), 2000, 8000) > 0.01


@pytest.mark.parametrize('split', ['train', 'test'])
def test_clips_are_a_function_of_their_number(split):
    few, many = (PresetSource(split, count, 7, 3, RATE) for count in (5, 20))
    assert isinstance(few, Source)
    assert list(few.keys) == list(many.keys)[:5] and few.labels == many.labels[:5]
    for clip in range(5):
        waveform = many.read(clip)
        assert waveform.dtype == np.float32 and len(waveform) == many.samples[clip]
        assert np.isfinite(waveform).all() and 0.01 < np.abs(waveform).max() <= 1
        np.testing.assert_array_equal(few.read(clip), waveform)


def test_splits_and_seeds_share_no_sound():
    sources = [PresetSource('train', 3, 2, 0, RATE), PresetSource('test', 3, 2, 0, RATE)]
    sources.append(PresetSource('train', 3, 2, 1, RATE))
    digests = {
        hashlib.sha256(source.read(clip).tobytes()).hexdigest()
        for source in sources
        for clip in range(3)
    }
    assert len(digests) == 9
    assert len({source.fingerprint for source in sources}) == 3


def test_all_attributes_are_listed_once():
    source = PresetSource('train', 400, 50, 0, RATE)
    assert len(set(source.classes)) == len(source.classes) == 50 + len(ATTRIBUTES)
    assert {name for names in source.labels for name in names} <= set(source.classes)
    assert all(len(set(names)) == len(names) for names in source.labels)
    assert {names[0] for names in source.labels} == set(source.classes[:50])
    families = {name.split()[1] for names in source.labels for name in names[1:2]}
    assert families == set(FAMILIES)


def test_takes_of_a_preset_differ_and_are_alike():
    """The family stays, pitch and length move within their ranges, and nothing else is shared."""
    source = PresetSource('train', 60, 3, 0, RATE)
    for preset in source.classes[:3]:
        clips = [i for i, names in enumerate(source.labels) if names[0] == preset]
        assert len(clips) > 10
        assert len({source.labels[i][1] for i in clips}) == 1
        assert len({int(source.samples[i]) for i in clips}) == len(clips)


def test_variations_stay_within_their_factors():
    sound = dataclasses.replace(TONE, repeats=3, gap=0.1, tremolo=(5.0, 0.5))
    takes = [vary(sound, Draws((0, i))) for i in range(500)]
    semitones = 12 * np.log2([take.hertz / sound.hertz for take in takes])
    assert 6.5 < np.abs(semitones).max() <= 7 and abs(semitones.mean()) < 0.6
    tempos = np.array([take.seconds / sound.seconds for take in takes])
    assert 0.66 < tempos.min() < 0.7 and 1.45 < tempos.max() < 1.51
    assert {take.repeats for take in takes} == {2, 3, 4}
    sizes = np.array([take.parts[0].hiss.hertz / 1000 for take in takes])
    assert sizes.min() > 1 / (1.2 * 1.05) - 1e-9 and sizes.max() < 1.2 * 1.05 + 1e-9
    assert {take.tremolo[1] for take in takes} == {0.5}


def test_attributes_follow_the_parameters():
    names = attributes(TONE, Room(), 'instrument', 0.5)
    assert {'family instrument', 'repeats 0', 'pitch at 0: 7', 'noisiness at 2: 0'} <= {*names}
    higher = attributes(dataclasses.replace(TONE, hertz=880.0), Room(), 'instrument', 0.5)
    assert 'pitch at 0: 9' in higher
    noise = attributes(with_part(tone=0.0, noise=1.0), Room(), 'noise', 0.5)
    assert 'hiss at 1: 3' in noise and not any(name.startswith('pitch') for name in noise)
