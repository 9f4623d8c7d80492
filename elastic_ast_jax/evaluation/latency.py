"""Measure how long single clips take from waveform to logits, for each token reduction."""

import dataclasses
import math
import time
from collections.abc import Sequence

import jax
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import Float32

from elastic_ast_jax.checkpointing.load_model import LoadedModel
from elastic_ast_jax.inference.predictor import Predictor
from elastic_ast_jax.models.attention import selection
from elastic_ast_jax.models.encoder import identity
from elastic_ast_jax.packing.token_budget import TokenReduction

# Rounds of measurement at most, and seconds for all of them, unless one clip takes longer.
_ROUNDS, _MAX_SECONDS = 10, 30.0


def measure_latencies(
    model: Predictor,
    waveforms: Sequence[Float32[np.ndarray, '_']],
    reductions: Sequence[TokenReduction],
    max_seconds: float = _MAX_SECONDS,
) -> tuple[list[float], int]:
    """Return the milliseconds from a waveform to its logits under each reduction.

    Each clip runs alone, in a row of as many tokens as the reduction allows. The latency is the
    median over clips, NaN without any. Of several rounds the shortest time of a clip counts, and
    all reductions take turns, as other programs may use the machine. At least one clip is measured
    under all reductions; its time decides how many further clips are measured.

    Args:
        model: Predictor on one device.
        waveforms: Clips to choose from.
        reductions: Reductions to measure.
        max_seconds: Seconds for the measurement, without compilation.

    Returns:
        The latencies, and how many clips were measured.
    """
    if not waveforms:
        return [math.nan] * len(reductions), 0
    # Rows of another number of tokens are another program, which compiles at its first call.
    for reduction in {reduction.tokens: reduction for reduction in reductions}.values():
        model.waveform_logits(waveforms[0], reduction)
    shortest = np.full((len(reductions), len(waveforms)), math.inf)
    begin = time.perf_counter()

    def measure(clip: int) -> float:
        """Measure a clip under all reductions; return the seconds that it takes."""
        clip_begin = time.perf_counter()
        for row, reduction in enumerate(reductions):
            start = time.perf_counter()
            model.waveform_logits(waveforms[clip], reduction)
            shortest[row, clip] = min(shortest[row, clip], time.perf_counter() - start)
        return time.perf_counter() - clip_begin

    longest = measure(0)
    clips = spaced_indices(len(waveforms), max(1, int(max_seconds / longest)))
    for clip in (clips * _ROUNDS)[1:]:
        if time.perf_counter() - begin + longest > max_seconds:
            break
        longest = max(longest, measure(clip))
    measured = np.isfinite(shortest[0])
    medians = 1000 * np.median(shortest[:, measured], axis=1)
    return [float(median) for median in medians], int(measured.sum())


def spaced_indices(count: int, limit: int) -> list[int]:
    """Return at most `limit` indices from 0 to `count` - 1, evenly spaced; 0 is the first."""
    return np.linspace(0, count - 1, min(limit, count)).round().astype(int).tolist()


def single_device_predictor(model: LoadedModel) -> Predictor:
    """Return a predictor on one device, however the parameters are sharded.

    All processes take part.
    """
    gathered = jax.tree.map(
        lambda leaf: (
            leaf
            if leaf.is_fully_addressable
            else multihost_utils.process_allgather(leaf, tiled=True)
        ),
        model.params,
    )
    params = jax.device_put(jax.tree.map(np.asarray, gathered), jax.local_devices()[0])
    model_config = model.config.model
    attend = selection.select_attention(
        model_config.attention,
        model_config.kind,
        selection.compute_dtype(model_config.dtype),
        required=False,
    )
    return Predictor(
        dataclasses.replace(
            model, params=params, network=model.network.clone(attend=attend, constrain=identity)
        )
    )
