"""Save figures and abbreviate labels, for all plots."""

import io
import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from elastic_ast_jax.utils.files import atomic_write
from elastic_ast_jax.utils.text import printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure


# Characters of the longest label.
LONGEST_LABEL = 32


def save_figure(figure: 'Figure', file: str | os.PathLike) -> None:
    """Write a figure in the format that the file's suffix names.

    Raises:
        WriteError: The file cannot be written. The old file stays.
    """
    # Draw in memory first, so that a full disk raises a system error, not one of an encoder.
    image = io.BytesIO()
    with warnings.catch_warnings():
        # Matplotlib draws a box for characters that the font lacks. The warning does not help.
        warnings.filterwarnings('ignore', 'Glyph .* missing from', UserWarning)
        figure.savefig(image, format=Path(file).suffix[1:])
    with atomic_write(file) as temporary:
        temporary.write_bytes(image.getvalue())


def abbreviate(text: str, longest: int) -> str:
    """Return a text that can be image, with its middle removed if it is too long."""
    text = printable(text)
    half = longest // 2
    return text if len(text) <= longest else f'{text[:half]}…{text[-half + 1 :]}'
