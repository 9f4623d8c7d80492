"""`elastic-ast parity`: the numbers of this package beside those of the PyTorch originals."""

import dataclasses
import json
import os

import jax
import jax.numpy as jnp

from elastic_ast_jax.models.attention import selection
from elastic_ast_jax.models.attention.interface import Attend
from elastic_ast_jax.parity import ast, elastic_ast, fbank, reference, training
from elastic_ast_jax.parity.comparison import Comparison
from elastic_ast_jax.parity.training import TrainingSteps
from elastic_ast_jax.utils import jax_cache
from elastic_ast_jax.utils.progress import Progress
from elastic_ast_jax.utils.text import counted, without_nan

__all__ = ['Report', 'compare_ast', 'compare_elastic_ast', 'make_report', 'run', 'print_report']

_LEGEND = (
    'Differences are the largest. Relative is to the largest value of the reference, and of a'
    " gradient the norm of the difference to the norm of the reference, in PyTorch's layout. The"
    ' bound is of the absolute difference if nothing else is said.'
)


@dataclasses.dataclass(frozen=True)
class Report:
    """All that was compared.

    Attributes:
        rows: Of each thing.
        notes: What has to be said about them, a paragraph each.
    """

    rows: tuple[Comparison, ...]
    notes: tuple[str, ...] = ()

    @property
    def failed(self) -> list[Comparison]:
        return [row for row in self.rows if not row.passed]

    def table(self) -> str:
        """The rows, by model."""
        wide = max(len(row.what) for row in self.rows)
        lines = []
        for model in dict.fromkeys(row.model for row in self.rows):
            lines += [f'{model:<{wide}}  absolute  relative  bound']
            for row in (row for row in self.rows if row.model == model):
                bound = f'{row.bound:.1e}' + (' relative' if row.counts == 'relative' else '')
                lines.append(
                    f'{row.what:<{wide}}  {row.absolute:8.1e}  {row.relative:8.1e}  {bound:<17}'
                    f'{"pass" if row.passed else "FAIL"}'
                )
            lines.append('')
        return '\n'.join(lines)

    def verdict(self) -> str:
        """All pass, or which rows do not."""
        if not self.failed:
            return f'{counted(len(self.rows), "row")}, all pass'
        names = '\n'.join(f'  {row.name}' for row in self.failed)
        return f'{len(self.failed)} of {counted(len(self.rows), "row")} fail:\n{names}'


def run(as_json: bool = False) -> int:
    """Prints the report: a table, or JSON.

    On the CPU, unless `JAX_PLATFORMS` names something else.

    Returns:
        The exit code: 1 if a row fails.

    Raises:
        ReferenceFileError: The installed package lacks reference values.
    """
    if 'JAX_PLATFORMS' not in os.environ:
        jax.config.update('jax_platforms', 'cpu')
    jax_cache.use_compilation_cache()
    progress = Progress()
    made = make_report(progress)
    progress.clear()
    return print_report(made, as_json)


def print_report(made: Report, as_json: bool = False) -> int:
    """Prints a report; the exit code is 1 if a row fails."""
    place = (
        f'float32 on {jax.default_backend()}, matrix products in the highest precision, JAX'
        f' {jax.__version__}'
    )
    if as_json:
        rows = [dataclasses.asdict(row) | {'passed': row.passed} for row in made.rows]
        print(
            json.dumps(
                without_nan(
                    {'where': place, 'passed': not made.failed, 'rows': rows, 'notes': made.notes}
                ),
                indent=2,
            )
        )
    else:
        print(made.table())
        print('\n'.join([*made.notes, _LEGEND, f'{place}: {made.verdict()}']))
    return 1 if made.failed else 0


def make_report(progress: Progress | None = None) -> Report:
    """Compares everything that there are reference values for.

    Raises:
        ReferenceFileError: The installed package lacks them.
    """
    progress = progress or Progress()
    attend = selection.select_attention('auto', dtype=jnp.float32)
    rows, notes = [], []
    for name, title in elastic_ast.TITLES.items():
        progress.show(f'{title}: compiling and running')
        found, said = compare_elastic_ast(name, attend)
        rows += found
        notes += said
    for name, title in ast.TITLES.items():
        progress.show(f'{title}: compiling and running')
        rows += compare_ast(name, attend)
    return Report((*rows, *fbank.compare_fbank()), tuple(notes))


def compare_elastic_ast(name: str, attend: Attend) -> tuple[list[Comparison], list[str]]:
    """All rows of a stored ElasticAST, and notes on them."""
    with jax.default_matmul_precision('highest'):
        made = elastic_ast.load_case(name, attend)
        rows, notes = training.compare_training(made, TrainingSteps(made))
        return elastic_ast.compare_forward(made) + rows, notes


def compare_ast(name: str, attend: Attend) -> list[Comparison]:
    """All rows of a stored AST."""
    stored = reference.load(name)
    with jax.default_matmul_precision('highest'):
        made = ast.convert(stored)
        return ast.compare_features(ast.TITLES[name], stored, made) + ast.compare_logits(
            ast.TITLES[name], stored, made, attend
        )
