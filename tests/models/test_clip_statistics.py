"""Test statistics of log-mels from patches, against those of whole log-mels."""

from typing import Any

import jax
import numpy as np
import pytest

from elastic_ast_jax.audio.frontend import FrontendSpec
from elastic_ast_jax.config.model_sizes import Size
from elastic_ast_jax.evaluation.clip_statistics import log_mel_statistics
from elastic_ast_jax.models import clip_statistics, pooling
from elastic_ast_jax.models.attention import interface
from elastic_ast_jax.models.elastic_ast import ElasticAST
from elastic_ast_jax.models.factory import without_statistics
from elastic_ast_jax.packing import packer
from elastic_ast_jax.packing.batch import BatchShape

FRONTEND = FrontendSpec(sample_rate=8000, mel_bins=32)
SHAPE = BatchShape(rows=2, tokens=24, slots=4, patch_size=256, classes=3)
FRAMES = (16, 1, 37, 64, 50)
ROWS = ([4, 0, 1], [3, 2])


def log_mels():
    rng = np.random.default_rng(0)
    return [
        (rng.normal(size=(frames, 32)) + rng.normal(size=32)).astype(np.float32)
        for frames in FRAMES
    ]


def patches(log_mel):
    """Return frequency-major patches, the last of them filled with zeros."""
    columns = -(-len(log_mel) // 16)
    whole = np.zeros((columns * 16, 32), np.float32)
    whole[: len(log_mel)] = log_mel
    return whole.reshape(columns, 16, 2, 16).transpose(2, 0, 3, 1).reshape(-1, 256)


def packed(rows=ROWS):
    return packer.fill_batch(rows, [patches(log_mel) for log_mel in log_mels()], 2, SHAPE)


def statistics(batch):
    members = pooling.membership(batch.segment_ids, SHAPE.slots)
    return np.asarray(clip_statistics.clip_statistics(batch, members, 2, 16))


@pytest.fixture
def batch():
    return jax.tree.map(jax.numpy.asarray, packed())


def test_statistics_of_patches_are_those_of_log_mels(batch):
    values = statistics(batch)
    for row, clips in enumerate(ROWS):
        for slot, clip in enumerate(clips):
            expected = log_mel_statistics(log_mels()[clip]).reshape(clip_statistics.GROUPS, 32)
            actual = values[row, slot].reshape(clip_statistics.GROUPS, 32)
            # The difference between the last frame of a patch and the next frame is left out.
            others = [0, 1, 3, 4, 5]
            np.testing.assert_allclose(actual[others], expected[others], atol=2e-5)
            if FRAMES[clip] <= 16:
                np.testing.assert_allclose(actual[2], expected[2], atol=2e-5)
            else:
                np.testing.assert_allclose(actual[2], expected[2], rtol=0.2)


def test_statistics_do_not_depend_on_companions(batch):
    alone = statistics(jax.tree.map(jax.numpy.asarray, packed([[4], [2]])))
    values = statistics(batch)
    np.testing.assert_allclose(alone[0, 0], values[0, 0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(alone[1, 0], values[1, 1], rtol=1e-5, atol=1e-6)


def test_patches_of_padding_do_not_count():
    """A clip may be padded to a shortest length by whole patches."""
    log_mel = log_mels()[2]
    longer = np.concatenate([log_mel, np.zeros((96 - len(log_mel), 32), np.float32)])
    shape = BatchShape(rows=1, tokens=24, slots=1, patch_size=256, classes=3)
    values = []
    for clip in (log_mel, longer):
        batch = packer.fill_batch([[0]], [patches(clip)], 2, shape)
        batch = jax.tree.map(jax.numpy.asarray, batch)
        members = pooling.membership(batch.segment_ids, 1)
        values.append(np.asarray(clip_statistics.clip_statistics(batch, members, 2, 16)))
    np.testing.assert_allclose(values[1], values[0], rtol=1e-5, atol=1e-6)


def test_statistics_of_empty_slots_are_finite(batch):
    assert np.isfinite(statistics(batch)).all()


def test_logits_are_the_mean_of_both_layers(batch):
    network = ElasticAST(
        Size(16, 1, 2), 3, (2, 8), interface.reference, statistics=True, patch_frames=16
    )
    params: Any = network.init(jax.random.key(0), batch)['params']
    kernel = np.random.default_rng(1).normal(size=params['statistics']['kernel'].shape)
    params['statistics']['kernel'] = jax.numpy.asarray(kernel, jax.numpy.float32)
    outputs: Any = network.apply({'params': params}, batch, method='outputs')
    alone = without_statistics(network).apply({'params': params}, batch)
    expected = (np.asarray(alone) + statistics(batch) @ kernel) / 2
    np.testing.assert_allclose(outputs.logits, expected, atol=1e-4)
