"""How long a clip takes that is alone, from its waveform to its logits, under each way of keeping a
token budget.
"""

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

# Times that a clip is measured at most, and seconds that all of it takes, unless one clip takes
# longer.
_ROUNDS, _PATIENCE = 10, 30.0


def measure_latencies(
    model: Predictor,
    waveforms: Sequence[Float32[np.ndarray, '_']],
    tried: Sequence[TokenReduction],
    patience: float = _PATIENCE,
) -> tuple[list[float], int]:
    """Milliseconds from a waveform to its logits under each reduction: alone, in a row of as many
    tokens as that allows.

    The median over clips, NaN without any. Of several times the shortest counts, and all reductions
    take turns, as others may use the machine. One clip under all reductions is the least that is
    measured; from how long it takes follows how many others there is time for.

    Args:
        model: On one device.
        waveforms: Clips to choose from.
        tried: What is measured.
        patience: Seconds for it; compilation comes before.

    Returns:
        That, and how many clips were measured.
    """
    if not waveforms:
        return [math.nan] * len(tried), 0
    for reduction in {reduction.tokens: reduction for reduction in tried}.values():
        model.waveform_logits(
            waveforms[0], reduction
        )  # compiles: rows of other tokens are other programs
    shortest, begun = np.full((len(tried), len(waveforms)), math.inf), time.perf_counter()

    def turn(clip: int) -> float:
        turn_begun = time.perf_counter()
        for row, reduction in enumerate(tried):
            start = time.perf_counter()
            model.waveform_logits(waveforms[clip], reduction)
            shortest[row, clip] = min(shortest[row, clip], time.perf_counter() - start)
        return time.perf_counter() - turn_begun

    longest = turn(0)
    clips = spaced_indices(len(waveforms), max(1, int(patience / longest)))
    for clip in (clips * _ROUNDS)[1:]:
        if time.perf_counter() - begun + longest > patience:
            break
        longest = max(longest, turn(clip))
    measured = np.isfinite(shortest[0])
    return [float(median) for median in 1000 * np.median(shortest[:, measured], axis=1)], int(
        measured.sum()
    )


def spaced_indices(count: int, most: int) -> list[int]:
    """At most so many of the numbers from 0 to `count` - 1, from all over them; 0 is the first."""
    return np.linspace(0, count - 1, min(most, count)).round().astype(int).tolist()


def single_device_predictor(model: LoadedModel) -> Predictor:
    """The model as prediction has it, wherever evaluation has put its parameters;

    all processes take part.
    """
    whole = jax.tree.map(
        lambda leaf: (
            leaf
            if leaf.is_fully_addressable
            else multihost_utils.process_allgather(leaf, tiled=True)
        ),
        model.params,
    )
    params = jax.device_put(jax.tree.map(np.asarray, whole), jax.local_devices()[0])
    wanted = model.config.model
    attend = selection.select_attention(
        wanted.attention, wanted.kind, selection.compute_dtype(wanted.dtype), required=False
    )
    return Predictor(
        dataclasses.replace(
            model, params=params, network=model.network.clone(attend=attend, constrain=identity)
        )
    )
