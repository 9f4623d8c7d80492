"""Flip bits of a stored checkpoint, one at a time, and see whether a resuming run notices.

    python -m tests.checkpointing.flip_bits --count=200 --seed=1

The bits are in parameters, optimizer state and metadata in turn, each at a random place.
"""

import argparse
import contextlib
import logging
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import SingleDeviceSharding

from elastic_ast_jax.checkpointing.checkpoints import Checkpoints
from elastic_ast_jax.distributed import sharding
from elastic_ast_jax.training.step import new_state
from elastic_ast_jax.utils.gcs import BucketPath

KINDS = ('params', 'optimizer', 'metadata')
# With this width the values of a checkpoint are files beyond the size up to which files are hashed.
LARGE = 700


class Flip(NamedTuple):
    """A flipped bit, and whether it was noticed.

    Attributes:
        file: Its file, below the checkpoint.
        byte: The position in the file.
        bit: The bit, from 0 for the lowest.
        noticed: Whether a warning names the file, or the array whose values it is part of.
        warnings: The warnings.
    """

    file: str
    byte: int
    bit: int
    noticed: bool
    warnings: list[str]


def init(width: int):
    """Return the state of a run before its first step."""
    params = {
        'kernel': jax.random.normal(jax.random.key(0), (width, width)),
        'norm': {'scale': jnp.ones(3)},
    }
    return new_state(params, optax.adam(1e-2), ema=False)


def abstract(width: int):
    """Return shapes, dtypes and shardings of the state."""
    device = SingleDeviceSharding(jax.devices()[0])
    return sharding.with_shardings(jax.eval_shape(lambda: init(width)), device)


def save(directory: Path | BucketPath, width: int) -> None:
    """Save two checkpoints with scores."""
    random = np.random.default_rng(0)
    with Checkpoints(directory, 2) as checkpoints:
        for step in (1, 2):
            state = jax.tree.map(
                lambda x: jnp.asarray(random.standard_normal(x.shape), x.dtype), init(width)
            )
            checkpoints.save(state._replace(step=jnp.int32(step)))
            checkpoints.add_score(step, step / 4)


def place(checkpoint: Path, kind: str, random: np.random.Generator) -> tuple[Path, int, int]:
    """Return the file, the byte and the bit to flip."""
    files = [
        file
        for file in sorted(checkpoint.rglob('*'))
        if file.is_file() and kind == _kind(file.relative_to(checkpoint))
    ]
    sizes = np.array([file.stat().st_size for file in files])
    # Metadata: each file alike. Values: each byte alike.
    weights = np.ones(len(files)) if kind == 'metadata' else sizes
    file = files[random.choice(len(files), p=weights / weights.sum())]
    return file, int(random.integers(file.stat().st_size)), int(random.integers(8))


def _kind(file: Path) -> str:
    """Return whether a file holds values of parameters, of the optimizer, or neither."""
    return file.parts[0] if 'd' in file.parts[:-1] else 'metadata'


def flip_bit(file: Path, byte: int, bit: int) -> None:
    """Flip a bit of a file in place."""
    data = bytearray(file.read_bytes())
    data[byte] ^= 1 << bit
    file.write_bytes(data)


@contextlib.contextmanager
def collected_warnings() -> Iterator[list[str]]:
    """Yield the list of the package's warnings in this block."""
    messages: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: messages.append(record.getMessage())
    logger = logging.getLogger('elastic_ast_jax')
    logger.addHandler(handler)
    try:
        yield messages
    finally:
        logger.removeHandler(handler)


def trials(folder: Path, width: int, count: int, seed: int) -> Iterator[Flip]:
    """Yield flips of the second of two checkpoints, each in a copy.

    Raises:
        AssertionError: A run resumed from a checkpoint whose state was damaged.
    """
    random = np.random.default_rng(seed)
    save(folder / 'saved', width)
    for number in range(count):
        copy = shutil.copytree(folder / 'saved', folder / 'copy')
        file, byte, bit = place(copy / '2', KINDS[number % len(KINDS)], random)
        name = file.relative_to(copy / '2').as_posix()
        flip_bit(file, byte, bit)
        with collected_warnings() as messages, Checkpoints(copy, 2) as checkpoints:
            state = checkpoints.restore(abstract(width))
        assert state is not None
        is_score = name.startswith('score/')
        noticed = any(
            (name in text if is_score else f'{copy / "2"} is incomplete' in text)
            for text in messages
        )
        assert int(state.step) == (1 if noticed and not is_score else 2)
        yield Flip(name, byte, bit, noticed, messages)
        shutil.rmtree(copy)


def main() -> int:
    """Return 0 if all flips were noticed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--count', type=int, default=20)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--width', type=int, default=LARGE, help='width of the only kernel')
    options = parser.parse_args()
    logging.getLogger('elastic_ast_jax').propagate = False
    logging.getLogger('absl').setLevel(logging.CRITICAL)
    noticed = 0
    with tempfile.TemporaryDirectory() as folder:
        for flip in trials(Path(folder), options.width, options.count, options.seed):
            noticed += flip.noticed
            answer = ' '.join(flip.warnings) if flip.noticed else 'NOT NOTICED'
            print(f'{flip.file}, byte {flip.byte}, bit {flip.bit}: {answer}', flush=True)
    print(f'{noticed} of {options.count} noticed')
    return 0 if noticed == options.count else 1


if __name__ == '__main__':
    sys.exit(main())
