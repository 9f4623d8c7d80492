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
        skipped: By the name of a split, a message for each of its clips.
    """
    workdir.add_skipped(
        f'{split}: {message}' for split, messages in skipped.items() for message in messages
    )
    for split, messages in skipped.items():
        if messages:
            progress.write_line(
                f'{len(messages)} {split} clips were skipped (all: {workdir.skipped}):\n'
                f'{headers.format_problems(messages)}'
            )
