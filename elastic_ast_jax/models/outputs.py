"""What a model makes of packed clips on its way to their logits."""

from typing import NamedTuple

from jaxtyping import Array, Float


class ModelOutputs(NamedTuple):
    """What the model makes of a batch on its way to the logits.

    Attributes:
        logits: Of each clip slot.
        pooled: The vector of each slot that the head classifies.
        tokens: The encoder's output at each token.
        shares: What share of a clip's pooled vector each token has, per head of the pooling (one
            for the mean); sums to 1 over the clip's tokens, 0 in padding. None of a model that
            pools no tokens of patches.
    """

    logits: Float[Array, 'R S C']
    pooled: Float[Array, 'R S D']
    tokens: Float[Array, 'R T D']
    shares: Float[Array, 'R T H'] | None
