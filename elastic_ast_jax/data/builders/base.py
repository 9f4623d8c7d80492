"""What the builders have in common: a Beam pipeline that writes shards, and a data set made of those that are whole.

Every shard is written by one worker from the list of its clips, so nothing is shuffled between workers and memory does not
grow with the data. Shards wait in `VERSION.unfinished` beside the data set until all are there; the data set itself appears
whole. Workers need the recordings and that folder under the same paths, so buckets must be mounted, and this package.
"""

import contextlib
import fcntl
import io
import logging
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from elastic_ast_jax import files
from elastic_ast_jax.data import headers
from elastic_ast_jax.data.builders import index, shards
from elastic_ast_jax.data.builders.lists import Layout
from elastic_ast_jax.data.builders.shards import Form, Record, Shard
from elastic_ast_jax.data.sources import BadAudio, DataError, FileClip
from elastic_ast_jax.logs import Progress, counted, printable

__all__ = ['LEFT_OUT', 'ClipBuilder', 'beam']

# The list of clips that were left out, beside the prepared data.
LEFT_OUT = 'left_out.txt'


class ClipBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """A data set of clips: mono, int16, with a key and one label or several.

    A subclass has a docstring that says what to put where, `name`, `SPLITS`, `RATE`, `SEVERAL` and `layout`.

    Args:
        only: Splits that are prepared; empty: all.
        on_bad_audio: `'skip'` leaves out clips whose recordings are missing or cannot be used, and lists them in `LEFT_OUT`.
        data_dir: Folder that the data set's folder is made in.
        others: As for every builder of TFDS.

    Attributes:
        SPLITS: Names of the splits in the order in which they are written.
        RATE: Sample rate in Hz.
        SEVERAL: Whether a clip has any number of labels, not one.
    """

    VERSION = tfds.core.Version('1.0.0')
    SPLITS: tuple[str, ...] = ()
    RATE = 16000
    SEVERAL = False

    def __init__(
        self, *, data_dir: str | os.PathLike, only: Sequence[str] = (), on_bad_audio: BadAudio = 'skip', **others: Any
    ):  # fmt: skip
        self._only, self._on_bad_audio = tuple(only), on_bad_audio
        self._splits, self._form = {}, None
        super().__init__(data_dir=os.path.abspath(data_dir), file_format='array_record', **others)

    def prepare(self, folder: Path | None, options: Sequence[str] = ()) -> None:
        """Prepares the data set, as `download_and_prepare` does, but quietly.

        Args:
            folder: What the owners of the data set hand out; None where `layout` knows.
            options: Of Beam: `KEY=VALUE` or `KEY`.

        Raises:
            DataError: Lists are missing or of another form, recordings cannot be used, or workers do not see the files.
            files.WriteError: It cannot be written.
        """
        beam()
        from apache_beam.options.pipeline_options import PipelineOptions

        config = tfds.download.DownloadConfig(
            manual_dir=folder and os.path.abspath(folder), beam_options=PipelineOptions([f'--{option}' for option in options]))
        # TFDS speaks of downloads, and makes a folder for them.
        with contextlib.redirect_stdout(io.StringIO()), tempfile.TemporaryDirectory() as nothing:
            self.download_and_prepare(download_config=config, download_dir=nothing)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of all classes, once the data set is prepared."""
        label = self.info.features['label']
        return tuple((label.feature if self.SEVERAL else label).names)

    def layout(self, folder: Path) -> Layout:
        """Classes and clips, from what the owners of the data set hand out.

        Raises:
            DataError: A list is missing or of another form. All lines that cannot be used are counted and the first ten named.
        """
        raise NotImplementedError

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self, description=type(self).__doc__, features=shards.features(Form(self.RATE, (), self.SEVERAL)),
            metadata=tfds.core.MetadataDict(sample_rate=self.RATE, key='key'))

    def _source(self, dl_manager: Any) -> Path:
        """Folder that `layout` reads."""
        return Path(dl_manager.manual_dir)

    def _plan(self, dl_manager: Any) -> None:
        """Reads the lists and deals the clips to shards."""
        layout = self.layout(self._source(dl_manager))
        self._form = Form(self.RATE, layout.classes, self.SEVERAL)
        self._splits = {split: shards.shards(self._unfinished, split, clips) for split, clips in self._chosen(layout)}
        label = self.info.features['label']
        (label.feature if self.SEVERAL else label).names = list(layout.classes)

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        """Beam transforms that write the shards of each split that are not there yet."""
        todo = {split: [shard for shard in found if shards.record(shard, self._form) is None]
                for split, found in self._splits.items()}  # fmt: skip
        return {split: self._generate_examples(found) for split, found in todo.items() if found}

    def _generate_examples(self, todo: Sequence[Shard]) -> Any:
        """A Beam transform that writes shards. Only their paths travel with the pipeline, since some runners limit its size."""
        for shard in todo:
            shards.save(shard)
        paths = [shard.path for shard in todo]
        return beam().Create(paths) | beam().Reshuffle() | beam().Map(partial(shards.write_listed, form=self._form))

    def _chosen(self, layout: Layout) -> Iterator[tuple[str, Mapping[str, FileClip]]]:
        splits = self.SPLITS or tuple(layout.splits)
        unknown = [split for split in self._only if split not in splits]
        if unknown:
            raise DataError(f'{self.name} has no split {unknown[0]!r}: choose from {", ".join(splits)}')
        if not layout.classes:
            raise DataError(f'{self.name}: no clip has a label')
        for name in layout.classes:
            if name != name.strip() or '\n' in name or '\r' in name:  # TFDS writes a name a line
                raise DataError(f'{self.name}: {name!r} cannot be the name of a class: take out line ends and outer spaces')
        for split, clips in layout.splits.items():
            if self._only and split not in self._only:
                continue
            if not clips:
                raise DataError(f'{self.name}: no clip is of split {split!r}: choose others with --splits=SPLIT,...')
            for key, clip in clips.items():
                if '\0' in key or not _is_text(key):
                    raise DataError(f'{clip.place}: {key!r} cannot be the name of a clip: rename the recording')
            yield split, clips

    def _generate_splits(self, dl_manager: Any, download_config: Any) -> list[tfds.core.SplitInfo]:
        self._plan(dl_manager)
        with _locked(self._unfinished):
            for folder in self._root.glob(f'incomplete.*_{self.version}'):  # of a process that was killed
                if folder != Path(self.data_dir):
                    shutil.rmtree(folder)
            if todo := self._split_generators(dl_manager):
                self._run(todo, download_config)
            found = {split: [(shard, shards.record(shard, self._form)) for shard in parts]
                     for split, parts in self._splits.items()}  # fmt: skip
            lost = [shard.path for parts in found.values() for shard, record in parts if record is None]
            if lost:
                raise DataError(f'{counted(len(lost), "shard")} did not come back, {lost[0]} for one: the workers of the Beam '
                                f'pipeline must see {self._unfinished} and the recordings under the same paths; start again '
                                f'to write what is missing')
            self._report({split: [record for _, record in parts] for split, parts in found.items()})
            return self._put_together(found)

    def _run(self, todo: dict[str, Any], download_config: Any) -> None:
        """Runs the pipeline. What is written stays if it fails."""
        from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions

        options = download_config.beam_options or PipelineOptions([])
        # Beam's own choice on this machine would first look for another runner in the network.
        runner = download_config.beam_runner or options.view_as(StandardOptions).runner or 'FnApiRunner'
        try:
            pipeline = beam().Pipeline(runner=runner, options=options)
        except (ValueError, ImportError) as error:
            raise DataError(f'Apache Beam does not take these options ({str(error).splitlines()[0]}): '
                            f'correct --beam') from error
        total = sum(map(len, self._splits.values()))
        try:
            with _progress(self._unfinished, total), _quiet('apache_beam.runners.common'), pipeline:
                for split, transform in todo.items():
                    pipeline | split >> transform
        except Exception as error:
            if isinstance(error.__context__, KeyboardInterrupt):
                raise KeyboardInterrupt from None
            # Beam hands on what a worker raised as text, and where.
            said = next((line for line in str(error).splitlines() if 'cannot be written (' in line), None)
            if said is None:
                raise
            said = said.rpartition('WriteError: ')[2]
            raise files.WriteError(f'{said.partition(" [while running")[0]}; what is done is kept') from error

    def _report(self, found: Mapping[str, Sequence[Record]]) -> None:
        """Writes the list of clips that were left out and warns of them.

        Raises:
            DataError: There are some, and may not be; or no clip of a split is left.
        """
        left_out = {split: [clip for one in records for clip in one.left_out] for split, records in found.items()}
        messages = [f'{split}: {clip.message}' for split, clips in left_out.items() for clip in clips]
        if messages:
            missing = sum(clip.missing for clips in left_out.values() for clip in clips)
            clips = len(messages) + sum(len(one.keys) for records in found.values() for one in records)
            about = (f'{self.name}: {len(messages)} of {counted(clips, "clip")} cannot be used ({missing} missing, '
                     f'{len(messages) - missing} broken)')
            empty = [split for split, records in found.items() if not any(one.keys for one in records)]
            if empty:
                raise DataError(f'{about}, so none of split {empty[0]!r} is left:\n{headers.listing(messages)}\n'
                                f'{self.MANUAL_DOWNLOAD_INSTRUCTIONS}')
            if self._on_bad_audio == 'error':
                raise DataError(f'{about}:\n{headers.listing(messages)}\nmend them and start again to go on, or leave them '
                                f'out with --on-bad-audio=skip')
            logging.warning('%s; they are left out:\n%s', about, headers.listing(messages))
        files.write_text(Path(self.data_dir, LEFT_OUT), ''.join(
            f'{split}\t{"missing" if clip.missing else "broken"}\t{clip.key}\t{printable(clip.message)}\n'
            for split, clips in left_out.items() for clip in clips))

    def _put_together(self, found: Mapping[str, Sequence[tuple[Shard, Record]]]) -> list[tfds.core.SplitInfo]:
        """Indexes the shards that hold clips and moves them into the data set."""
        moves, infos = [], []
        for split, parts in found.items():
            parts = [(shard, record) for shard, record in parts if record.keys]
            template = self._get_filename_template(split_name=split)
            names = [os.path.basename(template.sharded_filepath(shard_index=i, num_shards=len(parts)))
                     for i in range(len(parts))]  # fmt: skip
            index.save(self.data_dir, split, {name: record for name, (_, record) in zip(names, parts, strict=True)})
            infos.append(tfds.core.SplitInfo(
                name=split, shard_lengths=[len(record.keys) for _, record in parts],
                num_bytes=sum(record.size for _, record in parts), filename_template=template))
            moves += [(shard.path, Path(self.data_dir, name)) for name, (shard, _) in zip(names, parts, strict=True)]
        for source, target in moves:  # after all that could fail
            os.replace(source, target)
        return infos

    def _post_download_and_prepare_hook(self) -> None:
        shutil.rmtree(self._unfinished, ignore_errors=True)

    @property
    def _root(self) -> Path:
        """The folder of all versions."""
        return Path(self.data_dir_root, self.name)

    @property
    def _unfinished(self) -> Path:
        """Where shards wait until all are there."""
        return self._root / f'{self.version}.unfinished'


def beam() -> Any:
    """Apache Beam, imported without its notes on what of it is not installed.

    Raises:
        DataError: It is not installed.
    """
    try:
        before = logging.root.manager.disable
        logging.disable(logging.WARNING)
        try:
            import apache_beam
        finally:
            logging.disable(before)
    except ImportError as error:
        raise DataError('preparing a data set takes Apache Beam, which is not installed: bash launch/install.sh prepare, or '
                        'pip install apache-beam') from error
    return apache_beam


def _is_text(key: str) -> bool:
    try:
        key.encode('utf-8', 'surrogateescape')
    except UnicodeEncodeError:
        return False
    return True


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Makes a folder, which no other process may lock meanwhile."""
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DataError(f'{folder}: another process is preparing this data set: wait until it is done') from error
        except OSError as error:  # file systems that cannot lock
            logging.warning('%s: cannot be locked (%s): let only one process prepare this data set', folder, error.strerror)
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                folder.rmdir()  # if nothing was written
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _quiet(name: str) -> Iterator[None]:
    """Keeps a logger from saying what is raised as well."""
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)


@contextlib.contextmanager
def _progress(folder: Path, total: int) -> Iterator[None]:
    """Says now and then how many shards are there, wherever they are written."""
    done, progress = threading.Event(), Progress()

    def watch() -> None:
        while not done.wait(1.0):
            progress.show(f'{len(list(folder.glob("*.json")))} of {counted(total, "shard")} written')

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()
        progress.clear()
