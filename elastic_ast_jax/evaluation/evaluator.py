"""Evaluate a model on a split: every clip counts once, whatever its length."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Bool, Float32, Float64, Int64

from elastic_ast_jax.config.schema import Config
from elastic_ast_jax.data import pipeline, splits
from elastic_ast_jax.data.epoch_plan import Planner, Schedule
from elastic_ast_jax.data.sources.base import BadAudio, DataError, Source
from elastic_ast_jax.data.sources.clip_labels import targets
from elastic_ast_jax.data.sources.windowed import WindowSource
from elastic_ast_jax.data.splits import Split
from elastic_ast_jax.distributed import processes, sharding
from elastic_ast_jax.evaluation.results import Evaluation
from elastic_ast_jax.models import factory
from elastic_ast_jax.packing.token_budget import TokenReduction
from elastic_ast_jax.training.metrics import Metrics, compute_metrics


@dataclasses.dataclass(frozen=True)
class EvalSetting:
    """Describe how the split is evaluated: frame shift, cropping and windows.

    Attributes:
        parts: Source of the packed parts: the split's clips, or the windows of clips that are too
            long.
        owner: Index of the clip that each part belongs to.
        planner, schedule: Plan of the parts.
        cropped: Whether only a part of each clip is used: its beginning, or with a reduction some
            of its tokens.
        windowed: Whether each clip is split into windows.
        tokens: Number of tokens of each part, as the model gets it.
        seconds: Duration of each clip that the model gets. Overlaps of windows count twice, up to
            the duration of the clip.
    """

    parts: Source
    owner: Int64[np.ndarray, 'parts']
    planner: Planner
    schedule: Schedule
    cropped: Bool[np.ndarray, 'N']
    windowed: Bool[np.ndarray, 'N']
    tokens: Int64[np.ndarray, 'parts']
    seconds: Float64[np.ndarray, 'N']


class Evaluator:
    """Evaluate parameters on a split, which is opened and compiled for once.

    Attributes:
        source, targets: Clips of the split and their classes.
        split_name: Name of the split in messages.
    """

    def __init__(
        self,
        config: Config,
        labels: Sequence[str],
        step: Callable,
        mesh: Mesh,
        source: Source | None = None,
        split: Split = 'eval',
        width: int = 0,
    ):
        """Open and plan the split.

        Args:
            config: Config of the run.
            labels: Name of each class.
            step: A compiled `eval_step`, see `sharding.jit_eval_step`.
            mesh: Devices that the step runs on.
            source: The split, if it is open already.
            split: Which split it is.
            width: Number of values that the step returns for each clip. 0: one for each class.

        Raises:
            DataError: A label that training does not have, a number of labels that the loss does
                not take, or anything else wrong with the data.
            PlanError: A clip that does not fit.
        """
        self.source: Source = splits.open_source(config, split) if source is None else source
        self.split_name = splits.NAMES[split]
        self.targets = targets(self.source, labels, self.split_name, config.train.loss)
        self._config, self._labels, self._step, self._mesh = config, tuple(labels), step, mesh
        self._width = width or len(labels)
        self._rows = sharding.local_rows(config.packing.rows, mesh)
        self._shape = factory.batch_shape(config, len(labels), len(self._rows))
        self._undecodable: dict[int, str] = {}
        self._whole = self.setting()

    @property
    def cropped(self) -> int:
        """Return how many clips are cropped to `frontend.max_frames` frames.

        Clips are cropped with `data.too_long='crop'` only.
        """
        return int(self._whole.cropped.sum())

    @property
    def windowed(self) -> int:
        """Return how many clips are evaluated in several windows (`data.too_long='window'`)."""
        return int(self._whole.windowed.sum())

    @property
    def skipped(self) -> tuple[str, ...]:
        """Return a message for each clip skipped so far; see `Evaluation`."""
        return (
            *self.source.skipped,
            *(message for _, message in sorted(self._undecodable.items())),
        )

    def setting(
        self, ratio: float = 1.0, max_frames: int = 0, reduction: TokenReduction | None = None
    ) -> EvalSetting:
        """Plan the split.

        Args:
            ratio: Frame-shift ratio of every clip.
            max_frames: Clips are cropped to their first `max_frames` frames, and none is split into
                windows; 0 crops no clip.
            reduction: Brings each clip or window under a number of tokens, at the ratio of the
                reduction instead of `ratio`.

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
            cropped = frames > min(max_frames, frontend.max_frames)
        else:
            cropped = frontend.too_long(frames) & (config.data.too_long == 'crop')
        if reduction:
            tokens = frontend.tokens(frontend.frames(parts.samples, shift), shift)
            cropped = cropped | (np.bincount(owner, tokens > reduction.tokens) > 0)
        clips = planner.epoch(0).clips  # in the order of the parts
        used_samples = np.minimum(np.bincount(owner, clips.samples), self.source.samples)
        return EvalSetting(
            parts=parts,
            owner=owner,
            planner=planner,
            schedule=splits.make_schedule(planner, config.packing.rows, epochs=1),
            cropped=cropped,
            windowed=np.bincount(owner) > 1,
            tokens=clips.tokens,
            seconds=used_samples / frontend.sample_rate,
        )

    def evaluate(self, params: Any, setting: EvalSetting | None = None) -> Evaluation:
        """Return the results of a setting, by default of whole clips.

        Raises:
            DataError: No clip can be decoded.
        """
        return self.summarize(*self.decodable_logits(params, setting), setting)

    def evaluate_in_halves(
        self, params: Any, setting: EvalSetting
    ) -> tuple[Evaluation, list[Metrics | None]]:
        """Return the results as `evaluate` does, and the metrics of each half of the clips.

        The first half has every second clip from the first on, the second half has the rest. A half
        without clips has None.

        Raises:
            DataError: No clip can be decoded.
        """
        logits, decodable = self.decodable_logits(params, setting)
        halves = [decodable[decodable % 2 == parity] for parity in (0, 1)]
        return self.summarize(logits, decodable, setting), [
            self._metrics(logits, half) if len(half) else None for half in halves
        ]

    def metrics(self, params: Any) -> Metrics:
        """Return the metrics of whole clips."""
        return self.evaluate(params).metrics

    def logits(self, params: Any, setting: EvalSetting | None = None) -> Float32[np.ndarray, 'N C']:
        """Return the logits of a setting, by default of whole clips.

        A clip that cannot be decoded has NaN.
        """
        return self._logits(params, setting or self._whole)[0]

    def decodable_logits(
        self, params: Any, setting: EvalSetting | None = None
    ) -> tuple[Float32[np.ndarray, 'N C'], Int64[np.ndarray, 'decodable']]:
        """Return the logits of every clip, and the indices of the clips that could be decoded.

        Raises:
            DataError: No clip could be decoded.
        """
        logits, undecodable = self._logits(params, setting or self._whole)
        self._undecodable |= undecodable
        decodable = np.setdiff1d(np.arange(len(self.targets)), list(undecodable))
        if not len(decodable):
            raise DataError(
                f'no clip of the {self.split_name} split can be decoded; the first:'
                f' {undecodable[min(undecodable)]}'
            )
        return logits, decodable

    def summarize(
        self,
        logits: Float32[np.ndarray, 'N C'],
        decodable: Int64[np.ndarray, 'decodable'],
        setting: EvalSetting | None = None,
    ) -> Evaluation:
        """Return the results of the logits of `decodable_logits`."""
        setting = setting or self._whole
        tokens = np.bincount(setting.owner, setting.tokens)
        return Evaluation(
            metrics=self._metrics(logits, decodable),
            cropped=int(setting.cropped[decodable].sum()),
            windowed=int(setting.windowed[decodable].sum()),
            skipped=self.skipped,
            tokens=float(tokens[decodable].mean()),
            seconds=float(setting.seconds[decodable].mean()),
        )

    def _metrics(
        self, logits: Float32[np.ndarray, 'N C'], clips: Int64[np.ndarray, 'some']
    ) -> Metrics:
        return compute_metrics(logits[clips], [self.targets[clip] for clip in clips], self._labels)

    def _logits(
        self, params: Any, setting: EvalSetting
    ) -> tuple[Float32[np.ndarray, 'N C'], dict[int, str]]:
        """Return the logits of every clip, and a message for each that cannot be decoded.

        A clip of several windows has the mean of their logits, weighted by their lengths.
        """
        part_logits, part_errors = self._part_logits(params, setting)
        lengths = setting.parts.samples.astype(np.float64)
        sums = np.zeros((len(self.targets), self._width))
        np.add.at(sums, setting.owner, part_logits * lengths[:, None])
        logits = (sums / np.bincount(setting.owner, lengths)[:, None]).astype(np.float32)
        # Of several parts that cannot be decoded, the clip gets the message of the first.
        undecodable = {
            int(setting.owner[part]): message
            for part, message in sorted(part_errors.items(), reverse=True)
        }
        logits[list(undecodable)] = np.nan
        return logits, undecodable

    def _part_logits(
        self, params: Any, setting: EvalSetting
    ) -> tuple[Float32[np.ndarray, 'parts C'], dict[int, str]]:
        """Return the logits of every part, and a message for each that cannot be decoded.

        Raises:
            RuntimeError: A part was not evaluated exactly once, which the plan rules out.
        """
        reader = pipeline.RowReader(
            setting.parts,
            [self.targets[clip] for clip in setting.owner],
            setting.planner,
            setting.schedule,
            self._shape,
            self._rows.start,
            cast(BadAudio, self._config.data.on_bad_audio),
        )
        logits = np.zeros((len(setting.owner), self._width), np.float32)
        counts = np.zeros(len(setting.owner), np.int64)
        for batch in pipeline.iterate_batches(
            reader, 0, setting.schedule.steps, self._config.data.num_workers or None
        ):
            outputs = self._step(params, sharding.shard_batch(batch, self._mesh))
            valid = np.asarray(outputs.valid)
            parts = np.asarray(outputs.clip_id)[valid]
            logits[parts] = np.asarray(outputs.logits)[valid]
            np.add.at(counts, parts, 1)
        if isinstance(setting.parts, WindowSource):
            setting.parts.release()
        # Each process reports the parts that it could not decode. Processes that share rows report
        # the same parts.
        errors = {
            int(part): message
            for process_errors in processes.all_gather(reader.skipped)
            for part, message in process_errors.items()
        }
        np.add.at(counts, list(errors), 1)
        if not (counts == 1).all():
            raise RuntimeError(
                f'{(counts != 1).sum()} of {len(counts)} clips were not evaluated exactly once'
            )
        return logits, errors
