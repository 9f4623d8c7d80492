"""`elastic-ast embed`: write embeddings of recordings and folders of recordings to a file."""

import argparse
import contextlib
import dataclasses
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from elastic_ast_jax.cli.commands import add_checkpoint, add_inputs
from elastic_ast_jax.cli.output import escape_undecodable_names, print_checkpoint
from elastic_ast_jax.cli.types import local_path
from elastic_ast_jax.utils import files
from elastic_ast_jax.utils.errors import UserError
from elastic_ast_jax.utils.progress import RecordingProgress
from elastic_ast_jax.utils.text import pluralize, printable

if TYPE_CHECKING:
    import elastic_ast_jax.utils.npz

_CLIP_ARRAYS = {'seconds': 'float64', 'embeddings': 'float32'}
_STEP_ARRAYS = {'timestamp_embeddings': 'float32', 'timestamps': 'float64', 'offsets': 'int64'}


class EmbeddingsError(UserError):
    """Report that embeddings cannot be written: the file, and what to do."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """The recordings, and the file of their embeddings."""

    workdir: str
    inputs: Sequence[str]
    out: str
    timestamps: bool = False
    checkpoint: str = 'latest'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument('workdir', help='workdir of a training run')
    add_inputs(parser)
    parser.add_argument(
        '--out', type=local_path, required=True, metavar='FILE.npz', help='the file that is written'
    )
    parser.add_argument(
        '--timestamps',
        action='store_true',
        help='write the vectors of time steps too, besides those of recordings',
    )
    add_checkpoint(parser)


def run(options: Options) -> int:
    """Write the embeddings of recordings to an `.npz` file.

    The file appears complete or not at all. `numpy.load` reads it without pickle. For N recordings
    and a model of width D, it holds

    - `paths`, text `[N]`: the recordings, in the order of the inputs. A recording that cannot be
      used is skipped, and its error is printed;
    - `seconds`, float64 `[N]`: their lengths;
    - `embeddings`, float32 `[N, D]`: the vector of each;
    - with `timestamps` also those of time steps, one recording after another:
      `timestamp_embeddings`, float32 `[steps, D]`, and `timestamps`, float64 `[steps]`, their
      centers in milliseconds. The steps of recording i are those from `offsets[i]` to before
      `offsets[i + 1]`; `offsets` is int64 `[N + 1]`.

    Results are collected on the disk, in the folder of `out`, so memory does not grow with them.

    Returns:
        The exit code: 1 if an input could not be used. The other inputs are embedded all the same.

    Raises:
        EmbeddingsError: `out` cannot be such a file, and nothing was computed; or there is no room
            to collect the results; or no input can be used.
        WriteError: `out` cannot be written in the end.

    Example:
        >>> with np.load('clips.npz') as file:
        ...     steps = file['timestamp_embeddings'][file['offsets'][i] : file['offsets'][i + 1]]
    """
    from elastic_ast_jax.audio.reading import expand_folders
    from elastic_ast_jax.inference.predictor import load
    from elastic_ast_jax.utils import jax_cache
    from elastic_ast_jax.utils.npz import GrowingArray

    escape_undecodable_names()
    target = _checked_target(Path(options.out))
    jax_cache.use_compilation_cache()
    model = load(options.workdir, options.checkpoint)
    print_checkpoint(model, options.workdir, options.checkpoint)
    dtypes = _CLIP_ARRAYS | (_STEP_ARRAYS if options.timestamps else {})
    try:
        with contextlib.ExitStack() as stack:
            arrays = {
                name: stack.enter_context(GrowingArray(target.parent, dtype))
                for name, dtype in dtypes.items()
            }
            with RecordingProgress() as waiting:
                results = model.stream_embeddings(
                    expand_folders(options.inputs),
                    timestamps=options.timestamps,
                    progress=waiting.show,
                )
                paths, failed = _collect(results, arrays, waiting)
            _write(target, options, paths, failed, arrays)
    except OSError as error:  # errors of an input are reported with that input
        raise EmbeddingsError(files.write_problem(options.out, error)) from error
    return 1 if failed else 0


def _checked_target(out: Path) -> Path:
    """Return the file, if it can be written."""
    if out.suffix != '.npz':
        better = out.with_suffix('.npz') if out.name else out / 'embeddings.npz'
        raise EmbeddingsError(
            f'--out={out}: the format is .npz, and the name must end so, such as --out={better}'
        )
    if out.is_dir():
        raise EmbeddingsError(
            f'--out={out}: is a folder; give the name of a file, such as {out / "embeddings.npz"}'
        )
    if not out.parent.is_dir():
        raise EmbeddingsError(
            f'--out={out}: there is no folder {out.parent}: make it, or choose another'
        )
    if not os.access(out.parent, os.W_OK):
        raise EmbeddingsError(
            f'--out={out}: no permission to write to {out.parent}: change it, or choose another'
            ' folder'
        )
    return out


def _collect(
    results: Iterable[dict],
    arrays: dict[str, 'elastic_ast_jax.utils.npz.GrowingArray'],
    waiting: RecordingProgress,
) -> tuple[list[str], int]:
    """Append results to the arrays; return the usable paths and the number of others."""
    import numpy as np

    paths, failed, steps = [], 0, 0
    if 'offsets' in arrays:
        arrays['offsets'].append(np.zeros(1, np.int64))
    for result in results:
        waiting.finish_recording()
        if 'error' in result:
            waiting.clear()
            print(f'elastic-ast embed: {printable(result["error"])}', file=sys.stderr)
            failed += 1
            continue
        paths.append(result['path'])
        arrays['seconds'].append(np.array([result['seconds']]))
        arrays['embeddings'].append(result['embedding'][None])
        if 'offsets' in arrays:
            steps += len(result['timestamps'])
            arrays['timestamp_embeddings'].append(result['timestamp_embeddings'])
            arrays['timestamps'].append(result['timestamps'])
            arrays['offsets'].append(np.array([steps]))
    return paths, failed


def _write(
    target: Path,
    options: Options,
    paths: list[str],
    failed: int,
    arrays: dict[str, 'elastic_ast_jax.utils.npz.GrowingArray'],
) -> None:
    """Write the file, and print what it holds."""
    import numpy as np

    from elastic_ast_jax.utils.npz import write_npz

    if not paths:
        reason = (
            'as the one input cannot be used'
            if failed == 1
            else f'as none of the {failed} inputs can be used'
        )
        raise EmbeddingsError(f'{options.out}: is not written, {reason}')
    write_npz(target, {'paths': np.array(paths)} | arrays)
    count, width = arrays['embeddings'].shape
    steps = ''
    if options.timestamps:
        steps = f', and of {pluralize(arrays["timestamps"].shape[0], "time step")}'
    print(
        f'{printable(options.out)}: embeddings of {pluralize(count, "recording")}{steps}, each of'
        f' {width} numbers'
    )
