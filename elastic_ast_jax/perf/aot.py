"""Compile the steps of a config for absent TPUs, and report what they need of each chip."""

import dataclasses

import jax
import jax.numpy as jnp

from elastic_ast_jax.config.schema import Config
from elastic_ast_jax.distributed import sharding
from elastic_ast_jax.models import flops
from elastic_ast_jax.models.attention import interface, registry
from elastic_ast_jax.packing.batch import PackedBatch
from elastic_ast_jax.perf import topologies
from elastic_ast_jax.perf.compiled_step import (
    CompiledStep,
    CompileError,
    compile_step,
    format_gib,
    report,
)
from elastic_ast_jax.perf.max_rows import max_rows
from elastic_ast_jax.perf.topologies import Topology
from elastic_ast_jax.perf.workload import Workload, make_workload
from elastic_ast_jax.training import compiled_steps
from elastic_ast_jax.training.optimizer import constant_schedule
from elastic_ast_jax.utils import markdown
from elastic_ast_jax.utils.progress import Progress
from elastic_ast_jax.utils.text import pluralize

# Implementations of attention that the TPUs' compiler takes.
_ATTENTIONS = ('auto', 'splash', 'reference', 'blocked')


def run(
    config: Config,
    topology: str,
    lengths: str | None = None,
    classes: int | None = None,
    *,
    search: bool = False,
    check: bool = False,
) -> int:
    """Compile the training and the evaluation step, and print what they need.

    Args:
        config: Config of the run; its mesh spans all devices of the topology.
        topology: Topology such as `v5e:16x16`.
        lengths: Mix of clip lengths, see `length_mixes.load_mix`; None reads the config's data.
        classes: Number of classes; the default is that of the data, or AudioSet's 527.
        search: Find the largest number of rows of a chip that fits, with and without remat.
        check: Return 1 if a step does not fit.

    Raises:
        TopologyError, MeshError, PartitionError, MixError, CompileError: An argument is not
            possible.
    """
    progress = Progress()
    chips = topologies.load_topology(topology)
    _make_attention(config)
    workload = make_workload(config, lengths, classes, progress)
    if search:
        return _search(config, chips, workload, progress, check=check)
    mesh = sharding.make_mesh(config.mesh, chips.devices)
    steps = _make_steps(config, chips, workload)
    rows_per_device = config.packing.rows // sharding.count_row_shards(mesh)
    progress.write_line(
        f'{chips.name}: {pluralize(chips.chips, "chip")}; {config.packing.rows} rows of'
        f' {config.packing.tokens} tokens, {rows_per_device} a device; attention:'
        f' {_attention_name(config)}'
    )
    results = {}
    for name, lower in (('train', _lower_train), ('evaluate', _lower_evaluate)):
        progress.write_line(f'compiling the {name} step')
        results[name] = compile_step(lambda lower=lower: lower(steps, mesh), chips.peak.memory)
    print(report(chips, results))
    print(f'\n{_describe_flops(workload, steps, chips)}')
    fits = all(result.fits for result in results.values())
    if not fits:
        progress.write_line(
            f'does not fit: use fewer rows (--config.packing.rows={_fewer_rows(config, mesh)}), '
            '--config.model.remat=true, or parameters divided over more chips (--config.mesh.fsdp)'
        )
    return int(check and not fits)


def _describe_flops(
    workload: Workload, steps: compiled_steps.CompiledSteps, chips: Topology
) -> str:
    total = flops.train_step_flops(workload.tokens, steps.network, steps.shape.patch_size)
    clip = total / len(workload.tokens)
    step = clip * workload.clips
    least_ms = 1000 * step / chips.peak.flops / chips.chips
    return (
        f'FLOPs of a training step: {step / 1e12:.4g} T, {clip / 1e9:.4g} G a clip'
        f' ({workload.clips:.1f} clips a step, lengths of {workload.source}); at the peak of'
        f' {chips.peak.flops / 1e12:g} TFLOP/s a chip, a step takes {least_ms:.3g} ms at least'
    )


def _fewer_rows(config: Config, mesh: jax.sharding.Mesh) -> int:
    shards = sharding.count_row_shards(mesh)
    return max(1, config.packing.rows // shards // 2) * shards


def _attention_name(config: Config) -> str:
    """Return the implementation that `model.attention` selects on a TPU."""
    if config.model.attention == 'auto':
        return 'reference' if config.model.kind == 'ast' else 'splash'
    return config.model.attention


def _make_attention(config: Config) -> interface.Attend:
    if config.model.attention not in _ATTENTIONS:
        raise CompileError(
            f'model.attention={config.model.attention!r} does not run on TPUs: use '
            f'{", ".join(map(repr, _ATTENTIONS))}'
        )
    return registry.make(_attention_name(config))


def _make_steps(
    config: Config, topology: Topology, workload: Workload
) -> compiled_steps.CompiledSteps:
    dtype = jnp.dtype('bfloat16' if config.model.dtype == 'auto' else config.model.dtype)
    return compiled_steps.make_steps(
        config,
        workload.classes,
        _make_attention(config),
        dtype,
        sharding.make_mesh(config.mesh, topology.devices),
        constant_schedule(config.optimizer.learning_rate, 1),
    )


def _lower_train(
    steps: compiled_steps.CompiledSteps, mesh: jax.sharding.Mesh
) -> jax.stages.Lowered:
    return steps.train_step.lower(
        sharding.with_shardings(steps.abstract, steps.shardings), _abstract_batch(steps, mesh)
    )


def _lower_evaluate(
    steps: compiled_steps.CompiledSteps, mesh: jax.sharding.Mesh
) -> jax.stages.Lowered:
    return steps.eval_step.lower(
        sharding.with_shardings(steps.abstract.params, steps.shardings.params),
        _abstract_batch(steps, mesh),
    )


def _abstract_batch(steps: compiled_steps.CompiledSteps, mesh: jax.sharding.Mesh) -> PackedBatch:
    return sharding.with_shardings(steps.shape.abstract(), sharding.rows_sharding(mesh))


def _search(
    config: Config, topology: Topology, workload: Workload, progress: Progress, *, check: bool
) -> int:
    """Print the most rows of a device whose training step fits, with and without remat."""
    mesh = sharding.make_mesh(config.mesh, topology.devices)
    row_multiple = sharding.count_row_shards(mesh) * config.train.grad_accumulation_steps
    device_bytes = topology.peak.memory
    table_rows, fitting_rows = [], []
    for remat in (False, True):

        def attempt(rows: int, remat=remat) -> CompiledStep:
            changed = dataclasses.replace(
                config,
                model=dataclasses.replace(config.model, remat=remat),
                packing=dataclasses.replace(config.packing, rows=rows * row_multiple),
            )
            steps = _make_steps(changed, topology, workload)
            result = compile_step(lambda: _lower_train(steps, mesh), device_bytes)
            progress.write_line(
                f'{topology.name}, {"with" if remat else "without"} remat, {rows} rows: '
                f'{"fits" if result.fits else "does not fit"}, '
                f'{"-" if result.needed is None else format_gib(result.needed)},'
                f' {result.seconds:.0f} s'
            )
            return result

        rows, result = max_rows(attempt, max(1, config.packing.rows // row_multiple), device_bytes)
        fitting_rows.append(rows)
        memory = '–'
        if result is not None and result.needed is not None:
            memory = f'{format_gib(result.needed)} of {format_gib(device_bytes)}'
        table_rows.append(
            [
                topology.name,
                'yes' if remat else 'no',
                str(rows),
                str(rows * row_multiple),
                memory,
            ]
        )
    head = [
        'topology',
        'remat',
        'rows per chip that fit',
        'rows of a batch',
        'memory',
    ]
    print('\n'.join(markdown.table(head, table_rows, 'llrrr')))
    return int(check and not any(fitting_rows))
