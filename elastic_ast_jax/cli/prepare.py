"""`elastic-ast prepare`: write recordings to the files that `data.source='tfds'` reads."""

import argparse
import collections
import dataclasses
import importlib
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from elastic_ast_jax.cli.commands import add_command
from elastic_ast_jax.cli.types import comma_separated_names, local_path, positive_int, separator
from elastic_ast_jax.utils.text import format_duration, pluralize


class _DataSet(NamedTuple):
    """A data set, its builder and the way it is usually trained on.

    Attributes:
        summary: The data set in words.
        builder: The class in the module of the data set's name in `data.prepare`.
        train: The splits to train on, joined by '+'.
        evaluate: The split to evaluate on.
        recipe: The config file, without `configs/` and the suffix.
        weights: The pretrained weights that the recipe begins with.
    """

    summary: str
    builder: str
    train: str
    evaluate: str
    recipe: str
    weights: str = ''


_MANIFEST = 'manifest'
_DATA_SETS: Mapping[str, _DataSet] = {
    'audioset': _DataSet(
        'AudioSet: balanced, unbalanced, eval',
        'Audioset',
        'balanced+unbalanced',
        'eval',
        'audioset',
        'VIT',
    ),
    'vggsound': _DataSet('VGGSound', 'Vggsound', 'train', 'test', 'vggsound', 'VIT'),
    'voxceleb1': _DataSet(
        'VoxCeleb1, identification of speakers', 'Voxceleb1', 'train', 'test', 'voxceleb', 'SSAST'
    ),
    'epic_sounds': _DataSet(
        'EPIC-SOUNDS', 'EpicSounds', 'train', 'validation', 'epic_sounds', 'VIT'
    ),
    'speech_commands': _DataSet(
        'Speech Commands, version 0.02',
        'SpeechCommandsV2',
        'train',
        'test',
        'speech_commands',
        'VIT',
    ),
    'esc50': _DataSet(
        'ESC-50, five folds', 'Esc50', 'fold1+fold2+fold3+fold4', 'fold5', 'esc50', 'VIT'
    ),
    _MANIFEST: _DataSet(
        'the recordings that a manifest lists', 'ManifestBuilder', 'train', 'test', 'manifest'
    ),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """The data set, its files, and the folder of prepared data sets.

    Attributes:
        data_set: Its name.
        source: The manifest, or the folder with the files that the owners of the data set publish.
        out: Folder of prepared data sets.
        splits: Splits that are prepared; all if empty.
        on_bad_audio: `'error'` stops at missing and broken recordings, which `'skip'` skips and
            lists.
        beam: Options of Apache Beam, `KEY=VALUE` or `KEY`; `runner=...` is where it runs, by
            default in this process.
        rate: Sample rate in Hz, for a manifest.
        name: Name of the data set, for a manifest.
        label_separator: Stands between the labels in a cell of a CSV, for a manifest.
    """

    data_set: str
    source: str
    out: str
    splits: tuple[str, ...] = ()
    on_bad_audio: Literal['skip', 'error'] = 'skip'
    beam: Sequence[str] = ()
    rate: int = 16000
    name: str = ''
    label_separator: str = ';'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add a command for each data set."""
    parser.description = (
        f'{parser.description} It prints the options that read them, --config.data.source=tfds and'
        ' others.'
    )
    commands = parser.add_subparsers(dest='data_set', required=True, metavar='DATASET')
    for name, data_set in _DATA_SETS.items():
        _add_data_set(add_command(commands, name, data_set.summary), is_manifest=name == _MANIFEST)


def _add_data_set(command: argparse.ArgumentParser, *, is_manifest: bool) -> None:
    """Declare the arguments of a data set."""
    if is_manifest:
        command.add_argument(
            'source', type=local_path, metavar='FILE', help='a manifest: .jsonl or .csv'
        )
        command.add_argument('--rate', type=positive_int, help='sample rate in Hz (default 16000)')
        command.add_argument(
            '--name', help='name of the data set (default: the name of the manifest)'
        )
        command.add_argument(
            '--label-separator',
            type=separator,
            metavar='TEXT',
            help='what stands between the labels in a cell of a CSV (default ;)',
        )
    else:
        command.add_argument(
            '--manual-dir',
            dest='source',
            type=local_path,
            required=True,
            metavar='DIR',
            help='folder with the files that its owners publish; if one is missing, the expected'
            ' layout is printed',
        )
    command.add_argument(
        '--out', type=local_path, required=True, metavar='DIR', help='folder of prepared data sets'
    )
    command.add_argument(
        '--splits',
        type=comma_separated_names,
        metavar='SPLIT,...',
        help='prepare only these splits (default: all)',
    )
    command.add_argument(
        '--on-bad-audio',
        choices=('skip', 'error'),
        help='skip missing and broken recordings and list them (default), or stop',
    )
    command.add_argument(
        '--beam',
        action='append',
        metavar='KEY=VALUE',
        help='an option of Apache Beam, such as runner=DataflowRunner; may be repeated (default:'
        ' run in this process)',
    )


def run(options: Options) -> None:
    """Prepare a data set, unless it is prepared already, and print what it holds.

    The last lines printed are a command that trains on it.

    Raises:
        DataError: Files are missing or of another form, recordings cannot be used, or another data
            set is prepared in the folder: at another rate, of other splits or lists, or without
            clips that may not be skipped.
        WriteError: It cannot be written.
    """
    # TensorFlow is imported quietly before TFDS imports it.
    from elastic_ast_jax.data.tf import tf  # noqa: F401

    data_set = _DATA_SETS[options.data_set]
    module = importlib.import_module(f'elastic_ast_jax.data.prepare.{options.data_set}')
    builder_type = getattr(module, data_set.builder)
    shared: dict[str, Any] = {
        'data_dir': options.out,
        'only': options.splits,
        'on_bad_audio': options.on_bad_audio,
    }
    source = Path(options.source)
    if options.data_set == _MANIFEST:
        builder = builder_type(
            options.source,
            sample_rate=options.rate,
            name=options.name,
            label_separator=options.label_separator,
            **shared,
        )
        _prepare(builder, source, options.beam, exists=source.exists())
    else:
        builder = builder_type(**shared)
        _prepare_folder(builder, source, options.beam)
    _print_summary(builder, options.out, data_set)


def _prepare_folder(builder: Any, folder: Path, beam: Sequence[str]) -> None:
    """Prepare a data set; if files are missing, the error shows the expected layout."""
    from elastic_ast_jax.data.sources.base import DataError

    layout = builder.MANUAL_DOWNLOAD_INSTRUCTIONS
    exists = folder.is_dir() and any(folder.iterdir())
    if not (exists or builder.is_prepared()):
        raise DataError(
            f'{folder}: no such folder, or nothing in it: give what is below with'
            f' --manual-dir\n{layout}'
        )
    try:
        _prepare(builder, folder, beam, exists=exists)
    except DataError as error:
        if ': no such ' not in str(error):
            raise
        raise DataError(f'{error}\n{layout}') from error


def _prepare(builder: Any, source: Path, beam: Sequence[str], *, exists: bool) -> None:
    """Prepare a data set, or check that the prepared one is of the same lists.

    Without its source, the lists of a prepared data set cannot be compared.
    """
    if builder.prepare(source, beam):
        return
    compared = builder.check(source if exists else None)
    print(
        f'{builder.data_dir} is prepared already'
        + ('' if compared else f', from lists that cannot be compared with what is in {source}')
    )


def _print_summary(builder: Any, out: str, data_set: _DataSet) -> None:
    """Print what a data set holds, and the command that trains on it."""
    from elastic_ast_jax.data.prepare import skipped

    folder, sample_rate = Path(builder.data_dir), builder.info.metadata['sample_rate']
    counts = skipped.count(folder)
    print(f'{folder}: {pluralize(len(builder.classes), "class", "classes")}, {sample_rate} Hz')
    rows, is_multi_label = _split_rows(builder, counts)
    _print_table([('split', 'clips', 'length', 'missing', 'broken'), *rows])
    if counts:
        print(f'{pluralize(counts.total(), "clip")} skipped, listed in {skipped.list_path(folder)}')
    train, evaluate = _splits(list(builder.info.splits), data_set.train, data_set.evaluate)
    keys: dict[str, Any] = {
        'data.source': 'tfds',
        'data.tfds_name': builder.name,
        'data.tfds_dir': out,
        'data.train_split': train,
        'data.eval_split': evaluate,
    }
    if data_set.recipe == _MANIFEST:  # the recipe knows neither the sample rate nor the labels
        keys |= {'frontend.sample_rate': sample_rate}
        if is_multi_label:
            keys |= {'train.loss': 'bce', 'train.label_smoothing': 0}
    hint = ''
    if data_set.weights:
        keys |= {'init.from': data_set.weights}
        hint = f' ({data_set.weights}: weights to start from, see the recipe)'
    print(f'train on it with{hint}')
    overrides = [f'--config.{key}={shlex.quote(str(value))}' for key, value in keys.items()]
    command = f'elastic-ast train --config=configs/{data_set.recipe}.py --workdir=WORKDIR'
    print(' '.join([f'  {command}', *overrides]))


def _split_rows(
    builder: Any, counts: collections.Counter[tuple[str, str]]
) -> tuple[list[tuple[str, ...]], bool]:
    """Return a row of the table for each split, and whether clips have other than one label."""
    from elastic_ast_jax.data.prepare import index

    folder, sample_rate = Path(builder.data_dir), builder.info.metadata['sample_rate']
    rows, is_multi_label = [], False
    for split, info in builder.info.splits.items():
        files = (index.load(folder, split) or {}).values()
        is_multi_label |= any(len(labels) != 1 for file in files for labels in file.labels)
        seconds = sum(sum(file.frames) for file in files) / sample_rate
        skipped_clips = [str(counts[split, reason]) for reason in ('missing', 'broken')]
        rows.append((split, str(info.num_examples), format_duration(seconds), *skipped_clips))
    return rows, is_multi_label


def _print_table(rows: Sequence[Sequence[str]]) -> None:
    """Print rows in aligned columns; all but the first column are aligned to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for first, *numbers in rows:
        aligned = [text.rjust(width) for text, width in zip(numbers, widths[1:], strict=True)]
        print('  '.join(['', first.ljust(widths[0]), *aligned]))


def _splits(names: Sequence[str], train: str, evaluate: str) -> tuple[str, str]:
    """Return the splits to train and to evaluate on: the usual ones, if they are prepared."""
    if len(names) == 1:
        return f'{names[0]}[:80%]', f'{names[0]}[80%:]'
    evaluate = evaluate if evaluate in names else names[-1]
    usual = [split for split in train.split('+') if split in names]
    return '+'.join(usual or [split for split in names if split != evaluate]), evaluate
