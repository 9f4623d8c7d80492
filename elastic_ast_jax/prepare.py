"""The command `prepare`: recordings to a data set in ArrayRecord files, which `data.source='tfds'` reads."""

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
        DataError: Files are missing or of another form, recordings cannot be used, or what is prepared already is something
            else: at another rate, of other splits or lists, or without clips that may not be left out.
        files.WriteError: It cannot be written.
    """
    from elastic_ast_jax.data.tf import tf  # noqa: F401 - quietly, before TFDS needs it

    kind = getattr(importlib.import_module(f'elastic_ast_jax.data.builders.{data_set}'), _BUILDERS[data_set][0])
    options = {'data_dir': out, 'only': tuple(splits), 'on_bad_audio': on_bad_audio}
    builder = kind(source, rate=rate, name=name, **options) if data_set == 'manifest' else kind(**options)
    if data_set == 'manifest':
        _prepare(builder, Path(source), Path(source).exists(), beam)
    else:
        _prepare_folder(builder, Path(source), beam)
    _show(builder, os.fspath(out), *_BUILDERS[data_set][1:])


def _prepare_folder(builder: Any, folder: Path, beam: Sequence[str]) -> None:
    """Says what goes where if something is missing."""
    layout = builder.MANUAL_DOWNLOAD_INSTRUCTIONS
    there = folder.is_dir() and any(folder.iterdir())
    if not (there or builder.is_prepared()):
        raise DataError(f'{folder}: no such folder, or nothing in it: give what is below with --manual-dir\n{layout}')
    try:
        _prepare(builder, folder, there, beam)
    except DataError as error:
        if ': no such ' not in str(error):
            raise
        raise DataError(f'{error}\n{layout}') from error


def _prepare(builder: Any, source: Path, there: bool, beam: Sequence[str]) -> None:
    """Prepares a data set; or tells that it is prepared, of the same lists if its source is still there."""
    if builder.prepare(source, beam):
        return
    compared = builder.check(source if there else None)
    print(f'{builder.data_dir} is prepared already'
          + ('' if compared else f', from lists that cannot be compared with what is in {source}'))


def _show(builder: Any, out: str, train: str, evaluate: str, recipe: str) -> None:
    """Prints what a data set holds, and what to train with."""
    from elastic_ast_jax.data.builders import index, left_out

    folder, there, rate = Path(builder.data_dir), builder.info.splits, builder.info.metadata['sample_rate']
    lost = left_out.count(folder)
    print(f'{folder}: {counted(len(builder.classes), "class", "classes")}, {rate} Hz')
    rows = [('split', 'clips', 'length', 'missing', 'broken')]
    for split, info in there.items():
        seconds = sum(sum(file.frames) for file in (index.load(folder, split) or {}).values()) / rate
        rows.append((split, str(info.num_examples), duration(seconds), *(str(lost[split, why]) for why in rows[0][3:])))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for split, *numbers in rows:
        aligned = [number.rjust(width) for number, width in zip(numbers, widths[1:], strict=True)]
        print('  '.join(['', split.ljust(widths[0]), *aligned]))
    if lost:
        print(f'{counted(lost.total(), "clip")} left out, listed in {folder / left_out.NAME}')
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
