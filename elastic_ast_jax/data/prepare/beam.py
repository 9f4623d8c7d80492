"""Running a pipeline of Apache Beam: its options, one process at a time, and how far it is."""

import contextlib
import difflib
import fcntl
import importlib
import io
import logging
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from elastic_ast_jax.data.sources.base import DataError
from elastic_ast_jax.utils import files
from elastic_ast_jax.utils.progress import Progress
from elastic_ast_jax.utils.text import pluralize

__all__ = ['import_beam', 'locked', 'make_pipeline', 'run_pipeline']


def import_beam() -> Any:
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
        raise DataError(
            'preparing a data set takes Apache Beam, which is not installed: bash launch/install.sh'
            ' prepare, or pip install apache-beam'
        ) from error
    return apache_beam


def make_pipeline(given: Sequence[str] = ()) -> Any:
    """An empty pipeline.

    Args:
        given: Options of Beam: `KEY=VALUE` or `KEY`; without `runner=...` it runs here.

    Raises:
        DataError: Beam is not installed, or not what the runner takes, does not know a key, or does
        not take a value.
    """
    import_beam()
    from apache_beam import Pipeline
    from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions
    from apache_beam.runners import create_runner
    from apache_beam.runners.portability.portable_runner import PortableRunner

    flags, said, parsers, runner, refused = (
        [f'--{option}' for option in given],
        io.StringIO(),
        [],
        None,
        None,
    )
    try:
        # argparse prints and exits, and does not say what the value was an option of.
        with (
            contextlib.redirect_stdout(said),
            contextlib.redirect_stderr(said),
            _quiet('apache_beam.options.pipeline_options'),
        ):
            options = PipelineOptions(flags)
            try:
                # Beam's own choice on this machine would first look for another runner in the
                # network.
                runner = create_runner(options.view_as(StandardOptions).runner or 'FnApiRunner')
            except (ValueError, AttributeError, ImportError) as error:
                refused = error
            known = options.get_all_options(
                add_extra_args_fn=parsers.append
            )  # of the runner too, now that it is imported
            unknown = parsers[0].parse_known_args(flags)[1]
    except SystemExit as error:
        reason = (
            said.getvalue().strip().rpartition('error: ')[2] if error.code else 'they ask for help'
        )
        raise DataError(
            f'Apache Beam does not take these options ({reason}): correct --beam'
        ) from error
    # Job services, which Flink and Spark have, tell their own options only when a pipeline is sent
    # to them.
    if unknown and not isinstance(runner, PortableRunner):
        key = unknown[0].removeprefix('--').partition('=')[0]
        near = difflib.get_close_matches(key, known, 1)
        raise DataError(
            f'Apache Beam has no option {key!r}{f"; the nearest is {near[0]!r}" if near else ""}:'
            f' correct --beam={unknown[0].removeprefix("--")}'
        )
    if runner:
        _check_client(runner)
        try:
            return Pipeline(runner=runner, options=options)
        except ValueError as error:  # a key that the runner needs is not there
            refused = error
    raise DataError(
        f'Apache Beam does not take these options ({" ".join(str(refused).split())}): correct'
        ' --beam'
    ) from refused


def _check_client(runner: Any) -> None:
    """Says that what Dataflow takes is not installed before Beam asks the network for a bucket."""
    if type(runner).__name__ != 'DataflowRunner':
        return
    try:
        importlib.import_module('apache_beam.runners.dataflow.internal.apiclient')
    except ImportError as error:
        raise DataError(
            'DataflowRunner takes what Apache Beam has for Google Cloud, which is not installed'
            f' ({error}): bash launch/install.sh dataflow, or pip install "apache-beam[gcp]"'
        ) from error


def run_pipeline(found: Any, transforms: Mapping[str, Any], folder: Path, total: int) -> None:
    """Runs transforms in a pipeline, and says how many records of shards there are meanwhile.

    What is written stays if it fails.

    Args:
        found: An empty pipeline.
        transforms: By their names.
        folder: Where the shards are written.
        total: How many there will be.

    Raises:
        files.WriteError: A worker cannot write its shard.
    """
    try:
        with _progress(folder, total), _quiet('apache_beam.runners.common'), found:
            for name, transform in transforms.items():
                found | name >> transform
    except Exception as error:
        if isinstance(error.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from None
        # Beam hands on what a worker raised as text, and where.
        said = next(
            (line for line in str(error).splitlines() if 'cannot be written (' in line), None
        )
        if said is None:
            raise
        said = said.rpartition('WriteError: ')[2]
        raise files.WriteError(
            f'{said.partition(" [while running")[0]}; what is done is kept'
        ) from error


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Makes a folder, which no other process may lock meanwhile.

    Raises:
        DataError: Another process has locked it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DataError(
                f'{folder}: another process is preparing this data set: wait until it is done'
            ) from error
        except OSError as error:  # file systems that cannot lock
            logging.warning(
                '%s: cannot be locked (%s): let only one process prepare this data set',
                folder,
                error.strerror,
            )
        yield
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
            progress.show(
                f'{len(list(folder.glob("*.json")))} of {pluralize(total, "shard")} written'
            )

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()
        progress.clear()
