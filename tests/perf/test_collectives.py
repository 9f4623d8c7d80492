"""Test counts of collectives, of small programs with known traffic and of a TPU's program."""

import os
import subprocess
import sys
from pathlib import Path

from elastic_ast_jax.perf import collectives
from elastic_ast_jax.perf.collectives import Traffic

ROOT = Path(__file__).parents[2]

# A sum over devices once, and one in each of seven turns of a loop.
PROGRAM = """
import jax, jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from elastic_ast_jax.perf import collectives

mesh = jax.make_mesh((4,), ('x',), axis_types=(jax.sharding.AxisType.Auto,))

def f(x):
    def turn(_, y):
        return jax.lax.psum(jnp.sin(y), 'x')
    return jax.lax.all_gather(jax.lax.fori_loop(0, 7, turn, x), 'x')

sharded = jax.shard_map(f, mesh=mesh, in_specs=P('x'), out_specs=P(), check_vma=False)
found = collectives.traffic(jax.jit(sharded).lower(jnp.zeros((4 * 10, 3))).compile().as_text())
assert found == {'all-reduce': (7, 7 * 120), 'all-gather': (1, 480)}, found
"""

ASYNCHRONOUS = """
HloModule jit_step, entry_computation_layout={()->f32[]}

%below.1 (p: (s32[], f32[8])) -> pred[] {
  %limit.2 = s32[]{:T(128)} constant(3)
  %p = (s32[]{:T(128)}, f32[8]{0:T(8)}) parameter(0)
  %i.1 = s32[]{:T(128)} get-tuple-element(%p), index=0
  ROOT %lt.3 = pred[]{:T(512)} compare(%i.1, %limit.2), direction=LT
}

%body.1 (p: (s32[], f32[8])) -> (s32[], f32[8]) {
  %all-reduce.3 = (f32[8]{0:T(8)}, bf16[2,4]{1,0:T(8,128)(2,1)S(1)}) all-reduce(%a, %b), channel_id=1, to_apply=%add.1
}

%fused (p: f32[8]) -> f32[16] {
  %all-gather.7 = f32[16]{0:T(8)} all-gather(%p), dimensions={0}
}

ENTRY %main (x: f32[8]) -> f32[] {
  %while.1 = (s32[]{:T(128)}, f32[8]{0:T(8)}) while(%t), condition=%below.1, body=%body.1, metadata={op_name="x"}
  %all-gather-start.1 = (f32[8]{0}, f32[32]{0}) all-gather-start(%x), dimensions={0}
  %all-gather-done.1 = f32[32]{0} all-gather-done(%all-gather-start.1)
  %fusion.1 = f32[16]{0:T(8)} fusion(%x), kind=kCustom, calls=%fused
  %collective-permute-start.2 = (bf16[8]{0}, bf16[8]{0}, u32[], u32[]) collective-permute-start(%x)
  %get-tuple-element.9 = f32[8]{0} get-tuple-element(%all-reduce.3), index=0
}
"""  # noqa: E501 (lines as the compiler prints them)


def test_loops_count_as_often_as_they_run():
    environment = os.environ | {
        'PYTHONPATH': str(ROOT),
        'JAX_PLATFORMS': 'cpu',
        'XLA_FLAGS': '--xla_force_host_platform_device_count=4',
    }
    process = subprocess.run(
        [sys.executable, '-c', PROGRAM],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert process.returncode == 0, process.stderr


def test_separate_start_and_end_count_once():
    assert collectives.traffic(ASYNCHRONOUS) == {
        'all-gather': Traffic(2, 32 * 4 + 16 * 4),
        'all-reduce': Traffic(3, 3 * (32 + 16)),
        'collective-permute': Traffic(1, 16),
    }


def test_a_program_of_one_device_has_none():
    assert (
        collectives.traffic(
            'ENTRY %main (x: f32[8]) -> f32[8] {\n  ROOT %y = f32[8] add(%x, %x)\n}'
        )
        == {}
    )
