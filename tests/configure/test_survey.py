"""Test the measured energy of sounds, and what a survey sees of files."""

import json

import numpy as np
import pytest
import soundfile

from elastic_ast_jax.config import loading
from elastic_ast_jax.configure import survey
from elastic_ast_jax.configure.spectrum import band_edge


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
