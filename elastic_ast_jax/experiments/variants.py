"""Find the models that an experiment compares on a recipe."""

import dataclasses
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from elastic_ast_jax.config import loading
from elastic_ast_jax.config.schema import Config
from elastic_ast_jax.experiments.definitions import Definition
from elastic_ast_jax.utils.errors import UserError

# What variants are called; the others are ElasticAST.
NAMES = {
    'ast': 'AST',
    'prefixes': 'ElasticAST, prefixes',
    'ast_resolutions': 'AST, many frame shifts',
}


class ExperimentError(UserError):
    """An experiment that a recipe is not made for, or that cannot be done in a folder."""


@dataclasses.dataclass(frozen=True)
class Model:
    """A model of an experiment.

    Attributes:
        name: In tables and plots.
        variant: Of the recipe.
        overrides: `section.key=value` each.
        beside: It is shown, and no other model is measured by it.
    """

    name: str
    variant: str
    overrides: tuple[str, ...] = ()
    beside: bool = False

    def folder(self, out: Path, seed: int) -> Path:
        """Of its run with this seed."""
        words = [
            *self.variant.split(','),
            *(text.partition('.')[2] for text in self.overrides),
        ]  # without the section
        return out / '+'.join(words) / f'seed-{seed}'


def of_experiment(
    recipe: object, path: str, definition: Definition, given: Sequence[str]
) -> Iterator[Model]:
    """The models, each once.

    Args:
        recipe: The module of the config file, whose `VARIANTS` say what can be compared.
        path: Of that file.
        definition: The experiment.
        given: Overrides of all of them, `section.key=value` each.

    Raises:
        ExperimentError: The recipe has no such variants, or an override is of what varies.
        ConfigError: A config is not possible.
    """
    variants = getattr(recipe, 'VARIANTS', {})
    varied = _varied(path, definition, given)
    for wanted in (*definition.models, *definition.beside):
        found = next(
            (
                one
                for one in wanted.removesuffix('?').split('|')
                if one.partition(',')[0] in variants
            ),
            None,
        )
        if found is None and wanted.endswith('?'):
            continue
        if found is None:
            raise ExperimentError(
                f'{path}: VARIANTS has no {wanted.replace("|", " or ")}, which this experiment'
                ' trains'
            )
        word, _, star = found.partition(',')
        its = star.removesuffix('=*')
        if star and its not in variants[word]:
            raise ExperimentError(
                f'{path}: the fixed-length AST has no variants by its {its}, which this experiment'
                ' compares: '
                f"VARIANTS['{word}'] has {', '.join(variants[word]) or 'none'}"
            )
        for value in sorted(variants[word][its]) if star else [None]:
            default = value is None or value == variants[word][its][0]
            unit = {'frames': 'frames', 'shift': 'ms'}.get(its, its)
            label = NAMES.get(word, 'ElasticAST')
            if word == 'ast' and value is not None and not definition.over:
                label = f'AST at {value} {unit}'
            variant = word if default else f'{word},{its}={value}'
            own = loading.load(f'{path}:{variant}', given)
            for overrides in varied:
                # What is the recipe's own already needs no run of its own.
                others = [
                    text
                    for text in overrides
                    if loading.load(f'{path}:{variant}', (*given, text)) != own
                ]
                yield Model(label, variant, tuple(others), wanted in definition.beside)


def _varied(path: str, definition: Definition, given: Sequence[str]) -> list[tuple[str, ...]]:
    """Overrides of each value that is tried; a single one without any if nothing varies."""
    key, _, values = definition.vary.partition('=')
    varied = {'train.seed': '--seeds'} | ({key: 'this experiment'} if key else {})
    for text in given:
        if (taken := text.partition('=')[0]) in varied:
            raise ExperimentError(
                f'--config.{text}: {taken} is varied by {varied[taken]}: leave it out'
            )
    if definition.row_budget:
        return list(_row_budgets(loading.load(path, given), definition.row_budget))
    return [(f'{key}={value}',) for value in values.split(',')] if key else [()]


def _row_budgets(config: Config, numbers: Iterable[int]) -> Iterator[tuple[str, ...]]:
    """The tokens of a step in so many rows, from many short ones to few long ones;

    tells which numbers are not possible.
    """
    packing, frontend = config.packing, config.frontend
    tokens, slots = packing.rows * packing.tokens, packing.rows * packing.slots
    longest = int(frontend.tokens(frontend.max_frames))
    numbers = sorted(numbers, reverse=True)
    possible = [rows for rows in numbers if tokens % rows == 0 and tokens // rows >= longest]
    others = ', '.join(str(rows) for rows in numbers if rows not in possible)
    why = (
        f'the {tokens} tokens of a step (packing.rows x packing.tokens) do not divide into {others}'
        f' equal rows that hold {longest} tokens, a clip of'
        f' frontend.max_frames={frontend.max_frames}'
    )
    if len(possible) < 2:
        raise ExperimentError(
            f'{why}: give --config.packing.tokens={2 * longest} or so, and an --out of its own'
        )
    if others:
        print(f'left out: {why}', file=sys.stderr)
    for rows in possible:
        yield (
            f'packing.tokens={tokens // rows}',
            f'packing.rows={rows}',
            f'packing.slots={-(-slots // rows)}',
        )
