"""Test the measured energy of sounds, and what a survey sees of files."""

import json
import warnings

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from elastic_ast_jax.config import loading
from elastic_ast_jax.configure import survey
from elastic_ast_jax.configure.copies import find_copies
from elastic_ast_jax.configure.spectrum import band_edge
from elastic_ast_jax.data.sources import folders


@pytest.mark.parametrize('sample_rate', [8000, 48000, 256000])
def test_the_band_edge_is_the_highest_frequency_with_energy(sample_rate):
    seconds = np.arange(sample_rate) / sample_rate
    for share in (0.05, 0.2, 0.45):
        tone = np.sin(2 * np.pi * share * sample_rate * seconds)
        assert band_edge(tone, sample_rate) == pytest.approx(share * sample_rate, rel=0.05)
    noise = np.random.default_rng(0).standard_normal(sample_rate)
    assert band_edge(noise, sample_rate) > 0.48 * sample_rate
    assert band_edge(np.zeros(100), sample_rate) == 0


def test_a_survey_counts_files_and_finds_duplicates(tmp_path):
    rng, lines = np.random.default_rng(0), []
    sounds = {
        'one.wav': 0.1 * rng.standard_normal(4000),
        'two.wav': np.sin(2 * np.pi * 500 * np.arange(22050) / 11025),
        'silent.wav': np.zeros(11025),
        'test.wav': 0.1 * rng.standard_normal(5000),
    }
    for name, sound in sounds.items():
        soundfile.write(tmp_path / name, sound, 48000 if name == 'one.wav' else 11025)
    (tmp_path / 'copy.wav').write_bytes((tmp_path / 'two.wav').read_bytes())
    for name, labels, split in [
        ('one.wav', ['a'], 'train'),
        ('two.wav', ['b'], 'train'),
        ('silent.wav', [], 'train'),
        ('test.wav', ['a', 'b'], 'test'),
        ('copy.wav', ['b'], 'test'),
    ]:
        lines.append(json.dumps({'audio': name, 'labels': labels, 'split': split}))
    manifest = tmp_path / 'all.jsonl'
    manifest.write_text('\n'.join(lines))
    config = loading.from_dict({'data': {'train': str(manifest), 'eval': str(manifest)}})
    surveyed = survey.take(*survey.open_sources(config))
    assert surveyed.class_clips == {'a': 1, 'b': 1} and surveyed.labels == (0, 1)
    assert surveyed.seconds.tolist() == pytest.approx([4000 / 48000, 2, 1], abs=1e-3)
    assert (surveyed.clips, surveyed.eval_clips, surveyed.native_rates) == (3, 2, (11025, 11025))
    assert surveyed.label_sets == 3
    assert surveyed.silent == ('silent.wav',)
    assert surveyed.duplicates == (('two.wav', 'copy.wav'),)
    assert surveyed.edge > 15000  # of the noise at 48 kHz
    assert surveyed.band is None  # of so few clips
    assert surveyed.rate_clips == {11025: 2, 48000: 1}
    assert surveyed.eval_class_clips == {'a': 1, 'b': 2}
    assert surveyed.clip_levels.keys() == {'one.wav', 'two.wav'}
    assert surveyed.clip_levels['two.wav'].rms == pytest.approx(-3.01, abs=0.01)
    assert surveyed.contradictions == ()


def test_copies_in_training_contradict_only_with_other_labels(tmp_path):
    rng, lines = np.random.default_rng(0), []
    for name in ('one', 'two', 'test'):
        soundfile.write(tmp_path / f'{name}.wav', 0.1 * rng.standard_normal(4000), 16000)
    for copy, original in (('same', 'one'), ('other', 'one'), ('again', 'two'), ('eval', 'other')):
        (tmp_path / f'{copy}.wav').write_bytes((tmp_path / f'{original}.wav').read_bytes())
    labels = {'one': 'a', 'same': 'a', 'other': 'b', 'two': 'b', 'again': 'b'}
    for name, label in labels.items():
        lines.append({'audio': f'{name}.wav', 'labels': [label], 'split': 'train'})
    for name in ('test', 'eval'):
        lines.append({'audio': f'{name}.wav', 'labels': ['a'], 'split': 'test'})
    manifest = tmp_path / 'all.jsonl'
    manifest.write_text('\n'.join(map(json.dumps, lines)))
    config = loading.from_dict({'data': {'train': str(manifest), 'eval': str(manifest)}})
    copies = find_copies(*survey.open_sources(config))
    assert copies.contradictions == (('one.wav', 'other.wav'),)
    assert copies.shared == (('one.wav', 'eval.wav'),)


def test_a_source_at_another_rate_is_one_opened_at_it(tmp_path):
    for clip in range(4):
        path = tmp_path / 'data' / 'ab'[clip % 2] / f'{clip}.wav'
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, 0.1 * np.random.default_rng(clip).standard_normal(4001), 16000)
    source, other = (folders.load(tmp_path / 'data', rate) for rate in (16000, 11025))
    resampled = source.resampled(11025)
    assert resampled.fingerprint == other.fingerprint != source.fingerprint
    assert resampled.samples.tolist() == other.samples.tolist()
    assert np.array_equal(resampled.read(2), other.read(2))
    assert source.sample_rate == 16000 and len(source.read(2)) == 4001


def take(root, sounds):
    """Survey clips, given as sample rate and samples, of the class `a` of a folder."""
    for number, (rate, sound) in enumerate(sounds):
        path = root / 'a' / f'{number}.wav'
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, sound, rate, 'FLOAT')
    source = folders.load(root, 16000)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        return survey.take(source, source)


def late(samples, start, stop=None, channels=1):
    """Return digital silence with noise in a range of samples."""
    sound = np.zeros((samples, channels))
    sound[start:stop] = 0.1 * np.random.default_rng(samples).standard_normal(
        sound[start:stop].shape
    )
    return sound


@pytest.mark.parametrize('start', [1100, 1499])
def test_a_short_clip_that_begins_with_silence_is_measured(tmp_path, start):
    """The sound is in less than half a frame at the end."""
    surveyed = take(tmp_path, [(16000, late(1500, start))] * 2)
    assert surveyed.silent == () and len(surveyed.clip_levels) == 2


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([1000, 16000, 48000]),
            st.sampled_from([1, 2, 512, 1024, 1025, 1500, 2047, 3000]),
            st.sampled_from([0.0, 0.5, 0.999, 1.0]),
            st.sampled_from([1, 2]),
        ),
        min_size=1,
        max_size=4,
    )
)
def test_short_clips_are_surveyed(tmp_path_factory, clips):
    """Nothing raises or warns, and all numbers are finite: `start` is a share of the samples."""
    sounds = [
        (rate, late(samples, int(start * samples), channels=channels))
        for rate, samples, start, channels in clips
    ]
    surveyed = take(tmp_path_factory.mktemp('clips'), sounds)
    silent = sum(start == 1 for _, _, start, _ in clips)
    assert len(surveyed.silent) == silent
    assert len(surveyed.clip_levels) == len(clips) - silent
    assert 0 <= surveyed.edge <= 24000 and surveyed.band is None
    levels = surveyed.clip_levels.values()
    assert np.isfinite([value for level in levels for value in level]).all()


def test_channels_that_cancel_are_silent(tmp_path):
    left = late(2000, 0)
    surveyed = take(tmp_path, [(16000, np.hstack([left, -left])), (16000, left)])
    assert surveyed.silent == ('a/0.wav',)


@pytest.mark.parametrize('fault', ['silent', 'damaged'])
def test_a_clip_of_a_high_rate_without_sound_changes_nothing(tmp_path, fault):
    rng, seconds = np.random.default_rng(0), np.arange(16000) / 16000
    sounds = []
    for number in range(12):
        call = np.sin(2 * np.pi * 2500 * seconds) * (abs(seconds - 0.5) < 0.1)
        hum = np.sin(2 * np.pi * 100 * seconds + number)
        sounds.append((16000, 0.1 * (call + hum) + 1e-4 * rng.standard_normal(16000)))
    alone = take(tmp_path / 'alone', sounds)
    other = late(96000, 0) if fault == 'damaged' else np.zeros(96000)
    sounds.append((96000, other))
    if fault == 'damaged':
        other[50000] = np.nan
    surveyed = take(tmp_path / 'mixed', sounds)
    assert surveyed.band == alone.band is not None and surveyed.edge == alone.edge
    assert surveyed.silent == (('a/12.wav',) if fault == 'silent' else ())
