"""Read and write a workdir: the results of a run, and all that evaluation and prediction need.

| path | content |
|---|---|
| `config.json` | the resolved configuration |
| `model.json` | names of the labels, and the fingerprint of the frontend of training |
| `plan.json` | the fingerprint of the plan, the rows of each epoch, and extensions of the run |
| `scores.json` | the score of every evaluation, with `train.patience` |
| `checkpoints/` | see `checkpoints` |
| `metrics.jsonl` | a line per logged step, evaluation and checkpoint; in a bucket `metrics/` |
| `tensorboard/` | the same as TensorBoard events |
| `eval/` | results of `elastic-ast evaluate` |
| `budgets.json` | the best token reduction of each budget, of `evaluate --sweep=budget` |
| `skipped.txt` | clips that could not be used, with `data.on_bad_audio='skip'` |
| `skipped.N.txt` | the same of process N |
| `starting_point.txt` | the weights that training started from, with `init.from` |
| `conversion.txt` | the destination of each tensor of a converted model |
| `unused.npz` | its tensors without one |
| `lock/` | which process trains in the workdir, see `run_lock`; in a bucket `lock.json` |
| `wandb.json`, `wandb/` | the id of the run at Weights & Biases, and its files |
"""

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from elastic_ast_jax.audio.fbank import Fingerprint
from elastic_ast_jax.audio.frontend import FrontendSpec
from elastic_ast_jax.checkpointing import workdir_files
from elastic_ast_jax.checkpointing.run_records import (
    ModelMetadata,
    PlanRecord,
    RecordError,
    ScoreHistory,
)
from elastic_ast_jax.checkpointing.workdir_files import COMPLETE, RESTORE, WorkdirError
from elastic_ast_jax.config import loading, stored
from elastic_ast_jax.config.schema import Config
from elastic_ast_jax.packing import token_budget
from elastic_ast_jax.packing.token_budget import TokenBudgets
from elastic_ast_jax.utils import bounded, files, gcs
from elastic_ast_jax.utils.gcs import BucketPath

__all__ = ['ModelMetadata', 'PlanRecord', 'Workdir', 'WorkdirError']

# Keys that may change when a run resumes: they locate data, weights and devices or control logging,
# and change no result. A run that a damaged recording stopped may resume without it.
_FREE_KEYS = {
    'init.from',
    'data.root',
    'data.train',
    'data.eval',
    'data.label_csv',
    'data.tfds_dir',
    'data.on_bad_audio',
    'data.num_workers',
    'train.log_every',
    'train.max_checkpoints',
    'train.save_every',
    'train.wandb',
    'train.profile_steps',
    'train.compare_baseline',
    'mesh.data',
    'mesh.fsdp',
    'mesh.tensor',
}
# Keys that `--extend` may change.
_EXTENDED_KEYS = ('train.epochs', 'train.patience')


class Workdir:
    """Paths of a workdir, and its small files."""

    def __init__(
        self,
        path: str | os.PathLike,
        process: int = 0,
        check_lock: Callable[[], None] = lambda: None,
    ):
        """Locate a local folder, or one in a bucket: `gs://BUCKET/FOLDER`.

        Of several processes the first, 0, writes. The others only check the same values.

        Args:
            path: The folder.
            process: The index of this process.
            check_lock: Called before each write: raises an error if this run may not write, see
                `run_lock.RunLock.check`.

        Raises:
            BucketPathError: See `files.as_path`.
        """
        self._writes = process == 0
        self.check_lock = check_lock
        self.path = files.as_path(path)
        # Objects in a bucket have conditions, so that one file is enough.
        self.lock = self.path / ('lock.json' if isinstance(self.path, BucketPath) else 'lock')
        self.checkpoints = self.path / 'checkpoints'
        self.metrics = self.path / 'metrics.jsonl'
        self.tensorboard = self.path / 'tensorboard'
        self.evaluations = self.path / 'eval'
        # Each process lists its own clips.
        self.skipped = self.path / (f'skipped.{process}.txt' if process else 'skipped.txt')
        self.starting_point = self.path / 'starting_point.txt'

    def has_checkpoint(self) -> bool:
        """Return whether the run has a checkpoint.

        Before the first one a new start may replace config, labels and plan.
        """
        self.check_inside(self.checkpoints)
        # In a bucket checkpoints have their names before they are complete.
        if isinstance(self.path, BucketPath):
            return any((entry / COMPLETE).exists() for entry in self._checkpoint_folders())
        return self.checkpoints.is_dir() and any(self._checkpoint_folders())

    def not_writable(self, error: OSError) -> WorkdirError:
        """Return the error of a workdir that cannot be written."""
        if workdir_files.leads_nowhere(self.path):
            return WorkdirError(
                f'{self.path}: is a link to {os.readlink(self.path)}, which does not exist: create'
                ' that folder, or remove the link'
            )
        failure = WorkdirError(
            f'{self.path}: cannot be written ({error.strerror}); choose another --workdir'
        )
        return cast(WorkdirError, gcs.with_exit_code(failure, self.path, error))

    def newest_step(self) -> int:
        """Return the step of the newest checkpoint of a run that has one."""
        return max(int(entry.name) for entry in self._checkpoint_folders())

    def _checkpoint_folders(self) -> Iterator[Path | BucketPath]:
        return (entry for entry in self.checkpoints.iterdir() if entry.name.isdecimal())

    def prepare(self, config: Config, *, extend: bool = False) -> None:
        """Create the workdir of a run, or check that it belongs to the same run.

        Args:
            config: The configuration of the run.
            extend: Whether the stored run may have another number of epochs and another patience;
                it keeps its config.

        Raises:
            WorkdirError: It cannot be written, holds other files, or belongs to a run with another
                config and a checkpoint; names the differing keys.
        """
        for place in (
            self.checkpoints,
            self.metrics,
            self.tensorboard,
            self.evaluations,
            self.skipped,
            self.starting_point,
        ):
            self.check_inside(place)
        if self._writes:
            self.check_lock()
            try:
                self.path.mkdir(parents=True, exist_ok=True)
                probe = self.path / '.writable'
                probe.touch()
                probe.unlink()
            except OSError as error:
                raise self.not_writable(error) from error
        file = self.path / 'config.json'
        if file.exists():
            self.check_config(config, free=_EXTENDED_KEYS if extend else ())
        elif not self._writes:
            raise WorkdirError(
                f'{self.path}: this process cannot see the config.json of the first one: --workdir'
                ' must be a folder that all processes share'
            )
        # A crash may leave files that begin with .config.
        elif any(
            not entry.name.startswith('.config.') and entry != self.lock
            for entry in self.path.iterdir()
        ):
            raise WorkdirError(
                f'{self.path}: holds other files and no config.json; choose a new or empty'
                ' --workdir'
            )
        if not extend:
            self.set_config(config)

    def check_present(self) -> None:
        """Check that the folder of a run is still where it was.

        Raises:
            WorkdirError: It was removed or renamed.
        """
        if isinstance(self.path, BucketPath):  # which cannot be renamed
            return
        try:
            (self.path / 'config.json').stat()
        except (FileNotFoundError, NotADirectoryError):
            raise WorkdirError(
                f'{self.path}: was removed or renamed during the training: move it back and give'
                ' the same command again; the steps since its last checkpoint are repeated'
            ) from None

    @contextlib.contextmanager
    def expect_present(self) -> Iterator[None]:
        """Report that the folder is gone instead of an error of this block that comes from it.

        Raises:
            WorkdirError: The block raises an error, and the folder is gone, see `check_present`.
        """
        try:
            yield
        except Exception as error:
            try:
                self.check_present()
            except WorkdirError as gone:
                raise gone from error
            raise

    def set_config(self, config: Config) -> None:
        """Store the config of the run."""
        self._write(self.path / 'config.json', stored.to_json(config))

    def check_config(
        self,
        config: Config,
        also: Collection[str] = (),
        advice: str = 'Use another --workdir',
        free: Collection[str] = (),
    ) -> None:
        """Check that a config is that of the stored run, if it has a checkpoint.

        Args:
            config: The config, with absolute paths.
            also: Keys to compare besides those that change results.
            advice: The advice in the message if they differ.
            free: Keys that are not compared, besides those that change no result.

        Raises:
            WorkdirError: The configs differ (names the keys), or the stored one cannot be read.
        """
        if not self.has_checkpoint():
            return
        new, old = config.flat(), self.config().flat()
        different = [
            key
            for key in new
            if new[key] != old[key] and key not in free and (key not in _FREE_KEYS or key in also)
        ]
        if different:
            lines = '\n'.join(
                f'  - {key}: {old[key]!r} stored, {new[key]!r} now' for key in different
            )
            advice = f'{advice}, or the same values{self._advice(different, new, old)}'
            if (self.path / 'conversion.txt').exists():
                advice = (
                    'It holds converted weights: train in another --workdir with'
                    f' --config.init.from={self.path}'
                )
            raise WorkdirError(
                f'{self.path}: belongs to a run with another config:\n{lines}\n{advice}'
            )

    def _advice(
        self, different: Collection[str], new: Mapping[str, Any], old: Mapping[str, Any]
    ) -> str:
        """Return a sentence about keys that `--extend` may change, or an empty text."""
        if different == ['train.epochs'] and new['train.epochs'] > old['train.epochs']:
            return (
                '. A finished run gets more epochs with elastic-ast train --extend. To start a'
                f' new run from its weights, head included, use --config.init.from={self.path}'
            )
        if different == ['train.patience']:
            return (
                '. A run that ended early continues with elastic-ast train --extend and a larger'
                ' train.patience, or 0'
            )
        return ''

    def config(self) -> Config:
        """Return the stored config.

        Raises:
            WorkdirError: It is missing or cannot be read.
        """
        values = workdir_files.read_object(self.path, 'config.json')
        try:
            return stored.from_json(values)
        except loading.ConfigError as error:
            raise WorkdirError(f'{self.path / "config.json"}: {error}') from error

    def model_metadata(self) -> ModelMetadata:
        """Return the stored labels and the fingerprint of the frontend.

        Raises:
            WorkdirError: They are missing or cannot be read.
        """
        file = self.path / 'model.json'
        values = workdir_files.read_object(self.path, file.name)
        labels, frontend = (
            workdir_files.entry(values, file, key) for key in ('labels', 'frontend')
        )
        try:
            return ModelMetadata.from_json(labels, frontend)
        except RecordError as error:
            raise WorkdirError(f'{file}: {error}; {RESTORE}') from error

    def set_model_metadata(self, metadata: ModelMetadata) -> None:
        """Store the metadata of a new run, or check them against the stored ones.

        Args:
            metadata: The metadata of this start.

        Raises:
            WorkdirError: The labels or the features differ from those of the run.
        """
        if self.has_checkpoint() and (self.path / 'model.json').exists():
            stored = self.model_metadata()
            if stored.labels != metadata.labels:
                missing = sorted(set(stored.labels) - set(metadata.labels))
                new = sorted(set(metadata.labels) - set(stored.labels))
                raise WorkdirError(
                    f'{self.path}: the training data have other labels than when this run began: '
                    f'missing {missing}, new {new}; use another --workdir'
                )
            self.check_frontend(metadata.frontend)
        self._write(self.path / 'model.json', json.dumps(metadata.to_json(), indent=2) + '\n')

    def check_frontend(self, fingerprint: Fingerprint) -> None:
        """Check that this version computes the features that the model was trained with.

        Args:
            fingerprint: The fingerprint of the current features.

        Raises:
            WorkdirError: It computes other features.
        """
        stored = self.model_metadata().frontend
        if not stored.matches(fingerprint):
            cause = 'the frontend section of config.json was changed: restore it'
            if stored.spec == fingerprint.spec:
                cause = (
                    'this version computes other features: use the version of'
                    ' elastic-ast-jax that trained it'
                )
            raise WorkdirError(
                f'{self.path}: the features are not those that this model was trained with, so its'
                f' results would be wrong; {cause} (fingerprint {fingerprint.spec}, trained with'
                f' {stored.spec})'
            )

    def plan(self) -> PlanRecord | None:
        """Return the plan of the run; None if none is stored.

        Raises:
            WorkdirError: It is damaged.
        """
        if not (self.path / 'plan.json').exists():
            return None
        file = self.path / 'plan.json'
        values = workdir_files.read_object(self.path, file.name)
        fingerprint, rows = (
            workdir_files.entry(values, file, key) for key in ('fingerprint', 'epoch_rows')
        )
        try:
            return PlanRecord.from_json(fingerprint, rows, values.get('extended_after', []))
        except RecordError as error:
            raise WorkdirError(f'{file}: {error}; {RESTORE} in another --workdir') from error

    def set_plan(self, plan: PlanRecord) -> None:
        """Store the plan of the run."""
        self._write(self.path / 'plan.json', json.dumps(plan.to_json()) + '\n')

    def score_history(self) -> ScoreHistory:
        """Return the scores of all evaluations; none are stored without `train.patience`.

        Raises:
            WorkdirError: They are damaged.
        """
        file = self.path / 'scores.json'
        if not file.exists():
            return ScoreHistory()
        scores = workdir_files.entry(
            workdir_files.read_object(self.path, file.name), file, 'scores'
        )
        try:
            return ScoreHistory.from_json(scores)
        except RecordError as error:
            raise WorkdirError(f'{file}: {error}; {RESTORE} in another --workdir') from error

    def set_score_history(self, history: ScoreHistory) -> None:
        """Store the scores of all evaluations."""
        self._write(self.path / 'scores.json', json.dumps(history.to_json()) + '\n')

    def add_skipped(self, messages: Iterable[str]) -> None:
        """Add messages to the list of skipped clips, each once.

        A run that resumes does not meet every clip again, so the list keeps its earlier lines.
        """
        lines = [message.replace('\n', ' ') for message in messages]
        if not lines:
            return
        before = []
        self.check_inside(self.skipped)
        if self.skipped.exists():
            before = self.skipped.read_text(encoding='utf-8').splitlines()
        lines = dict.fromkeys([*before, *lines])
        self.check_lock()
        self.skipped.write_text(''.join(f'{line}\n' for line in lines), encoding='utf-8')

    def budgets(self, frontend: FrontendSpec) -> TokenBudgets:
        """Return the best token reduction of each budget that was measured.

        Args:
            frontend: The frontend of the model.

        Raises:
            WorkdirError: No budget was measured, or the file cannot be read or does not fit the
                frontend.
        """
        file = self.path / 'budgets.json'
        measure = f'elastic-ast evaluate --workdir={self.path} --sweep=budget'
        if self.path.is_dir() and not file.exists():
            raise WorkdirError(
                f'{self.path}: no token budget was measured with this model: run {measure}'
            )
        advice = f'measure again with {measure}'
        try:
            budgets = token_budget.from_json(
                workdir_files.read_object(self.path, 'budgets.json', advice)
            )
            for measurement in budgets.measurements:
                token_budget.check_reduction(measurement.reduction, frontend)
        except ValueError as error:
            if isinstance(error, WorkdirError):
                raise
            raise WorkdirError(f'{file}: {error}; {advice}') from error
        return budgets

    def set_budgets(self, budgets: TokenBudgets) -> tuple[Path | BucketPath, bool]:
        """Store measured token budgets.

        Returns:
            The file, and whether it replaced an earlier one.
        """
        file = self.path / 'budgets.json'
        replaced = file.exists()
        self._write(file, json.dumps(budgets.to_json(), indent=2) + '\n')
        return file, replaced

    def wandb_id(self) -> str:
        """Return the id of this run at Weights & Biases, stored on first use.

        It is a hash of the path and the time.

        Raises:
            WorkdirError: It cannot be read.
        """
        if not (self.path / 'wandb.json').exists():
            new_id = hashlib.sha256(f'{self.path} {time.time_ns()}'.encode()).hexdigest()[:16]
            self._write(self.path / 'wandb.json', json.dumps({'id': new_id}) + '\n')
        values = workdir_files.read_object(self.path, 'wandb.json')
        return str(workdir_files.entry(values, self.path / 'wandb.json', 'id'))

    def read_json(self, file: Path | BucketPath) -> Any:
        """Return the value of a JSON file in the workdir, such as a result of evaluation.

        Raises:
            OSError: It is missing or unreadable, too large, no regular file, or a link out of the
                workdir.
            ValueError: It is no JSON, or nested too deep.
        """
        return bounded.parse_json(workdir_files.read_text(self.path, file))

    def check_inside(self, path: Path | BucketPath) -> None:
        """Check that no link leads from a path of the workdir to another place.

        Raises:
            WorkdirError: It leads elsewhere.
        """
        try:
            bounded.check_inside(path, self.path)
        except OSError as error:
            raise WorkdirError(f'{path}: {error.strerror}') from error

    def _write(self, file: Path | BucketPath, text: str) -> None:
        if self._writes:
            self.check_lock()
            self.check_inside(file.parent)
            files.write_text(file, text)
