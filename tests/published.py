"""The published PyTorch network's names and layouts, for tests that compare with its numbers (see tests/golden/README.md)."""

import numpy as np


def to_params(weights: dict[str, np.ndarray], heads: int) -> dict:
    """A state dict as this project's parameters. Gradients have the same layout and pass the same way."""
    width = weights['pos_embed_freq'].shape[1]
    depth = 1 + max(int(name.split('.')[2]) for name in weights if name.startswith('blocks.'))

    def linear(name):
        return {'kernel': weights[f'{name}.weight'].T, 'bias': weights[f'{name}.bias']}

    def norm(name):
        return {'scale': weights[f'{name}.weight'], 'bias': weights[f'{name}.bias']}

    def split(layer, start=0):
        """A projection's columns `start:start + width`, as heads."""
        kernel, bias = layer['kernel'][:, start : start + width], layer['bias'][start : start + width]
        return {'kernel': kernel.reshape(width, heads, -1), 'bias': bias.reshape(heads, -1)}

    def attention(name):
        keys_values, out = linear(f'{name}.to_kv'), linear(f'{name}.proj')
        return {
            'query': split(linear(f'{name}.to_q')),
            'key': split(keys_values),
            'value': split(keys_values, width),
            'out': {'kernel': out['kernel'].reshape(heads, -1, width), 'bias': out['bias']},
        }

    def block(i):
        name = f'blocks.modules_list.{i}'
        return {
            'norm_attention': norm(f'{name}.norm1'),
            'attention': attention(f'{name}.attn'),
            'norm_mlp': norm(f'{name}.norm2'),
            'mlp': {'up': linear(f'{name}.mlp.fc1'), 'down': linear(f'{name}.mlp.fc2')},
        }

    def stack(trees):
        if isinstance(trees[0], dict):
            return {key: stack([tree[key] for tree in trees]) for key in trees[0]}
        return np.stack(trees)

    pool = attention('attn_pool')
    pool['to_query'] = pool.pop('query')
    return {
        'embed': linear('patch_embed.0'),
        'positions': {'freq': weights['pos_embed_freq'], 'time': weights['pos_embed_time']},
        'encoder': {'blocks': stack([block(i) for i in range(depth)]), 'norm': norm('norm')},
        'pool': {'query': weights['attn_pool_queries'], **pool},
        'norm_head': norm('mlp_norm'),
        'head': linear('head'),
    }
