"""Numbers that no machine can compute with are refused by their keys; those of real use are not."""

import json
import time

import pytest

from elastic_ast_jax.config import loading, stored
from elastic_ast_jax.config.schema import Config

BASE = {'data': {'source': 'synthetic'}}


def refused(**sections):
    """Return the message for a stored config with these values."""
    values = {name: BASE.get(name, {}) | sections.get(name, {}) for name in {*BASE, *sections}}
    begin = time.monotonic()
    with pytest.raises(loading.ConfigError) as caught:
        stored.from_json({'version': 2} | values)
    assert time.monotonic() - begin < 2 and len(str(caught.value)) < 2000
    return str(caught.value)


@pytest.mark.parametrize('number', [2**32, 2**63, 10**300])
def test_every_whole_number_has_a_limit(number):
    for key, value in Config().flat().items():
        section, name = key.split('.')
        if type(value) is int:
            assert key in refused(**{section: {name: number}})


@pytest.mark.parametrize('number', [1e31, -1e300])
def test_every_fraction_has_a_limit(number):
    for key, value in Config().flat().items():
        section, name = key.split('.')
        if type(value) is float:
            assert key in refused(**{section: {name: number}})
    assert 'augment.ratios' in refused(augment={'ratios': [1.0, abs(number)]})


@pytest.mark.parametrize(
    ('key', 'sections'),
    [
        ('frontend.window_ms', {'frontend': {'window_ms': 1e6, 'sample_rate': 2**20}}),
        ('frontend.mel_bins', {'frontend': {'mel_bins': 4096, 'window_ms': 1000.0}}),
        (
            'packing.tokens',
            {'packing': {'tokens': 2**20}, 'frontend': {'mel_bins': 4096, 'patch_mels': 4096}},
        ),
        ('data.train', {'data': {'train': 'x' * 5000}}),
        ('data.train', {'data': {'train': 'a\0b'}}),
        ('data.train', {'data': {'train': '\ud800'}}),
        ('data.held_out', {'data': {'held_out': ['a'] * 5000}}),
        ('data.train', {'data': {'train': {'deep': {'er': 1}}}}),
        ('1002 keys', {'data': {f'k{i}': 1 for i in range(1000)}}),
        ('too long', {'data': {'k' * 300: 1}}),
    ],
)
def test_sizes_that_follow_from_several_values_have_limits(key, sections):
    assert key in refused(**sections)


def test_the_largest_networks_in_use_are_accepted():
    """ViT-H at 16,384 tokens of rows for a pod; a bat detector at 384 kHz."""
    large = {
        'frontend': {'max_frames': 32768, 'partial': 'pad'},
        'packing': {'rows': 4096, 'tokens': 16384, 'slots': 512},
        'model': {'width': 1280, 'depth': 32, 'heads': 16},
        'train': {'seed': 2**32 - 1},
    }
    config = stored.from_json({'version': 2, **BASE, **large})
    assert config.packing.tokens == 16384 and config.model.resolved_size().width == 1280
    bats = {'sample_rate': 384000, 'window_ms': 20.0, 'shift_ms': 5.0, 'mel_bins': 256}
    assert stored.from_json({'version': 2, **BASE, 'frontend': bats}).frontend.fft_length == 8192


def test_bytes_of_file_names_that_are_no_text_are_accepted():
    path = b'/data/\xff.jsonl'.decode('utf-8', 'surrogateescape')
    config = loading.from_dict({'data': {'train': path, 'eval': path}})
    assert stored.from_json(json.loads(stored.to_json(config))).data.train == path
