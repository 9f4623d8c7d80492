"""`elastic-ast predict`: classifies recordings and folders of recordings with a trained model."""

import io
import json
import sys
from collections.abc import Iterable
from typing import Any

from elastic_ast_jax import device
from elastic_ast_jax.audio import reading
from elastic_ast_jax.predictor import load


def run(workdir: str, inputs: Iterable[str], top_k: int = 5, as_json: bool = False, checkpoint: str = 'latest') -> int:
    """Prints predictions, one input after another: a table, or JSON Lines.

    Returns:
        The exit code: 1 if an input could not be used; the others are classified all the same.
    """
    # A file name may hold bytes that are no text; they are shown escaped.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors='backslashreplace')
    device.use_compilation_cache()
    model = load(workdir, checkpoint)
    failed = False
    for result in model.stream(_expand(inputs), top_k):
        failed |= 'error' in result
        print(json.dumps(result, ensure_ascii=False) if as_json else _table(result), flush=True)
    return 1 if failed else 0


def _expand(inputs: Iterable[str]) -> Iterable[str]:
    """Files as they are, folders as the recordings in them; a folder that has none stays, and reading it tells so."""
    for path in inputs:
        try:
            yield from reading.find([path])
        except reading.AudioError:
            yield path


def _table(result: dict[str, Any]) -> str:
    if 'error' in result:
        return f'{result["path"]}\n  error: {result["error"]}'
    lines = [f'{result["path"]}  ({result["seconds"]:.2f} s)']
    lines += [f'  {100 * entry["probability"]:6.2f} %  {entry["label"]}' for entry in result['predictions']]
    return '\n'.join(lines)


if __name__ == '__main__':
    from elastic_ast_jax.cli import main

    sys.exit(main(['predict', *sys.argv[1:]]))
