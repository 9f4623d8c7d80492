"""Run a pipeline of Apache Beam: its options, one process at a time, and its progress."""

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
    """Import Apache Beam without its notes on missing extras.

    Raises:
        DataError: Apache Beam is not installed.
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
            'preparing a data set needs Apache Beam, which is not installed: bash launch/install.sh'
            ' prepare, or pip install apache-beam'
        ) from error
    return apache_beam


def make_pipeline(options: Sequence[str] = ()) -> Any:
    """Return an empty pipeline.

    Args:
        options: Options of Beam, `KEY=VALUE` or `KEY`. Default runner: this process.

    Raises:
        DataError: Beam or a package of its runner is not installed, a key is unknown, or a value is
            refused.
    """
    import_beam()
    from apache_beam import Pipeline
    from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions
    from apache_beam.runners.portability.portable_runner import PortableRunner
    from apache_beam.runners.runner import create_runner

    flags = [f'--{option}' for option in options]
    output, parsers = io.StringIO(), []
    runner, refusal = None, None
    try:
        # argparse prints and exits, and does not name the option of a wrong value.
        with (
            contextlib.redirect_stdout(output),
            contextlib.redirect_stderr(output),
            _quiet('apache_beam.options.pipeline_options'),
        ):
            pipeline_options = PipelineOptions(flags)
            try:
                # The default runner of Beam first looks for another one in the network.
                name = pipeline_options.view_as(StandardOptions).runner or 'FnApiRunner'
                runner = create_runner(name)
            except (ValueError, AttributeError, ImportError) as error:
                refusal = error
            # With the options of the runner, now that it is imported.
            valid = pipeline_options.get_all_options(add_extra_args_fn=parsers.append)
            unknown = parsers[0].parse_known_args(flags)[1]
    except SystemExit as error:
        message = output.getvalue().strip().rpartition('error: ')[2]
        reason = message if error.code else 'they ask for help'
        raise DataError(
            f'Apache Beam does not take these options ({reason}): correct --beam'
        ) from error
    # Job services, such as those of Flink and Spark, report their options only for a pipeline.
    if unknown and not isinstance(runner, PortableRunner):
        raise DataError(_unknown_option(unknown[0].removeprefix('--'), list(valid)))
    if runner:
        _check_client(runner)
        try:
            return Pipeline(runner=runner, options=pipeline_options)
        except ValueError as error:  # a key that the runner needs is missing
            refusal = error
    raise DataError(
        f'Apache Beam does not take these options ({" ".join(str(refusal).split())}): correct'
        ' --beam'
    ) from refusal


def _unknown_option(option: str, valid: list[str]) -> str:
    key = option.partition('=')[0]
    nearest = difflib.get_close_matches(key, valid, 1)
    hint = f'; the nearest is {nearest[0]!r}' if nearest else ''
    return f'Apache Beam has no option {key!r}{hint}: correct --beam={option}'


def _check_client(runner: Any) -> None:
    """Refuse Dataflow without its packages before Beam asks the network for a bucket."""
    if type(runner).__name__ != 'DataflowRunner':
        return
    try:
        importlib.import_module('apache_beam.runners.dataflow.internal.apiclient')
    except ImportError as error:
        raise DataError(
            'DataflowRunner needs the Google Cloud extra of Apache Beam, which is not installed'
            f' ({error}): bash launch/install.sh dataflow, or pip install "apache-beam[gcp]"'
        ) from error


def run_pipeline(pipeline: Any, transforms: Mapping[str, Any], folder: Path, total: int) -> None:
    """Run transforms in a pipeline, and show how many shards are written.

    Shards that are written stay if it fails.

    Args:
        pipeline: An empty pipeline.
        transforms: Transforms by their names.
        folder: Folder of the shards.
        total: Number of shards that the pipeline writes.

    Raises:
        files.WriteError: A worker cannot write its shard.
    """
    try:
        with _progress(folder, total), _quiet('apache_beam.runners.common'), pipeline:
            for name, transform in transforms.items():
                _ = pipeline | name >> transform
    except Exception as error:
        if isinstance(error.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from None
        # Beam passes on the error of a worker as text, with its place.
        lines = str(error).splitlines()
        message = next((line for line in lines if 'cannot be written (' in line), None)
        if message is None:
            raise
        message = message.rpartition('WriteError: ')[2].partition(' [while running')[0]
        raise files.WriteError(f'{message}; finished shards are kept') from error


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Create a folder and lock it against other processes.

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
    """Silence a logger that repeats what is raised."""
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)


@contextlib.contextmanager
def _progress(folder: Path, total: int) -> Iterator[None]:
    """Show every second how many shards are in the folder, whoever writes them."""
    is_finished, progress = threading.Event(), Progress()

    def watch() -> None:
        while not is_finished.wait(1.0):
            progress.show(
                f'{len(list(folder.glob("*.json")))} of {pluralize(total, "shard")} written'
            )

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        is_finished.set()
        watcher.join()
        progress.clear()
