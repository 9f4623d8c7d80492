"""The AST of the published code: one class token, from an ImageNet ViT, as PyTorch computes it."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import unflatten_dict

from elastic_ast_jax.audio.frontend import FrontendSpec
from elastic_ast_jax.config.model_sizes import Size
from elastic_ast_jax.models.ast import AST
from elastic_ast_jax.pretrained.initialize import initialize_params

EDGE, CLASSES = 48, 3


@pytest.fixture
def torch_vit():
    pytest.importorskip('torch')
    transformers = pytest.importorskip('transformers')
    config = transformers.ViTConfig(
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=96,
        image_size=EDGE,
        num_channels=1,
        layer_norm_eps=1e-6,
    )
    return transformers.ViTModel(config, add_pooling_layer=False).eval()


def test_one_class_token_gives_the_logits_of_pytorch(torch_vit, tmp_path):
    import torch

    torch.manual_seed(0)
    with torch.no_grad():
        for tensor in torch_vit.parameters():
            tensor += 0.2 * torch.randn_like(tensor)  # zeros and ones would hide a mistake
    norm, head = torch.nn.LayerNorm(24, eps=1e-6), torch.nn.Linear(24, CLASSES)
    torch_vit.save_pretrained(tmp_path)
    network = AST(Size(24, 2, 2), CLASSES, EDGE, EDGE, stride=(16, 16), prefix_tokens=1)
    abstract: Any = jax.eval_shape(
        functools.partial(network.init, method='classify'),
        jax.random.key(0),
        jnp.zeros((1, EDGE, EDGE)),
    )
    frontend = FrontendSpec(mel_bins=EDGE, max_frames=EDGE, min_frames=EDGE)
    initialized = initialize_params(
        tmp_path, network, abstract['params'], 'abc', frontend, quirks=False
    )
    assert any('cls_token' in line for line in initialized.report)
    params = dict(initialized.params) | {
        'norm_head/scale': norm.weight.detach().numpy(),
        'norm_head/bias': norm.bias.detach().numpy(),
        'head/kernel': head.weight.detach().numpy().T,
        'head/bias': head.bias.detach().numpy(),
    }
    spectrograms = np.random.default_rng(0).normal(size=(2, EDGE, EDGE)).astype(np.float32)
    with torch.no_grad():
        pixels = torch.from_numpy(spectrograms.transpose(0, 2, 1)[:, None].copy())
        expected = head(norm(torch_vit(pixels).last_hidden_state[:, 0])).numpy()
    logits: Any = network.apply(
        {'params': unflatten_dict(params, sep='/')}, jnp.asarray(spectrograms), method='classify'
    )
    np.testing.assert_allclose(logits, expected, rtol=0, atol=2e-5)
