"""Initialization from networks of this project, on other grids, with other classes; the report."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from elastic_ast_jax.checkpointing.load_model import load_model
from elastic_ast_jax.config.model_sizes import SIZES, Size
from elastic_ast_jax.models import position_interpolation
from elastic_ast_jax.packing import packer
from elastic_ast_jax.packing.batch import BatchShape
from elastic_ast_jax.pretrained import elastic_ast_torch
from elastic_ast_jax.pretrained.elastic_ast_torch import Layout
from elastic_ast_jax.pretrained.weights import PretrainedError
from tests.fixtures import untrained, weight_files
from tests.fixtures.weight_files import (
    FRONTEND,
    LABELS,
    SIZE,
    abstract,
    elastic,
    fixed,
    initialize_from,
    saved,
)

FEATURES = untrained.settings().frontend
AST_SECTIONS = {
    'model': untrained.VALUES['model'] | {'kind': 'ast', 'stride': (10, 10)},
    'augment': {'freq_mask': 8, 'token_dropout': 0.0},
    'frontend': untrained.VALUES['frontend'] | {'min_frames': 96},
    'data': {'source': 'synthetic', 'too_long': 'crop'},
    'packing': {'rows': 2, 'tokens': 24, 'slots': 2},
}


@pytest.fixture(scope='module')
def workdir(tmp_path_factory):
    """Return an ElasticAST of two bands by six columns of patches, and its parameters."""
    path = tmp_path_factory.mktemp('elastic')
    untrained.workdir(path)
    return path, flat(load_model(path).params)


@pytest.fixture(scope='module')
def ast_workdir(tmp_path_factory):
    """Return an AST of two rows by nine columns of patches, and its parameters."""
    path = tmp_path_factory.mktemp('fixed')
    untrained.workdir(path, **AST_SECTIONS)
    return path, flat(load_model(path).params)


@pytest.fixture
def vit(tmp_path):
    return saved(tmp_path, weight_files.timm())


def flat(params):
    return {name: np.asarray(array) for name, array in flatten_dict(params, sep='/').items()}


def logits(network, params, frontend=FRONTEND):
    """Return the logits of two clips of different lengths."""
    random = np.random.default_rng(0)
    clips = [
        random.standard_normal((frames, frontend.mel_bins), np.float32)
        for frames in (frontend.max_frames, 32)
    ]
    patches = [packer.patchify(clip, 16, 16, frontend.max_time_patches) for clip in clips]
    shape = BatchShape(
        1, int(2 * frontend.tokens(frontend.max_frames)), 2, frontend.patch_size, network.classes
    )
    batch = packer.fill_batch([[0, 1]], patches, frontend.mel_patches, shape)
    run = jax.jit(
        network.clone(scan=True).apply, compiler_options={'xla_backend_optimization_level': 0}
    )
    return np.asarray(
        run({'params': unflatten_dict(params, sep='/')}, jax.tree.map(jnp.asarray, batch))
    )


def report_line(initialized, start):
    """Return the one line of the report with this start."""
    lines = [entry for entry in initialized.report if entry.startswith(start)]
    assert len(lines) == 1, initialized.report
    return lines[0]


# From networks of this project


def test_the_same_network_gets_equal_parameters(workdir):
    path, params = workdir
    network = elastic(FEATURES)
    initialized = initialize_from(path, network, untrained.LABELS, frontend=FEATURES)
    assert initialized.params.keys() == params.keys()
    for name, array in params.items():
        np.testing.assert_array_equal(initialized.params[name], array)
    np.testing.assert_array_equal(
        logits(network, initialized.params, FEATURES), logits(network, params, FEATURES)
    )
    assert 'step 0' in initialized.report[0] and not any(
        'newly' in entry or 'note' in entry for entry in initialized.report
    )


def test_classes_in_another_order_keep_their_logits(workdir):
    path, params = workdir
    network, order = elastic(FEATURES), [2, 0, 1]
    initialized = initialize_from(
        path, network, [untrained.LABELS[i] for i in order], frontend=FEATURES
    )
    np.testing.assert_array_equal(
        logits(network, initialized.params, FEATURES), logits(network, params, FEATURES)[..., order]
    )
    assert report_line(initialized, 'head:').endswith(
        'the same 3 classes, in the order of this model'
    )


def test_the_head_of_other_classes_is_newly_initialized(workdir):
    initialized = initialize_from(
        workdir[0], elastic(FEATURES), ['low', 'middle', 'high'], frontend=FEATURES
    )
    assert 'head/kernel' not in initialized.params
    assert (
        report_line(initialized, 'head:')
        == 'head: newly initialized: this model has 3 classes, the weights have 3 (only in the'
        ' weights: très haut; only in this model: high)'
    )
    fewer = initialize_from(workdir[0], elastic(FEATURES, classes=1), ['low'], frontend=FEATURES)
    assert report_line(
        fewer, 'head: newly initialized: this model has 1 class, the weights have 3'
    ) and report_line(fewer, 'not used: head/bias, head/kernel')


def test_a_shorter_table_of_times_is_the_first_ones(workdir):
    path, params = workdir
    shorter = dataclasses.replace(FEATURES, max_frames=64)
    initialized = initialize_from(path, elastic(shorter), untrained.LABELS, frontend=shorter)
    np.testing.assert_array_equal(
        initialized.params['positions/time'], params['positions/time'][:4]
    )
    assert 'frequency 2 as they are; time the first 4 of 6' in report_line(
        initialized, 'positions:'
    )


def test_a_longer_table_of_times_is_resized(workdir):
    path, params = workdir
    longer = dataclasses.replace(FEATURES, max_frames=192)
    initialized = initialize_from(path, elastic(longer), untrained.LABELS, frontend=longer)
    time = initialized.params['positions/time']
    np.testing.assert_array_equal(time[[0, -1]], params['positions/time'][[0, -1]])
    np.testing.assert_allclose(
        time[1], 0.75 * params['positions/time'][0] + 0.25 * params['positions/time'][1], atol=1e-6
    )


def test_other_mel_bins_resize_the_table_of_frequencies(workdir):
    path, params = workdir
    finer = dataclasses.replace(FEATURES, mel_bins=64)
    initialized = initialize_from(path, elastic(finer), untrained.LABELS, frontend=finer)
    freq = initialized.params['positions/freq']
    np.testing.assert_array_equal(freq[[0, -1]], params['positions/freq'])
    np.testing.assert_array_equal(initialized.params['positions/time'], params['positions/time'])
    assert 'mel_bins 32 in the weights and 64 in this model' in report_line(
        initialized, 'note: features differ'
    )


def test_rows_of_patches_lie_at_their_frequencies(workdir):
    """Half the sample rate ends at mel 2146 instead of 2840, and both begin at mel 32."""
    path, params = workdir
    lower = dataclasses.replace(FEATURES, sample_rate=8000)
    initialized = initialize_from(path, elastic(lower), untrained.LABELS, frontend=lower)
    freq, old = initialized.params['positions/freq'], params['positions/freq']
    np.testing.assert_array_equal(freq[0], old[0])  # below all of the weights
    step = (2146.06 - 31.75) / (2840.02 - 31.75)  # mels of a bin, relative to those of the weights
    place = (step * (16.5 + 8) - 8.5) / 16  # the middle of the filters 17 to 32, counted from 1
    np.testing.assert_allclose(freq[1], (1 - place) * old[0] + place * old[1], atol=1e-4)
    assert 'frequency 2 -> 2 by frequency' in report_line(initialized, 'positions:')


def test_features_that_differ_are_noted(workdir):
    changed = dataclasses.replace(FEATURES, mean=-5.0, sample_rate=8000)
    initialized = initialize_from(workdir[0], elastic(changed), untrained.LABELS, frontend=changed)
    assert (
        report_line(initialized, 'note:')
        == 'note: features differ: sample_rate 16000 in the weights and 8000 in this model, mean'
        ' -7.0 in the weights and -5.0 in this model'
    )


def test_an_elastic_ast_initializes_an_ast(workdir):
    """Without overlap, the sums of its tables; with it, what lies between them."""
    path, params = workdir
    grid = position_interpolation.sum_tables(params['positions/freq'], params['positions/time'])
    initialized = initialize_from(
        path, fixed(FEATURES, stride=16), untrained.LABELS, frontend=FEATURES
    )
    np.testing.assert_allclose(initialized.params['positions'][2:], grid.reshape(12, -1), atol=1e-6)
    assert 'tokens' not in initialized.params and not initialized.params['positions'][:2].any()
    assert report_line(initialized, 'tokens:') == 'tokens: newly initialized'
    assert report_line(initialized, 'not used: pool/')
    overlapping = (
        initialize_from(path, fixed(FEATURES), untrained.LABELS, frontend=FEATURES)
        .params['positions'][2:]
        .reshape(2, 9, -1)
    )
    # Patch 4 begins at frame 40, half-way between those at 32 and 48; row 1 at bin 10 of 16.
    row = 0.375 * grid[0] + 0.625 * grid[1]
    np.testing.assert_allclose(overlapping[1, 4], (row[2] + row[3]) / 2, atol=1e-6)


def test_the_same_ast_gets_equal_parameters(ast_workdir):
    path, params = ast_workdir
    initialized = initialize_from(path, fixed(FEATURES), untrained.LABELS, frontend=FEATURES)
    assert initialized.params.keys() == params.keys()
    for name, array in params.items():
        np.testing.assert_array_equal(initialized.params[name], array)


def test_an_ast_initializes_an_elastic_ast(ast_workdir):
    path, params = ast_workdir
    initialized = initialize_from(path, elastic(FEATURES), untrained.LABELS, frontend=FEATURES)
    grid = params['positions'][2:].reshape(2, 9, -1)
    row = position_interpolation.interpolate(
        grid, np.array([0, 1], np.float64), 0
    )  # bins 0 and 16 of rows at 0 and 10, the last of which ends the table
    expected = position_interpolation.interpolate(
        row, np.array([0, 1.6, 3.2, 4.8, 6.4, 8.0], np.float64), 1
    )
    np.testing.assert_allclose(
        position_interpolation.sum_tables(
            *(initialized.params[f'positions/{name}'] for name in ('freq', 'time'))
        ),
        position_interpolation.sum_tables(*position_interpolation.factorize(expected)),
        atol=1e-6,
    )
    np.testing.assert_array_equal(initialized.params['norm_head/scale'], params['norm_head/scale'])
    assert report_line(initialized, 'not used: tokens')


# From the published ElasticAST


@pytest.fixture
def published(tmp_path):
    """Return a file of the published network, its state dict, and its parameters."""
    layout = Layout(SIZE, 5, (2, 6), 16)
    random = np.random.default_rng(1)
    state = {
        row.source: 0.3 * random.standard_normal(row.shape, np.float32)
        for row in elastic_ast_torch.tensor_mappings(layout)
    }
    return saved(tmp_path, state), state, flat(elastic_ast_torch.to_params(state, layout))


def test_the_published_network_gives_the_same_with_scaled_attention(published):
    path, _state, params = published
    initialized = initialize_from(path, elastic(classes=5), list('abcde'))
    head = {name: array for name, array in params.items() if name.startswith('head/')}
    expected = logits(elastic(classes=5, scaled=False), params)
    np.testing.assert_allclose(
        logits(elastic(classes=5), initialized.params | head), expected, atol=1e-5
    )
    assert np.abs(expected[:, 0] - expected[:, 1]).max() > 0.1
    assert 'queries are multiplied' in report_line(
        initialized, 'note: attention logits are divided by sqrt(8) in this model and not divided'
    )
    assert report_line(initialized, 'note: to keep its head, convert it first')
    unscaled = initialize_from(path, elastic(classes=5, scaled=False), list('abcde'))
    np.testing.assert_array_equal(unscaled.params['pool/query'], params['pool/query'])
    assert unscaled.params.keys() | head.keys() == params.keys()
    for name, array in unscaled.params.items():
        np.testing.assert_array_equal(array, params[name])


def test_a_state_dict_that_lacks_something_is_refused(published):
    path, state, _ = published
    with pytest.raises(
        elastic_ast_torch.LayoutError, match=r'lacking.npz: .*missing: mlp_norm.bias'
    ):
        initialize_from(
            saved(
                path.parent,
                {name: array for name, array in state.items() if name != 'mlp_norm.bias'},
                'lacking.npz',
            )
        )


# From an image network


def test_every_parameter_has_its_shape_or_is_newly_initialized(vit):
    for network in (elastic(), elastic(pool='mean'), fixed(), fixed(stride=16)):
        initialized, shapes = initialize_from(vit, network), flat_shapes(network)
        for name, array in initialized.params.items():
            assert (
                array.shape == shapes[name]
                and array.dtype == np.float32
                and array.flags.c_contiguous
            )
        missing = {name.split('/')[0] for name in shapes if name not in initialized.params}
        assert missing == {'head', 'norm_head'} | ({'pool'} if 'pool/query' in shapes else set())
        for name in missing:
            assert 'newly initialized' in report_line(initialized, f'{name}:')


def flat_shapes(network):
    leaves: dict[str, Any] = flatten_dict(abstract(network), sep='/')
    return {name: tuple(leaf.shape) for name, leaf in leaves.items()}


def test_positions_of_an_image_are_cropped_resized_and_averaged(vit):
    """Three by three places: the middle two for two bands, six columns of three."""
    initialized = initialize_from(vit)
    grid = weight_files.timm()['pos_embed'][0, 1:].reshape(3, 3, -1)[0:2]
    columns = np.clip((np.arange(6) + 0.5) / 2 - 0.5, 0, 2)
    resized = position_interpolation.interpolate(grid, columns, 1)
    np.testing.assert_allclose(
        initialized.params['positions/freq'] + resized.mean(axis=(0, 1)) / 2,
        resized.mean(axis=1),
        atol=1e-6,
    )
    np.testing.assert_allclose(
        initialized.params['positions/time'] + resized.mean(axis=(0, 1)) / 2,
        resized.mean(axis=0),
        atol=1e-6,
    )
    assert 'frequency the middle 2 of 3; time 3 -> 6 resized bilinearly' in report_line(
        initialized, 'positions: from pos_embed'
    )
    quirks = initialize_from(vit, quirks=True)
    np.testing.assert_allclose(quirks.params['positions/freq'], resized.mean(axis=1), atol=1e-6)
    np.testing.assert_allclose(quirks.params['positions/time'], resized.mean(axis=0), atol=1e-6)


def test_the_pooling_is_initialized_with_the_mean_over_the_blocks(vit):
    """Check the mean, and that the published code divides by attention's six tensors, too."""
    initialized, quirks = initialize_from(vit).params, initialize_from(vit, quirks=True).params
    for pooled, block in {
        'to_query': 'query',
        'key': 'key',
        'value': 'value',
        'out': 'out',
    }.items():
        for leaf in ('kernel', 'bias'):
            mean = initialized[f'encoder/blocks/attention/{block}/{leaf}'].mean(axis=0)
            np.testing.assert_allclose(initialized[f'pool/{pooled}/{leaf}'], mean, atol=1e-6)
            np.testing.assert_allclose(quirks[f'pool/{pooled}/{leaf}'], mean / 6, atol=1e-6)
    assert 'pool/query' not in initialized


def test_unscaled_attention_is_the_same_or_as_published(vit):
    """Divide the logits of 8-wide heads by sqrt(8) in the network or in the queries.

    The published code does neither.
    """
    scaled, unscaled = initialize_from(vit), initialize_from(vit, elastic(scaled=False))
    anew = np.random.default_rng(0)
    other_params = {
        name: 0.3 * anew.standard_normal(shape, np.float32)
        for name, shape in flat_shapes(elastic()).items()
    }
    expected = logits(elastic(), other_params | scaled.params)
    np.testing.assert_allclose(
        logits(elastic(scaled=False), other_params | unscaled.params), expected, atol=1e-4
    )
    quirks = initialize_from(vit, elastic(scaled=False), quirks=True)
    np.testing.assert_array_equal(
        quirks.params['encoder/blocks/attention/query/kernel'],
        scaled.params['encoder/blocks/attention/query/kernel'],
    )
    assert 'attention differs' in report_line(
        quirks, 'note: attention logits are not divided by sqrt(8) in this model'
    )


def test_the_report_lists_what_is_not_used(tmp_path):
    initialized = initialize_from(saved(tmp_path, weight_files.timm(tokens=2)))
    listed = ', '.join(entry for entry in initialized.report if entry.startswith('not used:'))
    for name in (
        'cls_token',
        'dist_token',
        'head.weight',
        'head.bias',
        'head_dist.weight',
        'head_dist.bias',
    ):
        assert name in listed
    assert report_line(initialized, 'head:') == 'head: newly initialized: this model has 3 classes'


def test_names_cannot_steer_a_terminal(tmp_path):
    folder = tmp_path / 'a\x1b[2Jb'
    folder.mkdir()
    assert not any(
        '\x1b' in entry for entry in initialize_from(saved(folder, weight_files.timm())).report
    )


# Networks that do not fit


@pytest.mark.parametrize(
    'size, parts',
    [
        (
            Size(32, 2, 2),
            ('has width 16, depth 2, and this model width 32, depth 2', '--config.model.width=16'),
        ),
        (Size(16, 3, 2), ('depth 2, and this model width 16, depth 3', '--config.model.depth=2')),
        (Size(16, 1, 2), ('depth 2, and this model width 16, depth 1', '--config.model.depth=2')),
    ],
)
def test_another_size(vit, size, parts):
    with pytest.raises(PretrainedError) as caught:
        initialize_from(vit, elastic(size=size))
    for part in (str(vit), *parts):
        assert part in str(caught.value)


def test_other_heads_where_the_file_has_them(tmp_path):
    path = saved(tmp_path, weight_files.big_vision(weight_files.timm()))
    with pytest.raises(
        PretrainedError,
        match=r'heads 2, and this model width 16, depth 2, heads 4: set .*--config.model.heads=2',
    ):
        initialize_from(path, elastic(size=Size(16, 2, 4)))


def test_a_size_with_a_name(tmp_path, monkeypatch):
    monkeypatch.setitem(SIZES, 'small', SIZE)
    with pytest.raises(
        PretrainedError, match=r'set --config.model.size=small, or --config.model.width=16'
    ):
        initialize_from(
            saved(tmp_path, weight_files.big_vision(weight_files.timm())),
            elastic(size=Size(32, 2, 2)),
        )


def test_another_patch(vit):
    changed = dataclasses.replace(FRONTEND, patch_mels=8, patch_frames=32)
    with pytest.raises(
        PretrainedError,
        match=r'has patches of 16 x 16, and this model of 8 x 32.*--config.frontend.patch_mels=16',
    ):
        initialize_from(vit, elastic(changed), frontend=changed)
    assert len(LABELS) == 3
