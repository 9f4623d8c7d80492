"""Compute the features of clips: the vector that a head classifies, and statistics of the log-mel.

They are those of the network that is saved, so that the classifier fits into its layers.
"""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array, Bool, Float, Float64, Int64

from elastic_ast_jax.config.schema import Config
from elastic_ast_jax.data.sources.base import FileSource
from elastic_ast_jax.data.sources.grouping import group_names
from elastic_ast_jax.data.splits import Split
from elastic_ast_jax.distributed import sharding
from elastic_ast_jax.evaluation import linear_classifier
from elastic_ast_jax.evaluation.evaluator import Evaluator
from elastic_ast_jax.models import clip_statistics, factory, memory
from elastic_ast_jax.models.attention import selection
from elastic_ast_jax.packing.batch import PackedBatch
from elastic_ast_jax.pretrained import initialize
from elastic_ast_jax.pretrained.weights import Params
from elastic_ast_jax.probing.encoder import ProbedEncoder
from elastic_ast_jax.training.step import make_values_step

__all__ = [
    'CLASS_PARTS',
    'ClipFeatures',
    'Features',
    'FrozenNetwork',
    'make_network',
    'measure_clips',
]

# Kinds of features of a clip.
Features = Literal['embedding', 'statistics', 'both']
# Parts of the network that hold the classifier.
CLASS_PARTS = ('head', 'statistics')


class ClipFeatures(NamedTuple):
    """Hold what is measured on the clips of a split that can be decoded.

    Attributes:
        embedding: The pooled vector of each clip, after its norm.
        statistics: The statistics of its log-mel.
        truth: Which classes it has.
        targets: The positions of its classes.
        clips: The position of each clip in its source.
        keys, groups, labels: Its name, the group that it belongs to, and its labels.
    """

    embedding: Float64[np.ndarray, 'N D']
    statistics: Float64[np.ndarray, 'N F']
    truth: Bool[np.ndarray, 'N C']
    targets: tuple[tuple[int, ...], ...]
    clips: Int64[np.ndarray, 'N']
    keys: tuple[str, ...]
    groups: tuple[str, ...]
    labels: tuple[tuple[str, ...], ...]

    @property
    def both(self) -> Float64[np.ndarray, 'N _']:
        """Return embedding and statistics, one after the other."""
        return np.concatenate([self.embedding, self.statistics], axis=1)

    def select(self, clips: Int64[np.ndarray, 'n']) -> 'ClipFeatures':
        """Return some of the clips, by their positions."""
        some = clips.tolist()
        return ClipFeatures(
            self.embedding[some],
            self.statistics[some],
            self.truth[some],
            tuple(self.targets[i] for i in some),
            self.clips[some],
            tuple(self.keys[i] for i in some),
            tuple(self.groups[i] for i in some),
            tuple(self.labels[i] for i in some),
        )


class FrozenNetwork(NamedTuple):
    """Hold a network with a frozen encoder.

    Attributes:
        network: The network.
        params: Its parameters by their names with slashes. Those of the classes are 0.
        report: Lines on the origin of each part.
    """

    network: factory.ElasticAST
    params: Params
    report: tuple[str, ...]


def make_network(config: Config, labels: Sequence[str], encoder: ProbedEncoder) -> FrozenNetwork:
    """Return the network of a config, with the parameters of an encoder.

    Raises:
        PretrainedError: The weights do not fit the network.
        MemoryLimitError: A row of the config takes more memory than such a network may take.
    """
    dtype = selection.compute_dtype(config.model.dtype)
    attend = selection.select_attention(
        config.model.attention, config.model.kind, dtype, required=False
    )
    network = factory.make_model(config, len(labels), attend, dtype, scan=True)
    assert isinstance(network, factory.ElasticAST)
    shape = factory.batch_shape(config, len(labels))
    abstract = jax.eval_shape(lambda: factory.init_params(network, shape, 0))
    memory.check_batch(config, len(labels), memory.params_bytes(abstract))
    initialized = initialize.initialize_from(
        encoder.weights, encoder.path, network, abstract, labels, config.frontend
    )
    leaves: dict[str, Any] = flatten_dict(abstract, sep='/')
    params = {
        name: np.zeros(leaf.shape, np.float32)
        if name.partition('/')[0] in CLASS_PARTS
        else initialized.params[name]
        for name, leaf in leaves.items()
    }
    report = [line for line in initialized.report if not line.startswith('head: ')]
    return FrozenNetwork(network, params, tuple(report))


def measure_clips(
    config: Config,
    labels: Sequence[str],
    frozen: FrozenNetwork,
    source: FileSource,
    split: Split,
    limit: int | None = None,
) -> ClipFeatures:
    """Return the features of the clips of a split; windows of a long clip are averaged.

    Args:
        config: The config of the network and the data.
        labels: Names of the classes.
        frozen: The network.
        source: The clips.
        split: Which split it is.
        limit: Measure a sample of so many clips.

    Raises:
        DataError: A clip has a label that no class has, or none can be decoded.
    """
    sampled = linear_classifier.sample(len(source), limit or len(source))
    if len(sampled) < len(source):
        source = source.select(sampled.tolist())
    evaluator = _make_evaluator(config, labels, frozen.network, source, split)
    values, decodable = evaluator.decodable_logits(unflatten_dict(dict(frozen.params), sep='/'))
    width, kept = config.model.resolved_size().width, decodable.tolist()
    features = values[decodable].astype(np.float64)
    targets = tuple(evaluator.targets[i] for i in kept)
    groups = group_names(source.clips, config.data.group)
    return ClipFeatures(
        features[:, :width],
        features[:, width:],
        linear_classifier.truth_table(targets, len(labels)),
        targets,
        sampled[decodable],
        tuple(source.keys[i] for i in kept),
        tuple(groups[i] for i in kept),
        tuple(source.labels[i] for i in kept),
    )


def _make_evaluator(
    config: Config,
    labels: Sequence[str],
    network: factory.ElasticAST,
    source: FileSource,
    split: Split,
) -> Evaluator:
    """Return the evaluator whose values of a clip are its features, of one device."""
    mesh = sharding.make_mesh(devices=jax.local_devices()[:1])

    def features(params: Any, batch: PackedBatch) -> Float[Array, 'R S F']:
        outputs: Any = network.apply({'params': params}, batch, method='outputs')
        return jnp.concatenate([outputs.pooled, outputs.statistics], axis=-1)

    step = sharding.jit_eval_step(make_values_step(features), mesh)
    frontend = config.frontend
    width = config.model.resolved_size().width + clip_statistics.GROUPS * frontend.mel_bins
    return Evaluator(config, labels, step, mesh, source, split, width)
