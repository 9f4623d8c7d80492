"""The estimated memory of inference is near what XLA allocates, and large networks get more."""

import jax
import jax.numpy as jnp
import pytest

from elastic_ast_jax.config import loading
from elastic_ast_jax.models import factory, memory
from elastic_ast_jax.models.attention import registry
from tests.fixtures import untrained

MIB = 1 << 20


@pytest.mark.slow  # it compiles four networks
@pytest.mark.parametrize(
    ('attention', 'sections'),
    [
        ('blocked', {'packing': {'rows': 2, 'tokens': 4096, 'slots': 64}}),
        ('blocked', {'packing': {'rows': 1, 'tokens': 2048, 'slots': 2048}}),
        ('reference', {'packing': {'rows': 2, 'tokens': 1024, 'slots': 6}}),
        (
            'reference',
            {
                'model': {'kind': 'ast', 'stride': [4, 4]},
                'frontend': {'min_frames': 96},
                'augment': {'token_dropout': 0.0},
                'packing': {'rows': 4, 'tokens': 48, 'slots': 4},
            },
        ),
    ],
)
def test_the_estimate_is_near_what_the_compiler_allocates(attention, sections):
    model = {'attention': attention, 'width': 64, 'heads': 4}
    config = untrained.settings(**sections | {'model': model | sections.get('model', {})})
    network = factory.make_model(
        config, 3, registry.make(attention), jnp.dtype('float32'), scan=True
    )
    shape = factory.batch_shape(config, 3)
    params = jax.eval_shape(lambda: factory.init_params(network, shape, 0))
    apply = jax.jit(lambda params, batch: network.apply({'params': params}, batch))
    analysis = apply.lower(params, shape.abstract()).compile().memory_analysis()
    assert analysis is not None
    batch = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(shape.abstract()))
    allocated = analysis.temp_size_in_bytes + batch
    assert 0.7 < memory.batch_bytes(config, 3) / allocated < 4


def test_the_largest_networks_in_use_have_room():
    """ViT-H at 16,384 tokens, and an AST of ViT-B with 64 clips in a batch."""
    huge = loading.from_dict(
        {
            'data': {'source': 'synthetic'},
            'frontend': {'max_frames': 32768},
            'packing': {'rows': 8, 'tokens': 16384, 'slots': 512},
            'model': {'width': 1280, 'depth': 32, 'heads': 16},
        }
    )
    memory.check_batch(huge, 527, 632_000_000 * 4)
    assert memory.rows_within_limit(huge, 527, 632_000_000 * 4) >= 8
    ast = loading.from_dict(
        {
            'data': {'source': 'synthetic'},
            'frontend': {'min_frames': 1024},
            'augment': {'token_dropout': 0.0},
            'packing': {'rows': 8, 'tokens': 512, 'slots': 1},
            'model': {'kind': 'ast', 'size': 'B', 'stride': [10, 10]},
        }
    )
    memory.check_batch(ast, 527, 87_000_000 * 4, rows=8)


def test_rows_that_do_not_fit_are_refused_with_those_that_do():
    config = untrained.settings(packing={'rows': 2**14, 'tokens': 1024, 'slots': 64})
    with pytest.raises(memory.MemoryLimitError, match=r'set packing\.rows=\d+ or less') as caught:
        memory.check_batch(config, 3, 10_000, rows=2**14)
    fitting = memory.rows_within_limit(config, 3, 10_000)
    assert f'packing.rows={fitting} or less' in str(caught.value)
    memory.check_batch(config, 3, 10_000, rows=fitting)
    assert 512 * MIB * 0.9 < memory.batch_bytes(config, 3, fitting) <= 513 * MIB


def test_a_small_file_gets_no_large_row():
    config = untrained.settings(packing={'rows': 1, 'tokens': 2**17, 'slots': 64})
    with pytest.raises(memory.MemoryLimitError, match=r'smaller packing\.tokens'):
        memory.check_batch(config, 3, 10_000)
