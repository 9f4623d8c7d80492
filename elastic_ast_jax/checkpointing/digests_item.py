"""Write the digests of a checkpoint as an item of it, within the same atomic commit.

A crash leaves either a complete checkpoint with digests, or none. The arrays are digested while
Orbax writes them, in a thread of its own; the small files, once all are written.
"""

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint import future

from elastic_ast_jax.checkpointing import array_digests, verification
from elastic_ast_jax.checkpointing.array_digests import ArrayDigest, HostParts
from elastic_ast_jax.checkpointing.verification import CheckpointDigests, FileDigest
from elastic_ast_jax.checkpointing.workdir_files import COMPLETE
from elastic_ast_jax.distributed import processes
from elastic_ast_jax.utils import files
from elastic_ast_jax.utils.gcs import BucketPath

__all__ = ['DigestsHandler', 'DigestsRestore', 'DigestsSave']


class DigestsHandler(ocp.JsonCheckpointHandler):
    """Orbax's handler of the item; it must be finalized after those of all other items."""

    def __init__(self) -> None:
        """Begin with nothing to save."""
        super().__init__(verification.FILE)
        self._args: DigestsSave | None = None
        self._totals: dict[str, ArrayDigest] = {}

    async def async_save(
        self, directory: epath.Path, item: Any = None, args: Any = None
    ) -> list[future.Future]:
        """Keep the host's copies of the arrays, and digest them in the background."""
        parts = list(array_digests.host_parts(args.items))
        self._args = dataclasses.replace(args, items=dict.fromkeys(args.items))
        return [
            future.CommitFutureAwaitingContractedSignals(
                self._digest(directory, parts), name='array_digests'
            )
        ]

    async def _digest(self, directory: epath.Path, parts: list[HostParts]) -> None:
        """Digest the arrays of this process; of several, each stores its totals."""
        self._totals = array_digests.digest_parts(parts)
        if not processes.is_single_process():
            totals = {name: list(digest) for name, digest in self._totals.items()}
            _totals_file(directory, processes.process_index()).write_text(json.dumps(totals))

    def finalize(self, directory: epath.Path) -> None:
        """Write the digests, when all other files of the checkpoint are written.

        Orbax calls it on the first process, before it gives the checkpoint its name.

        Raises:
            RuntimeError: Another item is not complete yet.
        """
        assert self._args is not None
        folder = files.as_path(os.fspath(directory.parent))
        if not all((folder / item).is_dir() for item in self._args.items):
            raise RuntimeError(f'{folder}: an item is not complete before its digests')
        text = verification.to_text(
            CheckpointDigests(
                self._all_totals(directory),
                verification.file_digests(folder, self._args.items)
                | _commit_files(folder, self._args),
                verification.metadata_digest((folder / verification.STEP_METADATA).read_bytes()),
            )
        )
        (directory / verification.FILE).write_text(text)

    def _all_totals(self, directory: epath.Path) -> dict[str, ArrayDigest]:
        """Return the digests of whole arrays."""
        if processes.is_single_process():
            return self._totals
        parts = []
        for process in range(jax.process_count()):
            file = _totals_file(directory, process)
            parts.append(
                {
                    name: ArrayDigest(dtype, tuple(shape), total)
                    for name, (dtype, shape, total) in json.loads(file.read_text()).items()
                }
            )
            file.unlink()
        return array_digests.add(parts)


@ocp.args.register_with_handler(DigestsHandler, for_save=True)
@dataclasses.dataclass
class DigestsSave(ocp.args.CheckpointArgs):
    """What is saved.

    Attributes:
        folder: The checkpoint when it is complete.
        items: Trees of arrays, by the name of their item.
    """

    folder: Path | BucketPath
    items: Mapping[str, Any]


@ocp.args.register_with_handler(DigestsHandler, for_restore=True)
@dataclasses.dataclass
class DigestsRestore(ocp.args.CheckpointArgs):
    """Ask for the content of `digests.json` as dictionaries; Orbax requires it of each handler."""


def _totals_file(directory: epath.Path, process: int) -> epath.Path:
    return directory / f'totals.{process}.json'


def _commit_files(folder: Path | BucketPath, args: DigestsSave) -> dict[str, FileDigest]:
    """Return the digests of the files that mark this item and the checkpoint as complete.

    Orbax writes them last. Their text is that of the other items, with another path.
    """
    item = next(iter(args.items))
    try:
        text = (folder / item / COMPLETE).read_text(encoding='utf-8')
    except FileNotFoundError:
        return {}
    words, path = text.removesuffix(f'{folder / item}'), f'{folder / item}'
    if words + path != text:
        return {}
    return {
        f'{verification.ITEM}/{COMPLETE}': verification.bytes_digest(
            f'{words}{folder / verification.ITEM}'.encode()
        ),
        COMPLETE: verification.bytes_digest(f'{words}{args.folder}'.encode()),
    }
