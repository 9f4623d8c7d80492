"""Compare the fixed-length AST with transformers: features and logits."""

import functools
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float

from elastic_ast_jax.models.ast import AST
from elastic_ast_jax.models.attention.interface import Attend
from elastic_ast_jax.parity import fbank
from elastic_ast_jax.parity.comparison import Comparison, compare
from elastic_ast_jax.parity.reference import Reference
from elastic_ast_jax.pretrained import ast_hf
from elastic_ast_jax.pretrained.ast_hf import ConvertedAst

__all__ = ['TITLES', 'compare_features', 'compare_logits', 'convert']

# Title of each stored network.
TITLES = {'ast_hf_stride10': 'AST, stride 10', 'ast_hf_stride16': 'AST, stride 16'}
# transformers computes its features in NumPy, so they lack the rounding that `fbank` allows for.
FEATURES, LOGITS = 2e-3, 1e-4


def convert(stored: Reference) -> ConvertedAst:
    """Convert a stored network to this package's."""
    return ast_hf.convert(
        stored.meta['config'], stored.meta['preprocessor'], stored.part('weights/'), stored.name
    )


def compare_features(title: str, stored: Reference, converted: ConvertedAst) -> list[Comparison]:
    """Compare the spectrograms of a recording shorter and of one longer than the network takes."""
    comparisons = []
    for length in ('short', 'long'):
        waveform = fbank.to_float(stored[f'wave_{length}'])
        features = ast_hf.features(waveform, converted.frontend, converted.model.frames)
        expected = stored[f'features_{length}']
        comparisons.append(
            compare(title, f'features of a {length} clip', features, expected, FEATURES)
        )
    return comparisons


def compare_logits(
    title: str, stored: Reference, converted: ConvertedAst, attend: Attend
) -> list[Comparison]:
    """Compare the logits of stored spectrograms."""
    network = converted.model.clone(attend=attend)
    logits = _classify(network, converted.params, stored['spectrograms'])
    return [compare(title, 'logits', np.asarray(logits), stored['logits'], LOGITS)]


@functools.partial(jax.jit, static_argnums=0)
def _classify(
    network: AST, params: Any, spectrograms: Float[Array, 'N frames mels']
) -> Float[Array, 'N C']:
    logits = network.apply({'params': params}, spectrograms, method='classify')
    assert isinstance(logits, jax.Array)
    return logits
