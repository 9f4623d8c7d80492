"""Define the outputs of a network, up to its logits."""

from typing import NamedTuple

from jaxtyping import Array, Float


class ModelOutputs(NamedTuple):
    """The logits of packed clips and the values that they are computed from.

    Attributes:
        logits: Of each clip slot.
        pooled: The vector of each slot that the head classifies.
        tokens: The encoder's output at each token.
        shares: The share of each token in its clip's pooled vector, per head of the pooling (one
            for the mean); sums to 1 over the clip's tokens, 0 in padding. None of a model that
            does not pool the tokens of patches.
        statistics: Statistics of each slot's log-mel; None of a model without them.
    """

    logits: Float[Array, 'R S C']
    pooled: Float[Array, 'R S D']
    tokens: Float[Array, 'R T D']
    shares: Float[Array, 'R T H'] | None
    statistics: Float[Array, 'R S F'] | None = None
