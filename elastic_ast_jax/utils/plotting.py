"""What all plots share: writing a figure, and shortening a label."""

import io
import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from elastic_ast_jax.utils.files import atomic_write
from elastic_ast_jax.utils.text import printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure


LONGEST_LABEL = 32


def save_figure(figure: 'Figure', file: str | os.PathLike) -> None:
    """Writes a figure in the format that the file's suffix names.

    Raises:
        WriteError: The file cannot be written; it is as it was.
    """
    drawn = (
        io.BytesIO()
    )  # so that a full disk is told by the system, and not by an encoder in its own way
    with warnings.catch_warnings():
        # Characters that the font does not have are drawn as a box; to the user this is no news.
        warnings.filterwarnings('ignore', 'Glyph .* missing from', UserWarning)
        figure.savefig(drawn, format=Path(file).suffix[1:])
    with atomic_write(file) as temporary:
        temporary.write_bytes(drawn.getvalue())


def abbreviate(text: str, longest: int) -> str:
    """A text that can be drawn, cut in the middle if it is longer."""
    text = printable(text)
    half = longest // 2
    return text if len(text) <= longest else f'{text[:half]}…{text[-half + 1 :]}'
