"""Find the parameters that a new run starts from, and record them in its workdir."""

from collections.abc import Mapping, Sequence
from typing import Any

from elastic_ast_jax.checkpointing.workdir import Workdir
from elastic_ast_jax.config.schema import Config
from elastic_ast_jax.distributed import processes
from elastic_ast_jax.models.factory import Network
from elastic_ast_jax.pretrained import initialize
from elastic_ast_jax.utils.files import write_text
from elastic_ast_jax.utils.progress import Progress

_NO_PARAMS: Mapping[str, Any] = {}


def starting_params(
    config: Config,
    workdir: Workdir,
    network: Network,
    abstract_params: Any,
    labels: Sequence[str],
    progress: Progress,
) -> Mapping[str, Any]:
    """Return the parameters that a new run takes from `init.from`, by name.

    A report of them is written to the terminal and to the workdir.

    Args:
        config: The configuration of the run.
        workdir: Its workdir; a run that has a checkpoint takes none.
        network: The model.
        abstract_params: The shapes and dtypes of its parameters.
        labels: The name of each class.
        progress: Writes to the terminal.
    """
    if workdir.has_checkpoint():
        return _NO_PARAMS
    if processes.is_primary():
        workdir.starting_point.unlink(missing_ok=True)  # of an earlier start that failed
    if not config.init.from_:
        return _NO_PARAMS
    initialized = initialize.initialize_params(
        config.init.from_,
        network,
        abstract_params,
        labels,
        config.frontend,
        quirks=config.init.published_quirks,
    )
    for line in initialized.report:
        progress.write_line(line)
    if processes.is_primary():
        workdir.check_lock()
        write_text(workdir.starting_point, '\n'.join(initialized.report) + '\n')
    return initialized.params
