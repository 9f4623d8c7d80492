"""A trained model for use: recordings or log-mels in, probabilities or logits out. Needs no TensorFlow."""

import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Float32, Shaped

from elastic_ast_jax import build, device, packing
from elastic_ast_jax.audio import fbank, reading
from elastic_ast_jax.audio.reading import AudioError
from elastic_ast_jax.checkpoints import Checkpoints
from elastic_ast_jax.config import Config
from elastic_ast_jax.workdir import Workdir

# Recordings that are in memory at a time, as patches.
_CHUNK = 64


def load(workdir: str | os.PathLike, checkpoint: str = 'latest') -> 'Predictor':
    """Loads the model of a workdir.

    Args:
        workdir: What `elastic-ast train` made.
        checkpoint: `'latest'`, `'best'` or a step.

    Raises:
        WorkdirError: It is no workdir, or was made by another frontend.
        CheckpointError: No checkpoint can be read.

    Example:
        >>> model = elastic_ast_jax.load('runs/quickstart')
        >>> model.predict(['clip.wav'], top_k=1)[0]['predictions']
        [{'label': 'rise', 'probability': 0.98}]
    """
    opened = Workdir(workdir)
    config, contract = opened.config(), opened.contract()
    opened.check_frontend(fbank.fingerprint(config.frontend))
    attend, dtype = device.choose_attention(config.model.attention), device.compute_dtype(config.model.dtype)
    network = build.model(config, len(contract.labels), attend, dtype, scan=True)  # compiles sooner
    abstract = jax.eval_shape(lambda: build.init_params(network, build.batch_shape(config, len(contract.labels)), 0))
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), abstract)
    with Checkpoints(opened.checkpoints, read_only=True) as checkpoints:
        step, params = checkpoints.restore_params(abstract, checkpoint)
    return Predictor(config, contract.labels, network, params, step)


class Predictor:
    """Classifies clips, packed together; a clip's result does not depend on its company.

    Attributes:
        labels: Name of each class, in the order of the logits.
        config: Of the run that trained the model.
        step: Of the checkpoint.
    """

    def __init__(self, config: Config, labels: Sequence[str], network: Any, params: Any, step: int):
        self.config, self.labels, self.step = config, tuple(labels), step
        self._params = params
        self._apply = jax.jit(lambda params, batch: network.apply({'params': params}, batch))

    def predict(self, inputs: Iterable[str | os.PathLike | Shaped[np.ndarray, '...']], top_k: int = 5) -> list[dict[str, Any]]:
        """Classifies recordings.

        Args:
            inputs: Paths of recordings of any rate, or arrays `[samples]` or `[samples, channels]` at the model's sample rate.
            top_k: Number of classes given for each, the likeliest first.

        Returns:
            A dictionary for each input, in their order: `path` (`'array 0'` for the first input if that is an array),
            `seconds`, and `predictions`, a list of `{'label', 'probability'}`. For an input that cannot be used, `error`
            instead of `seconds` and `predictions`.
        """
        return list(self.stream(inputs, top_k))

    def stream(self, inputs: Iterable[Any], top_k: int = 5) -> Iterator[dict[str, Any]]:
        """As `predict`, for many inputs: yields results as they come, in order, in bounded memory."""
        pending = []
        single = None  # whether all inputs are one chunk, known at the first
        with ThreadPoolExecutor() as pool:
            for item in _last_marked(enumerate(inputs)):
                pending.append(item[0])
                if len(pending) == _CHUNK or item[1]:
                    single = item[1] if single is None else single
                    yield from self._chunk(list(pool.map(self._read, pending)), top_k, single)
                    pending = []

    def logits(self, log_mels: Sequence[Float[np.ndarray, 'mels _']]) -> Float32[np.ndarray, 'clips classes']:
        """Logits of normalised log-mels, for whoever compares numbers.

        Args:
            log_mels: `(log_mel - mean) / (2 * std)` of each clip, mel bin first, as the PyTorch originals take them.

        Raises:
            ValueError: A wrong number of mel bins, more frames than the model has positions for, or values that are not
                finite; names the clip.
        """
        clips = [self._patches(np.asarray(log_mel, np.float32).T, f'log_mels[{i}]') for i, log_mel in enumerate(log_mels)]
        return self._logits(clips, single=True)

    def _read(self, item: tuple[int, Any]) -> tuple[str, float | None, Any]:
        """Name, seconds, and patches or the error of an input."""
        number, source = item
        name, frontend = f'array {number}', self.config.frontend
        try:
            if isinstance(source, (str, os.PathLike)):
                name = os.fspath(source)
                waveform = reading.read(source, frontend.sample_rate)
            else:
                waveform = reading.from_array(np.asarray(source), name, frontend.sample_rate, frontend.sample_rate)
            frames = int(frontend.frames(len(waveform), frontend.shift()))
            if frontend.too_long(frames):  # before the work of computing them
                raise AudioError(self._too_long(name, frames))
            features = fbank.normalise(fbank.log_mel(waveform, frontend), frontend)
            return name, len(waveform) / frontend.sample_rate, self._patches(features, name)
        except ValueError as error:
            return name, None, error

    def _patches(self, features: Float32[np.ndarray, 'frames mels'], name: str) -> Float32[np.ndarray, 'n P']:
        frontend = self.config.frontend
        if features.ndim != 2 or features.shape[1] != frontend.mel_bins or not len(features):
            raise ValueError(f'{name}: shape {list(features.shape[::-1])} is not [{frontend.mel_bins} mel bins, frames]')
        if not np.isfinite(features).all():
            raise ValueError(f'{name}: holds values that are not finite')
        if frontend.too_long(len(features)):
            raise ValueError(self._too_long(name, len(features)))
        columns = int(frontend.time_patches(len(features)))
        return packing.patchify(features, frontend.patch_mels, frontend.patch_frames, columns)

    def _too_long(self, name: str, frames: int) -> str:
        frontend = self.config.frontend
        seconds = frontend.samples_for(frontend.max_frames, frontend.shift()) / frontend.sample_rate
        return (f'{name}: has {frames} frames, but the model has positions for {frontend.max_frames} ({seconds:.1f} s): '
                f'cut it into shorter parts, or train with a larger frontend.max_frames')

    def _chunk(self, read: list[tuple[str, float | None, Any]], top_k: int, single: bool) -> Iterator[dict[str, Any]]:
        """Results of inputs that were read."""
        good = [content for _, _, content in read if not isinstance(content, Exception)]
        scores = iter(self._logits(good, single))
        for name, seconds, content in read:
            if isinstance(content, Exception):
                yield {'path': name, 'error': str(content)}
                continue
            probabilities = self._probabilities(next(scores))
            best = np.argsort(-probabilities, kind='stable')[:top_k]
            yield {
                'path': name,
                'seconds': seconds,
                'predictions': [{'label': self.labels[c], 'probability': float(probabilities[c])} for c in best],
            }

    def _probabilities(self, logits: Float32[np.ndarray, 'C']) -> Float[np.ndarray, 'C']:
        """Softmax over classes, or a sigmoid of each, as the model was trained."""
        exact = logits.astype(np.float64)
        if self.config.train.loss == 'bce':
            return 1 / (1 + np.exp(-exact))
        weights = np.exp(exact - exact.max())
        return weights / weights.sum()

    def _logits(self, clips: list[Float32[np.ndarray, '_ P']], single: bool) -> Float32[np.ndarray, 'clips classes']:
        """Logits of clips as patches. `single`: these are all, so a few of them need not fill a whole batch."""
        scores = np.zeros((len(clips), len(self.labels)), np.float32)
        if not clips:
            return scores
        settings = self.config.packing
        rows = packing.pack([len(clip) for clip in clips], settings.tokens, settings.slots)
        height = 1 if single and len(rows) == 1 else settings.rows
        shape = build.batch_shape(self.config, len(self.labels), height)
        results = []
        for first in range(0, len(rows), height):
            members = [rows[row] for row in range(first, min(first + height, len(rows)))]
            batch = packing.fill_batch(members, clips, self.config.frontend.mel_patches, shape)
            results.append((batch, self._apply(self._params, batch)))
        for batch, logits in results:
            scores[batch.clip_id[batch.valid]] = np.asarray(logits)[batch.valid]
        return scores


def _last_marked(items: Iterable[Any]) -> Iterator[tuple[Any, bool]]:
    """Each item, and whether it is the last."""
    iterator = iter(items)
    try:
        held = next(iterator)
    except StopIteration:
        return
    for item in iterator:
        yield held, False
        held = item
    yield held, True
