"""Test stored configs: version 1 opens with today's names, later versions are refused."""

import json

import pytest

from elastic_ast_jax.config import loading, stored
from elastic_ast_jax.config.loading import ConfigError
from elastic_ast_jax.config.schema import RENAMED_KEYS, Config

# Values that differ from the defaults, under the names of version 1.
VERSION_1 = {
    'data': {'source': 'synthetic', 'workers': 3},
    'model': {'size': 'Mi', 'epsilon': 1e-12, 'attention': 'plain'},
    'train': {'accumulate': 2, 'keep': 5},
    'optimizer': {'rate': 0.25, 'epsilon': 1e-7},
}


def test_version_1_opens_with_todays_names():
    config = stored.from_json(VERSION_1)
    assert config == loading.from_dict(
        {
            'data': {'source': 'synthetic', 'num_workers': 3},
            'model': {'size': 'Mi', 'eps': 1e-12, 'attention': 'reference'},
            'train': {'grad_accumulation_steps': 2, 'max_checkpoints': 5},
            'optimizer': {'learning_rate': 0.25, 'eps': 1e-7},
        }
    )
    assert stored.from_json(json.loads(stored.to_json(config))) == config


def test_the_renamed_keys_are_keys():
    assert set(RENAMED_KEYS.values()) <= set(Config().flat())
    assert not set(RENAMED_KEYS) & set(Config().flat())


@pytest.mark.parametrize('scaled', [True, False])
def test_the_published_quirks_of_version_1_left_attention_unscaled(scaled):
    def values(quirks):
        return VERSION_1 | {
            'init': {'from': 'vit.npz', 'published_quirks': quirks},
            'model': {'scaled': scaled},
        }

    config = stored.from_json(values(quirks=True))
    assert config.init.published_quirks and config.model.scaled is False
    assert stored.from_json(values(quirks=False)).model.scaled is scaled
    # Version 2 says so itself.
    values_2 = json.loads(stored.to_json(config))
    assert stored.from_json(values_2) == config
    values_2['model']['scaled'] = True
    with pytest.raises(ConfigError, match=r'set model\.scaled=False'):
        stored.from_json(values_2)


def test_a_file_holds_its_version_and_every_key():
    values = json.loads(stored.to_json(Config()))
    assert values.pop('version') == stored.VERSION == 2
    assert {f'{section}.{name}' for section, entries in values.items() for name in entries} == set(
        Config().flat()
    )


def test_old_names_belong_to_version_1_alone():
    with pytest.raises(ConfigError) as caught:
        stored.from_json(VERSION_1 | {'version': 2})
    assert set(caught.value.problems) >= {
        f'unknown key {old}: it is {new} now' for old, new in RENAMED_KEYS.items()
    }


@pytest.mark.parametrize('version', [0, 3, '2', 2.0, True, None])
def test_other_versions_are_refused(version):
    with pytest.raises(ConfigError, match='must be a whole number from 1 to 2') as caught:
        stored.from_json(VERSION_1 | {'version': version})
    assert f'version={version!r}' in str(caught.value)


def test_problems_of_an_old_file_have_todays_names():
    values = VERSION_1 | {'optimizer': {'rate': 'fast'}, 'train': {'epohcs': 3}}
    with pytest.raises(ConfigError) as caught:
        stored.from_json(values)
    assert caught.value.problems == (
        'unknown key train.epohcs: the nearest valid one is train.epochs',
        "optimizer.learning_rate='fast': must be a number, not str",
    )
