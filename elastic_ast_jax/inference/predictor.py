"""Classify and embed recordings with a trained model, without TensorFlow."""

import functools
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import jax
import numpy as np
from jaxtyping import Float, Float32

from elastic_ast_jax.audio import windows
from elastic_ast_jax.audio.windows import Windows
from elastic_ast_jax.checkpointing.load_model import LoadedModel, load_model
from elastic_ast_jax.checkpointing.workdir import Workdir
from elastic_ast_jax.inference import batching, clips, embeddings, scores
from elastic_ast_jax.inference.batching import ClipOutputs, RunBatch
from elastic_ast_jax.inference.clips import Clip
from elastic_ast_jax.inference.scores import RecordingScores
from elastic_ast_jax.models import factory, memory
from elastic_ast_jax.packing import token_budget
from elastic_ast_jax.packing.token_budget import Measurement, TokenBudgets, TokenReduction
from elastic_ast_jax.utils.text import printable

# Is called with the name of a recording, its seconds that the model has processed, and its length
# in seconds.
Progress = Callable[[str, float, float], None]
_Summary = TypeVar('_Summary')


def load(workdir: str | os.PathLike, checkpoint: str = 'latest') -> 'Predictor':
    """Load the model of a workdir.

    Args:
        workdir: Output folder of `elastic-ast train`.
        checkpoint: `'latest'`, `'best'`, a step, `'average'` or `'average:N'`; see
            `Checkpoints.restore_params`.

    Raises:
        WorkdirError: The folder is no workdir, or its frontend computes other features.
        CheckpointError: No checkpoint can be read.

    Example:
        >>> model = elastic_ast_jax.load('runs/quickstart')
        >>> model.predict(['clip.wav'], top_k=1)[0]['predictions']
        [{'label': 'rise', 'probability': 0.98}]
    """
    return Predictor(load_model(workdir, checkpoint), workdir)


class Predictor:
    """Classifies and embeds clips, packed together. A clip's result does not depend on other clips.

    A recording that is longer than the model's positions is split into windows, which are clips
    themselves. The logits of the recording are the mean of the windows' logits, weighted by the
    windows' lengths.

    Attributes:
        labels: Name of each class, in the order of the logits.
        config: Config of the training run.
        step: Training step of the checkpoint.
        description: Description of the parameters, such as 'step 300'.
    """

    def __init__(self, loaded: LoadedModel, workdir: str | os.PathLike | None = None):
        """Serve a model.

        Args:
            loaded: The model.
            workdir: Folder of the model, where token budgets are stored.
        """
        self.config, self.labels, self.step = loaded.config, loaded.labels, loaded.step
        self.description = loaded.description
        self._workdir = workdir
        self._budgets: TokenBudgets | None = None
        self._params = loaded.params
        # Fewer rows than in training change no result.
        rows = memory.rows_within_limit(
            self.config, len(self.labels), memory.params_bytes(self._params)
        )
        self._shape = factory.batch_shape(
            self.config, len(self.labels), max(1, min(rows, self.config.packing.rows))
        )

        def outputs(params, batch, fields):
            computed = loaded.network.apply({'params': params}, batch, method='outputs')
            return {field: getattr(computed, field) for field in fields}

        # The compiled program computes only what the requested fields need.
        self._outputs = jax.jit(outputs, static_argnames='fields')

    def predict(
        self,
        inputs: Iterable[Any] | os.PathLike,
        top_k: int = 5,
        window: float | None = None,
        overlap: float | None = None,
        budget_tokens: int | None = None,
    ) -> list[dict[str, Any]]:
        """Classify recordings.

        Args:
            inputs: Paths of recordings of any sample rate, or arrays `[samples]` or
                `[samples, channels]` at the model's sample rate; or a single one of them.
            top_k: Number of classes to return, most probable first.
            window: Length of windows in seconds (default: only recordings that are longer than the
                model's positions are split, into the longest windows that the model takes).
            overlap: Share of a window that the next window repeats (default: `data.overlap`).
            budget_tokens: The most tokens of a recording or window, see `budget` (default: no
                limit).

        Returns:
            A dictionary for each input, in the order of the inputs. `path` is the path, or
            `'array 0'` if the first input is an array. `seconds` is the length. `predictions` is a
            list of `{'label', 'probability'}`. `windows` is the number of windows, if there are
            several. An input that cannot be used has only `path` and `error`.

        Raises:
            WindowError: The model does not take such windows.
            BudgetError, WorkdirError: See `budget`.
        """
        return list(self.stream(inputs, top_k, window, overlap, budget_tokens=budget_tokens))

    def stream(
        self,
        inputs: Iterable[Any] | os.PathLike,
        top_k: int = 5,
        window: float | None = None,
        overlap: float | None = None,
        progress: Progress | None = None,
        budget_tokens: int | None = None,
    ) -> Iterator[dict[str, Any]]:
        """Classify many or long recordings in bounded memory.

        Args:
            inputs: See `predict`.
            top_k: See `predict`.
            window: See `predict`.
            overlap: See `predict`.
            progress: Is called after each clip.
            budget_tokens: See `predict`.

        Yields:
            The results of `predict`, in the order of the inputs.
        """
        reduction = self._reduction(budget_tokens)
        split = self.windows(window, overlap, reduction)
        for recording in self._scores(inputs, top_k, split, reduction, progress):
            yield recording.result

    def timeline(
        self,
        inputs: Iterable[Any] | os.PathLike,
        top_k: int = 5,
        window: float | None = None,
        overlap: float | None = None,
        progress: Progress | None = None,
        budget_tokens: int | None = None,
    ) -> Iterator[dict[str, Any]]:
        """Classify recordings and each of their windows; arguments are those of `stream`.

        Yields:
            The results of `stream`. An input without an error also has: `labels`, of all classes;
            `window`, the length of windows in seconds; `overlap`, the share that the next window
            repeats; `timeline`, a list of `{'start', 'end', 'probabilities'}` with seconds and the
            probability of each class, float32 `[C]`. A recording that is not split has one window.
        """
        reduction = self._reduction(budget_tokens)
        split = self.windows(window, overlap, reduction)
        sample_rate = self.config.frontend.sample_rate
        settings = {
            'labels': list(self.labels),
            'window': split.length / sample_rate,
            'overlap': self._overlap(overlap),
        }
        for result, spans, probabilities in self._scores(
            inputs, top_k, split, reduction, progress, keep_windows=True
        ):
            if 'error' in result:
                yield result
                continue
            entries = [
                {'start': start / sample_rate, 'end': stop / sample_rate, 'probabilities': row}
                for (start, stop), row in zip(spans, probabilities, strict=True)
            ]
            yield result | settings | {'timeline': entries}

    def embed(
        self,
        inputs: Iterable[Any] | os.PathLike,
        *,
        timestamps: bool = False,
    ) -> list[dict[str, Any]]:
        """Embed recordings.

        Args:
            inputs: See `predict`.
            timestamps: Also return vectors of time steps.

        Returns:
            A dictionary for each input, in the order of the inputs. `path` and `seconds` are those
            of `predict`. `embedding`, float32 `[D]`, is the vector that the head classifies. The
            embedding of a recording with several windows is their mean, weighted by their lengths,
            and `windows` is their number. With timestamps, `timestamp_embeddings` is float32
            `[steps, D]` and `timestamps` has the centers of the steps in milliseconds, ascending;
            see `embeddings`. An input that cannot be used has only `path` and `error`.
        """
        return list(self.stream_embeddings(inputs, timestamps=timestamps))

    def stream_embeddings(
        self,
        inputs: Iterable[Any] | os.PathLike,
        *,
        timestamps: bool = False,
        progress: Progress | None = None,
    ) -> Iterator[dict[str, Any]]:
        """Embed many or long recordings in bounded memory.

        Args:
            inputs: See `predict`.
            timestamps: See `embed`.
            progress: Is called after each clip.

        Yields:
            The results of `embed`, in the order of the inputs.
        """
        frontend = self.config.frontend
        split = embeddings.align_windows(self.windows(), frontend)

        def summarize(clip: Clip, outputs: ClipOutputs) -> embeddings.ClipEmbedding:
            steps = None
            if timestamps:
                steps = embeddings.clip_steps(outputs['tokens'], frontend, clip.start, clip.stop)
            return embeddings.ClipEmbedding(outputs['pooled'], steps)

        fields = ('pooled', 'tokens') if timestamps else ('pooled',)
        recordings = clips.read_clips(inputs, frontend, split)
        embedded = self.clip_outputs(recordings, fields, summarize, progress=progress)
        yield from embeddings.recording_embeddings(embedded, frontend.sample_rate)

    def clip_outputs(
        self,
        recordings: Iterable[Clip],
        fields: tuple[str, ...],
        summarize: Callable[[Clip, ClipOutputs], _Summary],
        *,
        reduction: TokenReduction | None = None,
        progress: Progress | None = None,
    ) -> Iterator[tuple[Clip, _Summary | None]]:
        """Run clips through the model and yield them in their order.

        Args:
            recordings: Clips from `clips.read_clips`.
            fields: Names of fields of `models.outputs.ModelOutputs` to compute.
            summarize: Reduces a clip's own part of these fields; see `batching.clip_outputs`.
            reduction: The reduction that the clips were read with.
            progress: Is called after each clip.

        Yields:
            Each clip with its summary, or None for a clip with an error.
        """
        sample_rate = self.config.frontend.sample_rate

        def report(clip: Clip) -> None:
            if progress is not None:
                progress(clip.name, clip.stop / sample_rate, clip.samples / sample_rate)

        return batching.clip_outputs(
            self._run(*fields),
            recordings,
            summarize,
            self.config.frontend.mel_patches,
            self._shape,
            token_limit=reduction.tokens if reduction else None,
            on_clip_done=report,
        )

    def windows(
        self,
        window: float | None = None,
        overlap: float | None = None,
        reduction: TokenReduction | None = None,
    ) -> Windows:
        """Return how recordings are split into windows.

        Args:
            window: See `predict`.
            overlap: See `predict`.
            reduction: A reduction that moves frames further apart makes windows longer.
        """
        frontend = self.config.frontend
        shift = frontend.shift(reduction.ratio) if reduction else None
        return windows.make_windows(frontend, self._overlap(overlap), window, shift)

    def budget(self, tokens: int) -> Measurement:
        """Return the best measured token reduction of at most this many tokens per recording.

        Token budgets are measured by `elastic-ast evaluate --sweep=budget`.

        Raises:
            BudgetError: The model has the same number of tokens for every recording, fewer tokens
                than any measured budget are requested, or the model was not loaded from a workdir.
            WorkdirError: No budget was measured, or the measurements cannot be read.
        """
        return self.budgets().best(tokens)

    def budgets(self) -> TokenBudgets:
        """Return all measured token budgets, read at the first call; errors are those of `budget`.

        A `BudgetWarning` is issued once if the budgets were measured with other parameters.
        """
        if self._budgets is None:
            token_budget.check_model(self.config.model.kind)
            if self._workdir is None:
                raise token_budget.BudgetError(
                    'token budgets are stored in a workdir, and this model was not loaded from one'
                )
            self._budgets = Workdir(self._workdir).budgets(self.config.frontend)
            if mismatch := self._budgets.parameter_mismatch(self.description, self.step):
                warnings.warn(
                    f'token budgets were measured with {printable(mismatch)}: measure again with'
                    f' elastic-ast evaluate --workdir={self._workdir} --sweep=budget',
                    token_budget.BudgetWarning,
                    stacklevel=2,
                )
        return self._budgets

    def logits(
        self, log_mels: Sequence[Float[np.ndarray, 'mels _']]
    ) -> Float32[np.ndarray, 'clips classes']:
        """Return the logits of normalized log-mels, to compare with other implementations.

        Args:
            log_mels: `(log_mel - mean) / (2 * std)` of each clip, mel bin first, as in the PyTorch
                originals.

        Raises:
            ValueError: A clip has a wrong number of mel bins, more frames than the model has
                positions, or values that are not finite.
        """
        return self._logits(
            [
                clips.clip_from_log_mel(log_mel, self.config.frontend, f'log_mels[{number}]')
                for number, log_mel in enumerate(log_mels)
            ]
        )

    def waveform_logits(
        self, waveform: Float32[np.ndarray, 'samples'], reduction: TokenReduction | None = None
    ) -> Float32[np.ndarray, 'classes']:
        """Return the logits of one waveform, which the model must take whole.

        Args:
            waveform: Samples at the model's sample rate.
            reduction: Reduces the tokens; the row of the batch has as many tokens as it allows.
        """
        clip = clips.clip_from_waveform(waveform, self.config.frontend, reduction)
        return self._logits([clip], reduction)[0]

    def probabilities(self, logits: Float[np.ndarray, 'C']) -> Float[np.ndarray, 'C']:
        """Return the softmax of logits, or their sigmoids if the model was trained with them."""
        return scores.to_probabilities(logits, self.config.train.loss)

    def _run(self, *fields: str) -> RunBatch:
        return functools.partial(self._outputs, self._params, fields=fields)

    def _reduction(self, budget_tokens: int | None) -> TokenReduction | None:
        return None if budget_tokens is None else self.budget(budget_tokens).reduction

    def _overlap(self, overlap: float | None) -> float:
        return self.config.data.overlap if overlap is None else overlap

    def _logits(
        self, whole_clips: Sequence[Clip], reduction: TokenReduction | None = None
    ) -> Float32[np.ndarray, 'clips classes']:
        """Return the logits of clips that are packed all at once."""
        batches = batching.pack_batches(
            whole_clips,
            self.config.frontend.mel_patches,
            self._shape,
            is_only=True,
            token_limit=reduction.tokens if reduction else None,
        )
        logits = np.zeros((len(whole_clips), len(self.labels)), np.float32)
        for index, outputs in batching.packed_outputs(self._run('logits'), batches):
            logits[index] = outputs['logits']
        return logits

    def _scores(
        self,
        inputs: Iterable[Any] | os.PathLike,
        top_k: int,
        split: Windows,
        reduction: TokenReduction | None,
        progress: Progress | None,
        *,
        keep_windows: bool = False,
    ) -> Iterator[RecordingScores]:
        """Yield the result of each recording; with `keep_windows`, also those of its windows."""
        recordings = clips.read_clips(inputs, self.config.frontend, split, reduction)
        scored = self.clip_outputs(
            recordings,
            ('logits',),
            lambda _, outputs: outputs['logits'],
            reduction=reduction,
            progress=progress,
        )
        return scores.recording_scores(
            scored,
            self.labels,
            self.config.frontend.sample_rate,
            self.config.train.loss,
            top_k,
            keep_windows=keep_windows,
        )
