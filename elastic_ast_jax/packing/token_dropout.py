"""Drop a share of each clip's tokens in training (paper, section 3.2)."""

from typing import Any

import numpy as np
from jaxtyping import Int64

from elastic_ast_jax.utils import philox
from elastic_ast_jax.utils.philox import Stream

# A product such as 0.9 * 10 may lie a rounding error below the integer it means.
_ROUNDING = 1e-6


def tokens_after_dropout(tokens: Any, dropout: Any) -> Any:
    """Return the number of tokens that remain: `max(1, int((1 - dropout) * n))` (paper, 3.2).

    Args:
        tokens: Tokens of a clip; a number, or an array of numbers.
        dropout: Share of the tokens that is dropped; a number, or an array of numbers.
    """
    if not np.any(dropout):
        return tokens
    return np.maximum(1, np.floor((1.0 - dropout) * tokens + _ROUNDING).astype(np.int64))


def kept_token_indices(
    seed: int, epoch: int, position: int, tokens: int, count: int
) -> Int64[np.ndarray, 'kept']:
    """Return the ascending indices of the tokens that remain of a sampled clip.

    Every subset is equally likely.

    Args:
        seed: Seed of the run.
        epoch: Number of the epoch.
        position: Position of the clip in the epoch.
        tokens: Tokens of the clip.
        count: Number of tokens that remain.
    """
    return philox.subset(
        philox.words_at(seed, epoch, Stream.TOKEN_DROPOUT, position, tokens), count
    )
