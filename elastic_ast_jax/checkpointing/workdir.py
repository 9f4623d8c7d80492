"""A workdir: what a run leaves behind, and all that evaluation and prediction need.

config.json        the resolved configuration model.json         label names, and the fingerprint of
the frontend that the model was trained with plan.json          fingerprint of the plan, and the
rows of each epoch checkpoints/       see `checkpoints` metrics.jsonl      a line per logged step
and per evaluation; tensorboard/ has the same. In a bucket: metrics/, see
                   `metrics_file`
eval/              results of `elastic-ast evaluate` budgets.json       the best reduction of each
token budget, of `elastic-ast evaluate --sweep=budget` skipped.txt        clips that could not be
used, where `data.on_bad_audio='skip'`; skipped.N.txt of further processes starting_point.txt what
training started from, with `init.from` conversion.txt     where the tensors of a converted model
went, and unused.npz those that it has no use for wandb.json         id of the run at Weights &
Biases, if `train.wandb` is set; wandb/ has its files
"""

import dataclasses
import difflib
import hashlib
import json
import os
import time
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from elastic_ast_jax.audio.fbank import Fingerprint
from elastic_ast_jax.audio.frontend import FrontendSpec
from elastic_ast_jax.config import loading, stored
from elastic_ast_jax.config.schema import Config
from elastic_ast_jax.packing import token_budget
from elastic_ast_jax.packing.token_budget import TokenBudgets
from elastic_ast_jax.utils import files, gcs
from elastic_ast_jax.utils.errors import UserError
from elastic_ast_jax.utils.gcs import BucketPath

# Keys that change where data, weights and devices lie or how a run is watched, not what it
# computes. A run that a damaged recording stopped may go on without it.
_FREE = {
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
    'mesh.data',
    'mesh.fsdp',
    'mesh.tensor',
}


# What Orbax writes last into a checkpoint in a bucket.
_COMPLETE = 'commit_success.txt'
# What helps where a file of a run is damaged.
_RESTORE = 'restore it or train again'


class WorkdirError(UserError):
    """A workdir that cannot be used; names the path, what is wrong and what to do."""


@dataclasses.dataclass(frozen=True)
class ModelMetadata:
    """What a model's numbers mean.

    Attributes:
        labels: Name of each class.
        frontend: What the frontend computes.
    """

    labels: tuple[str, ...]
    frontend: Fingerprint


@dataclasses.dataclass(frozen=True)
class PlanRecord:
    """The plan a run follows.

    Attributes:
        fingerprint: `data.epoch_plan.Planner.fingerprint` of the training split.
        epoch_rows: Rows of each epoch, which the schedule of the learning rate needs.
    """

    fingerprint: str
    epoch_rows: tuple[int, ...]


class Workdir:
    """Paths of a workdir, and its small files."""

    def __init__(self, path: str | os.PathLike, process: int = 0):
        """A local folder, or one in a bucket: `gs://BUCKET/FOLDER`.

        Of several processes the first, 0, writes; for the others, what would be written is only
        checked.

        Raises:
            BucketPathError: As `files.as_path`.
        """
        self._writes = process == 0
        self.path = files.as_path(path)
        self.checkpoints = self.path / 'checkpoints'
        self.metrics = self.path / 'metrics.jsonl'
        self.tensorboard = self.path / 'tensorboard'
        self.evaluations = self.path / 'eval'
        self.skipped = self.path / (
            f'skipped.{process}.txt' if process else 'skipped.txt'
        )  # each process its own clips
        self.starting_point = self.path / 'starting_point.txt'

    def has_checkpoint(self) -> bool:
        """Whether a checkpoint is there.

        Before that, config, labels and plan are those of the last start.
        """
        if isinstance(
            self.path, BucketPath
        ):  # where they have their names before they are complete
            return any(
                (entry / _COMPLETE).exists()
                for entry in self.checkpoints.iterdir()
                if entry.name.isdecimal()
            )
        return self.checkpoints.is_dir() and any(
            entry.name.isdecimal() for entry in self.checkpoints.iterdir()
        )

    def prepare(self, config: Config) -> None:
        """Makes the workdir for a run with this config, or checks that it belongs to one.

        Raises:
            WorkdirError: It cannot be written, holds other files, or belongs to a run with another
                config that has begun; names the differing keys.
        """
        if self._writes:
            try:
                self.path.mkdir(parents=True, exist_ok=True)
                probe = self.path / '.writable'
                probe.touch()
                probe.unlink()
            except OSError as error:
                made = WorkdirError(
                    f'{self.path}: cannot be written ({error.strerror}); choose another --workdir'
                )
                raise gcs.with_exit_code(made, self.path, error) from error
        file = self.path / 'config.json'
        if file.exists():
            self.check_config(config)
        elif not self._writes:
            raise WorkdirError(
                f'{self.path}: the first process wrote no config.json that this one sees: --workdir'
                ' must be a folder that all processes share'
            )
        elif any(
            not entry.name.startswith('.config.') for entry in self.path.iterdir()
        ):  # a crash may leave that
            raise WorkdirError(
                f'{self.path}: holds other files and no config.json; choose a new or empty'
                ' --workdir'
            )
        self._write(file, stored.to_json(config))

    def check_config(
        self, config: Config, also: Collection[str] = (), advice: str = 'Use another --workdir'
    ) -> None:
        """Checks that a run that has begun here, if there is one, has this config.

        Args:
            config: With absolute paths.
            also: Keys that a run may change when it goes on, and that must be the same
            nevertheless.
            advice: What to do if it has another one; or use the same values.

        Raises:
            WorkdirError: It has another one, whose differing keys are named, or one that cannot be
            read.
        """
        if not self.has_checkpoint():
            return
        new, old = config.flat(), self.config().flat()
        different = [
            key for key in new if new[key] != old[key] and (key not in _FREE or key in also)
        ]
        if different:
            lines = '\n'.join(
                f'  - {key}: {old[key]!r} there, {new[key]!r} now' for key in different
            )
            advice = f'{advice}, or the same values'
            if (self.path / 'conversion.txt').exists():
                advice = (
                    'It holds converted weights: train in another --workdir with'
                    f' --config.init.from={self.path}'
                )
            raise WorkdirError(
                f'{self.path}: belongs to a run with another config:\n{lines}\n{advice}'
            )

    def config(self) -> Config:
        """The stored config.

        Raises:
            WorkdirError: There is none, or it cannot be read.
        """
        values = self._read('config.json')
        try:
            return stored.from_json(values)
        except loading.ConfigError as error:
            raise WorkdirError(f'{self.path / "config.json"}: {error}') from error

    def model_metadata(self) -> ModelMetadata:
        """Labels and frontend fingerprint.

        Raises:
            WorkdirError: As `config`.
        """
        values = self._read('model.json')
        labels, frontend = (
            self._entry(values, 'model.json', key) for key in ('labels', 'frontend')
        )
        if not (
            isinstance(labels, list) and labels and all(isinstance(label, str) for label in labels)
        ):
            raise WorkdirError(
                f'{self.path / "model.json"}: labels must be a list of names; restore it or train'
                ' again'
            )
        spec, golden = (
            (frontend.get(key) for key in ('spec', 'golden'))
            if isinstance(frontend, dict)
            else (None, None)
        )
        if not (
            isinstance(spec, str)
            and isinstance(golden, list)
            and all(isinstance(x, float) for x in golden)
        ):
            raise WorkdirError(
                f'{self.path / "model.json"}: the entry frontend is damaged; restore it or train'
                ' again'
            )
        return ModelMetadata(tuple(labels), Fingerprint(spec, tuple(golden)))

    def set_model_metadata(self, metadata: ModelMetadata) -> None:
        """Stores the contract, or checks that it is the stored one.

        Raises:
            WorkdirError: The data have other labels, or the frontend computes something else, than
            when the run began.
        """
        if self.has_checkpoint() and (self.path / 'model.json').exists():
            stored = self.model_metadata()
            if stored.labels != metadata.labels:
                gone = sorted(set(stored.labels) - set(metadata.labels))
                new = sorted(set(metadata.labels) - set(stored.labels))
                raise WorkdirError(
                    f'{self.path}: the training data have other labels than when this run began: '
                    f'missing {gone}, new {new}; use another --workdir'
                )
            self.check_frontend(metadata.frontend)
        frontend = {'spec': metadata.frontend.spec, 'golden': metadata.frontend.golden}
        values = {'labels': metadata.labels, 'frontend': frontend}
        self._write(self.path / 'model.json', json.dumps(values, indent=2) + '\n')

    def check_frontend(self, fingerprint: Fingerprint) -> None:
        """Checks that this code computes the features that the model was trained with.

        Raises:
            WorkdirError: It does not.
        """
        stored = self.model_metadata().frontend
        if not stored.matches(fingerprint):
            what = 'the frontend section of config.json was changed: restore it'
            if stored.spec == fingerprint.spec:
                what = (
                    'this version computes the features otherwise: use the version of'
                    ' elastic-ast-jax that trained it'
                )
            raise WorkdirError(
                f'{self.path}: the features are not those that this model was trained with, so its'
                f' results would be wrong; {what} (fingerprint {fingerprint.spec}, trained with'
                f' {stored.spec})'
            )

    def plan(self) -> PlanRecord | None:
        """The plan of the run, if one is stored."""
        if not (self.path / 'plan.json').exists():
            return None
        values = self._read('plan.json')
        fingerprint, rows = (
            self._entry(values, 'plan.json', key) for key in ('fingerprint', 'epoch_rows')
        )
        counts = (
            isinstance(rows, list)
            and rows
            and all(type(count) is int and count > 0 for count in rows)
        )
        for key, good in (('fingerprint', isinstance(fingerprint, str)), ('epoch_rows', counts)):
            if not good:
                raise WorkdirError(
                    f'{self.path / "plan.json"}: the entry {key} is damaged; restore it or train'
                    ' again in another --workdir'
                )
        return PlanRecord(fingerprint, tuple(rows))

    def set_plan(self, plan: PlanRecord) -> None:
        values = {'fingerprint': plan.fingerprint, 'epoch_rows': plan.epoch_rows}
        self._write(self.path / 'plan.json', json.dumps(values) + '\n')

    def add_skipped(self, messages: Iterable[str]) -> None:
        """Add messages to the list of skipped clips, each once.

        A run that resumes does not meet every clip again, so the list keeps its earlier lines.
        """
        lines = [message.replace('\n', ' ') for message in messages]
        if not lines:
            return
        before = []
        if self.skipped.exists():
            before = self.skipped.read_text(encoding='utf-8').splitlines()
        lines = dict.fromkeys([*before, *lines])
        self.skipped.write_text(''.join(f'{line}\n' for line in lines), encoding='utf-8')

    def budgets(self, frontend: FrontendSpec) -> TokenBudgets:
        """Return the best reduction of each measured token budget, for a model with this frontend.

        Raises:
            WorkdirError: None was, or what is stored cannot be read or is nothing that such a model
            can do.
        """
        file = self.path / 'budgets.json'
        measure = f'elastic-ast evaluate --workdir={self.path} --sweep=budget'
        if self.path.is_dir() and not file.exists():
            raise WorkdirError(
                f'{self.path}: no token budget was measured with this model: run {measure}'
            )
        advice = f'measure again with {measure}'
        try:
            found = token_budget.from_json(self._read('budgets.json', advice))
            for one in found.measurements:
                token_budget.check_reduction(one.reduction, frontend)
        except ValueError as error:
            if isinstance(error, WorkdirError):
                raise
            raise WorkdirError(f'{file}: {error}; {advice}') from error
        return found

    def set_budgets(self, budgets: TokenBudgets) -> tuple[Path | BucketPath, bool]:
        """Stores what was measured of token budgets;

        gives back the file, and whether one was written over.
        """
        file = self.path / 'budgets.json'
        before = file.exists()
        self._write(file, json.dumps(budgets.to_json(), indent=2) + '\n')
        return file, before

    def wandb_id(self) -> str:
        """The id of this run at Weights & Biases: made once of the path and the time, then stored.

        Raises:
            WorkdirError: It cannot be read.
        """
        if not (self.path / 'wandb.json').exists():
            made = hashlib.sha256(f'{self.path} {time.time_ns()}'.encode()).hexdigest()[:16]
            self._write(self.path / 'wandb.json', json.dumps({'id': made}) + '\n')
        return str(self._entry(self._read('wandb.json'), 'wandb.json', 'id'))

    def _write(self, file: Path | BucketPath, text: str) -> None:
        if self._writes:
            files.write_text(file, text)

    def _read(self, name: str, advice: str = _RESTORE) -> dict[str, Any]:
        file = self.path / name
        try:
            if not self.path.is_dir():
                near = difflib.get_close_matches(self.path.name, _siblings(self.path), 1)
                hint = f'; did you mean {self.path.parent / near[0]}?' if near else ''
                raise WorkdirError(f'{self.path}: there is no such workdir{hint}')
            data = file.read_bytes()
        except FileNotFoundError:
            raise WorkdirError(
                f'{self.path}: is no workdir of `elastic-ast train`, or its training never began:'
                f' {name} is missing'
            ) from None
        except OSError as error:
            made = WorkdirError(
                f'{file}: cannot be read ({error.strerror or error}); make it readable, or train'
                ' again'
            )
            raise gcs.with_exit_code(made, file, error) from error
        try:
            values = json.loads(data.decode('utf-8'))
        except ValueError as error:
            raise WorkdirError(f'{file}: cannot be read ({error}); {advice}') from error
        if not isinstance(values, dict):
            raise WorkdirError(f'{file}: must hold a JSON object; {advice}')
        return values

    def _entry(self, values: dict[str, Any], name: str, key: str) -> Any:
        if key not in values:
            raise WorkdirError(f'{self.path / name}: has no entry {key!r}; {_RESTORE}')
        return values[key]


def _siblings(path: Path | BucketPath) -> list[str]:
    if isinstance(path, BucketPath):  # to ask of each whether it is a folder would take long
        return [entry.name for entry in path.parent.iterdir()]
    return (
        [entry.name for entry in path.parent.iterdir() if entry.is_dir()]
        if path.parent.is_dir()
        else []
    )
