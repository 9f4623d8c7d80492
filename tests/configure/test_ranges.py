"""Test rate and frequency range that `configure` chooses for recordings of animals."""

import numpy as np
import pytest

from elastic_ast_jax.cli.main import main
from elastic_ast_jax.config import loading
from tests.configure.recordings import calls, write_calls


def configure(root, out):
    assert main(['configure', str(root), f'--out={out}']) == 0
    return loading.load(str(out)).frontend


def reasons(out):
    """Return the file without its line breaks."""
    return ' '.join(out.read_text().replace('#', '').split())


@pytest.mark.parametrize('rate', [2000, 8000, 48000])
def test_whales_get_low_frequencies_and_long_windows(rate, tmp_path):
    out = tmp_path / 'whales.py'
    frontend = configure(write_calls(tmp_path / 'whales', 'whale', rate), out)
    assert frontend.sample_rate == 1000
    assert 1 <= frontend.f_min < 20 and 200 < frontend.f_max < 350
    assert frontend.window_ms >= 100 and frontend.shift_ms == 50
    assert frontend.count_empty_filters() == 0
    text = reasons(out)
    assert f'resampling from {rate} Hz discards what lies above 500 Hz: nine of ten' in text
    assert 'mel bins leave out what lies below: nine of ten clips have their sounds from' in text


@pytest.mark.parametrize('rate', [48000, 256_000])
@pytest.mark.parametrize('noise', [1e-4, 5e-3])
def test_birds_get_their_frequencies_and_usual_frames(rate, noise, tmp_path):
    out = tmp_path / 'birds.py'
    root = write_calls(tmp_path / 'birds', 'bird', rate, noise=noise)
    frontend = configure(root, out)
    assert frontend.sample_rate == 22050
    assert 2300 < frontend.f_min < 3000 and frontend.highest_hertz > 7800
    assert (frontend.window_ms, frontend.shift_ms, frontend.mel_bins) == (25.0, 10.0, 128)
    assert f'resampling from {rate} Hz discards what lies above 11025 Hz' in reasons(out)


def test_bats_get_high_frequencies_and_short_windows(tmp_path):
    out = tmp_path / 'bats.py'
    frontend = configure(write_calls(tmp_path / 'bats', 'bat', 256_000), out)
    assert frontend.sample_rate in (192_000, 256_000)
    assert 20_000 < frontend.f_min < 31_000 and frontend.highest_hertz > 85_000
    assert (frontend.window_ms, frontend.shift_ms, frontend.mel_bins) == (4.0, 2.0, 128)
    assert loading.load(str(out)).augment.ratios == (1.0, 1.5)
    assert 'calls of so high frequencies are short' in reasons(out)


def test_sounds_at_both_ends_of_8_khz_keep_all_that_there_is(tmp_path):
    """Calls at both ends of the range, which is the whole one."""
    root = write_calls(tmp_path / 'low', 'whale', 8000, add=high_call)
    frontend = configure(root, tmp_path / 'low.py')
    assert (frontend.sample_rate, frontend.f_min, frontend.f_max) == (8000, 0, 0)


def high_call(seconds, rng):
    place = rng.uniform(1, seconds[-1] - 1)
    return 0.1 * np.sin(2 * np.pi * 3700 * seconds) * np.exp(-(((seconds - place) / 0.1) ** 2))


def test_a_hum_neither_hides_quiet_birds_nor_is_it_left_out(tmp_path):
    """The hum has nearly all energy: 99.5 % of it are below 250 Hz."""

    def hum(seconds, rng):
        phase = rng.uniform(0, 6)
        return sum(0.3 / n * np.sin(2 * np.pi * 50 * n * seconds + phase) for n in (1, 2, 3))

    root = write_calls(
        tmp_path / 'hum', 'bird', 48000, amplitude=1e-3, noise=1e-5, add=hum, subtype='PCM_24'
    )
    frontend = configure(root, tmp_path / 'hum.py')
    assert frontend.sample_rate == 22050 and frontend.f_min == frontend.f_max == 0


def test_noise_alone_keeps_the_usual_range(tmp_path):
    root = write_calls(tmp_path / 'noise', 'bird', 48000, amplitude=0.0, noise=0.1)
    frontend = configure(root, tmp_path / 'noise.py')
    assert (frontend.sample_rate, frontend.f_min, frontend.f_max) == (48000, 0, 0)


def test_calls_stay_below_the_half_of_a_sample_rate():
    sound = calls('bird', 48000, np.random.default_rng(0))
    spectrum = np.abs(np.fft.rfft(sound)) ** 2
    hertz = np.fft.rfftfreq(len(sound), 1 / 48000)
    assert spectrum[(hertz > 2900) & (hertz < 8100)].sum() > 0.999 * spectrum.sum()


@pytest.mark.parametrize(
    ('animal', 'rate'), [('bat', 256_000), pytest.param('whale', 8000, marks=pytest.mark.slow)]
)
def test_a_chosen_range_trains_and_predicts(animal, rate, tmp_path, capsys):
    root = write_calls(tmp_path / animal, animal, rate)
    out, run = tmp_path / 'mine.py', tmp_path / 'run'
    frontend = configure(root, out)
    options = ['train.epochs=4', 'model.width=16', 'model.depth=1', 'optimizer.warmup_epochs=0.5']
    words = [f'--config.{option}' for option in (*options, 'train.compare_baseline=False')]
    assert main(['train', f'--config={out}', f'--workdir={run}', *words]) == 0
    capsys.readouterr()
    picture = tmp_path / 'why.png'
    clip = str(root / 'rising' / '0.wav')
    assert main(['predict', str(run), clip, f'--explain={picture}']) == 0
    assert 'rising' in capsys.readouterr().out and picture.stat().st_size > 10_000
    assert frontend.f_min > 0
