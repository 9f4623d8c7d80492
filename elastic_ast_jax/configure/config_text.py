"""Write chosen keys as the Python file of a config."""

import dataclasses
import textwrap
from collections.abc import Sequence

from elastic_ast_jax.config.schema import Config
from elastic_ast_jax.configure.choice import Choice

__all__ = ['config_text']

_WIDTH = 100


def config_text(summary: str, choices: Sequence[Choice]) -> str:
    """Return the text of a config file.

    Args:
        summary: A line for the docstring, without quotes and backslashes.
        choices: The keys; those of a section are written together, in their order.
    """
    lines = [f'"""{summary}"""', '', 'from ml_collections import ConfigDict', '', '']
    lines += ['def get_config() -> ConfigDict:', '    config = ConfigDict()']
    for field in dataclasses.fields(Config):
        of_section = [choice for choice in choices if choice.section == field.name]
        if of_section:
            lines.append(f'    config.{field.name} = dict(')
            for choice in of_section:
                lines += _choice_lines(choice)
            lines.append('    )')
    return '\n'.join([*lines, '    return config', ''])


def _choice_lines(choice: Choice) -> list[str]:
    """Return the line of a key, with the reason beside it if there is room, or else above it."""
    line = f'        {choice.key}={choice.value!r},'
    if not choice.reason:
        return [line]
    if len(beside := f'{line}  # {choice.reason}') <= _WIDTH:
        return [beside]
    comment = textwrap.wrap(
        choice.reason,
        _WIDTH,
        initial_indent='        # ',
        subsequent_indent='        # ',
        break_long_words=False,
        break_on_hyphens=False,
    )
    return [*comment, line]
