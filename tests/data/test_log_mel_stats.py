"""Test mean and deviation of the log-mel, over all values of all frames."""

import numpy as np
import pytest
import soundfile

from elastic_ast_jax.audio import fbank
from elastic_ast_jax.audio.frontend import FrontendSpec
from elastic_ast_jax.audio.reading import AudioError
from elastic_ast_jax.cli.main import main
from elastic_ast_jax.data.log_mel_stats import measure
from elastic_ast_jax.data.sources.synthetic import SyntheticSource
from elastic_ast_jax.utils.errors import UserError

SPEC = FrontendSpec(sample_rate=8000, mel_bins=64)


@pytest.fixture(scope='module')
def source():
    return SyntheticSource('train', 70, 0, 8000)


def test_stats_equal_those_of_all_values_at_once(source):
    stats = measure(source, SPEC)
    features = np.concatenate([fbank.log_mel(source.read(i), SPEC) for i in range(70)]).astype(
        np.float64
    )
    assert (stats.clips, stats.frames, stats.skipped) == (70, len(features), ())
    assert stats.mean == pytest.approx(features.mean(), abs=1e-9)
    assert stats.std == pytest.approx(features.std(), abs=1e-9)


def test_a_subset_is_spread_over_the_source(source):
    few, features = measure(source, SPEC, clips=7), []
    features = np.concatenate(
        [fbank.log_mel(source.read(i), SPEC) for i in range(0, 70, 10)]
    ).astype(np.float64)
    assert few.clips == 7 and few.mean == pytest.approx(features.mean(), abs=1e-9)


@pytest.fixture
def recordings(tmp_path):
    """Write two recordings and a config. Only decoding shows the damage of one of them."""
    rng = np.random.default_rng(0)
    for name in ('a', 'b'):
        soundfile.write(tmp_path / f'{name}.wav', rng.uniform(-0.5, 0.5, 8000), 8000, 'FLOAT')
    data = bytearray((tmp_path / 'b.wav').read_bytes())
    data[-4:] = np.float32(np.nan).tobytes()
    (tmp_path / 'b.wav').write_bytes(data)
    (tmp_path / 'list.jsonl').write_text(
        ''.join(f'{{"audio": "{name}.wav", "labels": ["x"]}}\n' for name in ('a', 'b'))
    )
    config = tmp_path / 'config.py'
    config.write_text(f"""
from ml_collections import ConfigDict


def get_config():
    config = ConfigDict()
    manifest = {str(tmp_path / 'list.jsonl')!r}
    config.data = dict(source='manifest', train=manifest, eval=manifest)
    config.frontend = dict(sample_rate=8000, mel_bins=64)
    return config
""")
    return tmp_path


def test_the_command_prints_lines_for_a_config(recordings, capsys):
    assert (
        main(['stats', f'--config={recordings / "config.py"}', '--config.data.on_bad_audio=skip'])
        == 0
    )
    lines, errors = capsys.readouterr()
    assert 'skipped: ' in errors and 'b.wav' in errors
    features = fbank.log_mel(soundfile.read(recordings / 'a.wav', dtype='float32')[0], SPEC)
    *_, overrides = lines.splitlines()
    assert (
        overrides == f'--config.frontend.mean={features.mean():.4f}'
        f' --config.frontend.std={features.std():.4f}'
    )
    assert (
        f'config.frontend.mean = {features.mean():.4f}' in lines
        and '1 of 2 training clips' in lines
    )
    again = [
        'stats',
        f'--config={recordings / "config.py"}',
        *overrides.split(),
        '--config.data.on_bad_audio=skip',
    ]
    assert main(again) == 0


def test_the_error_of_a_damaged_clip_names_it(recordings, capsys):
    assert main(['stats', f'--config={recordings / "config.py"}']) == 1
    assert 'b.wav: sample 7999' in capsys.readouterr().err


class Silence:
    keys, labels, fingerprint, classes, skipped = ('a',), ((),), '', None, ()
    samples = np.array([8000])

    def read(self, i):
        return np.zeros(8000, np.float32)


class Unreadable(Silence):
    def read(self, i):
        raise AudioError('a: cut short')


def test_silence_and_no_clips_have_no_stats():
    with pytest.raises(UserError, match='everywhere: are the recordings silent'):
        measure(Silence(), SPEC)
    with pytest.raises(
        UserError, match='none of 1 clips could be decoded; the first: a: cut short'
    ):
        measure(Unreadable(), SPEC, skip=True)
    with pytest.raises(AudioError, match='a: cut short'):
        measure(Unreadable(), SPEC)
