"""Compile the steps of a config for absent TPUs, and report what they need of each chip."""

import dataclasses
import math
import re
import time
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from elastic_ast_jax.config.schema import Config
from elastic_ast_jax.distributed import sharding
from elastic_ast_jax.models import flops
from elastic_ast_jax.models.attention import interface, registry
from elastic_ast_jax.packing import token_dropout
from elastic_ast_jax.packing.batch import PackedBatch
from elastic_ast_jax.perf import collectives, length_mixes, topologies
from elastic_ast_jax.perf.topologies import Topology
from elastic_ast_jax.training import compiled_steps
from elastic_ast_jax.training.optimizer import constant_schedule
from elastic_ast_jax.utils import markdown
from elastic_ast_jax.utils.errors import UserError
from elastic_ast_jax.utils.progress import Progress
from elastic_ast_jax.utils.text import pluralize

# Rows that lengths are drawn for without data.
_SAMPLE_ROWS = 256
_MAX_ROWS = 4096
# Attempts of a search that follow the memory of earlier ones.
_GUIDED_ATTEMPTS = 4
_AUDIOSET_CLASSES = 527
_UNITS = {'': 1, 'K': 2**10, 'M': 2**20, 'G': 2**30, 'T': 2**40}
_SIZE = r'([\d.]+)([KMGT]?)'
# Two stages of the compiler report it, in different words; the earlier stage counts temporaries
# only.
_OUT_OF_MEMORY = re.compile(
    rf'(?:Used |temporaries \(){_SIZE}\)? (?:of|exceeds available HBM) \(?{_SIZE}'
)
# Implementations of attention that the TPUs' compiler takes.
_ATTENTIONS = ('auto', 'splash', 'reference', 'blocked')


class CompileError(UserError):
    """Report a step that cannot be compiled for a TPU, and what can."""


@dataclasses.dataclass(frozen=True)
class CompiledStep:
    """Describe a compiled step, in bytes on one device.

    Attributes:
        seconds: Seconds of the compilation.
        fits: Whether the compiler found enough memory.
        needed: Largest memory at any time. Of a step that does not fit, the number of the
            compiler's message, which may count temporaries only; None if the message lacks it.
        limit: Memory that the compiler may use, if its message has it.
        arguments: Bytes of the arguments, of a step that fits.
        temporaries: Bytes of the temporaries, of a step that fits.
        outputs: Bytes of the outputs that do not replace arguments, of a step that fits.
        traffic: Collectives of a step that fits, see `collectives.traffic`.
    """

    seconds: float
    fits: bool
    needed: float | None
    limit: float | None = None
    arguments: int = 0
    temporaries: int = 0
    outputs: int = 0
    traffic: dict[str, collectives.Traffic] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Workload:
    """Describe the clips of a training step.

    Attributes:
        tokens: Tokens of each clip of a sample.
        clips: Mean number of clips of a step.
        source: Source of the lengths, in words.
        classes: Number of classes.
    """

    tokens: Int[np.ndarray, 'n']
    clips: float
    source: str
    classes: int


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
    workload = _make_workload(config, lengths, classes, progress)
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
        results[name] = compile_step(
            lambda lower=lower: lower(steps, mesh), chips.peak.memory / chips.cores
        )
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


def _make_workload(
    config: Config, lengths: str | None, classes: int | None, progress: Progress
) -> Workload:
    """Return lengths and number of classes of the config's data, or of a mix without data."""
    if lengths is None:
        try:
            return _planned_workload(config, classes)
        except (UserError, ImportError, OSError) as error:
            lengths = 'audioset'
            progress.write_line(
                f'the data of the config cannot be read here ({str(error).splitlines()[0]}):'
                f' lengths are those of --lengths={lengths}, classes those of --classes'
            )
    mix, packing = length_mixes.load_mix(lengths), config.packing
    dropout = config.augment.token_dropout
    rows = length_mixes.sample_rows(
        mix, _SAMPLE_ROWS, packing.tokens, packing.slots, config.train.seed, dropout
    )
    patches = np.concatenate(rows)
    tokens = np.asarray(
        token_dropout.tokens_after_dropout(mix.frontend.mel_patches * patches, dropout), np.int64
    )
    clips = len(tokens) / _SAMPLE_ROWS * packing.rows
    return Workload(tokens, clips, lengths, classes or _AUDIOSET_CLASSES)


def _planned_workload(config: Config, classes: int | None) -> Workload:
    """Return the clips of the first epoch of training."""
    from elastic_ast_jax.data import splits
    from elastic_ast_jax.data.sources import base

    source = splits.open_source(config, 'train')
    plan = splits.make_train_planner(config, source).epoch(0)
    tokens = plan.clips.tokens
    clips = len(tokens) / len(plan.rows) * config.packing.rows
    return Workload(tokens, clips, 'the training data', classes or len(base.label_names(source)))


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


def compile_step(
    lower: Callable[[], jax.stages.Lowered], device_bytes: float = math.inf
) -> CompiledStep:
    """Compile a step.

    Args:
        lower: Returns the lowered step.
        device_bytes: Bytes of a device; a step that needs more does not fit, even if the compiler
            takes it.

    Raises:
        CompileError: The compiler refuses the step for another reason than its memory.
    """
    begin = time.perf_counter()
    try:
        program = lower().compile()
    except jax.errors.JaxRuntimeError as error:
        text = str(error)
        if 'RESOURCE_EXHAUSTED' not in text:
            raise CompileError(
                f'the compiler for TPUs refuses this step: {text.splitlines()[0]}'
            ) from error
        needed = limit = None
        if (match := _OUT_OF_MEMORY.search(text)) is not None:
            needed = float(match[1]) * _UNITS[match[2]]
            limit = float(match[3]) * _UNITS[match[4]]
        return CompiledStep(time.perf_counter() - begin, False, needed, limit)
    seconds = time.perf_counter() - begin
    memory, text = program.memory_analysis(), program.as_text()
    assert memory is not None, 'the compiler for TPUs analyzes its programs'
    assert text is not None, 'the compiler for TPUs prints its programs'
    outputs = memory.output_size_in_bytes - memory.alias_size_in_bytes
    needed = memory.argument_size_in_bytes + memory.temp_size_in_bytes + outputs
    return CompiledStep(
        seconds=seconds,
        fits=needed <= device_bytes,
        needed=float(needed),
        arguments=memory.argument_size_in_bytes,
        temporaries=memory.temp_size_in_bytes,
        outputs=outputs,
        traffic=collectives.traffic(text),
    )


def report(topology: Topology, results: dict[str, CompiledStep]) -> str:
    """Return memory and communication of each step as Markdown tables."""
    device = _device_name(topology)
    memory_rows, traffic_rows = [], []
    for name, result in results.items():
        sizes = [
            _gib(size) if result.fits else '–'
            for size in (result.arguments, result.temporaries, result.outputs)
        ]
        memory_rows.append(
            [
                name,
                'yes' if result.fits else 'no',
                '–' if result.needed is None else _gib(result.needed),
                *sizes,
                _gib(result.limit or topology.peak.memory / topology.cores),
                f'{result.seconds:.0f} s',
            ]
        )
        for kind, traffic in result.traffic.items():
            traffic_rows.append([name, kind, str(traffic.count), f'{traffic.bytes:,}'])
        if result.fits and not result.traffic:
            traffic_rows.append([name, 'none', '0', '0'])
    memory_head = [
        'step',
        'fits',
        f'per {device}',
        'arguments',
        'temporaries',
        'outputs',
        'of',
        'compiled in',
    ]
    traffic_head = ['step', 'collective', 'times a step', f'bytes per {device}']
    return '\n'.join(
        [
            *markdown.table(memory_head, memory_rows, 'llrrrrrr'),
            '',
            *markdown.table(traffic_head, traffic_rows, 'llrr'),
        ]
    )


def _device_name(topology: Topology) -> str:
    return 'chip' if topology.cores == 1 else f'1/{topology.cores} chip'


def _gib(size: float) -> str:
    return f'{size / 2**30:.2f} GiB'


def _search(
    config: Config, topology: Topology, workload: Workload, progress: Progress, *, check: bool
) -> int:
    """Print the most rows of a device whose training step fits, with and without remat."""
    mesh = sharding.make_mesh(config.mesh, topology.devices)
    row_multiple = sharding.count_row_shards(mesh) * config.train.grad_accumulation_steps
    device_bytes = topology.peak.memory / topology.cores
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
                f'{"-" if result.needed is None else _gib(result.needed)}, {result.seconds:.0f} s'
            )
            return result

        rows, result = max_rows(attempt, max(1, config.packing.rows // row_multiple), device_bytes)
        fitting_rows.append(rows)
        memory = '–'
        if result is not None and result.needed is not None:
            memory = f'{_gib(result.needed)} of {_gib(device_bytes)}'
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
        f'rows per {_device_name(topology)} that fit',
        'rows of a batch',
        'memory',
    ]
    print('\n'.join(markdown.table(head, table_rows, 'llrrr')))
    return int(check and not any(fitting_rows))


def max_rows(
    attempt: Callable[[int], CompiledStep], first: int, device_bytes: float
) -> tuple[int, CompiledStep | None]:
    """Return the largest number of rows that fits, 0 if none fits, and the step with these rows.

    Memory grows about linearly with the rows, so few attempts are needed: the first attempts follow
    the line through the last two, between the most rows that fit and the fewest rows that do not.
    Later attempts halve that interval.

    Args:
        attempt: Compiles a step with a number of rows.
        first: Rows of the first attempt.
        device_bytes: Bytes of a device.
    """
    low, best, high = 0, None, _MAX_ROWS + 1
    measured: list[tuple[int, float]] = []
    rows, attempts = first, 0
    while True:
        result = attempt(rows)
        if result.fits and not measured:
            measured.append((0, float(result.arguments)))  # a batch without rows
        if result.needed is not None:
            measured.append((rows, result.needed))
        if result.fits:
            low, best = rows, result
        else:
            high = rows
        if high - low <= 1:
            return low, best
        attempts += 1
        if attempts < _GUIDED_ATTEMPTS or high > _MAX_ROWS:
            predicted = _predict_rows(measured, rows, result, device_bytes)
            rows = min(max(predicted, low + 1), high - 1)
        else:
            rows = (low + high) // 2


def _predict_rows(
    measured: Sequence[tuple[int, float]], rows: int, result: CompiledStep, device_bytes: float
) -> int:
    """Return the most rows that fit if memory is the line through the last two attempts."""
    doubled_or_halved = 2 * rows if result.fits else rows // 2
    if len(measured) < 2 or measured[-1][1] == measured[-2][1]:
        return doubled_or_halved
    (rows_before, needed_before), (rows_last, needed_last) = measured[-2:]
    slope = (needed_last - needed_before) / (rows_last - rows_before)
    if slope <= 0:
        return doubled_or_halved
    return int(rows_last + ((result.limit or device_bytes) - needed_last) / slope)
