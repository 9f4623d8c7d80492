"""Prepare, plan, train and evaluate each data set in small, in its real layout."""

import json
import pathlib

import numpy as np
import pytest

from elastic_ast_jax.data.sources import tfds
from elastic_ast_jax.data.sources.tfds_builder import Features
from tests.fixtures.miniatures import EVALUATED, MAKERS, Miniature

pytest.importorskip('apache_beam', reason='data sets are prepared by Apache Beam')

ROOT = pathlib.Path(__file__).parents[3]
CONFIG = """
from ml_collections import ConfigDict


def get_config():
    config = ConfigDict()
    config.data = dict(source='tfds')
    config.frontend = dict(mel_bins=32, patch_frames=4, max_frames=100, mean=-2.5, std=3.2)
    config.augment = dict(token_dropout=0.1, freq_mask=6, time_mask=0.1)
    config.packing = dict(rows=2, tokens=96, slots=8)
    config.model = dict(width=16, depth=1, heads=2, attention='reference')
    config.train = dict(epochs=1, log_every=1, loss='bce', label_smoothing=0.0)
    config.optimizer = dict(learning_rate=1e-2, warmup_epochs=0.2)
    return config
"""


@pytest.fixture(scope='module', params=MAKERS, ids=lambda maker: maker.__name__)
def miniature(request, tmp_path_factory) -> Miniature:
    folder = tmp_path_factory.mktemp(request.param.__name__)
    return request.param(folder)


@pytest.fixture(scope='module')
def out(tmp_path_factory, miniature) -> pathlib.Path:
    return tmp_path_factory.mktemp('prepared')


def test_the_miniature_is_prepared_whole_planned_trained_on_and_evaluated(
    miniature, out, command, tmp_path, caplog
):
    result = command('prepare', *miniature.command, f'--out={out}')
    assert result.code == 0, result.err
    check_what_is_said(miniature, out, result.out)
    check_contents(miniature, out, caplog)
    (tmp_path / 'tiny.py').write_text(CONFIG)
    recipe, *told = [
        word
        for word in result.out.split('\n')[-2].split()
        if word.startswith('--config') and '.init.' not in word
    ]
    with_recipe = command('plan', recipe.replace('=', f'={ROOT}/'), *told)
    assert (
        with_recipe.code == 0
        and f'train: {clips_in(miniature, miniature.train)} clips' in with_recipe.out
    ), with_recipe.err
    config = [
        f'--config={tmp_path}/tiny.py',
        *told,
        f'--config.frontend.sample_rate={miniature.sample_rate}',
    ]
    planned = command('plan', *config)
    assert (
        planned.code == 0 and f'train: {clips_in(miniature, miniature.train)} clips' in planned.out
    )
    assert f'eval: {EVALUATED} clips' in planned.out and 'about 2 in 1 epochs' in planned.out
    trained = command('train', f'--workdir={tmp_path}/run', *config)
    assert trained.code == 0 and 'training is finished, 2 steps' in trained.err + trained.out, (
        trained.err
    )
    evaluated = command('evaluate', f'--workdir={tmp_path}/run')
    assert evaluated.code == 0, evaluated.err
    assert (
        json.loads((tmp_path / 'run' / 'eval' / 'metrics.json').read_text())['clips'] == EVALUATED
    )


def clips_in(miniature: Miniature, splits: str) -> int:
    return sum(len(miniature.clips[split]) for split in splits.split('+'))


def check_what_is_said(miniature: Miniature, out: pathlib.Path, said: str) -> None:
    rows = {
        cells[0]: cells[1:]
        for line in said.splitlines()
        if line.startswith('  ') and (cells := line.split())
    }
    for split, clips in miniature.clips.items():
        each = [
            sum((split, why) == found[:2] for found in miniature.skipped)
            for why in ('missing', 'broken')
        ]
        assert [int(rows[split][i]) for i in (0, 2, 3)] == [len(clips), *each]
    listed = (out / miniature.name / '1.0.0' / 'skipped.txt').read_text().splitlines()
    assert {tuple(line.split('\t')[:3]) for line in listed} == miniature.skipped and len(
        listed
    ) == len(miniature.skipped)
    assert f'{len(miniature.skipped)} clips skipped, listed in {out}' in said
    assert (
        f'--config.data.train_split={miniature.train}'
        f' --config.data.eval_split={miniature.evaluate} ' in said
    )
    last = {
        'manifest': (
            '--config.frontend.sample_rate=16000 --config.train.loss=bce'
            ' --config.train.label_smoothing=0'
        ),
        'voxceleb1': '--config.init.from=SSAST',
    }
    assert said.endswith(f' {last.get(miniature.command[0], "--config.init.from=VIT")}\n')


def check_contents(miniature: Miniature, out: pathlib.Path, caplog) -> None:
    folder = out / miniature.name / '1.0.0'
    for split, clips in miniature.clips.items():
        source = tfds.load(miniature.name, str(out), split, miniature.sample_rate, Features())
        assert not list(
            folder.glob('.elastic-ast-*')
        )  # the lengths were known without reading a record
        assert source.keys == tuple(sorted(clips))
        for i, key in enumerate(source.keys):
            samples, labels = clips[key]
            assert set(source.labels[i]) == set(labels) and source.samples[i] == len(samples)
            np.testing.assert_array_equal(source.read(i) * 32768, samples)
    assert not [record for record in caplog.records if 'index' in record.getMessage()]
    # Without the index, everything is read, and is the same.
    (folder / f'index-{split}.npz').rename(folder / 'aside')
    assert (
        tfds.load(miniature.name, str(out), split, miniature.sample_rate, Features()).fingerprint
        == source.fingerprint
    )
    (folder / 'aside').rename(folder / f'index-{split}.npz')
    for cache in folder.glob('.elastic-ast-*'):
        cache.unlink()
