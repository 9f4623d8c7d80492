"""The command `prepare`:

recordings to a data set in ArrayRecord files, which `data.source='tfds'` reads.
"""

import importlib
import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from elastic_ast_jax.data.sources.base import BadAudio, DataError
from elastic_ast_jax.utils.text import counted, duration

__all__ = ['run']


class _DataSet(NamedTuple):
    """Its builder in the module of its name in `data.prepare`, splits mostly trained and evaluated
    on, recipe, weights.
    """

    builder: str
    train: str
    evaluate: str
    recipe: str
    weights: str = ''


_DATA_SETS = {
    'audioset': _DataSet('Audioset', 'balanced+unbalanced', 'eval', 'audioset', 'VIT'),
    'vggsound': _DataSet('Vggsound', 'train', 'test', 'vggsound', 'VIT'),
    'voxceleb1': _DataSet('Voxceleb1', 'train', 'test', 'voxceleb', 'SSAST'),
    'epic_sounds': _DataSet('EpicSounds', 'train', 'validation', 'epic_sounds', 'VIT'),
    'speech_commands': _DataSet('SpeechCommandsV2', 'train', 'test', 'speech_commands', 'VIT'),
    'esc50': _DataSet('Esc50', 'fold1+fold2+fold3+fold4', 'fold5', 'esc50', 'VIT'),
    'manifest': _DataSet('ManifestBuilder', 'train', 'test', 'manifest'),
}


def run(
    data_set: str,
    source: str | os.PathLike,
    out: str | os.PathLike,
    splits: Sequence[str] = (),
    on_bad_audio: BadAudio = 'skip',
    beam: Sequence[str] = (),
    rate: int = 16000,
    name: str = '',
) -> None:
    """Prepares a data set, unless it is prepared already, and prints what it holds and how to train
    on it.

    Args:
        data_set: `'manifest'`, or a data set that has a builder.
        source: The manifest, or the folder with what the owners of the data set hand out.
        out: Folder of prepared data sets.
        splits: Splits that are prepared; empty: all.
        on_bad_audio: `'error'` stops where recordings are missing or broken, which are otherwise
        left out and listed.
        beam: Options of Apache Beam, `KEY=VALUE` or `KEY`; `runner=...` chooses where it runs,
        which is here without.
        rate, name: Sample rate in Hz and name of the data set, for a manifest.

    Raises:
        DataError: Files are missing or of another form, recordings cannot be used, or what is
            prepared already is something else: at another rate, of other splits or lists, or
            without clips that may not be left out.
        files.WriteError: It cannot be written.
    """
    from elastic_ast_jax.data.tf import tf  # noqa: F401 - quietly, before TFDS needs it

    known = _DATA_SETS[data_set]
    kind = getattr(
        importlib.import_module(f'elastic_ast_jax.data.prepare.{data_set}'), known.builder
    )
    options = {'data_dir': out, 'only': tuple(splits), 'on_bad_audio': on_bad_audio}
    builder = (
        kind(source, sample_rate=rate, name=name, **options)
        if data_set == 'manifest'
        else kind(**options)
    )
    if data_set == 'manifest':
        _prepare(builder, Path(source), Path(source).exists(), beam)
    else:
        _prepare_folder(builder, Path(source), beam)
    _show(builder, os.fspath(out), known)


def _prepare_folder(builder: Any, folder: Path, beam: Sequence[str]) -> None:
    """Says what goes where if something is missing."""
    layout = builder.MANUAL_DOWNLOAD_INSTRUCTIONS
    there = folder.is_dir() and any(folder.iterdir())
    if not (there or builder.is_prepared()):
        raise DataError(
            f'{folder}: no such folder, or nothing in it: give what is below with'
            f' --manual-dir\n{layout}'
        )
    try:
        _prepare(builder, folder, there, beam)
    except DataError as error:
        if ': no such ' not in str(error):
            raise
        raise DataError(f'{error}\n{layout}') from error


def _prepare(builder: Any, source: Path, there: bool, beam: Sequence[str]) -> None:
    """Prepares a data set;

    or tells that it is prepared, of the same lists if its source is still there.
    """
    if builder.prepare(source, beam):
        return
    compared = builder.check(source if there else None)
    print(
        f'{builder.data_dir} is prepared already'
        + ('' if compared else f', from lists that cannot be compared with what is in {source}')
    )


def _show(builder: Any, out: str, known: _DataSet) -> None:
    """Prints what a data set holds, and what to train with."""
    from elastic_ast_jax.data.prepare import index, skipped

    folder, there, rate = (
        Path(builder.data_dir),
        builder.info.splits,
        builder.info.metadata['sample_rate'],
    )
    lost = skipped.count(folder)
    print(f'{folder}: {counted(len(builder.classes), "class", "classes")}, {rate} Hz')
    rows, several = [('split', 'clips', 'length', 'missing', 'broken')], False
    for split, info in there.items():
        indexed = (index.load(folder, split) or {}).values()
        several |= any(len(labels) != 1 for file in indexed for labels in file.labels)
        seconds = sum(sum(file.frames) for file in indexed) / rate
        rows.append(
            (
                split,
                str(info.num_examples),
                duration(seconds),
                *(str(lost[split, why]) for why in rows[0][3:]),
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for split, *numbers in rows:
        aligned = [number.rjust(width) for number, width in zip(numbers, widths[1:], strict=True)]
        print('  '.join(['', split.ljust(widths[0]), *aligned]))
    if lost:
        print(f'{counted(lost.total(), "clip")} left out, listed in {folder / skipped.NAME}')
    train, evaluate = _splits(list(there), known.train, known.evaluate)
    keys = {
        'data.source': 'tfds',
        'data.tfds_name': builder.name,
        'data.tfds_dir': out,
        'data.train_split': train,
        'data.eval_split': evaluate,
    }
    if known.recipe == 'manifest':  # which knows neither rate nor labels
        keys |= {'frontend.sample_rate': rate} | (
            {'train.loss': 'bce', 'train.label_smoothing': 0} if several else {}
        )
    if known.weights:
        keys |= {'init.from': known.weights}
    print(
        'train on it'
        f' with'
        f'{f" ({known.weights}: weights to start from, see the recipe)" if known.weights else ""}'
    )
    print(
        '  '
        + ' '.join(
            [
                f'elastic-ast train --config=configs/{known.recipe}.py --workdir=WORKDIR',
                *(f'--config.{key}={shlex.quote(str(value))}' for key, value in keys.items()),
            ]
        )
    )


def _splits(there: Sequence[str], train: str, evaluate: str) -> tuple[str, str]:
    """Splits to train and to evaluate on: the usual ones as far as they are there."""
    if len(there) == 1:
        return f'{there[0]}[:80%]', f'{there[0]}[80%:]'
    evaluate = evaluate if evaluate in there else there[-1]
    usual = [split for split in train.split('+') if split in there]
    return '+'.join(usual or [split for split in there if split != evaluate]), evaluate
