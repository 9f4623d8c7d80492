"""From a configuration to the source and the planner of a split."""

import dataclasses
from pathlib import Path
from typing import Literal

from elastic_ast_jax.config import Config
from elastic_ast_jax.data import fsdd, manifest
from elastic_ast_jax.data.plan import DrawSpec, Planner, Schedule
from elastic_ast_jax.data.sources import Source
from elastic_ast_jax.data.synthetic import SyntheticSource

Split = Literal['train', 'eval']


def open_source(config: Config, split: Split) -> Source:
    """The clips of a split. Reads lengths and labels, no audio.

    Raises:
        DataError: What is wrong with the data.
    """
    data, rate = config.data, config.frontend.sample_rate
    if data.source == 'synthetic':
        clips = data.synthetic_train if split == 'train' else data.synthetic_eval
        return SyntheticSource('train' if split == 'train' else 'test', clips, config.train.seed, rate)
    if data.source == 'fsdd':
        return fsdd.load(data.root, 'train' if split == 'train' else 'test', rate)
    file, name = (data.train, data.train_split) if split == 'train' else (data.eval, data.eval_split)
    shared = Path(data.train).absolute() == Path(data.eval).absolute()
    return manifest.load(file, name if shared else None, rate)


def planner(config: Config, source: Source, split: Split) -> Planner:
    """Plans the epochs of a split: everything that is drawn for training, every clip once and whole for evaluation.

    Raises:
        PlanError: A clip does not fit.
    """
    draws = DrawSpec(too_long=config.data.too_long)
    if split == 'train':
        draws = dataclasses.replace(draws, shuffle=True, **dataclasses.asdict(config.augment))
    packing = config.packing
    return Planner(source.keys, source.samples, config.frontend, draws, config.train.seed, packing.tokens, packing.slots)


def schedule(plans: Planner, rows_per_step: int, epochs: int) -> Schedule:
    """Plans every epoch to know its rows, and with them its steps."""
    return Schedule(tuple(len(plans.epoch(epoch).rows) for epoch in range(epochs)), rows_per_step)
