"""Cells of the Markdown tables that commands print and write, and lines below them."""

import math
from collections.abc import Iterable, Sequence


def row(cells: Iterable[str]) -> str:
    """A line of a table."""
    return f'| {" | ".join(cells)} |'


def text(value: str) -> str:
    """Any text as one cell: what would end the cell or the line is escaped or a space."""
    return ' '.join(value.split()).replace('\\', '\\\\').replace('|', '\\|')


def changed(overrides: Sequence[str]) -> list[str]:
    """Lines below a table: what was changed of a config, if anything was."""
    return ['', f'With {text(", ".join(overrides))}.'] if overrides else []


def left_out(messages: Sequence[str]) -> list[str]:
    """Lines below a table: a message for each clip that could not be used, if there are any."""
    if not messages:
        return []
    listed = [f'- {text(message)}' for message in messages]
    return ['', f'Clips that could not be used, and are left out: {len(messages)}.', '', *listed]


def percent(value: float) -> str:
    """A share in percent; a dash if it is undefined."""
    return '–' if math.isnan(value) else f'{100 * value:.2f} %'


def number(value: float) -> str:
    """A number with four decimals; a dash if it is undefined."""
    return '–' if math.isnan(value) else f'{value:.4f}'
