"""Compare this package's numbers with those of the PyTorch originals (`elastic-ast parity`)."""

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
from elastic_ast_jax.utils.text import nan_to_none, pluralize

__all__ = [
    'Report',
    'compare_ast',
    'compare_elastic_ast',
    'make_report',
    'print_report',
    'run',
]

_LEGEND = (
    'Differences are the largest absolute differences. Relative differences are divided by the'
    ' largest value of the reference. For a gradient, the relative difference is the norm of the'
    " difference divided by the norm of the reference, in PyTorch's layout. Bounds apply to"
    ' absolute differences unless marked as relative.'
)


@dataclasses.dataclass(frozen=True)
class Report:
    """Result of all comparisons.

    Attributes:
        comparisons: All comparisons, by model.
        notes: Remarks on the comparisons, a paragraph each.
    """

    comparisons: tuple[Comparison, ...]
    notes: tuple[str, ...] = ()

    @property
    def failed(self) -> list[Comparison]:
        """Return the comparisons that exceed their bounds."""
        return [comparison for comparison in self.comparisons if not comparison.passed]

    def table(self) -> str:
        """Return a table of the comparisons of each model."""
        width = max(len(comparison.quantity) for comparison in self.comparisons)
        lines = []
        for model in dict.fromkeys(comparison.model for comparison in self.comparisons):
            lines.append(f'{model:<{width}}  absolute  relative  bound')
            for comparison in self.comparisons:
                if comparison.model == model:
                    lines.append(_table_row(comparison, width))
            lines.append('')
        return '\n'.join(lines)

    def verdict(self) -> str:
        """Return that all comparisons pass, or the names of those that fail."""
        rows = pluralize(len(self.comparisons), 'row')
        if not self.failed:
            return f'{rows}, all pass'
        names = '\n'.join(f'  {comparison.name}' for comparison in self.failed)
        return f'{len(self.failed)} of {rows} fail:\n{names}'


def _table_row(comparison: Comparison, width: int) -> str:
    bound = f'{comparison.bound:.1e}' + (' relative' if comparison.bounded == 'relative' else '')
    return (
        f'{comparison.quantity:<{width}}  {comparison.absolute:8.1e}  {comparison.relative:8.1e} '
        f' {bound:<17}{"pass" if comparison.passed else "FAIL"}'
    )


def run(*, as_json: bool = False) -> int:
    """Print the report: a table, or JSON.

    Runs on the CPU, unless `JAX_PLATFORMS` names another platform.

    Returns:
        The exit code: 1 if a comparison fails.

    Raises:
        ReferenceFileError: The installed package lacks reference values.
    """
    if 'JAX_PLATFORMS' not in os.environ:
        jax.config.update('jax_platforms', 'cpu')
    jax_cache.use_compilation_cache()
    progress = Progress()
    report = make_report(progress)
    progress.clear()
    return print_report(report, as_json=as_json)


def print_report(report: Report, *, as_json: bool = False) -> int:
    """Print a report and return the exit code: 1 if a comparison fails."""
    platform = (
        f'float32 on {jax.default_backend()}, matrix products in the highest precision, JAX'
        f' {jax.__version__}'
    )
    if as_json:
        entries = {
            'where': platform,
            'passed': not report.failed,
            'rows': [comparison.to_json() for comparison in report.comparisons],
            'notes': report.notes,
        }
        print(json.dumps(nan_to_none(entries), indent=2))
    else:
        print(report.table())
        print('\n'.join([*report.notes, _LEGEND, f'{platform}: {report.verdict()}']))
    return 1 if report.failed else 0


def make_report(progress: Progress | None = None) -> Report:
    """Compare everything for which there are reference values.

    Raises:
        ReferenceFileError: The installed package lacks them.
    """
    progress = progress or Progress()
    attend = selection.select_attention('auto', dtype=jnp.float32)
    comparisons, notes = [], []
    for name, title in elastic_ast.TITLES.items():
        progress.show(f'{title}: compiling and running')
        network_comparisons, network_notes = compare_elastic_ast(name, attend)
        comparisons += network_comparisons
        notes += network_notes
    for name, title in ast.TITLES.items():
        progress.show(f'{title}: compiling and running')
        comparisons += compare_ast(name, attend)
    return Report((*comparisons, *fbank.compare_fbank()), tuple(notes))


def compare_elastic_ast(name: str, attend: Attend) -> tuple[list[Comparison], list[str]]:
    """Return all comparisons of a stored ElasticAST, and notes on them."""
    with jax.default_matmul_precision('highest'):
        case = elastic_ast.load_case(name, attend)
        comparisons, notes = training.compare_training(case, TrainingSteps(case))
        return elastic_ast.compare_forward(case) + comparisons, notes


def compare_ast(name: str, attend: Attend) -> list[Comparison]:
    """Return all comparisons of a stored AST."""
    stored, title = reference.load(name), ast.TITLES[name]
    with jax.default_matmul_precision('highest'):
        converted = ast.convert(stored)
        features = ast.compare_features(title, stored, converted)
        return features + ast.compare_logits(title, stored, converted, attend)
