"""Compile a step, and report its memory and communication."""

import dataclasses
import math
import re
import time
from collections.abc import Callable

import jax

from elastic_ast_jax.perf import collectives
from elastic_ast_jax.perf.topologies import Topology
from elastic_ast_jax.utils import markdown
from elastic_ast_jax.utils.errors import UserError

_UNITS = {'': 1, 'K': 2**10, 'M': 2**20, 'G': 2**30, 'T': 2**40}
_SIZE = r'([\d.]+)([KMGT]?)'
# Two stages of the compiler report it, in different words; the earlier stage counts temporaries
# only.
_OUT_OF_MEMORY = re.compile(
    rf'(?:Used |temporaries \(){_SIZE}\)? (?:of|exceeds available HBM) \(?{_SIZE}'
)


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
    memory_rows, traffic_rows = [], []
    for name, result in results.items():
        sizes = [
            format_gib(size) if result.fits else '–'
            for size in (result.arguments, result.temporaries, result.outputs)
        ]
        memory_rows.append(
            [
                name,
                'yes' if result.fits else 'no',
                '–' if result.needed is None else format_gib(result.needed),
                *sizes,
                format_gib(result.limit or topology.peak.memory),
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
        'per chip',
        'arguments',
        'temporaries',
        'outputs',
        'of',
        'compiled in',
    ]
    traffic_head = ['step', 'collective', 'times a step', 'bytes per chip']
    return '\n'.join(
        [
            *markdown.table(memory_head, memory_rows, 'llrrrrrr'),
            '',
            *markdown.table(traffic_head, traffic_rows, 'llrr'),
        ]
    )


def format_gib(size: float) -> str:
    """Return bytes in GiB."""
    return f'{size / 2**30:.2f} GiB'
