"""The encoder in the package: the recipe that made it, and runs that start from it by its name."""

import dataclasses
import hashlib
from pathlib import Path

import numpy as np
import pytest

from elastic_ast_jax.config import loading
from elastic_ast_jax.config.model_sizes import SIZES
from elastic_ast_jax.pretrained import detect, encoder_file, starter
from elastic_ast_jax.pretrained.weights import PositionTables, PretrainedError
from tests.fixtures.weight_files import elastic, initialize_from

ROOT = Path(__file__).parents[2]
FILE = Path(starter.locate('starter'))
DATA = {'source': 'synthetic'}


def test_the_file_is_small_and_the_documented_one():
    content = FILE.read_bytes()
    assert len(content) < 12e6
    assert hashlib.sha256(content).hexdigest() in (ROOT / 'docs' / 'pretrained.md').read_text()


def test_the_file_is_of_the_recipe():
    recipe = loading.load(str(ROOT / 'configs' / 'starter.py'))
    config, origin = encoder_file.read_metadata(FILE)
    assert config == recipe
    assert origin.startswith("trained on data.source='presets'")


def test_the_name_is_no_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    detect.check_exists('starter')
    with pytest.raises(PretrainedError, match='no such file'):
        detect.check_exists('./starter')
    config = loading.from_dict({'data': DATA, 'init': {'from': 'starter'}})
    assert loading.absolute_paths(config).init.from_ == 'starter'
    other = loading.from_dict({'data': DATA, 'init': {'from': './starter'}})
    assert loading.absolute_paths(other).init.from_ == str(tmp_path / 'starter')


def test_a_run_with_another_frontend_starts_from_it():
    """At 8 kHz, 96 bins are as wide as the 128 of 16 kHz: rows keep their positions, nearly."""
    weights = detect.read('starter')
    assert weights.frontend is not None and isinstance(weights.positions, PositionTables)
    frontend = dataclasses.replace(weights.frontend, sample_rate=8000, mel_bins=96, max_frames=320)
    network = elastic(frontend, size=SIZES['Mi'], classes=2)
    initialized = initialize_from('starter', network, ['a', 'b'], frontend=frontend)
    freq = initialized.params['positions/freq']
    assert freq.shape == (6, 128)
    np.testing.assert_allclose(freq, weights.positions.freq[:6], atol=0.05)
    assert {name.partition('/')[0] for name in initialized.params} == {
        'embed',
        'encoder',
        'norm_head',
        'pool',
        'positions',
    }
