"""Report how a data set fills its batches, and what training costs.

Lengths are enough; no audio is decoded. Without the data, the lengths are drawn from the histogram
of the recipe, see `length_histogram`.
"""

import dataclasses
import math
import time
from typing import Literal

import jax.numpy as jnp
import numpy as np

from elastic_ast_jax.config.schema import Config
from elastic_ast_jax.data import splits
from elastic_ast_jax.data.epoch_plan import EpochPlan, Planner
from elastic_ast_jax.data.sources import length_histogram
from elastic_ast_jax.data.sources.base import Source, label_names
from elastic_ast_jax.data.sources.length_histogram import HistogramError, HistogramSource
from elastic_ast_jax.data.splits import Split
from elastic_ast_jax.models import factory, flops
from elastic_ast_jax.models.attention import registry
from elastic_ast_jax.packing import packer
from elastic_ast_jax.perf import topologies
from elastic_ast_jax.utils.errors import UserError
from elastic_ast_jax.utils.text import counted, printable

UTILIZATION = 0.4

_GOOD_FILL = 0.995
# Draws that other row lengths are tried on.
_SAMPLE = 20_000
_SPLITS: tuple[Split, ...] = ('train', 'eval')


def run(
    config: Config,
    *,
    recipe: str = '',
    lengths: Literal['data', 'recipe'] | None = None,
    topology: str | None = None,
    utilization: float = UTILIZATION,
) -> None:
    """Prints the plan of both splits.

    Args:
        config: Of the run.
        recipe: The config file, whose `lengths()` serves where the data are not there.
        lengths: Whose lengths are used; None: those of the data if they can be opened, or else the
        recipe's.
        topology: Chips that the time of training is told for, such as `v5e:16x16`; None: none.
        utilization: Share of their peak that the model's FLOPs reach.

    Raises:
        PlanError: A clip does not fit; says which and what to change.
        HistogramError, DataError: There are no lengths.
        TopologyError: There is no such topology.
    """
    chips = None if topology is None else topologies.parse(topology)
    sources, told = _sources(config, recipe, lengths)
    if told:
        print(f'lengths: {told}')
        # Labels are not known, without which draws cannot be balanced. There are as many of them,
        # of the same lengths.
        config = dataclasses.replace(config, data=dataclasses.replace(config.data, balanced=False))
    for split, source in sources.items():
        if split == 'train':
            planner = splits.make_train_planner(config, source)
        else:
            source, planner = splits.make_eval_planner(config, source)
        start = time.perf_counter()
        plan = planner.epoch(0)
        seconds = time.perf_counter() - start
        print(f'{split}: {describe(plan, planner, config.packing.rows)}')
        if split == 'train':
            epochs = config.train.epochs
            steps = -(-len(plan.rows) // config.packing.rows)
            needed = training_flops(config, plan, len(label_names(source)))
            print(
                f'  {"clips a step":<14}'
                f'{config.packing.rows * len(plan.clips.tokens) / len(plan.rows):.1f}'
                ' on average'
            )
            print(f'  {"steps":<14}{steps} an epoch, about {steps * epochs} in {epochs} epochs')
            print(
                f'  {"FLOPs":<14}{needed / steps / 1e12:.4g} T a step, about {needed * epochs:.3g}'
                f' in {epochs} epochs'
            )
            if chips:
                print(f'  {topology:<14}{_time(needed * epochs, config, *chips, utilization)}')
            advice = advise(plan, planner, config.packing.rows)
            print(
                f'  {"advice":<14}{advice}'
                if advice
                else f'  {"advice":<14}none: rows are well filled'
            )
        print(f'  {"longest clip":<14}{_longest(source, planner)}')
        print(f'  {"planned in":<14}{seconds:.2f} s')


def _sources(config: Config, recipe: str, lengths: str | None) -> tuple[dict[Split, Source], str]:
    """Both splits; and whose lengths they have, empty if they are the data."""
    why = 'as --lengths=recipe says'
    failure = None
    if lengths != 'recipe':
        try:
            return {split: splits.open_source(config, split) for split in _SPLITS}, ''
        except (UserError, ImportError, OSError) as error:
            if lengths == 'data':
                raise
            reason = printable((str(error) or type(error).__name__).splitlines()[0])
            failure, why = error, f'as the data cannot be opened ({reason})'
    found = length_histogram.from_recipe(recipe) if recipe else None
    if found is None:
        if failure is not None:
            raise failure
        raise HistogramError(
            f'--lengths=recipe: {recipe or "the config"} has no function lengths(), which returns'
            ' how long the clips are; the recipes of public data sets in configs/ have one'
        )
    rate, seed = config.frontend.sample_rate, config.train.seed
    sources: dict[Split, Source] = {
        split: HistogramSource(found, split, rate, seed) for split in _SPLITS
    }
    return (
        sources,
        f'drawn from the histogram of {recipe.partition(":")[0]} with seed {seed}, {why}',
    )


def training_flops(config: Config, plan: EpochPlan, classes: int) -> int:
    """Model FLOPs of training for an epoch, see `flops`."""
    network = factory.make_model(config, classes, registry.make('reference'), jnp.float32)
    return flops.train_step_flops(plan.clips.tokens, network, config.frontend.patch_size)


def _time(
    needed: int, config: Config, generation: str, sizes: tuple[int, ...], utilization: float
) -> str:
    """How long chips take for so many FLOPs."""
    peak, chips = topologies.peak(generation), math.prod(sizes)
    hours = needed / (peak.flops * utilization) / 3600
    text = (
        f'{hours:.3g} chip-hours at {100 * utilization:g} % of the peak of {peak.flops / 1e12:g}'
        f' TFLOP/s, {hours / chips:.3g} h on {counted(chips, "chip")}'
    )
    shards = max(1, chips // max(1, config.mesh.tensor))  # what rows divide over
    if config.packing.rows % shards:
        text += (
            f', which takes a multiple of {shards} rows a step: packing.rows={config.packing.rows}'
            ' cannot be divided so'
        )
    return text


def describe(plan: EpochPlan, planner: Planner, rows_per_step: int) -> str:
    """Clips, rows, fill and clips a row of an epoch."""
    per_row = np.diff(plan.rows.offsets)
    kept = plan.clips.tokens
    lines = [
        f'{len(kept)} clips, {kept.sum()} tokens, {kept.mean():.1f} a clip',
        (
            f'  {"rows":<14}{len(plan.rows)} of {planner.tokens} tokens and {planner.slots} slots,'
            f' {rows_per_step} a step'
        ),
        (
            f'  {"fill":<14}{100 * plan.fill(rows_per_step, planner.tokens):.2f} % of the tokens,'
            ' without the last step'
        ),
        (
            f'  {"clips a row":<14}mean {per_row.mean():.1f}, p99 {np.percentile(per_row, 99):.0f},'
            f' max {per_row.max()}'
        ),
    ]
    if plan.clips.cropped:
        lines.append(
            f'  {"cropped":<14}{plan.clips.cropped} clips to {planner.frontend.max_frames} frames'
        )
    return '\n'.join(lines)


def advise(plan: EpochPlan, planner: Planner, rows_per_step: int) -> str:
    """What would fill the rows better; empty if they are at least 99.5 % full."""
    fill = plan.fill(rows_per_step, planner.tokens)
    if fill >= _GOOD_FILL:
        return ''
    per_row = np.diff(plan.rows.offsets)
    if (per_row == planner.slots).mean() > 0.01:
        return (
            f'rows run out of slots: raise packing.slots to {2 * planner.slots}, or lower'
            ' packing.tokens'
        )
    sample = plan.clips.tokens[:_SAMPLE]
    shortest = max(
        int(sample.max()), planner.frontend.mel_patches * planner.frontend.max_time_patches
    )
    tried = {}
    for eighths in range(4, 17):
        tokens = planner.tokens * eighths // 8 // 8 * 8
        if tokens >= shortest:
            rows = packer.pack(sample, tokens, planner.slots)
            tried[tokens] = EpochPlan(plan.epoch, plan.clips, rows).fill(1, tokens)
    best = max(tried, key=lambda tokens: tried[tokens], default=planner.tokens)
    if not tried or tried[best] < fill + 0.005:
        return (
            f'rows are {100 * fill:.2f} % full and no other length near is better: the lengths of'
            ' the clips are too alike'
        )
    return f'packing.tokens={best} would be {100 * tried[best]:.2f} % full'


def _longest(source, planner: Planner) -> str:
    clip = int(np.argmax(planner.samples))
    frontend = planner.frontend
    frames = int(frontend.frames(planner.samples[clip], frontend.shift()))
    return (
        f'{source.keys[clip]}: {planner.samples[clip] / frontend.sample_rate:.2f} s, {frames}'
        f' frames, {frontend.tokens(frames)} tokens at ratio 1'
    )
