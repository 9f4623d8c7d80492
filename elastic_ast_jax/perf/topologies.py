"""Load the devices of absent TPUs, which libtpu's compiler compiles for on x86-64 Linux.

`prepare` must run before JAX looks for devices: with libtpu installed, JAX would wait for a TPU.
"""

import dataclasses
import importlib.util
import math
import os
import re
import sys
from typing import Any

from elastic_ast_jax.perf import peaks
from elastic_ast_jax.perf.peaks import Peak
from elastic_ast_jax.utils.errors import UserError

# Name in the table of peaks and dimensions of the interconnect, by the name in topologies.
_GENERATIONS = {
    'v4': ('TPU v4', 3),
    'v5e': ('TPU v5e', 2),
    'v5p': ('TPU v5p', 3),
    'v6e': ('TPU v6e', 2),
}
_MAX_CHIPS = 256
# Chips of a host along each axis.
_HOST = (2, 2, 1)


class TopologyError(UserError):
    """Report a topology that cannot be compiled for, and what can."""


@dataclasses.dataclass(frozen=True)
class Topology:
    """Describe TPU chips and their arrangement.

    Attributes:
        name: Name such as `v5e:16x16`.
        chips: Number of chips.
        peak: Peak figures of one chip.
        devices: JAX devices, one for each chip.
    """

    name: str
    chips: int
    peak: Peak
    devices: tuple[Any, ...]


def prepare() -> None:
    """Keep JAX from looking for a TPU, and libtpu from asking for its name and from logging."""
    os.environ |= {
        'JAX_PLATFORMS': 'cpu',
        'TPU_SKIP_MDS_QUERY': '1',
        'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',
    }
    for name, value in {
        'TPU_STDERR_LOG_LEVEL': '3',
        'TPU_MIN_LOG_LEVEL': '3',
        'TPU_LOG_DIR': 'disabled',
        'TPU_ACCELERATOR_TYPE': 'v5litepod-1',
        'TPU_WORKER_HOSTNAMES': 'localhost',
        'TF_CPP_MIN_LOG_LEVEL': '2',
    }.items():
        os.environ.setdefault(name, value)
    if 'jax' in sys.modules:  # JAX has read its variable already
        sys.modules['jax'].config.update('jax_platforms', 'cpu')


def parse(name: str) -> tuple[str, tuple[int, ...]]:
    """Return the generation and the chips along each axis.

    Raises:
        TopologyError: The name is no topology of 1 to 256 chips.

    Example:
        >>> parse('v5p:4x4x4')
        ('v5p', (4, 4, 4))
    """
    generation, _, extent = name.partition(':')
    if generation not in _GENERATIONS or not re.fullmatch(r'[1-9]\d*(x[1-9]\d*)*', extent):
        raise TopologyError(
            f'--topology={name!r} must be a generation ({", ".join(_GENERATIONS)}) and its chips'
            ' along each axis, such as v5e:16x16 or v5p:4x4x4'
        )
    sizes = tuple(int(part) for part in extent.split('x'))
    axes = _GENERATIONS[generation][1]
    if len(sizes) != axes:
        raise TopologyError(
            f'--topology={name!r}: chips of {generation} are arranged along {axes} axes, not'
            f' {len(sizes)}: write {generation}:{"x".join("2" * axes)}, say'
        )
    if math.prod(sizes) > _MAX_CHIPS:
        raise TopologyError(
            f'--topology={name!r} has {math.prod(sizes)} chips; up to {_MAX_CHIPS} are possible'
        )
    return generation, sizes


def peak(generation: str) -> Peak:
    """Return the peak of one chip of a generation, as `parse` returns it."""
    return next(peak for peak in peaks.PEAKS if peak.name == _GENERATIONS[generation][0])


def load_topology(name: str) -> Topology:
    """Return the devices of a topology.

    Raises:
        TopologyError: No such topology, or libtpu is not installed.
    """
    generation, sizes = parse(name)
    if importlib.util.find_spec('libtpu') is None:
        raise TopologyError(
            "libtpu, which holds the TPUs' compiler, is not installed: bash launch/install.sh"
            ' compile (x86-64 Linux only)'
        )
    import jax
    from jax.experimental import topologies

    sizes = sizes + (1,) * (3 - len(sizes))
    # The chips of one host need not fill it; several hosts are full.
    host = (
        tuple(min(size, limit) for size, limit in zip(sizes, _HOST, strict=True))
        if math.prod(sizes) < 4
        else _HOST
    )
    # By default, libtpu has a device for each of the two cores of a v4 chip; the hardware has one.
    chip = {'chip_config_name': 'megacore'} if generation == 'v4' else {}
    try:
        description = topologies.get_topology_desc(
            platform='tpu',
            topology_name=f'{generation}:{"x".join(map(str, sizes))}',
            chips_per_host_bounds=host,
            **chip,
        )
    except jax.errors.JaxRuntimeError as error:
        raise TopologyError(
            f'--topology={name!r}: libtpu refuses: {str(error).splitlines()[0]}: several hosts have'
            ' 2x2 chips each, so the first two numbers must be even'
        ) from error
    return Topology(name, math.prod(sizes), peak(generation), tuple(description.devices))
