"""Read the encoder that is probed, and describe the network and the frontend that it needs."""

import dataclasses
import os
from typing import Any

from elastic_ast_jax.audio.frontend import FrontendSpec
from elastic_ast_jax.config.model_sizes import SIZES, Size
from elastic_ast_jax.pretrained import detect
from elastic_ast_jax.pretrained.weights import (
    PositionTables,
    PretrainedError,
    PretrainedWeights,
)

__all__ = ['ProbedEncoder', 'read_encoder']


@dataclasses.dataclass(frozen=True)
class ProbedEncoder:
    """Hold an encoder.

    Attributes:
        path: Where it is from.
        weights: The weights, with those of pooling and norm.
        frontend: The frontend of its training.
    """

    path: str
    weights: PretrainedWeights
    frontend: FrontendSpec

    def model_values(self) -> dict[str, Any]:
        """Return the keys of the section `model` of a network with this encoder."""
        weights = self.weights
        size = Size(weights.width, weights.depth, weights.heads)
        names = [name for name, named_size in SIZES.items() if named_size == size]
        return {
            **({'size': names[0]} if names else dataclasses.asdict(size)),
            'pool': 'attention' if 'pool/query' in weights.params else 'mean',
            'statistics': True,
            'eps': weights.epsilon,
            'scaled': weights.scaled,
            'dtype': 'float32',
        }


def read_encoder(path: str | os.PathLike) -> ProbedEncoder:
    """Return the encoder of a workdir, or of a file of `elastic-ast pretrain`.

    Raises:
        PretrainedError: The weights are those of another network, or do not say what spectrograms
            they take.
        UserError: See `detect.read`.
    """
    path = os.fspath(path)
    weights = detect.read(path)
    if not isinstance(weights.positions, PositionTables):
        raise PretrainedError(
            f'{path}: {weights.kind} is no ElasticAST, and has no statistics of the log-mel: give a'
            ' workdir of an ElasticAST, or an encoder that elastic-ast pretrain wrote; elastic-ast'
            ' train starts from these weights with init.from'
        )
    if weights.frontend is None or 'norm_head/scale' not in weights.params:
        raise PretrainedError(
            f'{path}: {weights.kind} does not say what spectrograms it takes: convert it with'
            ' elastic-ast convert, and give the workdir'
        )
    return ProbedEncoder(path, weights, weights.frontend)
