"""`elastic-ast benchmark`: how fast the training and the prediction step are on the devices that
are there.

Batches are synthetic and lie on the devices already, so what is measured is the step alone. Needs
no data, and of libraries only JAX, Flax, Optax, NumPy, absl and ml_collections (and jaxtyping,
which is Python alone).
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
_TRAIN, _PREDICT = 'train', 'predict'
# AudioSet's, with its loss: the largest head there is among the recipes.
_CLASSES = 527
# As the paper trains. Evaluation and prediction leave no token out.
_DROPOUT = 0.1
_SEED = 0
_WARM_UP = 2


class BenchmarkError(UserError):
    """Something asked for that is not there; names what is."""


@dataclasses.dataclass(frozen=True)
class Options:
    """What is measured.

    Attributes:
        size: Of the model.
        rows: Of a global batch; None: 8 for each device, on a CPU 1.
        tokens, slots: Of a row.
        lengths: A mix, see `length_mixes.named`.
        attentions: Names of implementations or beginnings of them, and `'auto'`; all that are there
        if empty.
        dtype: As `model.dtype`.
        steps: Timed steps; None: 10, on a CPU 3.
        predict: Measure prediction only.
        peak: FLOP/s of a device; None: that of the table.
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
    """One kind of step with one implementation of attention.

    Attributes:
        attention: Its name.
        step: `'train'` or `'predict'`.
        error: Why there are no figures; empty if there are.
        seconds: Median of the timed steps.
        clips, tokens, rows: Of a step; tokens of clips only.
        flops: Model FLOPs of a step, see `flops`.
        peak_share: Share of the peak of all devices; None if it is not known.
        memory: Bytes on the fullest device, or None.
        memory_from: `'device'` (its own record) or `'compiler'` (its analysis of the program).
        compile_seconds: Of the step.
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
        """Everything, with rates; without figures where there are none."""
        if self.error:
            return {'attention': self.attention, 'step': self.step, 'error': self.error}
        rates = {
            f'{name}_per_second': getattr(self, name) / self.seconds
            for name in ('clips', 'tokens', 'flops')
        }
        return {
            key: value for key, value in dataclasses.asdict(self).items() if key != 'error'
        } | rates


def run(options: Options, as_json: bool = False) -> int:
    """Measures and prints a table, or JSON Lines; returns 1 if nothing could be measured.

    Raises:
        BenchmarkError, MixError, ConfigError, MeshError: What was asked for is not possible.
    """
    progress = Progress()
    config, mix = _configured(options)
    mesh = sharding.make_mesh(config.mesh)
    chosen = _chosen(options.attentions, config)
    kind = jax.devices()[0].device_kind
    found = peaks.find_peak(kind)
    peak = options.peak or (found.flops if found else None)
    dtype = selection.compute_dtype(config.model.dtype)
    progress.say(
        f'{mesh.size} x {kind}, {config.model.size} in {dtype}, {config.packing.rows} rows of'
        f' {config.packing.tokens} tokens, lengths {mix.name}; peak:'
        f' {f"{peak / 1e12:g} TFLOP/s a device" if peak else "not known, give --peak"}'
    )
    results = []
    for step in (_PREDICT,) if options.predict else (_TRAIN, _PREDICT):
        for name, attend in chosen.items():
            result = measure(
                config,
                mix,
                step,
                name,
                attend,
                mesh,
                options.steps or (3 if _on_cpu() else 10),
                peak,
            )
            if as_json:
                print(
                    json.dumps(
                        {'device': kind, 'devices': mesh.size, 'dtype': str(dtype), 'peak': peak}
                        | result.to_json()
                    ),
                    flush=True,
                )
            else:
                progress.say(_line(result))
            results.append(result)
    if not as_json:
        print(table(results))
    return int(all(result.error for result in results))


def _on_cpu() -> bool:
    return jax.default_backend() == 'cpu'


def _configured(options: Options) -> tuple[Config, length_mixes.Mix]:
    """The config of the model and the batch, and the mix of lengths."""
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


def _chosen(wanted: Sequence[str], config: Config) -> Mapping[str, Attend]:
    """Implementations by name, in the order asked for."""
    there = registry.available()
    if not wanted:
        return there
    chosen: dict[str, Attend] = {}
    for name in wanted:
        fitting = {full: attend for full, attend in there.items() if full == name} or {
            full: attend for full, attend in there.items() if full.startswith(name)
        }
        if name == 'auto':
            fitting = {name: selection.select_attention(name, config.model.kind)}
        if not fitting:  # what computes in bfloat16 alone is there by its name only
            try:
                fitting = {name: registry.make(name)}
            except (ImportError, KeyError) as error:
                why = (
                    f'cannot be loaded ({error})'
                    if isinstance(error, ImportError)
                    else 'is no implementation'
                )
                raise BenchmarkError(
                    f'--attention={name}: {why}; there are auto, {", ".join(map(repr, there))}'
                ) from error
        chosen |= fitting
    return chosen


def measure(
    config: Config,
    mix: length_mixes.Mix,
    step: Kind,
    name: str,
    attend: Attend,
    mesh: Mesh,
    count: int,
    peak: float | None,
) -> Measurement:
    """Times one kind of step.

    Args:
        config: Of the model and the batch.
        mix: Lengths of clips.
        step: Which.
        name, attend: The attention of one device.
        mesh: Where.
        count: Timed steps.
        peak: FLOP/s of a device at most.

    Returns:
        The figures; or an error, where the device has too little memory or the compiler refuses.
    """
    try:
        return _measure(config, mix, step, name, attend, mesh, count, peak)
    except jax.errors.JaxRuntimeError as error:
        text = str(error)
        return Measurement(
            name, step, 'out of memory' if 'RESOURCE_EXHAUSTED' in text else text.splitlines()[0]
        )


def _measure(config, mix, step, name, attend, mesh, count, peak) -> Measurement:
    training = step == _TRAIN
    made = compiled_steps.make_steps(
        config,
        _CLASSES,
        attend,
        selection.compute_dtype(config.model.dtype),
        mesh,
        constant_schedule(config.optimizer.learning_rate, 1),
    )
    host_batch = length_mixes.noise_batch(mix, made.shape, _SEED, _DROPOUT if training else 0.0)
    lengths = flops.tokens_per_clip(host_batch.segment_ids)
    batch = sharding.shard_batch(host_batch, mesh)
    state = made.init_sharded()
    used = _peak_bytes(mesh)
    begin = time.perf_counter()
    compiled = (
        made.train_step.lower(state, batch)
        if training
        else made.eval_step.lower(state.params, batch)
    ).compile()
    compile_seconds = time.perf_counter() - begin
    if training:
        seconds = _times(lambda state: compiled(state, batch)[0], state, count)
    else:
        params = state.params
        state = None  # prediction has no optimiser
        seconds = _times(lambda _: compiled(params, batch), None, count)
    work = (
        flops.train_step_flops(lengths, made.network, made.shape.patch_size)
        if training
        else int(flops.forward_flops(lengths, made.network, made.shape.patch_size).sum())
    )
    after = _peak_bytes(mesh)
    grown = after is not None and after > (
        used or 0
    )  # the record is that of the whole process: only what exceeds it tells
    median = statistics.median(seconds)
    return Measurement(
        name,
        step,
        seconds=median,
        clips=len(lengths),
        tokens=int(lengths.sum()),
        rows=made.shape.rows,
        flops=work,
        peak_share=work / median / (peak * mesh.size) if peak else None,
        memory=after if grown else _analysed_bytes(compiled),
        memory_from='device' if grown else 'compiler',
        compile_seconds=compile_seconds,
    )


def _times(step: Callable[[Any], Any], state: Any, count: int) -> list[float]:
    """Seconds of each of `count` steps after some for warming up;

    each takes what the one before gave.
    """
    seconds = []
    for _ in range(_WARM_UP + count):
        begin = time.perf_counter()
        state = jax.block_until_ready(step(state))
        seconds.append(time.perf_counter() - begin)
    return seconds[_WARM_UP:]


def _peak_bytes(mesh: Mesh) -> int | None:
    """The most bytes that a device has held since the process began;

    None where the platform keeps no record.
    """
    records = [
        (there.memory_stats() or {}).get('peak_bytes_in_use') for there in mesh.local_devices
    ]
    return max(records) if records and None not in records else None


def _analysed_bytes(compiled: jax.stages.Compiled) -> int | None:
    """What the compiler says that the program holds on a device:

    arguments, results that reuse none of them, temporaries.
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
    """The figures side by side, as Markdown."""
    lines = [
        (
            '| step | attention | ms a step | clips/s | tokens/s | useful TFLOP/s | of the peak |'
            ' memory |'
        ),
        '|---|---|---:|---:|---:|---:|---:|---:|',
    ]
    for result in results:
        cells = [result.step, markdown.text(result.attention)]
        if result.error:
            lines.append(markdown.row([*cells, markdown.text(result.error), *['–'] * 5]))
            continue
        share = '–' if result.peak_share is None else f'{100 * result.peak_share:.1f} %'
        memory = (
            '–'
            if result.memory is None
            else f'{result.memory / 2**30:.2f} GiB ({result.memory_from})'
        )
        per_second = 1 / result.seconds
        lines.append(
            markdown.row(
                [
                    *cells,
                    f'{1000 * result.seconds:.1f}',
                    f'{result.clips * per_second:,.1f}',
                    f'{result.tokens * per_second:,.0f}',
                    f'{result.flops * per_second / 1e12:.3g}',
                    share,
                    memory,
                ]
            )
        )
    return '\n'.join(lines)
