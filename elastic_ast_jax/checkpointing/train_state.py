"""Define the state of a training run."""

from typing import Any, NamedTuple

import optax
from jaxtyping import Int


class TrainState(NamedTuple):
    """All values that change during training.

    Random numbers are not among them: they are a function of (seed, step).

    Attributes:
        step: The number of updates.
        params: All parameters, frozen ones included.
        optimizer: The state of the optimizer, without frozen parameters.
        ema: The moving average of the parameters; None if the run has none.
    """

    step: Int[Any, '']
    params: Any
    optimizer: optax.OptState
    ema: Any = None
