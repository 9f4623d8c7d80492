"""Test the conversion of the published network to a workdir and back, to the bit."""

import json
from typing import Any

import numpy as np
import pytest
import soundfile

import elastic_ast_jax
from elastic_ast_jax.checkpointing.workdir import Workdir
from elastic_ast_jax.cli.main import main
from elastic_ast_jax.config import model_sizes
from elastic_ast_jax.parity import reference
from elastic_ast_jax.pretrained import (
    convert_elastic_ast,
    elastic_ast_torch,
    export_elastic_ast,
    state_dict,
)
from elastic_ast_jax.pretrained.elastic_ast_torch import LayoutError
from elastic_ast_jax.pretrained.save_workdir import ConvertError
from tests.fixtures.untrained import workdir as untrained

safetensors = pytest.importorskip(
    'safetensors.numpy', reason='safetensors is not installed: pip install elastic-ast-jax[convert]'
)
HEADS = '--heads=4'


def load_stored(name) -> tuple[reference.Reference, dict[str, Any]]:
    """Return the stored arrays, and the state dict among them."""
    stored = reference.load(name)
    return stored, stored.part('weights/')


@pytest.fixture(
    scope='module',
    params=[('elasticast_tiny', 'attention'), ('elasticast_tiny_avgpool', 'mean')],
    ids=['attention', 'mean'],
)
def converted(request, tmp_path_factory):
    """Return the reference values, their state dict, and the converted workdir."""
    name, pool = request.param
    stored, weights = load_stored(name)
    folder = tmp_path_factory.mktemp(pool)
    np.savez(folder / 'weights.npz', allow_pickle=False, **weights)
    source, model = str(folder / 'weights.npz'), str(folder / 'model')
    assert main(['convert', 'elasticast_torch', source, model, HEADS, f'--pool={pool}']) == 0
    return stored, weights, folder / 'model'


@pytest.fixture
def weights_file(tmp_path):
    np.savez(tmp_path / 'weights.npz', **load_stored('elasticast_tiny')[1])
    return tmp_path / 'weights.npz'


# From the published code to a workdir


def test_logits_are_those_of_the_published_network(converted):
    stored, _, folder = converted
    clips = [stored[f'clips/{i}'] for i in range(len(stored['logits']))]
    logits = elastic_ast_jax.load(folder).logits(clips)
    np.testing.assert_allclose(logits, stored['logits'], rtol=0, atol=1e-4)
    np.testing.assert_allclose(logits, stored['logits_alone'], rtol=0, atol=1e-4)


def test_the_report_names_every_tensor_and_its_place(converted):
    _, weights, folder = converted
    lines = (folder / 'conversion.txt').read_text().splitlines()
    named = {line.split()[0]: line for line in lines if not line.startswith(' ')}
    assert weights.keys() <= named.keys()
    for name, tensor in weights.items():
        assert str(list(tensor.shape)) in named[name]
    assert (
        'encoder/blocks/attention/key/kernel, encoder/blocks/attention/value/kernel [1]'
        in (named['blocks.modules_list.1.attn.to_kv.weight'])
    )
    mean = Workdir(folder).config().model.pool == 'mean'
    assert ('not used by mean pooling' in named['attn_pool_queries']) == mean


def test_config_is_the_published_one(converted):
    config = Workdir(converted[2]).config()
    assert not config.model.scaled
    frontend = config.frontend
    assert (frontend.partial, frontend.mel_bins, frontend.max_frames, frontend.patch_size) == (
        'floor',
        128,
        512,
        256,
    )
    assert (frontend.mean, frontend.std, config.train.loss) == (-4.414, 4.905, 'bce')


def test_recordings_are_classified(converted, tmp_path, capsys):
    soundfile.write(tmp_path / 'a.wav', np.random.default_rng(0).standard_normal(16000) / 8, 16000)
    assert main(['predict', str(converted[2]), str(tmp_path / 'a.wav'), '--json']) == 0
    assert len(json.loads(capsys.readouterr().out)['predictions']) == 5


# From a workdir to the published code


def test_a_round_trip_keeps_all_bits(converted, tmp_path):
    _, weights, folder = converted
    assert (
        main(['convert', 'to_elasticast_torch', str(folder), str(tmp_path / 'back.safetensors')])
        == 0
    )
    back = safetensors.load_file(tmp_path / 'back.safetensors')
    assert back.keys() == weights.keys()
    for name, tensor in weights.items():
        assert back[name].dtype == np.float32 and back[name].shape == tensor.shape
        assert back[name].tobytes() == tensor.tobytes()


def test_pytorch_loads_it_strictly(converted, tmp_path):
    torch = pytest.importorskip(
        'torch', reason='PyTorch is not installed: pip install elastic-ast-jax[convert]'
    )
    from safetensors.torch import load_file

    _, weights, folder = converted
    torch.save(
        {name: torch.from_numpy(tensor) for name, tensor in weights.items()},
        tmp_path / 'weights.pth',
    )
    pool = Workdir(folder).config().model.pool
    convert_elastic_ast.run(tmp_path / 'weights.pth', tmp_path / 'model', heads=4, pool=pool)
    export_elastic_ast.run(tmp_path / 'model', tmp_path / 'back.safetensors')
    module = torch.nn.Module()
    for name, tensor in weights.items():  # modules with the published names
        inner = module
        *path, last = name.split('.')
        for part in path:
            if not hasattr(inner, part):
                inner.add_module(part, torch.nn.Module())
            inner = getattr(inner, part)
        inner.register_parameter(last, torch.nn.Parameter(torch.zeros(tensor.shape)))
    module.load_state_dict(load_file(tmp_path / 'back.safetensors'), strict=True)
    for name, tensor in module.state_dict().items():
        assert tensor.numpy().tobytes() == weights[name].tobytes()


def test_a_model_of_this_project_computes_the_same_in_the_published_form(tmp_path):
    """Its queries are divided instead of the logits; tensors that mean pooling lacks are zeros."""
    for pool in ('attention', 'mean'):
        workdir, back, again = (
            tmp_path / pool,
            tmp_path / f'{pool}.safetensors',
            tmp_path / f'{pool}-again',
        )
        untrained(workdir, model={'pool': pool, 'scaled': True})
        export_elastic_ast.run(workdir, back)
        convert_elastic_ast.run(back, again, heads=2, pool=pool)
        clips = [
            np.random.default_rng(i).standard_normal((32, 16 * i), np.float32) for i in range(1, 5)
        ]
        assert Workdir(workdir).config().model.scaled and not Workdir(again).config().model.scaled
        np.testing.assert_allclose(
            elastic_ast_jax.load(again).logits(clips),
            elastic_ast_jax.load(workdir).logits(clips),
            rtol=1e-5,
            atol=1e-5,
        )
        zeros = state_dict.read(back).tensors['attn_pool_queries']
        assert (zeros == 0).all() == (pool == 'mean')


def test_patches_that_are_no_squares_cannot_be_exported(tmp_path):
    untrained(tmp_path / 'model', frontend={'patch_frames': 8})
    with pytest.raises(ConvertError, match='patches of 16 x 8'):
        export_elastic_ast.run(tmp_path / 'model', tmp_path / 'back.safetensors')
    assert not (tmp_path / 'back.safetensors').exists()


def test_an_exported_model_names_its_frequencies(tmp_path, capsys):
    untrained(tmp_path / 'whole')
    export_elastic_ast.run(tmp_path / 'whole', tmp_path / 'whole.safetensors')
    assert 'low_freq' not in capsys.readouterr().out
    frontend = {'sample_rate': 32000, 'f_min': 2500.0, 'f_max': 9000.0}
    untrained(tmp_path / 'model', frontend=frontend)
    export_elastic_ast.run(tmp_path / 'model', tmp_path / 'back.safetensors')
    text = capsys.readouterr().out
    assert 'log-mels from 2500 to 9000 Hz' in text and 'low_freq=2500, high_freq=9000' in text


# Options


def test_options_replace_the_published_values(weights_file, tmp_path):
    (tmp_path / 'labels.txt').write_text('\n'.join('abcdefg') + '\n', encoding='utf-8')
    assert (
        main(
            [
                'convert',
                'elasticast_torch',
                str(weights_file),
                str(tmp_path / 'model'),
                HEADS,
                '--mean=-5.5',
                '--std=3',
                f'--labels={tmp_path / "labels.txt"}',
                '--loss=cross_entropy',
                '--scaled',
            ]
        )
        == 0
    )
    workdir = Workdir(tmp_path / 'model')
    config = workdir.config()
    assert (config.frontend.mean, config.frontend.std, config.train.loss, config.model.scaled) == (
        -5.5,
        3.0,
        'cross_entropy',
        True,
    )
    assert workdir.model_metadata().labels == tuple('abcdefg')


def test_labels_of_a_csv_are_in_the_order_of_its_index(weights_file, tmp_path):
    rows = [f'{i},/m/{i},"name, {i}"' for i in reversed(range(7))]
    (tmp_path / 'labels.csv').write_text(
        '\n'.join(['index,mid,display_name', *rows]), encoding='utf-8'
    )
    convert_elastic_ast.run(
        weights_file, tmp_path / 'model', heads=4, labels=str(tmp_path / 'labels.csv')
    )
    assert Workdir(tmp_path / 'model').model_metadata().labels == tuple(
        f'name, {i}' for i in range(7)
    )


@pytest.mark.parametrize(
    'name, classes', [('audioset', 527), ('vggsound', 309), ('voxceleb', 1251), ('epic_sounds', 44)]
)
def test_the_number_of_classes_selects_the_recipe(tmp_path, name, classes):
    layout = elastic_ast_torch.Layout(model_sizes.Size(8, 1, 2), classes, (2, 8), 16)
    weights: dict[str, Any] = {
        row.source: np.zeros(row.shape, np.float32)
        for row in elastic_ast_torch.tensor_mappings(layout)
    }
    np.savez(tmp_path / 'w.npz', **weights)
    convert_elastic_ast.run(tmp_path / 'w.npz', tmp_path / 'inferred', heads=2)
    assert (
        main(
            [
                'convert',
                'elasticast_torch',
                str(tmp_path / 'w.npz'),
                str(tmp_path / 'named'),
                '--heads=2',
                f'--recipe={name}',
            ]
        )
        == 0
    )
    assert Workdir(tmp_path / 'inferred').config() == Workdir(tmp_path / 'named').config()
    assert (
        Workdir(tmp_path / 'inferred').config().train.loss == convert_elastic_ast.RECIPES[name].loss
    )


# Refusals


@pytest.mark.parametrize(
    'text, problem',
    [
        ('a\nb\n', 'names 2 classes, and the model has 7'),
        ('a\nb\nc\nd\ne\nf\na\n', "'a' is the name of several classes"),
    ],
)
def test_labels_that_do_not_fit(weights_file, tmp_path, text, problem):
    (tmp_path / 'labels.txt').write_text(text, encoding='utf-8')
    with pytest.raises(ConvertError, match=f'labels.txt.*{problem}'):
        convert_elastic_ast.run(
            weights_file, tmp_path / 'model', heads=4, labels=str(tmp_path / 'labels.txt')
        )
    assert not (tmp_path / 'model').exists()


def test_the_error_of_an_unusable_file_names_it_and_leaves_nothing(tmp_path):
    weights = load_stored('elasticast_tiny')[1]
    weights['head.bias'] = np.zeros(8, np.float32)
    np.savez(tmp_path / 'w.npz', **weights)
    with pytest.raises(
        LayoutError, match=r'w.npz: .*head.bias has the shape \[8\], expected \[7\]'
    ):
        convert_elastic_ast.run(tmp_path / 'w.npz', tmp_path / 'model', heads=4)
    assert not (tmp_path / 'model').exists()


def test_a_folder_with_a_model_stays_as_it_is(weights_file, tmp_path):
    convert_elastic_ast.run(weights_file, tmp_path / 'model', heads=4)
    before = {path: path.read_bytes() for path in (tmp_path / 'model').rglob('*') if path.is_file()}
    with pytest.raises(ConvertError, match='holds a model already'):
        convert_elastic_ast.run(weights_file, tmp_path / 'model', heads=4, mean=0.0)
    assert before == {
        path: path.read_bytes() for path in (tmp_path / 'model').rglob('*') if path.is_file()
    }


def test_unused_tensors_of_another_shape_are_refused(tmp_path):
    np.savez(tmp_path / 'w.npz', **load_stored('elasticast_tiny_avgpool')[1])
    convert_elastic_ast.run(tmp_path / 'w.npz', tmp_path / 'model', heads=4, pool='mean')
    np.savez(tmp_path / 'model' / 'unused.npz', attn_pool_queries=np.zeros(3, np.float32))
    with pytest.raises(
        state_dict.TensorFileError,
        match=r'unused.npz: attn_pool_queries has the shape \(3,\), expected \(48,\)',
    ):
        export_elastic_ast.run(tmp_path / 'model', tmp_path / 'back.safetensors')


@pytest.mark.parametrize('option', ['--std=0', '--mean=nan'])
def test_impossible_statistics_are_refused(weights_file, tmp_path, capsys, option):
    assert (
        main(
            [
                'convert',
                'elasticast_torch',
                str(weights_file),
                str(tmp_path / 'model'),
                HEADS,
                option,
            ]
        )
        == 1
    )
    assert f'frontend.{option[2:].split("=")[0]}' in capsys.readouterr().err
    assert not (tmp_path / 'model').exists()
