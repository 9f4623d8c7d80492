"""One small random Vision Transformer, in the names and layouts of every scheme;

and the networks that start from it.
"""

import jax
import jax.numpy as jnp
import numpy as np

from elastic_ast_jax.batch import BatchShape
from elastic_ast_jax.lengths import FrontendSpec
from elastic_ast_jax.models import attention
from elastic_ast_jax.models.ast import AST
from elastic_ast_jax.models.elastic_ast import ElasticAST
from elastic_ast_jax.models.sizes import Size
from elastic_ast_jax.starting import donors, start

SIZE = Size(16, 2, 2)
PATCH, SIDE, IMAGES = 16, 3, 7
LABELS = ('bark', 'rain', 'siren')
CLASSES = len(LABELS)
FRONTEND = FrontendSpec(mel_bins=32, max_frames=96)


def elastic(frontend=FRONTEND, size=SIZE, classes=CLASSES, **more):
    return ElasticAST(
        size, classes, (frontend.mel_patches, frontend.max_time_patches), attention.plain, **more
    )


def fixed(frontend=FRONTEND, size=SIZE, classes=CLASSES, stride=10, **more):
    return AST(
        size, classes, frontend.mel_bins, frontend.max_frames, stride=(stride, stride), **more
    )


def abstract(network, frontend=FRONTEND):
    tokens = frontend.mel_patches * frontend.max_time_patches
    batch = jax.tree.map(
        jnp.asarray, BatchShape(1, tokens, 1, frontend.patch_size, network.classes).empty()
    )
    return jax.eval_shape(lambda: network.init(jax.random.key(0), batch)['params'])


def begin(path, network=None, labels=LABELS, quirks=False, frontend=FRONTEND):
    """What `start.begin` makes for an ElasticAST, or for the network."""
    network = elastic(frontend) if network is None else network
    return start.begin(path, network, abstract(network, frontend), labels, quirks, frontend)


def timm(tokens=1, channels=3, side=SIDE, positions=None, seed=0):
    """A state dict in timm's names, with a class token, or a distillation token too, or neither."""
    random, width, hidden = np.random.default_rng(seed), SIZE.width, 4 * SIZE.width

    def draw(*shape):
        return random.standard_normal(shape, np.float32) * np.float32(0.3)

    count = side**2 + tokens if positions is None else positions
    state = {name: draw(1, 1, width) for name in ('cls_token', 'dist_token')[:tokens]}
    state |= {
        'pos_embed': draw(1, count, width),
        'patch_embed.proj.weight': draw(width, channels, PATCH, PATCH),
        'patch_embed.proj.bias': draw(width),
    }
    for i in range(SIZE.depth):
        for name, shape in (
            ('attn.qkv', (3 * width, width)),
            ('attn.proj', (width, width)),
            ('mlp.fc1', (hidden, width)),
            ('mlp.fc2', (width, hidden)),
        ):
            state[f'blocks.{i}.{name}.weight'], state[f'blocks.{i}.{name}.bias'] = (
                draw(*shape),
                draw(shape[0]),
            )
        for name in ('norm1', 'norm2'):
            state[f'blocks.{i}.{name}.weight'], state[f'blocks.{i}.{name}.bias'] = (
                1 + draw(width),
                draw(width),
            )
    state |= {
        'norm.weight': 1 + draw(width),
        'norm.bias': draw(width),
        'head.weight': draw(IMAGES, width),
        'head.bias': draw(IMAGES),
    }
    if tokens == 2:
        state |= {'head_dist.weight': draw(IMAGES, width), 'head_dist.bias': draw(IMAGES)}
    return state


_TO_HUGGING_FACE = (
    ('patch_embed.proj', 'embeddings.patch_embeddings.projection'),
    ('cls_token', 'embeddings.cls_token'),
    ('dist_token', 'embeddings.distillation_token'),
    ('pos_embed', 'embeddings.position_embeddings'),
    ('blocks.', 'encoder.layer.'),
    ('norm1', 'layernorm_before'),
    ('norm2', 'layernorm_after'),
    ('attn.proj', 'attention.output.dense'),
    ('mlp.fc1', 'intermediate.dense'),
    ('mlp.fc2', 'output.dense'),
)


def hugging_face(state, prefix='vit.'):
    """The same in the names of transformers."""
    found = {}
    for name, array in state.items():
        if name.startswith('head'):
            found[
                name.replace('head_dist', 'distillation_classifier').replace('head', 'classifier')
            ] = array
            continue
        if name.startswith('norm.'):
            found[f'{prefix}layer{name}'] = array
            continue
        for theirs, ours in _TO_HUGGING_FACE:
            name = name.replace(theirs, ours)
        if 'attn.qkv' in name:
            for part, third in zip(('query', 'key', 'value'), np.split(array, 3), strict=True):
                found[prefix + name.replace('attn.qkv', f'attention.attention.{part}')] = third
        else:
            found[prefix + name] = array
    return found


def big_vision(state, prefix='params/', old=False, stacked=False):
    """The same in the names and layouts of big_vision, or of the older vision_transformer."""
    heads, width = SIZE.heads, SIZE.width
    split = (heads, width // heads)
    second, attend, mlp = (
        ('LayerNorm_2', 'MultiHeadDotProductAttention_1', 'MlpBlock_3')
        if old
        else ('LayerNorm_1', 'MultiHeadDotProductAttention_0', 'MlpBlock_0')
    )
    found = {
        'embedding/kernel': state['patch_embed.proj.weight'].transpose(2, 3, 1, 0),
        'embedding/bias': state['patch_embed.proj.bias'],
        'Transformer/posembed_input/pos_embedding' if old else 'pos_embedding': state['pos_embed'],
        'cls': state['cls_token'],
        'Transformer/encoder_norm/scale': state['norm.weight'],
        'Transformer/encoder_norm/bias': state['norm.bias'],
        'head/kernel': state['head.weight'].T,
        'head/bias': state['head.bias'],
    }
    blocks = []
    for i in range(SIZE.depth):
        block, source = {}, f'blocks.{i}.'
        for theirs, ours in (('norm1', 'LayerNorm_0'), ('norm2', second)):
            block[f'{ours}/scale'], block[f'{ours}/bias'] = (
                state[f'{source}{theirs}.{p}'] for p in ('weight', 'bias')
            )
        for j, part in enumerate(('query', 'key', 'value')):
            rows = slice(j * width, (j + 1) * width)
            block[f'{attend}/{part}/kernel'] = state[f'{source}attn.qkv.weight'][rows].T.reshape(
                width, *split
            )
            block[f'{attend}/{part}/bias'] = state[f'{source}attn.qkv.bias'][rows].reshape(split)
        block[f'{attend}/out/kernel'] = state[f'{source}attn.proj.weight'].T.reshape(*split, width)
        block[f'{attend}/out/bias'] = state[f'{source}attn.proj.bias']
        for theirs, ours in (('fc1', 'Dense_0'), ('fc2', 'Dense_1')):
            block[f'{mlp}/{ours}/kernel'] = state[f'{source}mlp.{theirs}.weight'].T
            block[f'{mlp}/{ours}/bias'] = state[f'{source}mlp.{theirs}.bias']
        blocks.append(block)
    if stacked:
        found |= {
            f'Transformer/encoderblock/{name}': np.stack([block[name] for block in blocks])
            for name in blocks[0]
        }
    else:
        found |= {
            f'Transformer/encoderblock_{i}/{name}': array
            for i, block in enumerate(blocks)
            for name, array in block.items()
        }
    return {prefix + name: array for name, array in found.items()}


def ssast(rows=8, columns=4, tokens=2, headed=False):
    """The same, as SSAST's code saves it after self-supervised training."""
    width = SIZE.width
    state = {
        f'module.v.{name}': array
        for name, array in timm(tokens, 1, positions=rows * columns + tokens).items()
    }
    state |= {
        'module.p_input_fdim': np.int64(PATCH * rows),
        'module.p_input_tdim': np.int64(PATCH * columns),
        'module.mask_embed': np.ones((1, 1, width), np.float32),
    }
    for name in ('cpredlayer', 'gpredlayer'):
        state |= {
            f'module.{name}.{i}.{leaf}': np.ones(shape, np.float32)
            for i, out in ((0, width), (2, PATCH**2))
            for leaf, shape in (('weight', (out, width)), ('bias', (out,)))
        }
    return state


def ast(rows=12, columns=5, classes=4, seed=3):
    """The same, as AST's code saves it."""
    width, random = SIZE.width, np.random.default_rng(seed)
    state = {
        f'module.v.{name}': array
        for name, array in timm(2, 1, positions=rows * columns + 2).items()
    }
    for name, shape in (
        ('0.weight', (width,)),
        ('0.bias', (width,)),
        ('1.weight', (classes, width)),
        ('1.bias', (classes,)),
    ):
        state[f'module.mlp_head.{name}'] = random.standard_normal(shape, np.float32)
    return state


def saved(folder, state, name='weights.npz'):
    """A file of these tensors."""
    if name.endswith('.safetensors'):
        from safetensors.numpy import save_file

        save_file({key: np.ascontiguousarray(array) for key, array in state.items()}, folder / name)
    else:
        np.savez(folder / name, **state)
    return folder / name


def accounted(path, state):
    """The donor at a path, each tensor of whose file either became something or is listed."""
    donor = donors.read(path)
    used = {name for names in donor.sources.values() for name in names}
    assert used | donor.unused.keys() == {name.removeprefix('module.') for name in state}
    assert not used & donor.unused.keys()
    return donor
