"""`elastic-ast embed`: the embeddings of recordings and folders of recordings, in a file."""

import contextlib
import io
import os
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from elastic_ast_jax.audio.reading import expand
from elastic_ast_jax.inference.predictor import load
from elastic_ast_jax.utils import files, jax_cache
from elastic_ast_jax.utils.errors import UserError
from elastic_ast_jax.utils.npz import GrowingArray, write_npz
from elastic_ast_jax.utils.progress import Waiting
from elastic_ast_jax.utils.text import counted, printable

_CLIPS = {'seconds': np.float64, 'embeddings': np.float32}
_STEPS = {'timestamp_embeddings': np.float32, 'timestamps': np.float64, 'offsets': np.int64}


class EmbeddingsError(UserError):
    """Embeddings cannot be written; names the file and what to do."""


def run(
    workdir: str | os.PathLike,
    inputs: Iterable[str],
    out: str | os.PathLike,
    timestamps: bool = False,
    checkpoint: str = 'latest',
) -> int:
    """Writes the embeddings of recordings to an `.npz` file, which appears complete or not at all.

    `numpy.load` reads it without pickle. Of N recordings, and a model of width D, it holds

    - `paths`, text `[N]`: the recordings, in the order of the inputs. What is wrong with one that
      cannot be used is printed, and it is left out;
    - `seconds`, float64 `[N]`: their lengths;
    - `embeddings`, float32 `[N, D]`: the vector of each;
    - with `timestamps` also those of time steps, one recording after another:
      `timestamp_embeddings`, float32 `[steps, D]`, and `timestamps`, float64 `[steps]`, their
      centres in milliseconds. The steps of recording i are those from `offsets[i]` to before
      `offsets[i + 1]`; `offsets` is int64 `[N + 1]`.

    Results wait on the disk, in the folder of `out`, so memory does not grow with them.

    Returns:
        The exit code: 1 if an input could not be used; the others are embedded all the same.

    Raises:
        EmbeddingsError: `out` cannot be such a file, which is told before anything is computed; or
            there is no room to collect them; or no input can be used.
        WriteError: `out` cannot be written in the end.

    Example:
        >>> with np.load('clips.npz') as file:
        ...     steps = file['timestamp_embeddings'][file['offsets'][i] : file['offsets'][i + 1]]
    """
    # A file name may hold bytes that are no text; they are shown escaped.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors='backslashreplace')
    target = _checked(Path(out))
    jax_cache.use_compilation_cache()
    model = load(workdir, checkpoint)
    if checkpoint != 'latest' or model.description != f'step {model.step}':
        print(
            f'{printable(os.fspath(workdir))}: parameters of {model.description}', file=sys.stderr
        )
    wanted = _CLIPS | (_STEPS if timestamps else {})
    try:
        with contextlib.ExitStack() as stack:
            arrays = {
                name: stack.enter_context(GrowingArray(target.parent, dtype))
                for name, dtype in wanted.items()
            }
            with Waiting() as waiting:
                results = model.stream_embeddings(expand(inputs), timestamps, waiting.show)
                paths, failed = _collect(results, arrays, waiting)
            if not paths:
                what = (
                    'as the one input cannot be used'
                    if failed == 1
                    else f'as none of the {failed} inputs can be used'
                )
                raise EmbeddingsError(f'{out}: is not written, {what}')
            write_npz(target, {'paths': np.array(paths)} | arrays)
            count, width = arrays['embeddings'].shape
            more = (
                f', and of {counted(arrays["timestamps"].shape[0], "time step")}'
                if timestamps
                else ''
            )
            print(
                f'{printable(str(out))}: embeddings of {counted(count, "recording")}{more}, each of'
                f' {width} numbers'
            )
    except OSError as error:  # what is wrong with an input is told of that input
        raise EmbeddingsError(files.problem(out, error)) from error
    return 1 if failed else 0


def _checked(out: Path) -> Path:
    """The file that is to be written, if it can be."""
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
    results: Iterable[dict], arrays: dict[str, GrowingArray], waiting: Waiting
) -> tuple[list[str], int]:
    """Appends results to the arrays; the paths of those that are good, and how many are not."""
    paths, failed, steps = [], 0, 0
    if 'offsets' in arrays:
        arrays['offsets'].append(np.zeros(1, np.int64))
    for result in results:
        waiting.done()
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
