"""The evaluation split, planned and evaluated: every clip counts once, whatever its length."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Bool, Float32, Float64, Int64

from elastic_ast_jax.config.schema import Config
from elastic_ast_jax.data import pipeline, splits
from elastic_ast_jax.data.epoch_plan import Planner, Schedule
from elastic_ast_jax.data.sources.base import DataError, Source, targets
from elastic_ast_jax.data.sources.windowed import WindowSource
from elastic_ast_jax.distributed import processes, sharding
from elastic_ast_jax.models import factory
from elastic_ast_jax.packing.token_budget import TokenReduction
from elastic_ast_jax.training.metrics import Metrics, compute_metrics


@dataclasses.dataclass(frozen=True)
class EvalSetting:
    """Describe how the split is evaluated: frame shift, cropping and windows.

    Attributes:
        parts: What is packed: the split's clips, or windows of those that are too long.
        owner: The clip of the split that each part belongs to.
        planner, schedule: The plan of the parts.
        cropped: Whether only a part of each clip is used: its beginning, or with a reduction some
            of its tokens.
        windowed: Whether a clip is cut into windows.
        tokens: Of each part, as the model gets it.
        seconds: Of each clip that are listened to; what windows share is counted twice, but no more
        than the clip has.
    """

    parts: Source
    owner: Int64[np.ndarray, 'parts']
    planner: Planner
    schedule: Schedule
    cropped: Bool[np.ndarray, 'N']
    windowed: Bool[np.ndarray, 'N']
    tokens: Int64[np.ndarray, 'parts']
    seconds: Float64[np.ndarray, 'N']


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What parameters are worth on a split.

    Attributes:
        metrics: Over the clips that could be read.
        cropped: How many of them were cut, and only a part of them used.
        windowed: How many of them were cut into windows, whose logits were averaged.
        skipped: A message for each clip that is left out (`data.on_bad_audio='skip'`): those that
            could not be opened, then those that could not be decoded.
        tokens, seconds: Means over these clips: what the model got of a clip, and how much of it
        was listened to.
    """

    metrics: Metrics
    cropped: int
    windowed: int
    skipped: tuple[str, ...]
    tokens: float = math.nan
    seconds: float = math.nan


class Evaluator:
    """The evaluation split, opened once; evaluates parameters as often as asked, with one
    compilation.

    Attributes:
        source, targets: The split's clips and their classes.
    """

    def __init__(
        self,
        config: Config,
        labels: Sequence[str],
        step: Callable,
        mesh: Mesh,
        source: Source | None = None,
    ):
        """Opens and plans the split.

        Args:
            config: Of the run.
            labels: Name of each class.
            step: A compiled `eval_step`, see `sharding.jit_eval_step`.
            mesh: Where it runs.
            source: The split, if it is open already.

        Raises:
            DataError: A label that training does not have, or anything else wrong with the data.
            PlanError: A clip that does not fit.
        """
        self.source: Source = splits.open_source(config, 'eval') if source is None else source
        self.targets = targets(self.source, labels, 'evaluation')
        self._config, self._labels, self._step, self._mesh = config, tuple(labels), step, mesh
        self._rows = sharding.local_rows(config.packing.rows, mesh)
        self._shape = factory.batch_shape(config, len(labels), len(self._rows))
        self._undecodable: dict[int, str] = {}
        self._whole = self.setting()

    @property
    def cropped(self) -> int:
        """Clips of which only the first `frontend.max_frames` frames are evaluated
        (`data.too_long='crop'`).
        """
        return int(self._whole.cropped.sum())

    @property
    def windowed(self) -> int:
        """Clips that are evaluated in several windows (`data.too_long='window'`)."""
        return int(self._whole.windowed.sum())

    @property
    def skipped(self) -> tuple[str, ...]:
        """A message for each clip left out so far; see `Evaluation`."""
        return (
            *self.source.skipped,
            *(message for _, message in sorted(self._undecodable.items())),
        )

    def setting(
        self, ratio: float = 1.0, max_frames: int = 0, reduction: TokenReduction | None = None
    ) -> EvalSetting:
        """Plans the split.

        Args:
            ratio: Frame-shift ratio of every clip.
            max_frames: Clips are cut to their first `max_frames` frames, and none into windows; 0:
            no clip is cut.
            reduction: Brings each clip, or window, under a number of tokens, at its own ratio
            instead of `ratio`.

        Raises:
            PlanError: A clip that does not fit; with `data.too_long='error'` only, and without
            `max_frames`.
        """
        config, frontend = self._config, self._config.frontend
        ratio = reduction.ratio if reduction else ratio
        shift = frontend.shift(ratio)
        parts, planner = splits.make_eval_planner(config, self.source, ratio, max_frames, reduction)
        owner = parts.owner if isinstance(parts, WindowSource) else np.arange(len(self.source.keys))
        frames = frontend.frames(self.source.samples, shift)
        if max_frames:
            cut = frames > min(max_frames, frontend.max_frames)
        else:
            cut = frontend.too_long(frames) & (config.data.too_long == 'crop')
        if reduction:
            cut = cut | (
                np.bincount(
                    owner, frontend.tokens(frontend.frames(parts.samples, shift)) > reduction.tokens
                )
                > 0
            )
        schedule = splits.make_schedule(planner, config.packing.rows, epochs=1)
        clips = planner.epoch(0).clips  # in the order of the parts
        used = np.minimum(np.bincount(owner, clips.samples), self.source.samples)
        return EvalSetting(
            parts,
            owner,
            planner,
            schedule,
            cut,
            np.bincount(owner) > 1,
            clips.tokens,
            used / frontend.sample_rate,
        )

    def evaluate(self, params: Any, setting: EvalSetting | None = None) -> Evaluation:
        """Metrics of a setting; without one, of whole clips.

        Raises:
            DataError: No clip can be decoded.
        """
        setting = setting or self._whole
        return self._evaluation(setting, *self._decoded(params, setting))

    def evaluate_in_halves(
        self, params: Any, setting: EvalSetting
    ) -> tuple[Evaluation, list[Metrics | None]]:
        """As `evaluate`, and the metrics of every second clip from the first on, and of the others;
        None without any.

        Raises:
            DataError: No clip can be decoded.
        """
        scores, left = self._decoded(params, setting)
        halves = [left[left % 2 == half] for half in (0, 1)]
        return self._evaluation(setting, scores, left), [
            self._metrics(scores, half) if len(half) else None for half in halves
        ]

    def metrics(self, params: Any) -> Metrics:
        """Of whole clips; `evaluate` without the rest."""
        return self.evaluate(params).metrics

    def logits(self, params: Any, setting: EvalSetting | None = None) -> Float32[np.ndarray, 'N C']:
        """Return the logits of a setting, by default of whole clips.

        A clip that cannot be decoded has NaN.
        """
        return self._logits(params, setting or self._whole)[0]

    def _decoded(
        self, params: Any, setting: EvalSetting
    ) -> tuple[Float32[np.ndarray, 'N C'], Int64[np.ndarray, 'left']]:
        """Logits of every clip, and the clips that could be decoded.

        Raises:
            DataError: None could.
        """
        scores, lost = self._logits(params, setting)
        self._undecodable |= lost
        left = np.setdiff1d(np.arange(len(self.targets)), list(lost))
        if not len(left):
            raise DataError(
                f'no clip of the evaluation split can be decoded; the first: {lost[min(lost)]}'
            )
        return scores, left

    def _evaluation(
        self,
        setting: EvalSetting,
        scores: Float32[np.ndarray, 'N C'],
        left: Int64[np.ndarray, 'left'],
    ) -> Evaluation:
        tokens = np.bincount(setting.owner, setting.tokens)
        return Evaluation(
            self._metrics(scores, left),
            int(setting.cropped[left].sum()),
            int(setting.windowed[left].sum()),
            self.skipped,
            float(tokens[left].mean()),
            float(setting.seconds[left].mean()),
        )

    def _metrics(
        self, scores: Float32[np.ndarray, 'N C'], clips: Int64[np.ndarray, 'some']
    ) -> Metrics:
        return compute_metrics(scores[clips], [self.targets[clip] for clip in clips], self._labels)

    def _logits(
        self, params: Any, setting: EvalSetting
    ) -> tuple[Float32[np.ndarray, 'N C'], dict[int, str]]:
        """Logits of every clip, and messages for those that cannot be decoded.

        A clip of several windows has the mean of their logits, weighted by their lengths.

        Raises:
            RuntimeError: A part came out other than exactly once, which the plan rules out.
        """
        reader = pipeline.RowReader(
            setting.parts,
            [self.targets[clip] for clip in setting.owner],
            setting.planner,
            setting.schedule,
            self._shape,
            self._rows.start,
            self._config.data.on_bad_audio,
        )
        logits_of_part = np.zeros((len(setting.owner), len(self._labels)), np.float32)
        times = np.zeros(len(setting.owner), np.int64)
        for batch in pipeline.iterate_batches(
            reader, 0, setting.schedule.steps, self._config.data.num_workers or None
        ):
            evaluated = self._step(params, sharding.shard_batch(batch, self._mesh))
            valid = np.asarray(evaluated.valid)
            found = np.asarray(evaluated.clip_id)[valid]
            logits_of_part[found] = np.asarray(evaluated.logits)[valid]
            np.add.at(times, found, 1)
        if isinstance(setting.parts, WindowSource):
            setting.parts.release()
        # Of those that cannot be read each process knows its own, and processes that share rows the
        # same.
        skipped = {
            int(part): message
            for own in processes.all_gather(reader.skipped)
            for part, message in own.items()
        }
        np.add.at(times, list(skipped), 1)
        if not (times == 1).all():
            raise RuntimeError(
                f'{(times != 1).sum()} of {len(times)} clips were not evaluated exactly once'
            )
        lengths = setting.parts.samples.astype(np.float64)
        sums = np.zeros((len(self.targets), len(self._labels)))
        np.add.at(sums, setting.owner, logits_of_part * lengths[:, None])
        scores = (sums / np.bincount(setting.owner, lengths)[:, None]).astype(np.float32)
        lost = {
            int(setting.owner[part]): message
            for part, message in sorted(skipped.items(), reverse=True)
        }
        scores[list(lost)] = np.nan
        return scores, lost


def selection_score(config: Config, metrics: Metrics) -> float:
    """What the best checkpoint is best in."""
    return getattr(metrics, config.train.selection_metric())
