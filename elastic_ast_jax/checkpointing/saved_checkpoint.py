"""Describe a checkpoint that was saved: its size, and how long that took."""

from typing import NamedTuple


class SavedCheckpoint(NamedTuple):
    """A checkpoint that is complete.

    Attributes:
        step: Its step, which is also its name.
        bytes: The size of its files.
        seconds: The time from the call of `save` until all files were written, without the final
            step that marks it as complete.
        waited: The part of it before `save` returned, in which training waited.
    """

    step: int
    bytes: int
    seconds: float
    waited: float
