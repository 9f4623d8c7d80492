"""Report how a data set fills its batches, and what training costs.

Lengths are enough; no audio is decoded. Without the data, the lengths are drawn from the histogram
of the recipe, see `length_histogram`.
"""

import dataclasses
import math
import time
from typing import Literal, cast

import jax.numpy as jnp
import numpy as np

from elastic_ast_jax.config.schema import Config
from elastic_ast_jax.data import splits
from elastic_ast_jax.data.epoch_plan import EpochPlan, Planner
from elastic_ast_jax.data.sources import length_histogram
from elastic_ast_jax.data.sources.base import Source
from elastic_ast_jax.data.sources.clip_labels import label_names
from elastic_ast_jax.data.sources.length_histogram import HistogramError, HistogramSource
from elastic_ast_jax.data.splits import Split
from elastic_ast_jax.models import factory, flops
from elastic_ast_jax.models.attention import registry
from elastic_ast_jax.packing import packer
from elastic_ast_jax.perf import topologies
from elastic_ast_jax.utils.errors import UserError
from elastic_ast_jax.utils.text import pluralize, printable

# Share of the model FLOPs in the peak, if the user gives none.
UTILIZATION = 0.4

_GOOD_FILL = 0.995
# A better row length must fill rows by at least this share more.
_MIN_GAIN = 0.005
# Share of rows without a free slot from which more slots are advised.
_FULL_SLOTS = 0.01
# Clips that other row lengths are tried with.
_SAMPLE_CLIPS = 20_000
_SPLITS: tuple[Split, ...] = ('train', 'eval')


def run(
    config: Config,
    *,
    recipe: str = '',
    lengths: Literal['data', 'recipe'] | None = None,
    topology: str | None = None,
    utilization: float = UTILIZATION,
) -> None:
    """Print the plan of both splits.

    Args:
        config: Config of the run.
        recipe: Config file, whose `lengths()` replaces missing data.
        lengths: Source of the lengths; None: the data if they can be opened, or else the recipe.
        topology: Chips for an estimate of the time of training, such as `v5e:16x16`.
        utilization: Share of the peak that the model's FLOPs reach.

    Raises:
        PlanError: A clip does not fit; the message says which one and what to change.
        HistogramError, DataError: Lengths are missing.
        TopologyError: No such topology.
    """
    chips = None if topology is None else topologies.parse(topology)
    sources, description = _open_sources(config, recipe, lengths)
    if description:
        print(f'lengths: {description}')
        # Labels are unknown, so clips cannot be balanced. Their number and lengths stay the same.
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
            needed_flops = training_flops(config, plan, len(label_names(source)))
            _print_training(config, plan, needed_flops)
            if topology and chips:
                total = needed_flops * config.train.epochs
                _print_entry(topology, _describe_time(total, config, *chips, utilization))
            advice = advise(plan, planner, config.packing.rows)
            _print_entry('advice', advice or 'none: rows are well filled')
        _print_entry('longest clip', _describe_longest(source, planner))
        _print_entry('planned in', f'{seconds:.2f} s')


def _print_entry(name: str, text: str) -> None:
    print(f'  {name:<14}{text}')


def _print_training(config: Config, plan: EpochPlan, needed_flops: int) -> None:
    """Print clips, steps and FLOPs of training; `needed_flops` are those of an epoch."""
    rows, epochs = config.packing.rows, config.train.epochs
    steps = -(-len(plan.rows) // rows)
    clips = rows * len(plan.clips.tokens) / len(plan.rows)
    _print_entry('clips a step', f'{clips:.1f} on average')
    _print_entry('steps', f'{steps} an epoch, about {steps * epochs} in {epochs} epochs')
    _print_entry(
        'FLOPs',
        f'{needed_flops / steps / 1e12:.4g} T a step, about {needed_flops * epochs:.3g} in'
        f' {epochs} epochs',
    )


def _open_sources(
    config: Config, recipe: str, lengths: str | None
) -> tuple[dict[Split, Source], str]:
    """Return both splits, and a description of drawn lengths; empty for lengths of the data."""
    reason = 'as --lengths=recipe says'
    failure = None
    if lengths != 'recipe':
        try:
            return {split: splits.open_source(config, split) for split in _SPLITS}, ''
        except (UserError, ImportError, OSError) as error:
            if lengths == 'data':
                raise
            message = printable((str(error) or type(error).__name__).splitlines()[0])
            failure, reason = error, f'as the data cannot be opened ({message})'
    histogram = length_histogram.from_recipe(recipe) if recipe else None
    if histogram is None:
        if failure is not None:
            raise failure
        raise HistogramError(
            f'--lengths=recipe: {recipe or "the config"} has no function lengths(), which returns'
            ' how long the clips are; the recipes of public data sets in configs/ have one'
        )
    sample_rate, seed = config.frontend.sample_rate, config.train.seed
    sources: dict[Split, Source] = {}
    for split in _SPLITS:
        # It has read-only attributes, which planning does not assign.
        source = HistogramSource(histogram, split, sample_rate, seed)
        sources[split] = cast(Source, source)
    return (
        sources,
        f'drawn from the histogram of {recipe.partition(":")[0]} with seed {seed}, {reason}',
    )


def training_flops(config: Config, plan: EpochPlan, classes: int) -> int:
    """Return the model FLOPs of training for an epoch, see `flops`."""
    network = factory.make_model(config, classes, registry.make('reference'), jnp.float32)
    return flops.train_step_flops(plan.clips.tokens, network, config.frontend.patch_size)


def _describe_time(
    needed_flops: int, config: Config, generation: str, sizes: tuple[int, ...], utilization: float
) -> str:
    """Return the time that chips take for FLOPs, in words."""
    peak, chips = topologies.peak(generation), math.prod(sizes)
    hours = needed_flops / (peak.flops * utilization) / 3600
    text = (
        f'{hours:.3g} chip-hours at {100 * utilization:g} % of the peak of {peak.flops / 1e12:g}'
        f' TFLOP/s, {hours / chips:.3g} h on {pluralize(chips, "chip")}'
    )
    shards = max(1, chips // max(1, config.mesh.tensor))  # rows divide over these
    if config.packing.rows % shards:
        text += (
            f', which takes a multiple of {shards} rows a step: packing.rows={config.packing.rows}'
            ' cannot be divided so'
        )
    return text


def describe(plan: EpochPlan, planner: Planner, rows_per_step: int) -> str:
    """Return clips, rows, fill and clips per row of an epoch, in words."""
    per_row = np.diff(plan.rows.offsets)
    tokens = plan.clips.tokens
    lines = [
        f'{len(tokens)} clips, {tokens.sum()} tokens, {tokens.mean():.1f} a clip',
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
    """Return advice to fill the rows better; empty if they are at least 99.5 % full."""
    fill = plan.fill(rows_per_step, planner.tokens)
    if fill >= _GOOD_FILL:
        return ''
    per_row = np.diff(plan.rows.offsets)
    if (per_row == planner.slots).mean() > _FULL_SLOTS:
        return (
            f'rows run out of slots: raise packing.slots to {2 * planner.slots}, or lower'
            ' packing.tokens'
        )
    sample = plan.clips.tokens[:_SAMPLE_CLIPS]
    shortest = max(
        int(sample.max()), planner.frontend.mel_patches * planner.frontend.max_time_patches
    )
    fills = {}
    for eighths in range(4, 17):
        tokens = planner.tokens * eighths // 8 // 8 * 8
        if tokens >= shortest:
            rows = packer.pack(sample, tokens, planner.slots)
            fills[tokens] = EpochPlan(plan.epoch, plan.clips, rows).fill(1, tokens)
    best = max(fills, key=lambda tokens: fills[tokens], default=planner.tokens)
    if not fills or fills[best] < fill + _MIN_GAIN:
        return (
            f'rows are {100 * fill:.2f} % full and no other length near is better: the lengths of'
            ' the clips are too alike'
        )
    return f'packing.tokens={best} would be {100 * fills[best]:.2f} % full'


def _describe_longest(source: Source, planner: Planner) -> str:
    clip = int(np.argmax(planner.samples))
    frontend = planner.frontend
    frames = int(frontend.frames(planner.samples[clip], frontend.shift()))
    return (
        f'{source.keys[clip]}: {planner.samples[clip] / frontend.sample_rate:.2f} s, {frames}'
        f' frames, {frontend.tokens(frames)} tokens at ratio 1'
    )
