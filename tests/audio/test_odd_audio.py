"""Read odd but valid recordings and compute finite log-mels of the planned length."""

import numpy as np
import pytest
import soundfile

from elastic_ast_jax.audio import fbank, frontend, reading
from elastic_ast_jax.audio.frontend import FrontendSpec
from elastic_ast_jax.audio.reading import AudioError

SPEC = FrontendSpec()


def tone(samples: int, rate: int = 16000) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * 440 * np.arange(samples) / rate)


ODD = {
    'silence': (np.zeros(16000), 16000, 'PCM_16'),
    'one sample': (np.array([0.5]), 16000, 'PCM_16'),
    'one sample of another rate': (np.array([0.5]), 44100, 'PCM_16'),
    'shorter than a frame': (tone(399), 16000, 'PCM_16'),
    '192 kHz': (tone(96000, 192000), 192000, 'PCM_24'),
    'half a megahertz': (tone(100000, 500000), 500000, 'PCM_16'),
    '100 Hz': (tone(100, 100), 100, 'PCM_16'),
    '8 channels': (np.stack([tone(8000) / (i + 1) for i in range(8)], axis=1), 16000, 'PCM_16'),
    '64 channels of 192 kHz': (np.tile(tone(20000, 192000)[:, None], 64), 192000, 'FLOAT'),
    'opposite channels': (np.stack([tone(8000), -tone(8000)], axis=1), 16000, 'PCM_16'),
    'an offset': (0.4 * tone(8000) + 0.7, 16000, 'PCM_16'),
    'nothing but an offset': (np.full(8000, 0.9), 16000, 'FLOAT'),
    'clipping': (np.clip(20 * tone(8000), -1, 1), 16000, 'PCM_16'),
    'above full scale': (1000 * tone(8000), 16000, 'FLOAT'),
    'almost nothing': (1e-30 * tone(8000), 16000, 'DOUBLE'),
    '8 bits': (tone(8000), 16000, 'PCM_U8'),
    'telephone': (tone(4000, 8000), 8000, 'ULAW'),
}


@pytest.mark.parametrize('kind', ODD)
def test_odd_recordings_give_finite_log_mels(kind, tmp_path):
    samples, rate, subtype = ODD[kind]
    path = tmp_path / 'odd.wav'
    soundfile.write(path, samples, rate, subtype=subtype)
    waveform = reading.read(path, SPEC.sample_rate)
    assert len(waveform) == frontend.resampled_length(len(samples), rate, SPEC.sample_rate)
    log_mel = fbank.log_mel(waveform, SPEC)
    assert log_mel.shape == (SPEC.frames(len(waveform), SPEC.shift()), SPEC.mel_bins)
    assert np.isfinite(log_mel).all()
    assert np.isfinite(fbank.normalize(log_mel, SPEC)).all()
    np.testing.assert_array_equal(
        np.concatenate(list(reading.read_blocks(path, SPEC.sample_rate, 1000))), waveform
    )


def test_an_offset_changes_no_log_mel(tmp_path):
    log_mels = []
    for offset in (0.0, 0.6):
        soundfile.write(tmp_path / 'a.wav', 0.5 * tone(8000) + offset, 16000, subtype='FLOAT')
        log_mels.append(fbank.log_mel(reading.read(tmp_path / 'a.wav', 16000), SPEC))
    loud = log_mels[0] > -10
    np.testing.assert_allclose(log_mels[1][loud], log_mels[0][loud], atol=0.02)


def test_8_bits_are_close_to_16(tmp_path):
    for subtype in ('PCM_U8', 'PCM_16'):
        soundfile.write(tmp_path / f'{subtype}.wav', tone(8000), 16000, subtype=subtype)
    few, many = (
        reading.read(tmp_path / f'{subtype}.wav', 16000) for subtype in ('PCM_U8', 'PCM_16')
    )
    np.testing.assert_allclose(few, many, atol=1 / 128)


def test_implausible_samples_are_refused_by_name(tmp_path):
    soundfile.write(tmp_path / 'huge.wav', np.full(100, 1e22), 8000, 'FLOAT')
    with pytest.raises(AudioError, match=r'huge\.wav: samples reach 1e\+22, but full scale is 1'):
        reading.read(tmp_path / 'huge.wav', 8000)
