"""Restore items of a checkpoint, and accept them only if they are what was saved."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath

from elastic_ast_jax.checkpointing import array_digests, verification, vetting
from elastic_ast_jax.checkpointing.array_digests import ArrayDigest
from elastic_ast_jax.checkpointing.restored_params import shorten
from elastic_ast_jax.checkpointing.verification import CheckpointDigests
from elastic_ast_jax.distributed import processes
from elastic_ast_jax.utils.gcs import BucketPath

__all__ = ['UnreadableError', 'restore_items']

# Items that may be of another model; the state of the optimizer follows the parameters.
_PARAMS = ('params', 'ema')


class UnreadableError(Exception):
    """A checkpoint that is damaged or of another model; says why in one line."""


def restore_items(
    folder: Path | BucketPath, items: Mapping[str, Any]
) -> tuple[dict[str, Any], bool]:
    """Return items of a checkpoint, and whether they were compared with digests.

    All processes that share the arrays call it, and all get the same answer.

    Args:
        folder: The checkpoint.
        items: Shapes, dtypes and shardings, by the name of the item.

    Raises:
        UnreadableError: One of the processes cannot read it, or it is not what was saved.
    """
    failure, restored, arrays, digests = None, {}, {}, None
    # Several processes agree, unless each reads arrays of its own.
    is_shared = any(_is_shared(leaf) for leaf in jax.tree.leaves(items))
    try:
        for item, tree in items.items():
            vetting.check_item(folder / item, jax.tree.leaves(tree))
        digests = verification.read(folder)
        if digests is not None and not (is_shared and not processes.is_primary()):
            verification.check_files(folder, digests, items)
        for item in _PARAMS:
            if item in items:
                check_shapes(folder, item, items[item])
        restored = _restore(folder, items)
        if digests is not None:
            arrays = array_digests.digest_parts(array_digests.host_parts(restored))
    except Exception as error:  # damage raises errors of many types
        failure = shorten(error)
    if is_shared:
        failure, arrays = _agree(failure, arrays)
    if failure is None and digests is not None:
        failure = _array_failure(digests, arrays, items)
    if failure is not None:
        raise UnreadableError(failure)
    return restored, digests is not None


def check_shapes(folder: Path | BucketPath, item: str, abstract: Any) -> None:
    """Raise an error for parameters of another model, before any is read."""
    stored = ocp.StandardCheckpointHandler().metadata(_orbax_path(folder, item))
    saved = {
        jax.tree_util.keystr(path): tuple(leaf.shape)
        for path, leaf in _leaves(getattr(stored, 'tree', stored))
    }
    model = {jax.tree_util.keystr(path): tuple(leaf.shape) for path, leaf in _leaves(abstract)}
    wrong = [
        f'{name}: {saved.get(name, "missing")} in the checkpoint,'
        f' {model.get(name, "missing")} in this model'
        for name in sorted({*saved, *model})
        if saved.get(name) != model.get(name)
    ]
    if wrong:
        raise ValueError(f'of another model, {len(wrong)} parameters differ, such as {wrong[0]}')


def _restore(folder: Path | BucketPath, items: Mapping[str, Any]) -> dict[str, Any]:
    """Return items as Orbax reads them.

    Orbax's manager makes the processes wait for each other after it has read. It is not used, as a
    process that cannot read would leave the others there.
    """
    handler = ocp.StandardCheckpointHandler()
    return {
        item: handler.restore(_orbax_path(folder, item), args=ocp.args.StandardRestore(abstract))
        for item, abstract in items.items()
    }


def _orbax_path(folder: Path | BucketPath, item: str) -> epath.Path:
    return epath.Path(os.fspath(folder / item))


def _agree(
    failure: str | None, arrays: Mapping[str, ArrayDigest]
) -> tuple[str | None, dict[str, ArrayDigest]]:
    """Return the first failure of any process, and the digests of whole arrays."""
    answers = processes.all_gather(
        [failure, {name: list(digest) for name, digest in arrays.items()}]
    )
    failures = [failure for failure, _ in answers if failure is not None]
    if failures:
        return failures[0], {}
    return None, array_digests.add(
        [
            {
                name: ArrayDigest(dtype, tuple(shape), total)
                for name, (dtype, shape, total) in arrays.items()
            }
            for _, arrays in answers
        ]
    )


def _array_failure(
    digests: CheckpointDigests, arrays: Mapping[str, ArrayDigest], items: Mapping[str, Any]
) -> str | None:
    """Return what is wrong with arrays that were read; None if they are what was saved."""
    try:
        verification.check_arrays(digests, arrays, items)
    except verification.DamageError as error:
        return shorten(error)
    return None


def _is_shared(leaf: Any) -> bool:
    """Return whether other processes hold parts of an array."""
    return leaf.sharding is not None and not leaf.sharding.is_fully_addressable


def _leaves(tree: Any) -> list[tuple[Any, Any]]:
    return jax.tree_util.tree_flatten_with_path(tree)[0]
