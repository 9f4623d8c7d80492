"""Cells of the Markdown tables that commands print and write."""

import math
from collections.abc import Iterable


def row(cells: Iterable[str]) -> str:
    """A line of a table."""
    return f'| {" | ".join(cells)} |'


def text(value: str) -> str:
    """Any text as one cell: what would end the cell or the line is escaped or a space."""
    return ' '.join(value.split()).replace('\\', '\\\\').replace('|', '\\|')


def percent(value: float) -> str:
    """A share in percent; a dash if it is undefined."""
    return '–' if math.isnan(value) else f'{100 * value:.2f} %'


def number(value: float) -> str:
    """A number with four decimals; a dash if it is undefined."""
    return '–' if math.isnan(value) else f'{value:.4f}'
