"""Find the models that an experiment compares on a recipe."""

import dataclasses
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from elastic_ast_jax.config import loading
from elastic_ast_jax.config.schema import Config
from elastic_ast_jax.experiments.definitions import Definition
from elastic_ast_jax.utils.errors import UserError

# Labels of variants; other variants are ElasticAST.
_LABELS = {
    'ast': 'AST',
    'prefixes': 'ElasticAST, prefixes',
    'ast_resolutions': 'AST, many frame shifts',
}
_UNITS = {'frames': 'frames', 'shift': 'ms'}


class ExperimentError(UserError):
    """Report an experiment that a recipe does not support, or that a folder cannot hold."""


@dataclasses.dataclass(frozen=True)
class Model:
    """Describe a model of an experiment.

    Attributes:
        name: Name in tables and plots.
        variant: Variant of the recipe.
        overrides: `section.key=value` each.
        beside: The model is shown, and no drop is measured by it.
    """

    name: str
    variant: str
    overrides: tuple[str, ...] = ()
    beside: bool = False

    def folder(self, out: Path, seed: int) -> Path:
        """Return the workdir of its run with a seed."""
        # Overrides appear without their section.
        words = [*self.variant.split(','), *(text.partition('.')[2] for text in self.overrides)]
        return out / '+'.join(words) / f'seed-{seed}'


def list_models(
    recipe: object, path: str, definition: Definition, common: Sequence[str]
) -> Iterator[Model]:
    """Yield the models of an experiment, each once.

    Args:
        recipe: Module of the config file, whose `VARIANTS` list the variants.
        path: Path of the config file.
        definition: Definition of the experiment.
        common: Overrides of all models, `section.key=value` each.

    Raises:
        ExperimentError: The recipe has no such variants, or `common` has a key that varies.
        ConfigError: A config is not possible.
    """
    variants = getattr(recipe, 'VARIANTS', {})
    varied_overrides = _list_varied(path, definition, common)
    for pattern in (*definition.models, *definition.beside):
        alternatives = pattern.removesuffix('?').split('|')
        match = next((text for text in alternatives if text.partition(',')[0] in variants), None)
        if match is None and pattern.endswith('?'):
            continue
        if match is None:
            raise ExperimentError(
                f'{path}: VARIANTS has no {pattern.replace("|", " or ")}, which this experiment'
                ' trains'
            )
        for name, variant in _expand(path, variants, match, definition):
            config = loading.load(f'{path}:{variant}', common)
            for overrides in varied_overrides:
                # An override with the recipe's own value does not count: its run is shared.
                effective = [
                    text
                    for text in overrides
                    if loading.load(f'{path}:{variant}', (*common, text)) != config
                ]
                yield Model(name, variant, tuple(effective), pattern in definition.beside)


def _expand(
    path: str,
    variants: Mapping[str, Mapping[str, Sequence[int]]],
    match: str,
    definition: Definition,
) -> Iterator[tuple[str, str]]:
    """Yield name and variant for a word, or for each value of its key (`word,key=*`)."""
    word, _, star = match.partition(',')
    key = star.removesuffix('=*')
    name = _LABELS.get(word, 'ElasticAST')
    if not star:
        yield name, word
        return
    if key not in variants[word]:
        raise ExperimentError(
            f'{path}: the fixed-length AST has no variants by its {key}, which this experiment'
            ' compares: '
            f"VARIANTS['{word}'] has {', '.join(variants[word]) or 'none'}"
        )
    default = variants[word][key][0]
    for value in sorted(variants[word][key]):
        if word == 'ast' and not definition.over:
            name = f'AST at {value} {_UNITS.get(key, key)}'
        yield name, word if value == default else f'{word},{key}={value}'


def _list_varied(path: str, definition: Definition, common: Sequence[str]) -> list[tuple[str, ...]]:
    """Return the overrides of each value to try; a single empty one if nothing varies."""
    key, _, values = definition.vary.partition('=')
    varied = {'train.seed': '--seeds'} | ({key: 'this experiment'} if key else {})
    for text in common:
        if (common_key := text.partition('=')[0]) in varied:
            raise ExperimentError(
                f'--config.{text}: {common_key} is varied by {varied[common_key]}: leave it out'
            )
    if definition.row_budget:
        return list(_row_budgets(loading.load(path, common), definition.row_budget))
    return [(f'{key}={value}',) for value in values.split(',')] if key else [()]


def _row_budgets(config: Config, numbers: Iterable[int]) -> Iterator[tuple[str, ...]]:
    """Yield overrides that put the tokens of a step into each number of rows, most rows first.

    Numbers that are not possible are skipped with a message.
    """
    packing, frontend = config.packing, config.frontend
    tokens, slots = packing.rows * packing.tokens, packing.rows * packing.slots
    longest = int(frontend.tokens(frontend.max_frames))
    numbers = sorted(numbers, reverse=True)
    possible = [rows for rows in numbers if tokens % rows == 0 and tokens // rows >= longest]
    impossible = ', '.join(str(rows) for rows in numbers if rows not in possible)
    reason = (
        f'the {tokens} tokens of a step (packing.rows x packing.tokens) do not divide into'
        f' {impossible} equal rows that hold {longest} tokens, a clip of'
        f' frontend.max_frames={frontend.max_frames}'
    )
    if len(possible) < 2:
        raise ExperimentError(
            f'{reason}: give --config.packing.tokens={2 * longest} or so, and an --out of its own'
        )
    if impossible:
        print(f'skipped: {reason}', file=sys.stderr)
    for rows in possible:
        yield (
            f'packing.tokens={tokens // rows}',
            f'packing.rows={rows}',
            f'packing.slots={-(-slots // rows)}',
        )
