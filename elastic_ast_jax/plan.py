"""`elastic-ast plan`: how a data set fills its batches, from lengths alone. No audio is decoded."""

import sys
import time

import numpy as np

from elastic_ast_jax import packing
from elastic_ast_jax.config import Config
from elastic_ast_jax.data import splits
from elastic_ast_jax.data.plan import EpochPlan, Planner

_GOOD_FILL = 0.995
# Draws that other row lengths are tried on.
_SAMPLE = 20_000


def run(config: Config) -> None:
    """Prints the plan of both splits.

    Raises:
        PlanError: A clip does not fit; says which and what to change.
    """
    for split in ('train', 'eval'):
        source = splits.open_source(config, split)
        if split == 'train':
            planner = splits.planner(config, source)
        else:
            source, planner = splits.evaluation(config, source)
        start = time.perf_counter()
        plan = planner.epoch(0)
        seconds = time.perf_counter() - start
        print(f'{split}: {describe(plan, planner, config.packing.rows)}')
        if split == 'train':
            epochs = config.train.epochs
            steps = -(-len(plan.rows) // config.packing.rows)
            print(f'  {"steps":<14}{steps} an epoch, about {steps * epochs} in {epochs} epochs')
            advice = advise(plan, planner, config.packing.rows)
            print(f'  {"advice":<14}{advice}' if advice else f'  {"advice":<14}none: rows are well filled')
        print(f'  {"longest clip":<14}{_longest(source, planner)}')
        print(f'  {"planned in":<14}{seconds:.2f} s')


def describe(plan: EpochPlan, planner: Planner, rows_per_step: int) -> str:
    """Clips, rows, fill and clips a row of an epoch."""
    per_row = np.diff(plan.rows.offsets)
    kept = plan.draws.kept
    lines = [
        f'{len(kept)} clips, {kept.sum()} tokens, {kept.mean():.1f} a clip',
        f'  {"rows":<14}{len(plan.rows)} of {planner.tokens} tokens and {planner.slots} slots, {rows_per_step} a step',
        f'  {"fill":<14}{100 * plan.fill(rows_per_step, planner.tokens):.2f} % of the tokens, without the last step',
        f'  {"clips a row":<14}mean {per_row.mean():.1f}, p99 {np.percentile(per_row, 99):.0f}, max {per_row.max()}',
    ]
    if plan.draws.cropped:
        lines.append(f'  {"cropped":<14}{plan.draws.cropped} clips to {planner.frontend.max_frames} frames')
    return '\n'.join(lines)


def advise(plan: EpochPlan, planner: Planner, rows_per_step: int) -> str:
    """What would fill the rows better; empty if they are at least 99.5 % full."""
    fill = plan.fill(rows_per_step, planner.tokens)
    if fill >= _GOOD_FILL:
        return ''
    per_row = np.diff(plan.rows.offsets)
    if (per_row == planner.slots).mean() > 0.01:
        return f'rows run out of slots: raise packing.slots to {2 * planner.slots}, or lower packing.tokens'
    sample = plan.draws.kept[:_SAMPLE]
    shortest = max(int(sample.max()), planner.frontend.mel_patches * planner.frontend.max_time_patches)
    tried = {}
    for eighths in range(4, 17):
        tokens = planner.tokens * eighths // 8 // 8 * 8
        if tokens >= shortest:
            rows = packing.pack(sample, tokens, planner.slots)
            tried[tokens] = EpochPlan(plan.epoch, plan.draws, rows).fill(1, tokens)
    best = max(tried, key=tried.get, default=planner.tokens)
    if not tried or tried[best] < fill + 0.005:
        return f'rows are {100 * fill:.2f} % full and no other length near is better: the lengths of the clips are too alike'
    return f'packing.tokens={best} would be {100 * tried[best]:.2f} % full'


def _longest(source, planner: Planner) -> str:
    clip = int(np.argmax(planner.samples))
    frontend = planner.frontend
    frames = int(frontend.frames(planner.samples[clip], frontend.shift()))
    return (f'{source.keys[clip]}: {planner.samples[clip] / frontend.sample_rate:.2f} s, {frames} frames, '
            f'{frontend.tokens(frames)} tokens at ratio 1')


if __name__ == '__main__':
    from elastic_ast_jax.cli import main

    sys.exit(main(['plan', *sys.argv[1:]]))
