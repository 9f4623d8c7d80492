"""Format Markdown tables that commands print and write, and the lines below them."""

import math
from collections.abc import Iterable, Sequence


def row(cells: Iterable[str]) -> str:
    """Return a line of a table."""
    return f'| {" | ".join(cells)} |'


def table(head: Sequence[str], rows: Iterable[Iterable[str]], align: str) -> list[str]:
    """Return the lines of a table.

    Args:
        head: Name of each column.
        rows: Cells of each row.
        align: A letter for each column: `l` for left, `r` for right.

    Example:
        >>> table(['run', 'clips'], [['a', '12']], 'lr')
        ['| run | clips |', '| --- | ---: |', '| a | 12 |']
    """
    rule = row('---' if letter == 'l' else '---:' for letter in align)
    return [row(head), rule, *map(row, rows)]


def text(value: str) -> str:
    """Return any text as one cell: pipes are escaped, line breaks become spaces."""
    return ' '.join(value.split()).replace('\\', '\\\\').replace('|', '\\|')


def override_lines(overrides: Sequence[str]) -> list[str]:
    """Return the lines below a table that list overrides of a config, if there are any."""
    return ['', f'With {text(", ".join(overrides))}.'] if overrides else []


def skipped_lines(messages: Sequence[str]) -> list[str]:
    """Return the lines below a table that list skipped clips, if there are any."""
    if not messages:
        return []
    listed = [f'- {text(message)}' for message in messages]
    return ['', f'Clips that could not be used and were skipped: {len(messages)}.', '', *listed]


def percent(value: float) -> str:
    """Return a share in percent, or a dash if it is undefined."""
    return '–' if math.isnan(value) else f'{100 * value:.2f} %'


def number(value: float) -> str:
    """Return a number with four decimals, or a dash if it is undefined."""
    return '–' if math.isnan(value) else f'{value:.4f}'
