"""A trained model for use:

recordings or log-mels in, probabilities or logits out. Needs no TensorFlow.
"""

import functools
import itertools
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Float32, Shaped

from elastic_ast_jax.audio import windows
from elastic_ast_jax.audio.windows import Windows
from elastic_ast_jax.checkpointing.load_model import LoadedModel, load_model
from elastic_ast_jax.checkpointing.workdir import Workdir
from elastic_ast_jax.inference import batching, clips, embeddings
from elastic_ast_jax.inference.clips import Clip
from elastic_ast_jax.models import factory
from elastic_ast_jax.packing import token_budget
from elastic_ast_jax.packing.token_budget import Measurement, TokenBudgets, TokenReduction
from elastic_ast_jax.utils.text import printable

# Called with a recording's name, how many of its seconds are through the model, and how many there
# are.
Progress = Callable[[str, float, float], None]


def load(workdir: str | os.PathLike, checkpoint: str = 'latest') -> 'Predictor':
    """Loads the model of a workdir.

    Args:
        workdir: What `elastic-ast train` made.
        checkpoint: `'latest'`, `'best'`, a step, `'average'` or `'average:N'`; see
        `Checkpoints.restore_params`.

    Raises:
        WorkdirError: It is no workdir, or was made by another frontend.
        CheckpointError: No checkpoint can be read.

    Example:
        >>> model = elastic_ast_jax.load('runs/quickstart')
        >>> model.predict(['clip.wav'], top_k=1)[0]['predictions']
        [{'label': 'rise', 'probability': 0.98}]
    """
    return Predictor(load_model(workdir, checkpoint), workdir)


class Predictor:
    """Classifies clips, packed together; a clip's result does not depend on its company.

    A recording longer than the model has positions for is cut into windows, which are clips like
    others; its logits are the mean of theirs, weighted by their lengths.

    Attributes:
        labels: Name of each class, in the order of the logits.
        config: Of the run that trained the model.
        step: Of the checkpoint.
        description: Which parameters these are, in words.
    """

    def __init__(self, trained: LoadedModel, workdir: str | os.PathLike | None = None):
        """Serves a model; `workdir` is where it is from, which token budgets are looked up in."""
        self._workdir, self._budgets = workdir, None
        self.config, self.labels, self.step = trained.config, trained.labels, trained.step
        self.description = trained.description
        self._params = trained.params
        self._apply = jax.jit(
            lambda params, batch: trained.network.apply({'params': params}, batch)
        )

        def detail(params, batch, fields):
            found = trained.network.apply({'params': params}, batch, method='outputs')
            return {field: getattr(found, field) for field in fields}

        self._detail = jax.jit(
            detail, static_argnames='fields'
        )  # what is not asked for is not computed

    def predict(
        self,
        inputs: Iterable[str | os.PathLike | Shaped[np.ndarray, '...']],
        top_k: int = 5,
        window: float | None = None,
        overlap: float | None = None,
        budget_tokens: int | None = None,
    ) -> list[dict[str, Any]]:
        """Classifies recordings.

        Args:
            inputs: Paths of recordings of any rate, or arrays `[samples]` or `[samples, channels]`
            at the model's sample rate.
            top_k: Number of classes given for each, the likeliest first.
            window: Cut recordings into windows of this many seconds. If None, only those that the
                model has no positions for are cut, into the longest windows that it takes.
            overlap: Share of a window that the next one repeats; that of the config
            (`data.overlap`) if None.
            budget_tokens: The most tokens that a recording, or window, may cost; see `budget`. If
            None, as many as it has.

        Returns:
            A dictionary for each input, in their order: `path` (`'array 0'` for the first input if
            that is an array), `seconds`, and `predictions`, a list of `{'label', 'probability'}`;
            `windows`, how many, if there were several. For an input that cannot be used, `error`
            instead of all but `path`.

        Raises:
            WindowError: Windows that the model does not take.
            BudgetError, WorkdirError: As `budget`.
        """
        return list(self.stream(inputs, top_k, window, overlap, budget_tokens=budget_tokens))

    def stream(
        self,
        inputs: Iterable[Any],
        top_k: int = 5,
        window: float | None = None,
        overlap: float | None = None,
        progress: Progress | None = None,
        budget_tokens: int | None = None,
    ) -> Iterator[dict[str, Any]]:
        """As `predict`, for many or long inputs: yields results as they come, in order, in bounded
        memory.

        Args:
            inputs, top_k, window, overlap, budget_tokens: See `predict`.
            progress: Called from time to time.
        """
        reduction = self._reduction(budget_tokens)
        cut = self.windows(window, overlap, reduction)
        for result, _, _ in self._results(inputs, top_k, cut, reduction, progress, keep=False):
            yield result

    def timeline(
        self,
        inputs: Iterable[Any],
        top_k: int = 5,
        window: float | None = None,
        overlap: float | None = None,
        progress: Progress | None = None,
        budget_tokens: int | None = None,
    ) -> Iterator[dict[str, Any]]:
        """As `stream`, with the windows' own results: when which class is heard.

        Yields:
            What `stream` does, and for an input without an error: `labels`, of all classes;
            `window`, seconds of a window, and `overlap`, the share that the next one repeats;
            `timeline`, a list of `{'start', 'end', 'probabilities'}` with seconds and the
            probability of each class, float32 `[C]`. A recording that was not cut has one window.
        """
        reduction = self._reduction(budget_tokens)
        cut = self.windows(window, overlap, reduction)
        rate = self.config.frontend.sample_rate
        settings = {
            'labels': list(self.labels),
            'window': cut.length / rate,
            'overlap': self._overlap(overlap),
        }
        for result, spans, probabilities in self._results(
            inputs, top_k, cut, reduction, progress, keep=True
        ):
            if 'error' in result:
                yield result
                continue
            entries = [
                {'start': start / rate, 'end': stop / rate, 'probabilities': row}
                for (start, stop), row in zip(spans, probabilities, strict=True)
            ]
            yield result | settings | {'timeline': entries}

    def embed(
        self,
        inputs: Iterable[str | os.PathLike | Shaped[np.ndarray, '...']],
        timestamps: bool = False,
    ) -> list[dict[str, Any]]:
        """Embeds recordings.

        Args:
            inputs: See `predict`.
            timestamps: Whether vectors of time steps are wanted too.

        Returns:
            A dictionary for each input, in their order: `path`, `seconds`, and `embedding`, float32
            `[D]`, the vector that the head classifies; of a recording that was cut, the mean of its
            windows' weighted by their lengths, and `windows`, how many. With timestamps also
            `timestamp_embeddings`, float32 `[steps, D]`, and `timestamps`, the centres of the steps
            in milliseconds, ascending; see `embeddings`. For an input that cannot be used, `error`
            instead of all but `path`.
        """
        return list(self.stream_embeddings(inputs, timestamps))

    def stream_embeddings(
        self, inputs: Iterable[Any], timestamps: bool = False, progress: Progress | None = None
    ) -> Iterator[dict[str, Any]]:
        """As `embed`, for many or long inputs:

        yields results as they come, in order, in bounded memory.
        """
        frontend = self.config.frontend
        cut = embeddings.align_windows(self.windows(), frontend)

        def keep(clip: Clip, parts: dict[str, np.ndarray]) -> embeddings.ClipEmbedding:
            if progress is not None:
                progress(
                    clip.name, clip.stop / frontend.sample_rate, clip.samples / frontend.sample_rate
                )
            steps = (
                embeddings.clip_steps(parts['tokens'], frontend, clip.start, clip.stop)
                if timestamps
                else None
            )
            return embeddings.ClipEmbedding(parts['pooled'], steps)

        fields = ('pooled', 'tokens') if timestamps else ('pooled',)
        embedded = self.clip_outputs(clips.read_clips(inputs, frontend, cut), fields, keep)
        yield from embeddings.recording_embeddings(embedded, frontend.sample_rate)

    def clip_outputs(
        self,
        read: Iterable[Clip],
        fields: tuple[str, ...],
        keep: Callable[[Clip, dict[str, np.ndarray]], Any],
    ) -> Iterator[tuple[Clip, Any]]:
        """What the model makes of clips on its way to the logits; see `batching.of_clips`.

        Args:
            read: Of `clips.read`.
            fields: Names of fields of `models.outputs.ModelOutputs`.
            keep: What is wanted of a clip, from the clip's own parts of these.
        """
        shape = factory.batch_shape(self.config, len(self.labels))
        run = functools.partial(self._detail, self._params, fields=fields)
        return batching.of_clips(run, keep, read, self.config.frontend.mel_patches, shape)

    def windows(
        self,
        window: float | None = None,
        overlap: float | None = None,
        reduction: TokenReduction | None = None,
    ) -> Windows:
        """How recordings are cut;

        see `predict`. Frames that are further apart make windows longer.
        """
        frontend = self.config.frontend
        return windows.choose(
            frontend,
            self._overlap(overlap),
            window,
            frontend.shift(reduction.ratio) if reduction else None,
        )

    def budget(self, tokens: int) -> Measurement:
        """How predictions of at most so many tokens for each recording are made, and what that was
        found to be worth.

        It is the best that `elastic-ast evaluate --sweep=budget` has found with that many tokens or
        fewer.

        Raises:
            BudgetError: The model has the same number for every recording, fewer tokens than were
                ever measured, or it was not loaded from a workdir.
            WorkdirError: Nothing was measured, or what was cannot be read.
        """
        return self.budgets().best(tokens)

    def budgets(self) -> TokenBudgets:
        """What is known of all token budgets, read when it is first asked for; errors as `budget`.

        Where it was measured with other parameters than these, a `BudgetWarning` says so, once.
        """
        if self._budgets is None:
            token_budget.check_model(self.config.model.kind)
            if self._workdir is None:
                raise token_budget.BudgetError(
                    'token budgets are stored in a workdir, and this model was not loaded from one'
                )
            self._budgets = Workdir(self._workdir).budgets(self.config.frontend)
            if others := self._budgets.parameter_mismatch(self.description, self.step):
                warnings.warn(
                    f'token budgets were measured with {printable(others)}: measure again with'
                    f' elastic-ast evaluate --workdir={self._workdir} --sweep=budget',
                    token_budget.BudgetWarning,
                    stacklevel=2,
                )
        return self._budgets

    def _reduction(self, budget_tokens: int | None) -> TokenReduction | None:
        return None if budget_tokens is None else self.budget(budget_tokens).reduction

    def _overlap(self, overlap: float | None) -> float:
        return self.config.data.overlap if overlap is None else overlap

    def logits(
        self, log_mels: Sequence[Float[np.ndarray, 'mels _']]
    ) -> Float32[np.ndarray, 'clips classes']:
        """Logits of normalised log-mels, for whoever compares numbers.

        Args:
            log_mels: `(log_mel - mean) / (2 * std)` of each clip, mel bin first, as the PyTorch
            originals take them.

        Raises:
            ValueError: A wrong number of mel bins, more frames than the model has positions for, or
                values that are not finite; names the clip.
        """
        features = [np.asarray(log_mel, np.float32).T for log_mel in log_mels]
        for number, values in enumerate(features):
            self._check(values, f'log_mels[{number}]')
        made = [
            Clip(f'log_mels[{number}]', patches=clips.to_patches(values, self.config.frontend))
            for number, values in enumerate(features)
        ]
        return self._logits(made)

    def waveform_logits(
        self, waveform: Float32[np.ndarray, 'samples'], reduction: TokenReduction | None = None
    ) -> Float32[np.ndarray, 'classes']:
        """Logits of a waveform at the model's rate that it takes whole, for whoever measures the
        time; see `token_budget`.
        """
        return self._logits(
            [clips.clip_from_waveform(waveform, self.config.frontend, reduction)], reduction
        )[0]

    def _logits(
        self, made: Sequence[Clip], reduction: TokenReduction | None = None
    ) -> Float32[np.ndarray, 'clips classes']:
        scores = np.zeros((len(made), len(self.labels)), np.float32)
        for _ in self._score(made, True, scores, reduction):
            pass
        return scores

    def _check(self, features: Float32[np.ndarray, '...'], name: str) -> None:
        frontend = self.config.frontend
        if features.ndim != 2 or features.shape[1] != frontend.mel_bins or not len(features):
            raise ValueError(
                f'{name}: shape {list(features.shape[::-1])} is not [{frontend.mel_bins} mel bins,'
                ' frames]'
            )
        if not np.isfinite(features).all():
            raise ValueError(f'{name}: holds values that are not finite')
        if frontend.too_long(len(features)):
            raise ValueError(
                f'{name}: has {len(features)} frames, but the model has positions for'
                f' {frontend.max_frames}: cut it into shorter parts, or train with a larger'
                ' frontend.max_frames'
            )

    def _results(
        self,
        inputs: Iterable[Any],
        top_k: int,
        cut: Windows,
        reduction: TokenReduction | None,
        progress: Progress | None,
        keep: bool,
    ) -> Iterator[tuple[dict[str, Any], list[tuple[int, int]], list[Float32[np.ndarray, 'C']]]]:
        """The result of each recording; with `keep`, spans and probabilities of its windows."""
        for clip, logits in self._scored(
            clips.read_clips(inputs, self.config.frontend, cut, reduction), reduction, progress
        ):
            if clip.error is not None:
                yield {'path': clip.name, 'error': clip.error}, [], []
                continue
            exact, length = logits.astype(np.float64), clip.stop - clip.start
            if clip.index == 0:
                total, weight, spans, probabilities = np.zeros_like(exact), 0, [], []
            total += length * exact
            weight += length
            if keep:
                spans.append((clip.start, clip.stop))
                probabilities.append(self.probabilities(exact).astype(np.float32))
            if clip.last:
                whole = self.probabilities(exact if clip.count == 1 else total / weight)
                yield self._result(clip, whole, top_k), spans, probabilities

    def _result(
        self, clip: Clip, probabilities: Float[np.ndarray, 'C'], top_k: int
    ) -> dict[str, Any]:
        best = np.argsort(-probabilities, kind='stable')[:top_k]
        result = {
            'path': clip.name,
            'seconds': clip.samples / self.config.frontend.sample_rate,
            'predictions': [
                {'label': self.labels[c], 'probability': float(probabilities[c])} for c in best
            ],
        }
        return result | ({'windows': clip.count} if clip.count > 1 else {})

    def _scored(
        self, read: Iterable[Clip], reduction: TokenReduction | None, progress: Progress | None
    ) -> Iterator[tuple[Clip, Float32[np.ndarray, 'C'] | None]]:
        """Clips, in order, with their logits; those with an error without."""
        rate = self.config.frontend.sample_rate
        for chunk, only in clips.chunks(read):
            good = [clip for clip in chunk if clip.error is None]
            scores = np.zeros((len(good), len(self.labels)), np.float32)
            for done in self._score(good, only, scores, reduction):
                if progress is not None:
                    at = good[
                        done - 1
                    ]  # clips wait little for others, so about as many as these are through
                    progress(at.name, at.stop / rate, at.samples / rate)
            row = iter(scores)
            for clip in chunk:
                yield clip, next(row) if clip.error is None else None

    def _score(
        self,
        good: Sequence[Clip],
        only: bool,
        scores: Float32[np.ndarray, 'clips C'],
        reduction: TokenReduction | None = None,
    ) -> Iterator[int]:
        """Writes the logits of clips; yields after each batch how many clips are through."""
        if not good:
            return
        shape = factory.batch_shape(self.config, len(self.labels))
        packed = clips.batches(
            [clip.patches for clip in good],
            self.config.frontend.mel_patches,
            shape,
            only,
            [clip.kept for clip in good],
            reduction.tokens if reduction else None,
        )
        results = (
            (batch.clip_id[batch.valid], batch.valid, self._apply(self._params, batch))
            for batch in packed
        )
        done, before = 0, next(results)
        for after in itertools.chain(
            results, [None]
        ):  # the device works on this one while the one before is read
            numbers, valid, logits = before
            scores[numbers] = np.asarray(logits)[valid]
            done, before = done + len(numbers), after
            yield done

    def probabilities(self, logits: Float[np.ndarray, 'C']) -> Float[np.ndarray, 'C']:
        """Softmax over classes, or a sigmoid of each, as the model was trained."""
        if self.config.train.loss == 'bce':
            return np.exp(-np.logaddexp(0, -logits))
        weights = np.exp(logits - logits.max())
        return weights / weights.sum()
