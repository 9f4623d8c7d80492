"""Search for the largest number of rows that fits a device."""

from collections.abc import Callable, Sequence

from elastic_ast_jax.perf.compiled_step import CompiledStep

_MAX_ROWS = 4096
# Attempts of a search that follow the memory of earlier ones.
_GUIDED_ATTEMPTS = 4


def max_rows(
    attempt: Callable[[int], CompiledStep], first: int, device_bytes: float
) -> tuple[int, CompiledStep | None]:
    """Return the largest number of rows that fits, 0 if none fits, and the step with these rows.

    Memory grows about linearly with the rows, so few attempts are needed: the first attempts follow
    the line through the last two, between the most rows that fit and the fewest rows that do not.
    Later attempts halve that interval.

    Args:
        attempt: Compiles a step with a number of rows.
        first: Rows of the first attempt.
        device_bytes: Bytes of a device.
    """
    low, best, high = 0, None, _MAX_ROWS + 1
    measured: list[tuple[int, float]] = []
    rows, attempts = first, 0
    while True:
        result = attempt(rows)
        if result.fits and not measured:
            measured.append((0, float(result.arguments)))  # a batch without rows
        if result.needed is not None:
            measured.append((rows, result.needed))
        if result.fits:
            low, best = rows, result
        else:
            high = rows
        if high - low <= 1:
            return low, best
        attempts += 1
        if attempts < _GUIDED_ATTEMPTS or high > _MAX_ROWS:
            predicted = _predict_rows(measured, rows, result, device_bytes)
            rows = min(max(predicted, low + 1), high - 1)
        else:
            rows = (low + high) // 2


def _predict_rows(
    measured: Sequence[tuple[int, float]], rows: int, result: CompiledStep, device_bytes: float
) -> int:
    """Return the most rows that fit if memory is the line through the last two attempts."""
    doubled_or_halved = 2 * rows if result.fits else rows // 2
    if len(measured) < 2 or measured[-1][1] == measured[-2][1]:
        return doubled_or_halved
    (rows_before, needed_before), (rows_last, needed_last) = measured[-2:]
    slope = (needed_last - needed_before) / (rows_last - rows_before)
    if slope <= 0:
        return doubled_or_halved
    return int(rows_last + ((result.limit or device_bytes) - needed_last) / slope)
