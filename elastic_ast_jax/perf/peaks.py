"""List peak figures of one JAX device: dense bfloat16 FLOP/s with float32 sums, and memory.

The figures are the vendors' own, without sparsity. A device that is missing has no figures.
"""

import dataclasses
import re


@dataclasses.dataclass(frozen=True)
class Peak:
    """Describe one kind of device.

    Attributes:
        name: Name for tables.
        pattern: Regular expression that all of its names in JAX (`device_kind`) match, in lower
            case.
        flops: Dense bfloat16 operations per second (float16 for devices without bfloat16).
        memory: Bytes.
    """

    name: str
    pattern: str
    flops: float
    memory: float


_GB = 1e9
_GIB = 2.0**30

# The first pattern that matches counts.
PEAKS = (
    # cloud.google.com/tpu/docs/v4: 275 TFLOP/s and 32 GiB of HBM2 a chip.
    Peak('TPU v4', r'tpu v4$', 275e12, 32 * _GIB),
    # cloud.google.com/tpu/docs/v5e: 197 TFLOP/s and 16 GB of HBM2 a chip.
    Peak('TPU v5e', r'tpu v5 ?(lite|e)', 197e12, 16 * _GIB),
    # cloud.google.com/tpu/docs/v5p: 459 TFLOP/s and 95 GB of HBM2e a chip. JAX calls it 'TPU v5' or
    # 'TPU v5p'.
    Peak('TPU v5p', r'tpu v5p?$', 459e12, 95 * _GIB),
    # cloud.google.com/tpu/docs/v6e: 918 TFLOP/s and 32 GB of HBM a chip.
    Peak('TPU v6e', r'tpu v6 ?(lite|e)', 918e12, 32 * _GIB),
    # nvidia.com/en-us/data-center/h200: 1979 TFLOP/s with sparsity, half of that without; 141 GB.
    # SXM; the NVL has 835.5.
    Peak('H200 NVL', r'h200 nvl', 835.5e12, 141 * _GB),
    Peak('H200', r'h200', 989.5e12, 141 * _GB),
    # nvidia.com/en-us/data-center/h100: with sparsity 1979 (SXM), 1513 (PCIe, in earlier editions
    # of the data sheet) and 1671 (NVL); half of that without. 80 GB, NVL 94 GB.
    Peak('H100 PCIe', r'h100 pcie', 756.5e12, 80 * _GB),
    Peak('H100 NVL', r'h100 nvl', 835.5e12, 94 * _GB),
    Peak('H100', r'h100', 989.5e12, 80 * _GB),
    # nvidia.com/en-us/data-center/a100: 312 TFLOP/s; 40 or 80 GB.
    Peak('A100 40GB', r'a100.*40gb', 312e12, 40 * _GB),
    Peak('A100', r'a100', 312e12, 80 * _GB),
    # nvidia.com/en-us/data-center/l4: 242 TFLOP/s with sparsity, half of that without; 24 GB. Not
    # the L40.
    Peak('L4', r'\bl4\b', 121e12, 24 * _GB),
    # nvidia.com/en-us/data-center/l40s: 362.05 TFLOP/s without sparsity; 48 GB.
    Peak('L40S', r'l40s', 362.05e12, 48 * _GB),
    # nvidia.com/en-us/data-center/v100: 125 TFLOP/s in float16 (SXM2), it has no bfloat16; 16 or 32
    # GB.
    Peak('V100', r'v100', 125e12, 32 * _GB),
    # nvidia.com/en-us/data-center/tesla-t4: 65 TFLOP/s in float16, it has no bfloat16; 16 GB.
    Peak('T4', r'\bt4\b', 65e12, 16 * _GB),
)


def find_peak(device_kind: str) -> Peak | None:
    """Return the peak of a device by its name in JAX; None if it is not in the table.

    Example:
        >>> find_peak('TPU v5 lite').name
        'TPU v5e'
    """
    return next((peak for peak in PEAKS if re.search(peak.pattern, device_kind.lower())), None)
