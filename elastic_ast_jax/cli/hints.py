"""Say what arguments that are not accepted were most likely meant to be."""

import argparse
import difflib
import itertools
from collections.abc import Sequence

__all__ = ['hints']


def hints(words: Sequence[str], unknown: Sequence[str], parser: argparse.ArgumentParser) -> str:
    """Return hints on arguments that are not accepted, each after a semicolon; empty without one.

    Args:
        words: All arguments.
        unknown: Those that are not accepted.
        parser: The parser of the command.
    """
    options = [name for action in parser._actions for name in action.option_strings]
    sections = _sections() if any('.' in word for word in unknown) else ()
    texts = [*_separated_values(words)]
    for word in unknown:
        name, equals, value = word.partition('=')
        if not name.startswith('--config.') and (meant := _meant(name, options, sections)):
            texts.append(f'{word} is written {meant}{equals}{value}')
    return ''.join(f'; {text}' for text in dict.fromkeys(texts))


def _separated_values(words: Sequence[str]) -> list[str]:
    """Return a hint on each override whose value is a word of its own."""
    return [
        f'{word} {value} is written {word}={value}'
        for word, value in itertools.pairwise(words)
        if word.startswith('--config.') and '=' not in word and not value.startswith('--')
    ]


def _meant(name: str, options: Sequence[str], sections: Sequence[str]) -> str:
    """Return the option or the key of the config that a name most likely means, or an empty text.

    Hyphens and underscores, their number at the beginning, and typing mistakes do not count.
    """
    word = name.lstrip('-').replace('-', '_').lower()
    by_word = {option.lstrip('-').replace('-', '_'): option for option in options}
    section = word.removeprefix('config.').partition('.')[0]
    if '.' in word and section in sections:
        return f'--config.{word.removeprefix("config.")}'
    if not name.startswith('-') or len(word) < 2:
        return ''
    near = difflib.get_close_matches(word, by_word, 1, cutoff=0.75)
    return by_word[near[0]] if near else ''


def _sections() -> tuple[str, ...]:
    """Return the sections of the config."""
    import dataclasses

    from elastic_ast_jax.config.schema import Config

    return tuple(field.name for field in dataclasses.fields(Config))
