"""From a config to the parts of a step, and what depends on the platform."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from elastic_ast_jax import build, device
from elastic_ast_jax.config import Config, load
from elastic_ast_jax.errors import UserError
from elastic_ast_jax.models import attention
from elastic_ast_jax.models.sizes import Size

QUICKSTART = str(Path(__file__).parents[1] / 'configs' / 'quickstart.py')
SMALL = (
    'packing.rows=2',
    'packing.tokens=32',
    'packing.slots=4',
    'frontend.mel_bins=32',
    'frontend.max_frames=256',
    'model.width=8',
    'model.depth=1',
    'model.heads=2',
)


def config(*overrides):
    return load(QUICKSTART, [*SMALL, *overrides])


def network(chosen, classes=3, **more):
    return build.model(chosen, classes, attention.plain, jnp.float32, **more)


def test_a_batch_has_the_shape_of_the_config():
    shape = build.batch_shape(config(), 5)
    assert (shape.rows, shape.tokens, shape.slots, shape.patch_size, shape.classes) == (
        2,
        32,
        4,
        16 * 16,
        5,
    )
    assert not shape.multi_label and build.batch_shape(config('train.loss=bce'), 5).multi_label
    assert build.batch_shape(config(), 5, rows=1) == dataclasses.replace(shape, rows=1)


def test_a_size_may_be_changed_in_parts():
    default = dataclasses.replace(Config(), model=dataclasses.replace(Config().model, size='S'))
    assert network(default).size == Size(384, 12, 6)
    for key, size in (
        ('width', Size(96, 12, 6)),
        ('depth', Size(384, 96, 6)),
        ('heads', Size(384, 12, 96)),
    ):
        changed = dataclasses.replace(
            default, model=dataclasses.replace(default.model, **{key: 96})
        )
        assert network(changed).size == size


def test_a_width_that_does_not_divide_over_its_heads_is_refused():
    with pytest.raises(UserError, match='(?s)model.width=8 .*3 heads.*model.heads'):
        network(config('model.heads=3'))


def test_the_network_has_a_position_for_every_patch_of_the_longest_clip():
    made = network(config('frontend.max_frames=160'))
    assert made.grid == (32 // 16, 160 // 16)
    params = jax.eval_shape(lambda: build.init_params(made, build.batch_shape(config(), 3), 0))
    assert (params['positions']['freq'].shape, params['positions']['time'].shape) == (
        (2, 8),
        (10, 8),
    )


def test_switches_of_the_config_reach_the_network():
    made = network(
        config('model.pool=mean', 'model.scaled=false', 'model.scan=true', 'model.remat=true')
    )
    assert (made.pool, made.scaled, made.scan, made.remat) == ('mean', False, True, True)
    assert network(config('model.scan=true'), scan=False).scan is False


def test_parameters_are_a_function_of_the_seed():
    chosen = config()
    made, shape = network(chosen), build.batch_shape(chosen, 3)

    def params(seed, made=made):
        return jax.tree.leaves(jax.jit(lambda: build.init_params(made, shape, seed))())

    first = params(1)
    # Again, and with a looped encoder as prediction has it.
    assert all(map(np.array_equal, params(1, network(chosen, scan=True)), first))
    different = [not np.array_equal(a, b) for a, b in zip(params(2), first, strict=True)]
    assert sum(different) >= 10  # kernels and tables; biases start at 0


def test_the_loss_of_the_config():
    logits = jnp.asarray(np.random.default_rng(0).normal(size=(2, 4, 3)).astype(np.float32))
    classes = jnp.ones((2, 4), jnp.int32)
    sharp, smooth = (
        build.loss(config(f'train.label_smoothing={value}'))(logits, classes) for value in (0, 0.3)
    )
    np.testing.assert_allclose(sharp, -jax.nn.log_softmax(logits)[..., 1], rtol=1e-5)
    np.testing.assert_allclose(
        smooth,
        -0.7 * jax.nn.log_softmax(logits)[..., 1] - 0.3 * jax.nn.log_softmax(logits).mean(-1),
        rtol=1e-5,
    )
    assert build.loss(config('train.loss=bce'))(logits, jnp.zeros((2, 4, 3))).shape == (2, 4)


def rates(*overrides, epoch_ends=(100, 210, 300)):
    schedule = build.rate(config('optimizer.rate=2', *overrides), np.array(epoch_ends))
    return np.asarray(jax.jit(jax.vmap(schedule))(jnp.arange(epoch_ends[-1])))


def test_the_rate_warms_up_over_epochs():
    cosine, constant = (
        rates(f'optimizer.schedule={name}', 'optimizer.warmup_epochs=0.5')
        for name in ('cosine', 'constant')
    )
    for found in (cosine, constant):  # half an epoch of 100 steps on average
        np.testing.assert_allclose(found[:51], np.linspace(0, 2, 51), rtol=1e-5)
    assert (constant[50:] == 2).all() and cosine[50] == 2 and 0 < cosine[-1] < 0.01


def test_the_published_rate_follows_the_epochs():
    found = rates(
        'optimizer.schedule=published',
        'optimizer.decay_from=2',
        'optimizer.decay_factor=0.25',
        epoch_ends=(600, 1100, 1150, 1200),
    )
    assert found[0] == 0
    np.testing.assert_allclose(
        found[[599, 1000, 1099, 1100, 1149, 1150]], [1.1, 2, 2, 0.5, 0.5, 0.125], rtol=1e-6
    )


def test_the_optimiser_of_the_config():
    """One step from a gradient of 1: its size tells which parameters decay, and how."""
    params = {'kernel': np.full(4, 2.0, np.float32), 'bias': np.full(4, 2.0, np.float32)}

    def changes(*overrides, gradient=1.0):
        update = build.update(
            config('optimizer.weight_decay=0.5', 'optimizer.b1=0', *overrides), lambda _: 0.1
        )
        gradients = jax.tree.map(lambda x: np.full_like(x, gradient), params)
        found, state = jax.jit(update.update)(gradients, update.init(params), params)
        return [float(found[name][0]) for name in ('kernel', 'bias')], state

    decoupled, _ = changes('optimizer.kind=adamw')
    coupled, _ = changes('optimizer.kind=adam_l2')
    np.testing.assert_allclose(decoupled, [-0.1 - 0.1 * 0.5 * 2, -0.1], rtol=1e-4)
    np.testing.assert_allclose(
        coupled, [-0.1, -0.1], rtol=1e-4
    )  # Adam's first step has the size of the rate
    # The second moment tells how large the gradient was after clipping: eight elements of norm
    # sqrt(8).
    for norm, expected in (('0', 1.0), ('1', 8**-0.5), ('100', 1.0)):
        _, state = changes(
            'optimizer.kind=adamw', f'optimizer.clip_norm={norm}', 'optimizer.b2=0.9'
        )
        second = optax.tree.get(state, 'nu')['kernel'][0] / 0.1
        assert float(second) == pytest.approx(expected**2, rel=1e-4)


def test_the_rate_by_layer_of_the_config():
    """The depth is that of the model; the gradient is clipped before."""
    params = {
        'embed': {'kernel': np.ones(4, np.float32)},
        'head': {'kernel': np.ones(4, np.float32)},
    }
    chosen = config(
        'optimizer.layer_decay=0.5', 'model.depth=2', 'optimizer.b1=0', 'optimizer.weight_decay=0'
    )
    update = build.update(chosen, lambda _: 0.1)
    found, _ = update.update(params, update.init(params), params)
    np.testing.assert_allclose(
        [found['embed']['kernel'][0], found['head']['kernel'][0]], [-0.1 / 8, -0.1], rtol=1e-4
    )
    plain = build.update(config(), lambda _: 0.1)
    assert jax.tree.structure(plain.init(params)) != jax.tree.structure(
        update.init(params)
    )  # off: today's optimiser


# The platform: these tests run on a processor


def test_precision_follows_the_platform_unless_it_is_chosen():
    assert device.compute_dtype('float32') == jnp.float32
    assert device.compute_dtype('bfloat16') == jnp.bfloat16
    assert device.compute_dtype('auto') == (
        jnp.float32 if jax.default_backend() == 'cpu' else jnp.bfloat16
    )


def test_attention_follows_the_platform_unless_it_is_chosen():
    assert device.choose_attention('plain') is attention.plain
    assert device.choose_attention('blocked') is not attention.plain
    if jax.default_backend() == 'cpu':
        assert device.choose_attention('auto') is not attention.plain
    assert device.choose_attention('auto', 'ast') is attention.plain  # its rows are full


def test_what_attention_was_chosen_is_said():
    attend, said = device.chosen_attention('plain')
    assert attend is attention.plain and said == 'attention: plain, as model.attention=plain says'
    assert device.chosen_attention('auto', 'ast')[1].startswith('attention: plain, for rows of')
    if jax.default_backend() == 'cpu':
        assert (
            device.chosen_attention('auto')[1]
            == 'attention: blocked, the fastest that passes its checks on cpu'
        )


@pytest.mark.skipif(
    jax.default_backend() != 'cpu', reason='about kernels that do not run on a processor'
)
@pytest.mark.parametrize('name', ['splash', 'pallas', 'cudnn'])
def test_a_kernel_that_does_not_run_here_is_an_error_unless_the_choice_was_anothers(name):
    with pytest.raises(
        device.AttentionError,
        match=f"model.attention='{name}' does not work on this cpu in float32: .+auto",
    ):
        device.choose_attention(name)
    attend, said = device.chosen_attention(name, required=False)
    assert attend is not attention.plain
    assert said.startswith('attention: blocked') and f'{name} is refused: ' in said


@pytest.mark.skipif(
    jax.default_backend() != 'cpu', reason='about kernels that do not run on a processor'
)
def test_auto_goes_on_to_the_next_kernel_and_says_what_is_wrong_with_those_before(monkeypatch):
    monkeypatch.setattr(device, '_BY_PLATFORM', {'cpu': ('splash', 'pallas', 'plain')})
    attend, said = device.chosen_attention('auto')
    assert attend is attention.plain
    assert said.startswith('attention: plain') and said.index('splash is refused') < said.index(
        'pallas is refused'
    )


def test_compiled_programs_are_kept_where_the_user_keeps_caches(tmp_path, monkeypatch):
    before = jax.config.jax_compilation_cache_dir
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    monkeypatch.delenv('JAX_COMPILATION_CACHE_DIR', raising=False)
    try:
        device.use_compilation_cache()
        assert jax.config.jax_compilation_cache_dir == str(tmp_path / 'elastic-ast' / 'xla')
        jax.config.update('jax_compilation_cache_dir', 'chosen')
        monkeypatch.setenv(
            'JAX_COMPILATION_CACHE_DIR', 'chosen'
        )  # what JAX itself reads when it starts
        device.use_compilation_cache()
        assert jax.config.jax_compilation_cache_dir == 'chosen'
    finally:
        jax.config.update('jax_compilation_cache_dir', before)
