"""Define the experiments of the paper: the models that each compares, and over what."""

import dataclasses
import types
from collections.abc import Mapping
from typing import Literal

__all__ = ['EXPERIMENTS', 'Definition']


@dataclasses.dataclass(frozen=True)
class Definition:
    """Describe the models of an experiment, and the curve that compares them.

    Attributes:
        summary: The experiment in a line.
        details: Further sentences for its help.
        models: Variants of the recipe. `first|second` is the first one that the recipe has, `word?`
            is dropped if the recipe lacks it, and `key=*` is each value of a key.
        beside: Like `models`, for models that a sweep shows, and by which no drop is measured.
        sweep: The sweep that each model is evaluated over.
        fixed_length: The ways in which a sweep treats ASTs, see `elastic-ast evaluate`.
        over: Instead of `sweep`: the key that the accuracy on whole clips is drawn over.
        vary: `KEY=VALUE,...`: each model is trained with each of these values.
        row_budget: Each model is trained with the tokens of a step in so many rows, if they divide.
    """

    summary: str
    details: str = ''
    models: tuple[str, ...] = ('elastic_ast',)
    beside: tuple[str, ...] = ()
    sweep: Literal['length', 'resolution'] | None = None
    fixed_length: tuple[Literal['own', 'resized'], ...] = ()
    over: str | None = None
    vary: str = ''
    row_budget: tuple[int, ...] = ()


EXPERIMENTS: Mapping[str, Definition] = types.MappingProxyType(
    {
        'length': Definition(
            summary='accuracy against the length that is used of each clip',
            details=(
                'ElasticAST beside ASTs of fixed lengths (paper: VoxCeleb, EPIC-SOUNDS), and'
                ' ElasticAST trained on beginnings of clips of random length, if the recipe has it.'
                ' ASTs are evaluated in two ways: they pad or crop clips to their own'
                ' length; or, as in the paper, to the length of each point, with their positions'
                ' resized.'
            ),
            models=('elastic_ast', 'prefixes?', 'ast,frames=*'),
            sweep='length',
            fixed_length=('own', 'resized'),
        ),
        'resolution': Definition(
            summary='accuracy against the frame shift',
            details=(
                'ElasticAST trained at many frame shifts beside ASTs trained at one each (paper:'
                ' AudioSet, VGGSound), and an AST trained at many, if the recipe has that variant.'
            ),
            models=('resolutions|elastic_ast', 'ast,shift=*'),
            beside=('ast_resolutions?',),
            sweep='resolution',
            fixed_length=('resized',),
        ),
        'native_length': Definition(
            summary='accuracy on clips of native length',
            details='ElasticAST beside ASTs that pad or crop every clip (paper: claim 3).',
            models=('elastic_ast', 'prefixes?', 'ast,frames=*'),
            over='frontend.max_frames',
        ),
        'token_dropout': Definition(
            summary='accuracy and time of training against the share of dropped tokens',
            details=(
                'The paper drops 0.1. Rows keep their size: with more dropped tokens, a step has'
                ' more clips and an epoch fewer steps.'
            ),
            vary='augment.token_dropout=0,0.1,0.3,0.5',
            over='augment.token_dropout',
        ),
        'row_budget': Definition(
            summary='accuracy and time of training against the tokens of a row',
            details=(
                'A step has the same number of tokens, in many short rows or few long ones (paper:'
                ' rows of up to 2048 tokens).'
            ),
            row_budget=(1, 2, 3, 4, 8),
            over='packing.tokens',
        ),
        'scaled_attention': Definition(
            summary='accuracy with and without division of attention logits by sqrt(head width)',
            details='The published code does not divide them.',
            vary='model.scaled=True,False',
            over='model.scaled',
        ),
    }
)
