"""The state of a training run."""

from typing import Any, NamedTuple

import optax
from jaxtyping import Int


class TrainState(NamedTuple):
    """All that changes during training. Random numbers are not in it: they are a function of (seed,
    step).

    Attributes:
        step: Updates made.
        params: All parameters, frozen ones included.
        optimizer: The optimiser's state; it holds nothing for frozen parameters.
        ema: Moving average of the parameters; None if there is none.
    """

    step: Int[Any, '']
    params: Any
    optimizer: optax.OptState
    ema: Any = None
