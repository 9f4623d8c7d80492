"""Test that runs agree on any mesh of up to eight devices, with one compilation of each step.

Run as a program, this file trains in a process with eight devices, and prints the results as JSON.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from elastic_ast_jax.checkpointing.train_state import TrainState
from elastic_ast_jax.config import schema
from elastic_ast_jax.config.model_sizes import Size
from elastic_ast_jax.distributed import sharding
from elastic_ast_jax.models.attention import blocked
from elastic_ast_jax.models.elastic_ast import ElasticAST
from elastic_ast_jax.packing import packer
from elastic_ast_jax.packing.batch import BatchShape
from elastic_ast_jax.training import losses, optimizer
from elastic_ast_jax.training.compilations import CompilationCounter
from elastic_ast_jax.training.step import make_eval_step, make_train_step
from elastic_ast_jax.utils.errors import UserError

STEPS = 20
SHAPE = BatchShape(rows=8, tokens=24, slots=4, patch_size=6, classes=3)
GRID = (2, 8)
# Number of devices, how many of them divide the parameters, and how many the heads.
MESHES = {
    '1': (1,),
    '8': (8,),
    '8, fsdp and tensor 2': (8, 2, 2),
}
MORE_MESHES = {
    '2': (2,),
    '4': (4,),
    '8, fsdp 8': (8, 8),
    '8, tensor 4': (8, 1, 4),
    '4, fsdp 4': (4, 4),
    '2, tensor 2': (2, 1, 2),
}
ANY_MESH = pytest.mark.parametrize(
    'mesh', [*MESHES, *(pytest.param(mesh, marks=pytest.mark.slow) for mesh in MORE_MESHES)]
)


def batches():
    """Yield five batches of different clips, one of them with empty rows."""
    rng = np.random.default_rng(0)
    for number in range(5):
        clips = [
            rng.normal(size=(GRID[0] * n, SHAPE.patch_size)).astype(np.float32)
            for n in rng.integers(1, 9, 32)
        ]
        rows = list(packer.pack([len(clip) for clip in clips], SHAPE.tokens, SHAPE.slots))
        batch = packer.fill_batch(rows[: 3 if number == 2 else SHAPE.rows], clips, GRID[0], SHAPE)
        batch.labels[batch.valid] = rng.integers(SHAPE.classes, size=batch.valid.sum())
        yield batch


def mesh_of(devices, fsdp=1, tensor=1):
    return sharding.make_mesh(schema.Mesh(-1, fsdp, tensor), jax.devices()[:devices])


class Run:
    """Trains on a mesh, with attention whose loops depend on the data."""

    def __init__(self, mesh, parts=1):
        self.mesh = mesh
        attend = sharding.sharded_attention(blocked.blocked(8, 16), mesh)
        network = ElasticAST(
            Size(8, 2, 4),
            SHAPE.classes,
            GRID,
            attend,
            constrain=sharding.activation_constraint(mesh),
        )
        update = optimizer.with_clipping(
            optimizer.adamw(optimizer.cosine_schedule(0.01, 2 * STEPS, 2), 0.9, 0.999, 1e-8, 0.05),
            1.0,
        )

        def apply(params, batch):
            return network.apply({'params': params}, batch)

        def init():
            params = network.init(jax.random.key(0), jax.tree.map(jnp.asarray, SHAPE.empty()))[
                'params'
            ]
            return TrainState(jnp.zeros((), jnp.int32), params, update.init(params))

        abstract = jax.eval_shape(init)
        self.init, self.placement = init, sharding.state_shardings(abstract, abstract.params, mesh)
        train = make_train_step(apply, losses.cross_entropy(), update, parts)
        self.train = sharding.jit_train_step(train, mesh, self.placement)
        evaluate = make_eval_step(apply, losses.cross_entropy())
        self.evaluate = sharding.jit_eval_step(evaluate, mesh, self.placement.params)

    def results(self):
        sharded_batches = [sharding.shard_batch(batch, self.mesh) for batch in batches()]
        state = sharding.init_sharded(self.init, self.placement)
        initialized = [np.asarray(leaf).ravel().tolist() for leaf in jax.tree.leaves(state.params)]
        step_losses = []
        with CompilationCounter() as compilations:
            for step in range(STEPS):
                state, sums = self.train(state, sharded_batches[step % len(sharded_batches)])
                step_losses.append(float(sums.loss / sums.clips))
            evaluated = [self.evaluate(state.params, batch) for batch in sharded_batches]
        return {
            'initialized': initialized,
            'losses': step_losses,
            'logits': [
                np.asarray(outputs.logits)[np.asarray(outputs.valid)].tolist()
                for outputs in evaluated
            ],
            'clips': [float(outputs.metrics.clips) for outputs in evaluated],
            'params': {
                name: np.asarray(leaf).ravel().tolist()
                for name, leaf in flatten_dict(state.params, sep='/').items()
            },
            'compilations': [compilations.count(step) for step in (self.train, self.evaluate)],
            'rows on a device': sorted(
                {shard.data.shape[0] for shard in sharded_batches[0].patches.addressable_shards}
            ),
            'devices of the batch': len(sharded_batches[0].patches.sharding.device_set),
            'devices of the state': sorted(
                {len(leaf.sharding.device_set) for leaf in jax.tree.leaves(state)}
            ),
            'state is whole everywhere': all(
                leaf.is_fully_replicated for leaf in jax.tree.leaves(state)
            ),
            'shares': sorted(
                {
                    leaf.addressable_shards[0].data.nbytes / leaf.nbytes
                    for path, leaf in jax.tree_util.tree_leaves_with_path(state)
                    if all(name in jax.tree_util.keystr(path) for name in ('blocks', 'kernel'))
                }
            ),
        }


def refusals():
    """Return the messages about numbers of rows on eight devices."""
    messages = {}
    for rows in (1, 7, 8, 12, 16, 20):
        try:
            sharding.check_rows(rows, sharding.make_mesh())
        except UserError as error:
            messages[rows] = str(error)
    return messages


def exchanged():
    """Return whether eight devices communicate for attention to their own rows."""
    mesh = sharding.make_mesh()
    rows = sharding.rows_sharding(mesh)
    attend = jax.jit(
        sharding.sharded_attention(blocked.blocked(8, 16), mesh),
        in_shardings=rows,
        out_shardings=rows,
    )
    heads = jax.ShapeDtypeStruct((SHAPE.rows, SHAPE.tokens, 2, 4), jnp.float32)
    program = (
        attend.lower(
            heads, heads, heads, jax.ShapeDtypeStruct((SHAPE.rows, SHAPE.tokens), jnp.int32)
        )
        .compile()
        .as_text()
    )
    assert program is not None
    return any(
        word in program for word in ('all-gather', 'all-reduce', 'all-to-all', 'collective-permute')
    )


def moved_in_parts():
    """Return the communication of four devices for two parts, besides sums of gradients."""
    run = Run(mesh_of(4), parts=2)
    program = run.train.lower(jax.eval_shape(run.init), SHAPE.abstract()).compile().as_text()
    return [
        word for word in ('all-gather', 'all-to-all', 'collective-permute') if f' {word}' in program
    ]


def main(meshes):
    results = {name: Run(mesh_of(*meshes[name])).results() for name in meshes}
    if meshes == MESHES:
        results |= {'refused': refusals(), 'exchanged': exchanged()}
    else:
        results |= {
            '4 in parts': Run(mesh_of(4), parts=2).results(),
            'moved': moved_in_parts(),
        }
    print(json.dumps(results))


def results_of(which):
    """Return the output of this file as a program with eight devices."""
    flags = (  # the latter compiles sooner
        '--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0'
    )
    environment = os.environ | {
        'XLA_FLAGS': flags,
        'JAX_PLATFORMS': 'cpu',
        'PYTHONPATH': str(Path(__file__).parents[2]),
    }
    command = [sys.executable, __file__, which]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


@pytest.fixture(scope='module')
def runs():
    return results_of('default')


@pytest.fixture(scope='module')
def more_runs():
    return results_of('more')


@pytest.fixture
def run_on(request, runs):
    """Return a function from a mesh to its results; further meshes run once if needed."""
    return lambda mesh: (runs if mesh in runs else request.getfixturevalue('more_runs'))[mesh]


def test_a_run_starts_with_the_same_numbers_on_any_number_of_devices(runs):
    assert runs['8']['initialized'] == runs['1']['initialized']


@ANY_MESH
def test_any_mesh_learns_what_one_device_learns(runs, run_on, mesh):
    single, sharded = runs['1'], run_on(mesh)
    assert len(single['losses']) == STEPS and np.isfinite(single['losses']).all()
    assert np.std(single['losses']) > 0.05  # the run goes somewhere
    np.testing.assert_allclose(sharded['losses'], single['losses'], rtol=0, atol=1e-5)
    for name, values in single['params'].items():
        if not name.endswith('key/bias'):  # its gradient is rounding alone
            np.testing.assert_allclose(
                sharded['params'][name], values, rtol=0, atol=1e-3, err_msg=name
            )


@pytest.mark.slow
def test_accumulation_on_four_devices_learns_what_one_device_learns(runs, more_runs):
    in_parts = more_runs['4 in parts']
    np.testing.assert_allclose(in_parts['losses'], runs['1']['losses'], rtol=0, atol=1e-5)
    assert in_parts['compilations'] == [1, 1] and in_parts['rows on a device'] == [2]


@pytest.mark.slow
def test_rows_stay_on_their_device_when_a_batch_is_divided(more_runs):
    assert more_runs['moved'] == []


@ANY_MESH
def test_any_mesh_evaluates_as_one_device(runs, run_on, mesh):
    assert runs['1']['clips'] == run_on(mesh)['clips']
    for single, sharded in zip(runs['1']['logits'], run_on(mesh)['logits'], strict=True):
        np.testing.assert_allclose(sharded, single, rtol=0, atol=1e-5)


@ANY_MESH
def test_each_step_is_compiled_once_whatever_the_clips(run_on, mesh):
    """This includes the first step, whose state comes from initialization."""
    assert run_on(mesh)['compilations'] == [1, 1]


@pytest.mark.parametrize(
    'mesh, share',
    [
        ('8', 1),
        ('8, fsdp and tensor 2', 1 / 4),
        pytest.param('8, fsdp 8', 1 / 8, marks=pytest.mark.slow),
        pytest.param('8, tensor 4', 1 / 4, marks=pytest.mark.slow),
    ],
)
def test_each_device_holds_its_share_of_kernels_and_moments(run_on, mesh, share):
    assert run_on(mesh)['shares'] == [share]


def test_rows_are_divided_and_the_state_is_whole_everywhere(runs):
    eight = runs['8']
    assert (eight['devices of the batch'], eight['rows on a device']) == (8, [1])
    assert (eight['devices of the state'], eight['state is whole everywhere']) == ([8], True)


def test_attention_stays_on_the_device_of_its_rows(runs):
    assert not runs['exchanged']


def test_rows_that_do_not_divide_are_refused_with_both_numbers_and_one_that_does(runs):
    advised = {1: 8, 7: 8, 12: 16, 20: 16}
    assert runs['refused'].keys() == {str(rows) for rows in advised}
    for rows, nearest in advised.items():
        message = runs['refused'][str(rows)]
        assert f'packing.rows={rows} does not divide over 8 devices' in message
        assert int(message.split()[-1]) in (nearest, nearest + 8), message


def test_any_number_of_rows_divides_over_one_device():
    for rows in (1, 7, 8):
        sharding.check_rows(rows, mesh_of(1))


def test_parts_have_equally_many_rows_on_each_device():
    sharding.check_rows(6, mesh_of(1), accumulate=3)
    with pytest.raises(
        UserError,
        match=r'packing.rows=8 .* 1 devices in each of train.grad_accumulation_steps=3 parts: .*'
        r' such as 9',
    ):
        sharding.check_rows(8, mesh_of(1), accumulate=3)


def test_with_shardings_describes_the_initialized_state():
    mesh = mesh_of(1)

    def init():
        return {'a': jnp.arange(6.0).reshape(2, 3), 'b': jnp.zeros((), jnp.int32)}

    whole = sharding.replicated(mesh)
    state, abstract = (
        sharding.init_sharded(init, whole),
        sharding.with_shardings(jax.eval_shape(init), whole),
    )
    for leaf, promised in zip(jax.tree.leaves(state), jax.tree.leaves(abstract), strict=True):
        assert (leaf.shape, leaf.dtype, leaf.sharding) == (
            promised.shape,
            promised.dtype,
            promised.sharding,
        )


def test_memory_of_the_old_state_is_reused():
    mesh = mesh_of(1)
    batch = sharding.shard_batch(SHAPE.empty(), mesh)
    step = sharding.jit_train_step(lambda state, batch: (state + batch.valid.sum(), None), mesh)
    old = sharding.init_sharded(lambda: jnp.zeros(3), sharding.replicated(mesh))
    new, _ = step(old, batch)
    assert old.is_deleted() and not new.is_deleted()


@pytest.mark.parametrize(
    'settings, parts',
    [
        (
            schema.Mesh(2),
            ['mesh.data=2, mesh.fsdp=1, mesh.tensor=1', 'make 2 devices, and there are 1'],
        ),
        (schema.Mesh(-1, 3), ['mesh.fsdp=3', 'divides 1']),
    ],
)
def test_mesh_that_does_not_fit_the_devices_is_refused(settings, parts):
    with pytest.raises(UserError) as caught:
        sharding.make_mesh(settings, jax.devices()[:1])
    for text in parts:
        assert text in str(caught.value)


if __name__ == '__main__':
    main(MESHES if sys.argv[1] == 'default' else MORE_MESHES)
