"""What the builders have in common: a Beam pipeline that writes shards, and a data set made of
those that are whole.

Every shard is written by one worker from the list of its clips, so nothing is shuffled between
workers and memory does not grow with the data. Shards stay in `VERSION.unfinished` beside the data
set until that is in place; the data set itself appears whole. Workers need the recordings and that
folder under the same paths, so buckets must be mounted, and this package.
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

_ANEW = 'choose another folder with --out, or remove this one and prepare anew'


def manual_instructions(docstring: str | None) -> str:
    """The last paragraph of a builder's docstring, which `elastic-ast prepare` shows if something
    is missing.
    """
    return inspect.cleandoc(docstring or '').rpartition('\n\n')[2]


class ClipBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """A data set of clips: mono, int16, with a key and one label or several.

    A subclass has a docstring whose last paragraph says what to put where, `name`, `SPLITS`,
    `RATE`, `SEVERAL` and `layout`.

    Args:
        only: Splits that are prepared; empty: all.
        on_bad_audio: `'skip'` leaves out clips whose recordings are missing or cannot be used, and
        lists them: see `skipped`.
        data_dir: Folder that the data set's folder is made in.
        others: As for every builder of TFDS.

    Attributes:
        SPLITS: Names of the splits in the order in which they are written.
        RATE: Sample rate in Hz.
        SEVERAL: Whether a clip has any number of labels, not one.
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
        **others: Any,
    ):
        self._only, self._on_bad_audio = tuple(only), on_bad_audio
        self._splits, self._form, self._pipeline = {}, None, None
        super().__init__(data_dir=os.path.abspath(data_dir), file_format='array_record', **others)

    def prepare(self, source: Path, options: Sequence[str] = ()) -> bool:
        """Prepares the data set, as `download_and_prepare` does, but quietly, one process at a
        time, and unless it is prepared.

        Args:
            source: Folder with what the owners of the data set hand out, or a manifest.
            options: Of Beam: `KEY=VALUE` or `KEY`.

        Returns:
            Whether it was prepared now.

        Raises:
            DataError: Lists are missing or of another form, recordings cannot be used, workers do
                not see the files, or another process is at it.
            files.WriteError: It cannot be written.
        """
        with prepare_beam.locked(self._root):
            if self.is_prepared():
                self.info.read_from_directory(
                    self.data_dir
                )  # another process may have prepared it since this one looked
                shutil.rmtree(
                    self._unfinished, ignore_errors=True
                )  # of a process that was killed when all else was done
                return False
            if self.data_path.exists():
                raise DataError(
                    f'{self.data_dir}: is no whole data set: choose another folder with --out, or'
                    ' remove this one'
                )
            self._pipeline = prepare_beam.make_pipeline(options)
            for left in self._root.glob(
                f'incomplete.*_{self.version}'
            ):  # of a process that was killed
                shutil.rmtree(left)
            config = tfds.download.DownloadConfig(manual_dir=os.path.abspath(source))
            # TFDS speaks of downloads, and makes a folder for them.
            with (
                contextlib.redirect_stdout(io.StringIO()),
                tempfile.TemporaryDirectory() as nothing,
            ):
                self.download_and_prepare(download_config=config, download_dir=nothing)
            shutil.rmtree(self._unfinished, ignore_errors=True)
            return True

    def check(self, source: Path | None) -> bool:
        """Makes sure that the data set, which is prepared, is what `prepare` would make of the
        same.

        Args:
            source: As for `prepare`; None if it is not there any more.

        Returns:
            Whether the lists were compared. They are not if they are not there, or not known of
            what is prepared.

        Raises:
            DataError: Rate, splits or lists are others, clips were left out that may not be, or the
            lists cannot be read.
        """
        there, about = tuple(self.info.splits), dict(self.info.metadata.items())
        missing = [split for split in self._only or self.SPLITS if split not in there]
        if missing:
            raise DataError(
                f'{self.data_dir}: is prepared with the splits {", ".join(there)}, without'
                f' {missing[0]}: choose others with --splits=SPLIT,..., another folder with --out,'
                ' or remove this one and prepare all'
            )
        if about['sample_rate'] != self.SAMPLE_RATE:
            raise DataError(
                f'{self.data_dir}: is prepared at {about["sample_rate"]} Hz, not at'
                f' {self.SAMPLE_RATE}:'
                f' {_ANEW}'
            )
        lost = sum(
            number
            for (split, _), number in skipped.count(self.data_dir).items()
            if split in (self._only or there)
        )
        if lost and self._on_bad_audio == 'error':
            raise DataError(
                f'{self.data_dir}: is prepared without {pluralize(lost, "clip")}, which'
                f' {skipped.NAME} lists: mend the recordings, remove this folder and prepare anew,'
                ' or leave them out with --on-bad-audio=skip'
            )
        if source is None or 'lists' not in about:  # which earlier versions did not write
            return False
        layout = self.layout(source)
        splits = [split for split, _ in self._chosen(layout)]
        stamps = {
            split: stamp
            for split, stamp in about['lists'].items()
            if split in (self._only or there)
        }
        same = [
            split for split in splits if split in stamps and layout.recognizes(stamps[split], split)
        ]
        if other := next((split for split in (*splits, *stamps) if split not in same), None):
            raise DataError(
                f'{self.data_dir}: split {other!r} is prepared from other lists than there are in'
                f' {source} now: {_ANEW}'
            )
        return True

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of all classes, once the data set is prepared."""
        label = self.info.features['label']
        return tuple((label.feature if self.MULTI_LABEL else label).names)

    def layout(self, folder: Path) -> Layout:
        """Classes and clips, from what the owners of the data set hand out.

        Raises:
            DataError: A list is missing or of another form. All lines that cannot be used are
            counted and the first ten named.
        """
        raise NotImplementedError

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=type(self).__doc__,
            features=shards.features(ClipFormat(self.SAMPLE_RATE, (), self.MULTI_LABEL)),
            metadata=tfds.core.MetadataDict(sample_rate=self.SAMPLE_RATE, key='key'),
        )

    def _source(self, dl_manager: Any) -> Path:
        """Folder that `layout` reads."""
        return Path(dl_manager.manual_dir)

    def _plan(self, dl_manager: Any) -> None:
        """Reads the lists and deals the clips to shards."""
        layout = self.layout(self._source(dl_manager))
        self._form = ClipFormat(self.SAMPLE_RATE, layout.classes, self.MULTI_LABEL)
        self._splits = {
            split: shards.assign_shards(self._unfinished, split, clips)
            for split, clips in self._chosen(layout)
        }
        self.info.metadata['lists'] = {split: layout.stamp(split) for split in self._splits}
        label = self.info.features['label']
        (label.feature if self.MULTI_LABEL else label).names = list(layout.classes)

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        """Beam transforms that write the shards of each split that are not there yet."""
        todo = {
            split: [shard for shard in found if shards.load_record(shard, self._form) is None]
            for split, found in self._splits.items()
        }
        return {split: self._generate_examples(found) for split, found in todo.items() if found}

    def _generate_examples(self, todo: Sequence[Shard]) -> Any:
        """A Beam transform that writes shards.

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

    def _chosen(self, layout: Layout) -> Iterator[tuple[str, Mapping[str, FileClip]]]:
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
        found = {
            split: [(shard, shards.load_record(shard, self._form)) for shard in parts]
            for split, parts in self._splits.items()
        }
        lost = [shard.path for parts in found.values() for shard, record in parts if record is None]
        if lost:
            raise DataError(
                f'{pluralize(len(lost), "shard")} did not come back, {lost[0]} for one: the workers'
                f' of the Beam pipeline must see {self._unfinished} and the recordings under the'
                ' same paths; start again to write what is missing'
            )
        skipped.report(
            self.data_dir,
            {split: [record for _, record in parts] for split, parts in found.items()},
            self._on_bad_audio,
            self.name,
            self.MANUAL_DOWNLOAD_INSTRUCTIONS,
        )
        return self._put_together(found)

    def _put_together(
        self, found: Mapping[str, Sequence[tuple[Shard, ShardRecord]]]
    ) -> list[tfds.core.SplitInfo]:
        """Indexes the shards that hold clips and puts them into the data set."""
        infos = []
        for split, parts in found.items():
            parts = [(shard, record) for shard, record in parts if record.keys]
            template = self._get_filename_template(split_name=split)
            names = [
                os.path.basename(template.sharded_filepath(shard_index=i, num_shards=len(parts)))
                for i in range(len(parts))
            ]
            for name, (shard, _) in zip(names, parts, strict=True):
                _put(shard.path, Path(self.data_dir, name))
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
        """The folder of all versions."""
        return Path(self.data_dir_root, self.name)

    @property
    def _unfinished(self) -> Path:
        """Where shards wait until all are there."""
        return self._root / f'{self.version}.unfinished'


def _is_text(key: str) -> bool:
    try:
        key.encode('utf-8', 'surrogateescape')
    except UnicodeEncodeError:
        return False
    return True


def _put(source: str, target: Path) -> None:
    """Gives a file a second name.

    The first one stays, since TFDS removes the folder of the second if anything fails yet.
    """
    try:
        try:
            os.link(source, target)
        except OSError:  # where files have one name only, or another user wrote it
            shutil.copyfile(source, target)
    except OSError as error:
        raise files.WriteError(
            f'{files.write_problem(target, error)}; what is done is kept'
        ) from error
