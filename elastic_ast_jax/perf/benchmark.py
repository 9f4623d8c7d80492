"""Measure the training and the prediction step on the available devices (`elastic-ast benchmark`).

Batches are synthetic and lie on the devices already, so only the step is measured. It needs no
data, and of libraries only JAX, Flax, Optax, NumPy, absl, ml_collections and jaxtyping; the lengths
of a recipe also need the libraries that read recordings.
"""

import dataclasses
import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import jax
from jax.sharding import Mesh

from elastic_ast_jax.config import loading
from elastic_ast_jax.config.schema import Config
from elastic_ast_jax.distributed import sharding
from elastic_ast_jax.models import flops
from elastic_ast_jax.models.attention import registry, selection
from elastic_ast_jax.models.attention.interface import Attend
from elastic_ast_jax.perf import length_mixes, peaks
from elastic_ast_jax.training import compiled_steps
from elastic_ast_jax.training.optimizer import constant_schedule
from elastic_ast_jax.utils import markdown
from elastic_ast_jax.utils.errors import UserError
from elastic_ast_jax.utils.progress import Progress

Kind = Literal['train', 'predict']
# AudioSet's, with its loss: the largest head among the recipes.
_CLASSES = 527
# Token dropout of the paper's training. Evaluation and prediction drop no token.
_DROPOUT = 0.1
_SEED = 0
_WARM_UP_STEPS = 2


class BenchmarkError(UserError):
    """Report an implementation that is not available, and those that are."""


@dataclasses.dataclass(frozen=True)
class Options:
    """Describe what to measure.

    Attributes:
        size: Size of the model.
        rows: Rows of a global batch; None: 8 for each device, 1 on a CPU.
        tokens: Tokens of a row.
        slots: Slots of a row.
        lengths: Mix of lengths, see `length_mixes.load_mix`.
        attentions: Names of implementations or prefixes of them, and `'auto'`; empty: all available
            ones.
        dtype: Value of `model.dtype`.
        steps: Timed steps; None: 10, or 3 on a CPU.
        predict: Measure prediction only.
        peak: FLOP/s of a device; None: those of the table of peaks.
        overrides: `section.key=value` each.
    """

    size: str = 'B'
    rows: int | None = None
    tokens: int = 2048
    slots: int = 32
    lengths: str = 'audioset'
    attentions: tuple[str, ...] = ()
    dtype: str = 'auto'
    steps: int | None = None
    predict: bool = False
    peak: float | None = None
    overrides: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Measurement:
    """Hold the figures of a kind of step with an implementation of attention.

    Attributes:
        attention: Name of the implementation.
        step: `'train'` or `'predict'`.
        error: Why figures are missing; empty if they are not.
        seconds: Median of the timed steps.
        clips: Clips of a step.
        tokens: Tokens of a step, without padding.
        rows: Rows of a step.
        flops: Model FLOPs of a step, see `flops`.
        peak_share: Share of the peak of all devices; None if it is not known.
        memory: Bytes on the fullest device, or None.
        memory_from: `'device'` (the record of the device) or `'compiler'` (its analysis of the
            program).
        compile_seconds: Seconds of the compilation.
    """

    attention: str
    step: str
    error: str = ''
    seconds: float = float('nan')
    clips: int = 0
    tokens: int = 0
    rows: int = 0
    flops: int = 0
    peak_share: float | None = None
    memory: int | None = None
    memory_from: str = ''
    compile_seconds: float = float('nan')

    def to_json(self) -> dict[str, Any]:
        """Return the figures and their rates, or the error."""
        if self.error:
            return {'attention': self.attention, 'step': self.step, 'error': self.error}
        return {
            'attention': self.attention,
            'step': self.step,
            'seconds': self.seconds,
            'clips': self.clips,
            'tokens': self.tokens,
            'rows': self.rows,
            'flops': self.flops,
            'peak_share': self.peak_share,
            'memory': self.memory,
            'memory_from': self.memory_from,
            'compile_seconds': self.compile_seconds,
            'clips_per_second': self.clips / self.seconds,
            'tokens_per_second': self.tokens / self.seconds,
            'flops_per_second': self.flops / self.seconds,
        }


def run(options: Options, *, as_json: bool = False) -> int:
    """Measure and print a table, or JSON Lines; return 1 if nothing could be measured.

    Raises:
        BenchmarkError, MixError, ConfigError, MeshError: An option is not possible.
    """
    progress = Progress()
    config, mix = _make_config(options)
    mesh = sharding.make_mesh(config.mesh)
    attentions = _select_attentions(options.attentions, config)
    device_kind = jax.devices()[0].device_kind
    known_peak = peaks.find_peak(device_kind)
    peak = options.peak or (known_peak.flops if known_peak else None)
    dtype = selection.compute_dtype(config.model.dtype)
    progress.write_line(
        f'{mesh.size} x {device_kind}, {config.model.size} in {dtype}, {config.packing.rows} rows'
        f' of {config.packing.tokens} tokens, lengths {mix.name}; peak:'
        f' {f"{peak / 1e12:g} TFLOP/s a device" if peak else "not known, give --peak"}'
    )
    steps: tuple[Kind, ...] = ('predict',) if options.predict else ('train', 'predict')
    timed_steps = options.steps or (3 if _on_cpu() else 10)
    common = {'device': device_kind, 'devices': mesh.size, 'dtype': str(dtype), 'peak': peak}
    results = []
    for step in steps:
        for name, attend in attentions.items():
            result = measure(config, mix, step, name, attend, mesh, timed_steps, peak)
            if as_json:
                print(json.dumps(common | result.to_json()), flush=True)
            else:
                progress.write_line(_line(result))
            results.append(result)
    if not as_json:
        print(table(results))
    return int(all(result.error for result in results))


def _on_cpu() -> bool:
    return jax.default_backend() == 'cpu'


def _make_config(options: Options) -> tuple[Config, length_mixes.Mix]:
    """Return the config of the model and the batch, and the mix of lengths."""
    mix = length_mixes.load_mix(options.lengths)
    rows = options.rows or (1 if _on_cpu() else 8) * jax.device_count()
    values = {
        'data.source': 'synthetic',
        'model.size': options.size,
        'model.dtype': options.dtype,
        'packing.rows': rows,
        'packing.tokens': options.tokens,
        'packing.slots': options.slots,
        'train.loss': 'bce',
    }
    values |= {f'frontend.{key}': value for key, value in dataclasses.asdict(mix.frontend).items()}
    return loading.resolve(values, *loading.override_texts(options.overrides)), mix


def _select_attentions(names: Sequence[str], config: Config) -> Mapping[str, Attend]:
    """Return implementations by name, in the order of `names`; all available ones if it is empty.

    Raises:
        BenchmarkError: A name of no implementation, or of one that cannot be loaded.
    """
    available = registry.available()
    if not names:
        return available
    selected: dict[str, Attend] = {}
    for name in names:
        if name == 'auto':
            selected[name] = selection.select_attention(name, config.model.kind)
            continue
        matching = {full: attend for full, attend in available.items() if full == name} or {
            full: attend for full, attend in available.items() if full.startswith(name)
        }
        # Implementations that compute in bfloat16 only are not listed as available.
        selected |= matching or {name: _make_attention(name, available)}
    return selected


def _make_attention(name: str, available: Mapping[str, Attend]) -> Attend:
    try:
        return registry.make(name)
    except (ImportError, KeyError) as error:
        reason = (
            f'cannot be loaded ({error})'
            if isinstance(error, ImportError)
            else 'is no implementation'
        )
        raise BenchmarkError(
            f'--attention={name}: {reason}; available are auto, {", ".join(map(repr, available))}'
        ) from error


def measure(
    config: Config,
    mix: length_mixes.Mix,
    step: Kind,
    name: str,
    attend: Attend,
    mesh: Mesh,
    timed_steps: int,
    peak: float | None,
) -> Measurement:
    """Time one kind of step.

    Args:
        config: Config of the model and the batch.
        mix: Lengths of clips.
        step: Kind of step.
        name: Name of the attention.
        attend: Attention of one device.
        mesh: Devices.
        timed_steps: Number of timed steps.
        peak: Peak FLOP/s of a device.

    Returns:
        The figures, or an error if the device has too little memory or the compiler refuses.
    """
    try:
        return _measure(config, mix, step, name, attend, mesh, timed_steps, peak)
    except jax.errors.JaxRuntimeError as error:
        text = str(error)
        reason = 'out of memory' if 'RESOURCE_EXHAUSTED' in text else text.splitlines()[0]
        return Measurement(name, step, reason)


def _measure(
    config: Config,
    mix: length_mixes.Mix,
    step: Kind,
    name: str,
    attend: Attend,
    mesh: Mesh,
    timed_steps: int,
    peak: float | None,
) -> Measurement:
    """Return the figures of a step; see `measure`."""
    training = step == 'train'
    steps = compiled_steps.make_steps(
        config,
        _CLASSES,
        attend,
        selection.compute_dtype(config.model.dtype),
        mesh,
        constant_schedule(config.optimizer.learning_rate, 1),
    )
    network, patch_size = steps.network, steps.shape.patch_size
    host_batch = length_mixes.noise_batch(mix, steps.shape, _SEED, _DROPOUT if training else 0.0)
    lengths = flops.tokens_per_clip(host_batch.segment_ids)
    batch = sharding.shard_batch(host_batch, mesh)
    state = steps.init_sharded()
    bytes_before = _peak_bytes(mesh)
    begin = time.perf_counter()
    if training:
        compiled = steps.train_step.lower(state, batch).compile()
    else:
        compiled = steps.eval_step.lower(state.params, batch).compile()
    compile_seconds = time.perf_counter() - begin
    if training:
        seconds = _times(lambda state: compiled(state, batch)[0], state, timed_steps)
        step_flops = flops.train_step_flops(lengths, network, patch_size)
    else:
        params = state.params
        state = None  # prediction has no optimizer: free its memory
        seconds = _times(lambda _: compiled(params, batch), None, timed_steps)
        step_flops = int(flops.forward_flops(lengths, network, patch_size).sum())
    bytes_after = _peak_bytes(mesh)
    # The record is that of the whole process: it describes this step only if the step raised it.
    raised = bytes_after is not None and bytes_after > (bytes_before or 0)
    median = statistics.median(seconds)
    return Measurement(
        name,
        step,
        seconds=median,
        clips=len(lengths),
        tokens=int(lengths.sum()),
        rows=steps.shape.rows,
        flops=step_flops,
        peak_share=step_flops / median / (peak * mesh.size) if peak else None,
        memory=bytes_after if raised else _analyzed_bytes(compiled),
        memory_from='device' if raised else 'compiler',
        compile_seconds=compile_seconds,
    )


def _times(step: Callable[[Any], Any], state: Any, count: int) -> list[float]:
    """Return the seconds of `count` steps after warm-up steps.

    Each step takes the result of the step before.
    """
    seconds = []
    for _ in range(_WARM_UP_STEPS + count):
        begin = time.perf_counter()
        state = jax.block_until_ready(step(state))
        seconds.append(time.perf_counter() - begin)
    return seconds[_WARM_UP_STEPS:]


def _peak_bytes(mesh: Mesh) -> int | None:
    """Return the most bytes that a device has held in this process.

    None if the platform keeps no record.
    """
    records = []
    for device in mesh.local_devices:
        record = (device.memory_stats() or {}).get('peak_bytes_in_use')
        if record is None:
            return None
        records.append(record)
    return max(records, default=None)


def _analyzed_bytes(compiled: jax.stages.Compiled) -> int | None:
    """Return the compiler's count of the bytes that the program holds on a device.

    It counts arguments, results that reuse no argument, and temporaries.
    """
    analysis = compiled.memory_analysis()
    if analysis is None:
        return None
    return (
        analysis.argument_size_in_bytes
        + analysis.output_size_in_bytes
        - analysis.alias_size_in_bytes
        + analysis.temp_size_in_bytes
    )


def _line(result: Measurement) -> str:
    if result.error:
        return f'{result.step}, {result.attention}: {result.error}'
    return f'{result.step}, {result.attention}: {1000 * result.seconds:.1f} ms a step'


def table(results: Sequence[Measurement]) -> str:
    """Return the figures as a Markdown table."""
    head = [
        'step',
        'attention',
        'ms a step',
        'clips/s',
        'tokens/s',
        'useful TFLOP/s',
        'of the peak',
        'memory',
    ]
    return '\n'.join(markdown.table(head, map(_cells, results), 'llrrrrrr'))


def _cells(result: Measurement) -> list[str]:
    names = [result.step, markdown.text(result.attention)]
    if result.error:
        return [*names, markdown.text(result.error), *['–'] * 5]
    share = '–' if result.peak_share is None else f'{100 * result.peak_share:.1f} %'
    memory = '–'
    if result.memory is not None:
        memory = f'{result.memory / 2**30:.2f} GiB ({result.memory_from})'
    per_second = 1 / result.seconds
    return [
        *names,
        f'{1000 * result.seconds:.1f}',
        f'{result.clips * per_second:,.1f}',
        f'{result.tokens * per_second:,.0f}',
        f'{result.flops * per_second / 1e12:.3g}',
        share,
        memory,
    ]
