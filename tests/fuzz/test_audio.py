"""Damaged recordings of all formats get a result or a named error; `audio.py` runs many more."""

import pathlib

import pytest

from elastic_ast_jax.audio import reading
from tests.fuzz import audio, runner


@pytest.mark.parametrize('which', range(len(audio.FORMATS)), ids=[row[0] for row in audio.FORMATS])
def test_each_undamaged_recording_is_read(tmp_path, which):
    path = tmp_path / f'original.{audio.FORMATS[which][3]}'
    path.write_bytes(audio.original(tmp_path, which))
    header = reading.read_header(path)
    # XI notes no rate.
    assert header.sample_rate == (44100 if audio.FORMATS[which][0] == 'XI' else 16000)
    assert audio.AudioFiles().use(pathlib.Path(path)).startswith(f'{header.frames} frames')


def test_damaged_recordings_get_a_result_or_a_named_error():
    report = runner.run('tests.fuzz.audio:AudioFiles', range(6 * len(audio.FORMATS)))
    assert not report.failures, report.summary()
    # Both happen, or the damage is none.
    assert report.count('result') > 50 < report.count('error')
