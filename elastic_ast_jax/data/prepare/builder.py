"""Build data sets: a Beam pipeline writes shards, and whole shards make up the data set.

One worker writes a shard from the list of its clips. So nothing is shuffled between workers, and
memory does not grow with the data. Shards stay in `VERSION.unfinished` beside the data set until it
is in place; the data set itself appears whole. Workers need this package, and the recordings and
that folder under the same paths, so buckets must be mounted.
"""

import contextlib
import inspect
import io
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from elastic_ast_jax.data.prepare import beam as prepare_beam
from elastic_ast_jax.data.prepare import index, shards, skipped
from elastic_ast_jax.data.prepare.lists import Layout
from elastic_ast_jax.data.prepare.shards import ClipFormat, Shard, ShardRecord
from elastic_ast_jax.data.sources.base import BadAudio, DataError, FileClip
from elastic_ast_jax.utils import files
from elastic_ast_jax.utils.text import pluralize

__all__ = ['ClipBuilder', 'manual_instructions']

_PREPARE_ANEW = 'choose another folder with --out, or remove this one and prepare anew'


def manual_instructions(docstring: str | None) -> str:
    """Return the last paragraph of a builder's docstring.

    `elastic-ast prepare` shows it if files are missing.
    """
    return inspect.cleandoc(docstring or '').rpartition('\n\n')[2]


class ClipBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Build a data set of clips: mono, int16, with a key and one label or several.

    A subclass has `name`, `SPLITS`, `SAMPLE_RATE`, `MULTI_LABEL`, `layout`, and a docstring whose
    last paragraph lists the expected files.

    Args:
        data_dir: Folder of the folder of the data set.
        only: Splits to prepare. Empty: all.
        on_bad_audio: `'skip'` skips clips whose recordings are missing or cannot be used, and lists
            them; see `skipped`.
        options: Options of any builder of TFDS.

    Attributes:
        SPLITS: Names of the splits in the order in which they are written.
        SAMPLE_RATE: Sample rate in Hz.
        MULTI_LABEL: Whether a clip has any number of labels, not one.
    """

    VERSION = tfds.core.Version('1.0.0')
    SPLITS: tuple[str, ...] = ()
    SAMPLE_RATE = 16000
    MULTI_LABEL = False

    def __init__(
        self,
        *,
        data_dir: str | os.PathLike,
        only: Sequence[str] = (),
        on_bad_audio: BadAudio = 'skip',
        **options: Any,
    ):
        self._only = tuple(only)
        self._on_bad_audio: BadAudio = on_bad_audio
        self._splits: dict[str, list[Shard]] = {}
        self._form = ClipFormat(self.SAMPLE_RATE, (), self.MULTI_LABEL)
        self._pipeline: Any = None
        super().__init__(data_dir=os.path.abspath(data_dir), file_format='array_record', **options)

    def prepare(self, source: Path, options: Sequence[str] = ()) -> bool:
        """Prepare the data set unless it is prepared: `download_and_prepare` without its output.

        One process at a time may prepare it.

        Args:
            source: Folder with the published files of the data set, or a manifest.
            options: Options of Beam, `KEY=VALUE` or `KEY`.

        Returns:
            Whether this call prepared it.

        Raises:
            DataError: Lists are missing or of another form, recordings cannot be used, workers do
                not see the files, or another process prepares it.
            files.WriteError: A file cannot be written.
        """
        with prepare_beam.locked(self._root):
            if self.is_prepared():
                # Another process may have prepared it after this one opened it.
                self.info.read_from_directory(self.data_dir)
                # A process that is killed at the very end leaves its shards.
                shutil.rmtree(self._unfinished, ignore_errors=True)
                return False
            if self.data_path.exists():
                raise DataError(
                    f'{self.data_dir}: is no whole data set: choose another folder with --out, or'
                    ' remove this one'
                )
            self._pipeline = prepare_beam.make_pipeline(options)
            for incomplete in self._root.glob(f'incomplete.*_{self.version}'):
                shutil.rmtree(incomplete)  # of a process that was killed
            config = tfds.download.DownloadConfig(manual_dir=os.path.abspath(source))
            # TFDS reports downloads, and creates a folder for them.
            with (
                contextlib.redirect_stdout(io.StringIO()),
                tempfile.TemporaryDirectory() as downloads,
            ):
                self.download_and_prepare(download_config=config, download_dir=downloads)
            shutil.rmtree(self._unfinished, ignore_errors=True)
            return True

    def check(self, source: Path | None) -> bool:
        """Check that the prepared data set is the one that `prepare` would write.

        Args:
            source: See `prepare`. None if it no longer exists.

        Returns:
            Whether the lists were compared. That needs `source` and stamps of the lists, which
            earlier versions did not store.

        Raises:
            DataError: Sample rate, splits or lists differ, clips were skipped that may not be, or
                the lists cannot be read.
        """
        info: Any = self.info
        prepared, metadata = tuple(info.splits), dict(info.metadata.items())
        missing = [split for split in self._only or self.SPLITS if split not in prepared]
        if missing:
            raise DataError(
                f'{self.data_dir}: is prepared with the splits {", ".join(prepared)}, without'
                f' {missing[0]}: choose others with --splits=SPLIT,..., another folder with --out,'
                ' or remove this one and prepare all'
            )
        if metadata['sample_rate'] != self.SAMPLE_RATE:
            raise DataError(
                f'{self.data_dir}: is prepared at {metadata["sample_rate"]} Hz, not at'
                f' {self.SAMPLE_RATE}:'
                f' {_PREPARE_ANEW}'
            )
        splits = self._only or prepared
        clips = sum(
            number for (split, _), number in skipped.count(self.data_dir).items() if split in splits
        )
        if clips and self._on_bad_audio == 'error':
            raise DataError(
                f'{self.data_dir}: is prepared without {pluralize(clips, "clip")}, which'
                f' {skipped.list_path(self.data_dir).name} lists: mend the recordings, remove this'
                ' folder and prepare anew, or skip them with --on-bad-audio=skip'
            )
        if source is None or 'lists' not in metadata:
            return False
        stamps = {split: stamp for split, stamp in metadata['lists'].items() if split in splits}
        self._check_lists(self.layout(source), stamps, source)
        return True

    def _check_lists(self, layout: Layout, stamps: Mapping[str, str], source: Path) -> None:
        splits = [split for split, _ in self._selected_splits(layout)]
        for split in (*splits, *stamps):
            if not (
                split in splits and split in stamps and layout.recognizes(stamps[split], split)
            ):
                raise DataError(
                    f'{self.data_dir}: split {split!r} is prepared from other lists than those in'
                    f' {source}: {_PREPARE_ANEW}'
                )

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of all classes of the prepared data set."""
        return tuple(self._label_feature().names)

    def layout(self, folder: Path) -> Layout:
        """Return classes and clips from the published files of the data set.

        Raises:
            DataError: A list is missing or of another form. All lines that cannot be used are
                counted and the first ten named.
        """
        raise NotImplementedError

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=type(self).__doc__,
            features=shards.features(self._form),
            metadata=tfds.core.MetadataDict(sample_rate=self.SAMPLE_RATE, key='key'),
        )

    def _source(self, dl_manager: Any) -> Path:
        """Return the folder that `layout` reads."""
        return Path(dl_manager.manual_dir)

    def _plan(self, dl_manager: Any) -> None:
        """Read the lists and divide the clips into shards."""
        layout = self.layout(self._source(dl_manager))
        self._form = ClipFormat(self.SAMPLE_RATE, layout.classes, self.MULTI_LABEL)
        self._splits = {
            split: shards.assign_shards(self._unfinished, split, clips)
            for split, clips in self._selected_splits(layout)
        }
        info: Any = self.info
        info.metadata['lists'] = {split: layout.stamp(split) for split in self._splits}
        self._label_feature().names = list(layout.classes)

    def _label_feature(self) -> Any:
        features: Any = self.info.features
        return features['label'].feature if self.MULTI_LABEL else features['label']

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        """Return Beam transforms that write the missing shards of each split."""
        todo = {
            split: [shard for shard in parts if shards.load_record(shard, self._form) is None]
            for split, parts in self._splits.items()
        }
        return {split: self._generate_examples(parts) for split, parts in todo.items() if parts}

    def _generate_examples(self, todo: Sequence[Shard]) -> Any:
        """Return a Beam transform that writes shards.

        Only their paths travel with the pipeline, since some runners limit its size.
        """
        for shard in todo:
            shards.write_list(shard)
        paths = [shard.path for shard in todo]
        beam = prepare_beam.import_beam()
        return (
            beam.Create(paths)
            | beam.Reshuffle()
            | beam.Map(partial(shards.write_listed_shard, form=self._form))
        )

    def _selected_splits(self, layout: Layout) -> Iterator[tuple[str, Mapping[str, FileClip]]]:
        splits = self.SPLITS or tuple(layout.splits)
        unknown = [split for split in self._only if split not in splits]
        if unknown:
            raise DataError(
                f'{self.name} has no split {unknown[0]!r}: choose from {", ".join(splits)}'
            )
        if not layout.classes:
            raise DataError(f'{self.name}: no clip has a label')
        for name in layout.classes:
            if name != name.strip() or '\n' in name or '\r' in name:  # TFDS writes a name a line
                raise DataError(
                    f'{self.name}: {name!r} cannot be the name of a class: take out line ends and'
                    ' outer spaces'
                )
        for split, clips in layout.splits.items():
            if self._only and split not in self._only:
                continue
            if not clips:
                raise DataError(
                    f'{self.name}: no clip is of split {split!r}: choose others with'
                    ' --splits=SPLIT,...'
                )
            for key, clip in clips.items():
                if '\0' in key or not _is_text(key):
                    raise DataError(
                        f'{clip.location}: {key!r} cannot be the name of a clip: rename the'
                        ' recording'
                    )
            yield split, clips

    def _generate_splits(self, dl_manager: Any, download_config: Any) -> list[tfds.core.SplitInfo]:
        self._plan(dl_manager)
        if todo := self._split_generators(dl_manager):
            prepare_beam.run_pipeline(
                self._pipeline or prepare_beam.make_pipeline(),
                todo,
                self._unfinished,
                sum(map(len, self._splits.values())),
            )
        records: dict[str, list[ShardRecord]] = {}
        missing = []
        for split, parts in self._splits.items():
            records[split] = []
            for shard in parts:
                if record := shards.load_record(shard, self._form):
                    records[split].append(record)
                else:
                    missing.append(shard.path)
        if missing:
            raise DataError(
                f'{pluralize(len(missing), "shard")} did not come back, such as {missing[0]}: the'
                f' workers of the Beam pipeline must see {self._unfinished} and the recordings'
                ' under the same paths; start again to write the missing shards'
            )
        skipped.report(
            self.data_dir,
            records,
            self._on_bad_audio,
            self.name,
            self.MANUAL_DOWNLOAD_INSTRUCTIONS or '',
        )
        return self._assemble(
            {
                split: list(zip(parts, records[split], strict=True))
                for split, parts in self._splits.items()
            }
        )

    def _assemble(
        self, splits: Mapping[str, Sequence[tuple[Shard, ShardRecord]]]
    ) -> list[tfds.core.SplitInfo]:
        """Index the shards that hold clips and put them into the data set."""
        infos = []
        for split, parts in splits.items():
            parts = [(shard, record) for shard, record in parts if record.keys]
            template = self._get_filename_template(split_name=split)
            names = [
                os.path.basename(template.sharded_filepath(shard_index=i, num_shards=len(parts)))
                for i in range(len(parts))
            ]
            for name, (shard, _) in zip(names, parts, strict=True):
                _link(shard.path, Path(self.data_dir, name))
            index.save(
                self.data_dir,
                split,
                {name: record for name, (_, record) in zip(names, parts, strict=True)},
            )
            infos.append(
                tfds.core.SplitInfo(
                    name=split,
                    shard_lengths=[len(record.keys) for _, record in parts],
                    num_bytes=sum(record.size for _, record in parts),
                    filename_template=template,
                )
            )
        return infos

    @property
    def _root(self) -> Path:
        """The folder of all versions of the data set."""
        return Path(self.data_dir_root, self.name)

    @property
    def _unfinished(self) -> Path:
        """The folder of shards until all are written."""
        return self._root / f'{self.version}.unfinished'


def _is_text(key: str) -> bool:
    try:
        key.encode('utf-8', 'surrogateescape')
    except UnicodeEncodeError:
        return False
    return True


def _link(source: str, target: Path) -> None:
    """Give a file a second name, or copy it.

    The first name stays, since TFDS removes the folder of the second one after a later error.
    """
    try:
        try:
            os.link(source, target)
        except OSError:  # files have one name only, or another user wrote it
            shutil.copyfile(source, target)
    except OSError as error:
        raise files.WriteError(
            f'{files.write_problem(target, error)}; finished shards are kept'
        ) from error
