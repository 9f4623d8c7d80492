"""Test the table of devices with names of JAX."""

import pytest

from elastic_ast_jax.perf import peaks


@pytest.mark.parametrize(
    'kind, name',
    [
        ('TPU v4', 'TPU v4'),
        ('TPU v5 lite', 'TPU v5e'),
        ('TPU v5e', 'TPU v5e'),
        ('TPU v5', 'TPU v5p'),
        ('TPU v5p', 'TPU v5p'),
        ('TPU v6 lite', 'TPU v6e'),
        ('TPU v6e', 'TPU v6e'),
        ('NVIDIA H200', 'H200'),
        ('NVIDIA H100 80GB HBM3', 'H100'),
        ('NVIDIA H100 PCIe', 'H100 PCIe'),
        ('NVIDIA A100-SXM4-40GB', 'A100 40GB'),
        ('NVIDIA A100-SXM4-80GB', 'A100'),
        ('NVIDIA L4', 'L4'),
        ('NVIDIA L40S', 'L40S'),
        ('Tesla T4', 'T4'),
        ('Tesla V100-SXM2-16GB', 'V100'),
    ],
)
def test_a_device_is_found_by_the_name_that_jax_has_for_it(kind, name):
    peak = peaks.find_peak(kind)
    assert peak is not None and peak.name == name


@pytest.mark.parametrize(
    'kind', ['cpu', 'NVIDIA L40', 'NVIDIA GB300', 'TPU v4 lite', 'NVIDIA T400']
)
def test_a_device_outside_the_table_has_no_peak(kind):
    assert peaks.find_peak(kind) is None
