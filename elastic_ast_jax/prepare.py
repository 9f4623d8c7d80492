"""The command `prepare`: recordings to a data set in ArrayRecord files, which `data.source='tfds'` reads."""

import collections
import importlib
import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from elastic_ast_jax.data.sources import BadAudio, DataError
from elastic_ast_jax.logs import counted, duration

__all__ = ['run']

# Of each data set: builder in the module of its name in `data.builders`, splits mostly trained and evaluated on, recipe.
_BUILDERS = {
    'audioset': ('Audioset', 'balanced+unbalanced', 'eval', 'audioset'),
    'vggsound': ('Vggsound', 'train', 'test', 'vggsound'),
    'voxceleb1': ('Voxceleb1', 'train', 'test', 'voxceleb'),
    'epic_sounds': ('EpicSounds', 'train', 'validation', 'epic_sounds'),
    'speech_commands': ('SpeechCommandsV2', 'train', 'test', 'speech_commands'),
    'esc50': ('Esc50', 'fold1+fold2+fold3+fold4', 'fold5', 'esc50'),
    'manifest': ('ManifestBuilder', 'train', 'test', 'manifest'),
}


def run(
    data_set: str, source: str | os.PathLike, out: str | os.PathLike, splits: Sequence[str] = (),
    on_bad_audio: BadAudio = 'skip', beam: Sequence[str] = (), rate: int = 16000, name: str = '',
) -> None:  # fmt: skip
    """Prepares a data set, unless it is prepared already, and prints what it holds and how to train on it.

    Args:
        data_set: `'manifest'`, or a data set that has a builder.
        source: The manifest, or the folder with what the owners of the data set hand out.
        out: Folder of prepared data sets.
        splits: Splits that are prepared; empty: all.
        on_bad_audio: `'error'` stops where recordings are missing or broken, which are otherwise left out and listed.
        beam: Options of Apache Beam, `KEY=VALUE` or `KEY`; `runner=...` chooses where it runs, which is here without.
        rate, name: Sample rate in Hz and name of the data set, for a manifest.

    Raises:
        DataError: Files are missing or of another form, recordings cannot be used, or other splits are prepared already.
        files.WriteError: It cannot be written.
    """
    from elastic_ast_jax.data.tf import tf  # noqa: F401 - quietly, before TFDS needs it

    kind = getattr(importlib.import_module(f'elastic_ast_jax.data.builders.{data_set}'), _BUILDERS[data_set][0])
    options = {'data_dir': out, 'only': tuple(splits), 'on_bad_audio': on_bad_audio}
    builder = kind(source, rate=rate, name=name, **options) if data_set == 'manifest' else kind(**options)
    if not builder.is_prepared():
        _prepare(builder, data_set, Path(source), beam)
    else:
        missing = [split for split in splits if split not in builder.info.splits]
        if missing:
            raise DataError(f'{builder.data_dir}: is prepared with the splits {", ".join(builder.info.splits)}, without '
                            f'{missing[0]}: choose another folder with --out, or remove this one and prepare all')
        print(f'{builder.data_dir} is prepared already')
    _show(builder, os.fspath(out), *_BUILDERS[data_set][1:])


def _prepare(builder: Any, data_set: str, source: Path, beam: Sequence[str]) -> None:
    layout = builder.MANUAL_DOWNLOAD_INSTRUCTIONS
    if data_set == 'manifest':
        return builder.prepare(None, beam)
    if not (source.is_dir() and os.listdir(source)):
        raise DataError(f'{source}: no such folder, or nothing in it: give what is below with --manual-dir\n{layout}')
    try:
        builder.prepare(source, beam)
    except DataError as error:
        if ': no such ' not in str(error):
            raise
        raise DataError(f'{error}\n{layout}') from error


def _show(builder: Any, out: str, train: str, evaluate: str, recipe: str) -> None:
    """Prints what a data set holds, and what to train with."""
    from elastic_ast_jax.data.builders import index
    from elastic_ast_jax.data.builders.base import LEFT_OUT

    folder, there, rate = Path(builder.data_dir), builder.info.splits, builder.info.metadata['sample_rate']
    left_out = collections.Counter(
        tuple(line.split('\t')[:2]) for line in (folder / LEFT_OUT).read_text(encoding='utf-8').split('\n') if line)
    print(f'{folder}: {counted(len(builder.classes), "class", "classes")}, {rate} Hz')
    rows = [('split', 'clips', 'length', 'missing', 'broken')]
    for split, info in there.items():
        seconds = sum(sum(file.frames) for file in (index.load(folder, split) or {}).values()) / rate
        rows.append((split, str(info.num_examples), duration(seconds), *(str(left_out[split, why]) for why in rows[0][3:])))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for split, *numbers in rows:
        aligned = [number.rjust(width) for number, width in zip(numbers, widths[1:], strict=True)]
        print('  '.join(['', split.ljust(widths[0]), *aligned]))
    if left_out:
        print(f'{counted(left_out.total(), "clip")} left out, listed in {folder / LEFT_OUT}')
    train, evaluate = _splits(list(there), train, evaluate)
    print(f'train on it with\n'
          f'  elastic-ast train --config=configs/{recipe}.py --workdir=WORKDIR --config.data.source=tfds '
          f'--config.data.tfds_name={builder.name} --config.data.tfds_dir={shlex.quote(out)} '
          f'--config.data.train_split={shlex.quote(train)} --config.data.eval_split={shlex.quote(evaluate)}')


def _splits(there: Sequence[str], train: str, evaluate: str) -> tuple[str, str]:
    """Splits to train and to evaluate on: the usual ones as far as they are there."""
    if len(there) == 1:
        return f'{there[0]}[:80%]', f'{there[0]}[80%:]'
    evaluate = evaluate if evaluate in there else there[-1]
    usual = [split for split in train.split('+') if split in there]
    return '+'.join(usual or [split for split in there if split != evaluate]), evaluate
