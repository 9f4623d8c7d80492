"""A network is found below every name that a training program puts around its tensors."""

import numpy as np
import pytest

from elastic_ast_jax.pretrained import detect, elastic_ast_torch
from elastic_ast_jax.pretrained.elastic_ast_torch import Layout
from elastic_ast_jax.pretrained.state_dict import TensorFileError
from elastic_ast_jax.pretrained.wrappers import WrapperError, find_network
from tests.fixtures import weight_files
from tests.fixtures.weight_files import SIZE, saved


def published():
    return {
        row.source: np.ones(row.shape, np.float32)
        for row in elastic_ast_torch.tensor_mappings(Layout(SIZE, 5, (2, 6), 16))
    }


def without_module(state):
    return {name.removeprefix('module.'): array for name, array in state.items()}


STATES = {
    'timm': lambda: weight_files.timm(),
    'distilled': lambda: weight_files.timm(2),
    'vit': lambda: weight_files.hugging_face(weight_files.timm()),
    'deit': lambda: weight_files.hugging_face(weight_files.timm(2), 'deit.'),
    'bare': lambda: weight_files.hugging_face(weight_files.timm(), ''),
    'ssast': lambda: without_module(weight_files.ssast()),
    'ast': lambda: without_module(weight_files.ast()),
    'ast_hf': lambda: weight_files.hugging_face(
        weight_files.timm(2, 1), 'audio_spectrogram_transformer.'
    ),
    'elastic_ast': published,
}
PREFIXES = (
    '',
    'module.',
    '_orig_mod.',
    'model.',
    'net.',
    'backbone.',
    'encoder.',
    'audio_model.',
    'module._orig_mod.',
    '_orig_mod.module.model.',
    'state_dict.model.net.backbone.',
    'model_state_dict.module.',
    'ema.',
    'teacher.backbone.',
    'vit.visual.',
)


@pytest.mark.parametrize('prefix', PREFIXES)
@pytest.mark.parametrize('scheme', STATES)
def test_every_scheme_is_found_below_every_prefix(scheme, prefix):
    names = list(STATES[scheme]())
    network = find_network([prefix + name for name in names])
    assert network.names == {name: prefix + name for name in names}
    assert bool(network.notes) == bool(prefix)


@pytest.mark.parametrize('scheme', STATES)
def test_what_stands_beside_a_network_is_ignored_and_noted(scheme):
    names = list(STATES[scheme]())
    beside = ['model.loss.weight', 'optimizer.state.0.exp_avg', 'n_averaged', 'model.mixup.a.b']
    network = find_network([f'model.net.{name}' for name in names] + beside, ['epoch'])
    assert list(network.names) == names
    assert network.notes == (
        "took the tensors below 'model.net.'",
        'ignored beside the network: epoch, model.loss, optimizer, n_averaged, model.mixup',
    )


def test_the_state_of_an_optimizer_is_no_network():
    names = list(weight_files.timm())
    state = [f'optimizer.{kind}.{name}' for kind in ('exp_avg', 'exp_avg_sq') for name in names]
    assert list(find_network([f'model.{name}' for name in names] + state).names) == names


TO_MODULES = (
    ('encoder.layer.', 'layers.'),
    ('attention.attention.query', 'attention.q_proj'),
    ('attention.attention.key', 'attention.k_proj'),
    ('attention.attention.value', 'attention.v_proj'),
    ('attention.output.dense', 'attention.o_proj'),
    ('intermediate.dense', 'mlp.fc1'),
    ('output.dense', 'mlp.fc2'),
)


@pytest.mark.parametrize('prefix', ['', 'state_dict.model.'])
@pytest.mark.parametrize('scheme', ['vit', 'deit', 'bare', 'ast_hf'])
def test_modules_of_transformers_are_named_as_in_its_files(scheme, prefix):
    """`torch.save(model.state_dict())` of transformers 5."""
    names = list(STATES[scheme]())
    modules = []
    for name in names:
        for saved_name, module in TO_MODULES:
            name = name.replace(saved_name, module)
        modules.append(prefix + name)
    network = find_network(modules)
    assert network.names == dict(zip(names, modules, strict=True))
    assert network.notes[0].startswith('renamed the modules of transformers')


@pytest.mark.parametrize('average', ['model_ema', 'state_dict_ema', 'ema_model', 'model.ema'])
def test_of_a_network_and_its_moving_average_the_average_is_taken(average):
    names = list(weight_files.timm())
    both = [f'{root}.{name}' for root in ('model.net', f'{average}.module') for name in names]
    network = find_network(both)
    assert set(network.names.values()) == {f'{average}.module.{name}' for name in names}
    assert network.notes[0].endswith('a moving average')


@pytest.mark.parametrize('roots', [('student.', 'teacher.'), ('', 'momentum.'), ('a.', 'b.', 'c.')])
def test_several_networks_are_refused(roots):
    names = [root + name for root in roots for name in weight_files.timm()]
    with pytest.raises(WrapperError, match=f'holds {len(roots)} networks') as caught:
        find_network(names)
    assert all(repr(root) in str(caught.value) for root in roots)


@pytest.mark.parametrize('part', ['_orig_mod', '_checkpoint_wrapped_module'])
def test_parts_inside_names_are_dropped(part):
    """Compiled or recomputed blocks."""
    names = list(weight_files.timm())
    inside = [
        name.replace('blocks.0.', f'blocks.0.{part}.').replace('attn.', f'attn.{part}.')
        for name in names
    ]
    assert list(find_network(inside).names) == names


def test_names_that_only_an_inserted_part_tells_apart_stay():
    names = ['a._orig_mod.weight', 'a.weight']
    assert find_network(names).names == {name: name for name in names}


def test_other_networks_are_left_alone():
    swin = [f'layers.{i}.blocks.0.norm1.weight' for i in range(2)] + ['patch_embed.proj.weight']
    assert list(find_network(swin).names) == swin
    assert list(find_network([f'module.{name}' for name in swin]).names) == swin
    assert list(find_network(['module.a', 'b']).names) == ['module.a', 'b']
    assert not find_network([]).names


def test_a_part_that_is_missing_is_named_without_the_prefix(tmp_path):
    state = {f'net.{name}': array for name, array in weight_files.timm().items()}
    del state['net.patch_embed.proj.weight']
    with pytest.raises(detect.PretrainedError, match=r'missing: patch_embed.proj.weight'):
        detect.read(saved(tmp_path, state))


def test_long_names_cost_no_time():
    names = ['a.' * 200_000 + 'blocks.0.norm1.weight', 'optim' * 100_000 + '.blocks.0.norm1.weight']
    assert list(find_network(names).names) == names


def test_a_file_of_several_networks_is_named(tmp_path):
    state = weight_files.timm()
    both = {
        f'{root}.{name}': array for root in ('student', 'teacher') for name, array in state.items()
    }
    path = saved(tmp_path, both)
    with pytest.raises(TensorFileError, match=r"'student\.', 'teacher\.': save the tensors of one"):
        detect.read(path)
