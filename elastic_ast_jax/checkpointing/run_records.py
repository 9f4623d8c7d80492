"""Define what a workdir records beside the config: meaning of the model, plan, and scores."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from elastic_ast_jax.audio.fbank import Fingerprint

__all__ = ['ModelMetadata', 'PlanRecord', 'RecordError', 'ScoreHistory']


class RecordError(ValueError):
    """Report a damaged entry of a record."""


@dataclasses.dataclass(frozen=True)
class ModelMetadata:
    """The meaning of the inputs and outputs of a model.

    Attributes:
        labels: The name of each class.
        frontend: The fingerprint of its features.
    """

    labels: tuple[str, ...]
    frontend: Fingerprint

    def to_json(self) -> dict[str, Any]:
        """Return the content of `model.json`."""
        frontend = {'spec': self.frontend.spec, 'golden': self.frontend.golden}
        return {'labels': self.labels, 'frontend': frontend}

    @classmethod
    def from_json(cls, labels: Any, frontend: Any) -> 'ModelMetadata':
        """Return the record of the entries of `model.json`.

        Raises:
            RecordError: An entry is damaged.
        """
        if not (
            isinstance(labels, list) and labels and all(isinstance(label, str) for label in labels)
        ):
            raise RecordError('labels must be a list of names')
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
            raise RecordError('the entry frontend is damaged')
        return cls(tuple(labels), Fingerprint(spec, tuple(golden)))


@dataclasses.dataclass(frozen=True)
class PlanRecord:
    """The plan of a run.

    Attributes:
        fingerprint: `data.epoch_plan.Planner.fingerprint` of the training split.
        epoch_rows: The rows of each epoch; they determine the learning-rate schedule.
        extended_after: The epochs after which the run was finished, and was extended by others.
    """

    fingerprint: str
    epoch_rows: tuple[int, ...]
    extended_after: tuple[int, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the content of `plan.json`."""
        values = {'fingerprint': self.fingerprint, 'epoch_rows': self.epoch_rows}
        return values | ({'extended_after': self.extended_after} if self.extended_after else {})

    @classmethod
    def from_json(cls, fingerprint: Any, rows: Any, extended_after: Any) -> 'PlanRecord':
        """Return the record of the entries of `plan.json`.

        Raises:
            RecordError: An entry is damaged.
        """
        valid_rows = (
            isinstance(rows, list)
            and rows
            and all(type(count) is int and 0 < count < 2**63 for count in rows)
        )
        for key, valid in (
            ('fingerprint', isinstance(fingerprint, str)),
            ('epoch_rows', valid_rows),
            ('extended_after', _is_ascending(extended_after)),
        ):
            if not valid:
                raise RecordError(f'the entry {key} is damaged')
        return cls(fingerprint, tuple(rows), tuple(extended_after))


@dataclasses.dataclass(frozen=True)
class ScoreHistory:
    """The scores of all evaluations of a run, also of checkpoints that were deleted.

    Attributes:
        scores: Step and score of each evaluation, by step; NaN if the score is undefined.
    """

    scores: tuple[tuple[int, float], ...] = ()

    def up_to(self, step: int) -> 'ScoreHistory':
        """Return the history until a step, with it."""
        return ScoreHistory(tuple(entry for entry in self.scores if entry[0] <= step))

    def add(self, step: int, score: float) -> 'ScoreHistory':
        """Return the history with a new last score, which replaces those from its step on."""
        return ScoreHistory((*self.up_to(step - 1).scores, (step, score)))

    def merge(self, scores: Mapping[int, float]) -> 'ScoreHistory':
        """Return the history with the scores of further steps."""
        return ScoreHistory(tuple(sorted((dict(scores) | dict(self.scores)).items())))

    def evaluations_without_improvement(self) -> int:
        """Return the number of last evaluations without a score above all earlier ones."""
        best, count = -math.inf, 0
        for _, score in self.scores:
            count = 0 if score > best else count + 1
            best = score if score > best else best
        return count

    def to_json(self) -> dict[str, Any]:
        """Return the content of `scores.json`."""
        return {
            'scores': [[step, None if math.isnan(score) else score] for step, score in self.scores]
        }

    @classmethod
    def from_json(cls, scores: Any) -> 'ScoreHistory':
        """Return the record of the entry of `scores.json`.

        Raises:
            RecordError: It is damaged.
        """
        if not (
            isinstance(scores, list)
            and all(isinstance(entry, list) and len(entry) == 2 for entry in scores)
            and _is_ascending([step for step, _ in scores])
            and all(type(score) in (int, float, type(None)) for _, score in scores)
        ):
            raise RecordError('the entry scores is damaged')
        return cls(
            tuple((step, math.nan if score is None else float(score)) for step, score in scores)
        )


def _is_ascending(counts: Any) -> bool:
    """Return whether a value is a list of ascending whole numbers from 1 on."""
    return isinstance(counts, list) and all(
        type(count) is int and count > before
        for before, count in zip([0, *counts], counts, strict=False)
    )
