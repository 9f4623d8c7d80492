"""`elastic-ast compile`:

the steps of a configuration, compiled for TPUs that are not there; what they need of each chip.
"""

import dataclasses
import math
import re
import time
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from elastic_ast_jax.audio import frontend
from elastic_ast_jax.config.schema import Config
from elastic_ast_jax.distributed import sharding
from elastic_ast_jax.models import flops
from elastic_ast_jax.models.attention import interface, registry
from elastic_ast_jax.perf import collectives, length_mixes, topologies
from elastic_ast_jax.perf.topologies import Topology
from elastic_ast_jax.training import compiled_steps
from elastic_ast_jax.training.optimizer import constant_schedule
from elastic_ast_jax.utils import markdown
from elastic_ast_jax.utils.errors import UserError
from elastic_ast_jax.utils.progress import Progress
from elastic_ast_jax.utils.text import counted

# Rows that lengths are drawn for where the data are not there.
_SAMPLE_ROWS = 256
_MOST_ROWS = 4096
# Attempts of a search that follow the memory of those before.
_GUIDED = 4
_UNITS = {'': 1, 'K': 2**10, 'M': 2**20, 'G': 2**30, 'T': 2**40}
_SIZE = r'([\d.]+)([KMGT]?)'
# Two stages of the compiler find it, with words of their own; the earlier one looks at temporaries
# alone.
_OUT_OF_MEMORY = re.compile(
    rf'(?:Used |temporaries \(){_SIZE}\)? (?:of|exceeds available HBM) \(?{_SIZE}'
)
# Attention that the TPUs' compiler takes.
_ATTENTIONS = ('auto', 'splash', 'reference', 'blocked')


class CompileError(UserError):
    """A step that cannot be compiled for a TPU; says what would do."""


@dataclasses.dataclass(frozen=True)
class CompiledStep:
    """A compiled step, in bytes on one device.

    Attributes:
        seconds: That compiling took.
        fits: Whether the compiler found room.
        needed: At the most at one time. Of a step that does not fit, what the compiler says, which
            may be the temporaries alone; None if it does not say.
        limit: What the compiler may use of the memory, if it says so.
        arguments, temporaries, outputs: Of a step that fits; outputs that do not take the place of
        arguments.
        traffic: Of a step that fits, see `collectives.traffic`.
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
    """What the clips of a training step need.

    Attributes:
        tokens: Of each clip of a sample.
        clips: A step, on average.
        of: Whose lengths these are, in words.
        classes: C.
    """

    tokens: Int[np.ndarray, 'n']
    clips: float
    of: str
    classes: int


def run(
    config: Config,
    topology: str,
    lengths: str | None = None,
    classes: int | None = None,
    search: bool = False,
    check: bool = False,
) -> int:
    """Compiles the training and the evaluation step and prints what they need.

    Args:
        config: Of the run; its mesh is laid over all devices of the topology.
        topology: Such as `v5e:16x16`.
        lengths: A mix of clip lengths, see `length_mixes.named`; None: those of the config's data.
        classes: C; None: those of the data, or AudioSet's 527.
        search: Find the most rows of a chip that fit, with and without remat, instead.
        check: Return 1 if a step does not fit.

    Raises:
        TopologyError, MeshError, PartitionError, MixError, CompileError: What was asked for is not
        possible.
    """
    progress = Progress()
    found = topologies.load_topology(topology)
    _chosen_attention(config)
    work = _work(config, lengths, classes, progress)
    if search:
        return _search(config, found, work, progress, check)
    mesh = sharding.make_mesh(config.mesh, found.devices)
    made = _steps(config, found, work)
    progress.say(
        f'{found.name}: {counted(found.chips, "chip")}; {config.packing.rows} rows of'
        f' {config.packing.tokens} tokens,'
        f' {config.packing.rows // sharding.count_row_shards(mesh)} a device;'
        f' attention: {_attention_name(config)}'
    )
    results = {}
    for name, lowered in (('train', _lower_train), ('evaluate', _lower_evaluate)):
        progress.say(f'compiling the {name} step')
        results[name] = compile_step(
            lambda lowered=lowered: lowered(made, mesh), found.peak.memory / found.cores
        )
    print(report(found, results))
    total = flops.train_step_flops(work.tokens, made.network, made.shape.patch_size)
    clip = total / len(work.tokens)
    print(
        f'\nFLOPs of a training step: {clip * work.clips / 1e12:.4g} T, {clip / 1e9:.4g} G a clip'
        f' ({work.clips:.1f} clips a step, lengths of {work.of}); at the peak of'
        f' {found.peak.flops / 1e12:g} TFLOP/s a chip, a step takes'
        f' {1000 * clip * work.clips / found.peak.flops / found.chips:.3g} ms at least'
    )
    fits = all(result.fits for result in results.values())
    if not fits:
        progress.say(
            f'does not fit: use fewer rows (--config.packing.rows={_fewer(config, mesh)}), '
            '--config.model.remat=true, or parameters divided over more chips (--config.mesh.fsdp)'
        )
    return int(check and not fits)


def _fewer(config: Config, mesh: jax.sharding.Mesh) -> int:
    shards = sharding.count_row_shards(mesh)
    return max(1, config.packing.rows // shards // 2) * shards


def _attention_name(config: Config) -> str:
    """What `model.attention` means on a TPU."""
    if config.model.attention == 'auto':
        return 'reference' if config.model.kind == 'ast' else 'splash'
    return config.model.attention


def _chosen_attention(config: Config) -> interface.Attend:
    if config.model.attention not in _ATTENTIONS:
        raise CompileError(
            f'model.attention={config.model.attention!r} does not run on TPUs: use '
            f'{", ".join(map(repr, _ATTENTIONS))}'
        )
    return registry.make(_attention_name(config))


def _work(config: Config, lengths: str | None, classes: int | None, progress: Progress) -> Workload:
    """Lengths of clips and the number of classes:

    of the config's data if they are there, else of a mix.
    """
    if lengths is None:
        try:
            return _planned(config, classes)
        except (UserError, ImportError, OSError) as error:
            lengths = 'audioset'
            progress.say(
                f'the data of the config cannot be read here ({str(error).splitlines()[0]}):'
                f' lengths are those of --lengths={lengths}, classes those of --classes'
            )
    mix, packing = length_mixes.load_mix(lengths), config.packing
    dropout = config.augment.token_dropout
    packed = length_mixes.sample_rows(
        mix, _SAMPLE_ROWS, packing.tokens, packing.slots, config.train.seed, dropout
    )
    patches = np.concatenate(packed)
    tokens = np.asarray(frontend.kept_tokens(mix.frontend.mel_patches * patches, dropout), np.int64)
    return Workload(tokens, len(tokens) / _SAMPLE_ROWS * packing.rows, lengths, classes or 527)


def _planned(config: Config, classes: int | None) -> Workload:
    """The first epoch of the plan of training."""
    from elastic_ast_jax.data import splits
    from elastic_ast_jax.data.sources import base

    source = splits.open_source(config, 'train')
    plan = splits.make_train_planner(config, source).epoch(0)
    tokens = plan.clips.tokens
    return Workload(
        tokens,
        len(tokens) / len(plan.rows) * config.packing.rows,
        'the training data',
        classes or len(base.label_names(source)),
    )


def _steps(config: Config, topology: Topology, work: Workload) -> compiled_steps.CompiledSteps:
    dtype = jnp.dtype('bfloat16' if config.model.dtype == 'auto' else config.model.dtype)
    mesh = sharding.make_mesh(config.mesh, topology.devices)
    return compiled_steps.make_steps(
        config,
        work.classes,
        _chosen_attention(config),
        dtype,
        mesh,
        constant_schedule(config.optimizer.learning_rate, 1),
    )


def _lower_train(made: compiled_steps.CompiledSteps, mesh: jax.sharding.Mesh) -> jax.stages.Lowered:
    state = sharding.with_shardings(made.abstract, made.shardings)
    return made.train_step.lower(
        state, sharding.with_shardings(made.shape.abstract(), sharding.rows_sharding(mesh))
    )


def _lower_evaluate(
    made: compiled_steps.CompiledSteps, mesh: jax.sharding.Mesh
) -> jax.stages.Lowered:
    params = sharding.with_shardings(made.abstract.params, made.shardings.params)
    return made.eval_step.lower(
        params, sharding.with_shardings(made.shape.abstract(), sharding.rows_sharding(mesh))
    )


def compile_step(lower: Callable[[], jax.stages.Lowered], room: float = math.inf) -> CompiledStep:
    """Compiles a step.

    Args:
        lower: Gives the lowered step.
        room: Bytes of a device; what needs more does not fit, though the compiler may take it.

    Raises:
        CompileError: The compiler refuses it for another reason than its memory.
    """
    begin = time.perf_counter()
    try:
        made = lower().compile()
    except jax.errors.JaxRuntimeError as error:
        text = str(error)
        if 'RESOURCE_EXHAUSTED' not in text:
            raise CompileError(
                f'the compiler for TPUs refuses this step: {text.splitlines()[0]}'
            ) from error
        needed = limit = None
        if (used := _OUT_OF_MEMORY.search(text)) is not None:
            needed, limit = float(used[1]) * _UNITS[used[2]], float(used[3]) * _UNITS[used[4]]
        return CompiledStep(time.perf_counter() - begin, False, needed, limit)
    seconds = time.perf_counter() - begin
    memory = made.memory_analysis()
    outputs = memory.output_size_in_bytes - memory.alias_size_in_bytes
    needed = memory.argument_size_in_bytes + memory.temp_size_in_bytes + outputs
    return CompiledStep(
        seconds,
        needed <= room,
        float(needed),
        None,
        memory.argument_size_in_bytes,
        memory.temp_size_in_bytes,
        outputs,
        collectives.traffic(made.as_text()),
    )


def report(topology: Topology, results: dict[str, CompiledStep]) -> str:
    """Memory and communication of each step, as Markdown."""
    room = topology.peak.memory / topology.cores
    each = 'chip' if topology.cores == 1 else f'1/{topology.cores} chip'
    lines = [
        f'| step | fits | per {each} | arguments | temporaries | outputs | of | compiled in |',
        '|---|---|---:|---:|---:|---:|---:|---:|',
    ]
    for name, result in results.items():
        parts = [
            _gib(x) if result.fits else '–'
            for x in (result.arguments, result.temporaries, result.outputs)
        ]
        needed = '–' if result.needed is None else _gib(result.needed)
        lines.append(
            markdown.row(
                [
                    name,
                    'yes' if result.fits else 'no',
                    needed,
                    *parts,
                    _gib(result.limit or room),
                    f'{result.seconds:.0f} s',
                ]
            )
        )
    lines += ['', f'| step | collective | times a step | bytes per {each} |', '|---|---|---:|---:|']
    for name, result in results.items():
        for kind, found in result.traffic.items():
            lines.append(markdown.row([name, kind, str(found.count), f'{found.bytes:,}']))
        if result.fits and not result.traffic:
            lines.append(markdown.row([name, 'none', '0', '0']))
    return '\n'.join(lines)


def _gib(size: float) -> str:
    return f'{size / 2**30:.2f} GiB'


def _search(
    config: Config, topology: Topology, work: Workload, progress: Progress, check: bool
) -> int:
    """Prints the most rows of a device whose training step fits, with and without remat."""
    mesh = sharding.make_mesh(config.mesh, topology.devices)
    shards, accumulate = sharding.count_row_shards(mesh), config.train.grad_accumulation_steps
    room = topology.peak.memory / topology.cores
    each = 'chip' if topology.cores == 1 else f'1/{topology.cores} chip'
    lines = [
        f'| topology | remat | rows per {each} that fit | rows of a batch | memory |',
        '|---|---|---:|---:|---:|',
    ]
    most = []
    for remat in (False, True):
        model = dataclasses.replace(config.model, remat=remat)

        def attempt(rows: int, model=model, remat=remat) -> CompiledStep:
            total = rows * shards * accumulate
            changed = dataclasses.replace(
                config, model=model, packing=dataclasses.replace(config.packing, rows=total)
            )
            made = _steps(changed, topology, work)
            result = compile_step(lambda: _lower_train(made, mesh), room)
            progress.say(
                f'{topology.name}, {"with" if remat else "without"} remat, {rows} rows: '
                f'{"fits" if result.fits else "does not fit"}, '
                f'{"-" if result.needed is None else _gib(result.needed)}, {result.seconds:.0f} s'
            )
            return result

        rows, result = max_rows(attempt, max(1, config.packing.rows // shards // accumulate), room)
        most.append(rows)
        memory = (
            '–'
            if result is None or result.needed is None
            else f'{_gib(result.needed)} of {_gib(room)}'
        )
        lines.append(
            markdown.row(
                [
                    topology.name,
                    'yes' if remat else 'no',
                    str(rows),
                    str(rows * shards * accumulate),
                    memory,
                ]
            )
        )
    print('\n'.join(lines))
    return int(check and not any(most))


def max_rows(
    attempt: Callable[[int], CompiledStep], first: int, room: float
) -> tuple[int, CompiledStep | None]:
    """The largest number of rows that fit, 0 if none do; and the step with these.

    Memory grows about linearly with the rows, so few attempts are needed: the first go where the
    line through the last two says, kept between the most that are known to fit and the fewest that
    are known not to. What is then left is halved.

    Args:
        attempt: Compiles a step with so many rows.
        first: Rows of the first attempt.
        room: Bytes of a device.
    """
    low, best, high = 0, None, _MOST_ROWS + 1
    known: list[tuple[int, float]] = []
    rows, attempts = first, 0
    while True:
        result = attempt(rows)
        if result.fits and not known:
            known.append((0, float(result.arguments)))  # of a batch of no rows
        if result.needed is not None:
            known.append((rows, result.needed))
        if result.fits:
            low, best = rows, result
        else:
            high = rows
        if high - low <= 1:
            return low, best
        attempts += 1
        if attempts < _GUIDED or high > _MOST_ROWS:
            rows = min(
                max(_predicted(known, rows, result.fits, result.limit or room), low + 1), high - 1
            )
        else:
            rows = (low + high) // 2


def _predicted(known: Sequence[tuple[int, float]], rows: int, fits: bool, room: float) -> int:
    """The most rows that fit if memory is a line through the last two attempts."""
    if len(known) < 2 or known[-1][1] == known[-2][1]:
        return 2 * rows if fits else rows // 2
    (one, first), (other, second) = known[-2:]
    slope = (second - first) / (other - one)
    return int(other + (room - second) / slope) if slope > 0 else (2 * rows if fits else rows // 2)
