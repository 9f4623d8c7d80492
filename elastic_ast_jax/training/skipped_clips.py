"""List the clips that a run skipped (`data.on_bad_audio='skip'`)."""

from collections.abc import Mapping, Sequence

from elastic_ast_jax.checkpointing.workdir import Workdir
from elastic_ast_jax.data.sources import headers
from elastic_ast_jax.utils.progress import Progress


def report_skipped(
    workdir: Workdir, progress: Progress, skipped: Mapping[str, Sequence[str]]
) -> None:
    """List the clips that were skipped, on the terminal and in the workdir.

    Args:
        workdir: The workdir of the run.
        progress: Writes to the terminal.
        skipped: By the name of a split, a message for each of its clips. One that an earlier split
            has too is left out: it is of a clip that could not be divided.
    """
    skipped = _without_repetitions(skipped)
    workdir.add_skipped(
        f'{split}: {message}' for split, messages in skipped.items() for message in messages
    )
    for split, messages in skipped.items():
        if messages:
            progress.write_line(
                f'{len(messages)} {split} clips were skipped (all: {workdir.skipped}):\n'
                f'{headers.format_problems(messages)}'
            )


def _without_repetitions(skipped: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Return the messages without those that an earlier split has."""
    kept, seen = {}, set()
    for split, messages in skipped.items():
        kept[split] = [message for message in messages if message not in seen]
        seen.update(messages)
    return kept
