"""Write the pages that follow from the code: docs/configuration.md and docs/commands.md.

python docs/generate.py            # writes them
python docs/generate.py --check    # exits with 1 if a stored page is not current
"""

import argparse
import ast
import dataclasses
import difflib
import inspect
import io
import re
import sys
import textwrap
import tokenize
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent

CONFIGURATION = """\
# Configuration

A config file is Python. Its function `get_config()` returns an `ml_collections.ConfigDict` with the
values that differ from the defaults:

```python
from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.data = dict(source='folders', train='sounds', eval='sounds')
    config.optimizer = dict(learning_rate=3e-4)
    return config
```

| on the command line | meaning |
|---|---|
| `--config=FILE` | this config file |
| `--config=FILE:ARG` | `get_config(ARG)`, a variant of the recipe |
| `--config=NAME` | a recipe of this package, such as `quickstart` |
| `--config.section.key=VALUE` | override a key; sequences are written with commas |

All problems of a config are reported together, before any data are read. An unknown key gets the
nearest valid one as a hint, and an old key its new name.

The tables list every key. They are generated from `elastic_ast_jax/config/schema.py` and
`elastic_ast_jax/audio/frontend.py` by `python docs/generate.py`.
"""

COMMANDS = """\
# Commands

`elastic-ast COMMAND --help` shows the options of a command. `python -m elastic_ast_jax` is the same
program. Commands that take `--config` accept an override of any key,
`--config.section.key=VALUE`; see [Configuration](configuration.md). The codes that a command
returns are listed in [Exit codes](distributed.md#exit-codes).

This page is generated from the options that the commands declare, by `python docs/generate.py`.
"""


def main(argv: Sequence[str]) -> int:
    """Write or check the pages; return the exit code."""
    parser = argparse.ArgumentParser(
        description='Write docs/configuration.md and docs/commands.md.'
    )
    parser.add_argument('--check', action='store_true', help='exit with 1 if a page is not current')
    options = parser.parse_args(argv)
    outdated = False
    for name, text in (('configuration.md', configuration()), ('commands.md', commands())):
        page = FOLDER / name
        stored = page.read_text(encoding='utf-8') if page.exists() else ''
        if not options.check:
            page.write_text(text, encoding='utf-8')
        elif text != stored:
            outdated = True
            changes = difflib.unified_diff(
                stored.splitlines(),
                text.splitlines(),
                f'docs/{name}',
                'generated',
                lineterm='',
                n=0,
            )
            print('\n'.join(changes))
    if outdated:
        print('not current: run python docs/generate.py', file=sys.stderr)
    return int(outdated)


def configuration() -> str:
    """Return the page of all config keys."""
    from elastic_ast_jax.config.schema import Config

    parts = [CONFIGURATION]
    for section in dataclasses.fields(Config):
        meanings = field_meanings(section.type)
        summary = inspect.getdoc(section.type).split('\n\n')[0].replace('\n', ' ')
        rows = [
            (
                f'`{section.name}.{field.name.removesuffix("_")}`',
                type_name(field.type),
                f'`{field.default!r}`',
                meanings.get(field.name, ''),
            )
            for field in dataclasses.fields(section.type)
        ]
        keys = table(('key', 'type', 'default', 'meaning'), rows)
        parts.append(f'## {section.name}\n\n{summary}\n\n{keys}\n')
    return '\n'.join(parts)


def field_meanings(section: type) -> dict[str, str]:
    """Return the meaning of each field, from its comment or from the docstring's `Attributes:`."""
    return documented_attributes(inspect.getdoc(section) or '') | field_comments(section)


def documented_attributes(docstring: str) -> dict[str, str]:
    """Return the entries of a Google-style `Attributes:` section by name."""
    _, _, listed = docstring.partition('Attributes:\n')
    meanings: dict[str, str] = {}
    for entry in re.split(r'\n(?=\S)', textwrap.dedent(listed)):
        names, colon, meaning = entry.partition(':')
        if colon:
            text = ' '.join(meaning.split())
            meanings |= {name.strip(): text for name in names.split(',')}
    return meanings


def field_comments(section: type) -> dict[str, str]:
    """Return the comment of each field: beside and below it, or else on the lines above."""
    source = textwrap.dedent(inspect.getsource(section))
    beside: dict[int, str] = {}
    above: dict[int, str] = {}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            own_line = not token.line[: token.start[1]].strip()
            (above if own_line else beside)[token.start[0]] = token.string.lstrip('# ')
    meanings = {}
    (definition,) = ast.parse(source).body
    for node in definition.body:
        if not isinstance(node, ast.AnnAssign):
            continue
        lines = range(node.lineno, node.end_lineno + 1)
        comment = [beside[line] for line in lines if line in beside]
        if comment:
            comment += list(neighbors(above, node.end_lineno, 1))
        else:
            comment = list(neighbors(above, node.lineno, -1))[::-1]
        if comment:
            meanings[node.target.id] = ' '.join(comment)
    return meanings


def neighbors(comments: dict[int, str], line: int, step: int) -> Iterator[str]:
    """Yield the comments on the lines next to a line, up to the first line without one."""
    line += step
    while line in comments:
        yield comments[line]
        line += step


def type_name(kind: Any) -> str:
    """Return the type of a key in words."""
    if getattr(kind, '__args__', None):
        return f'{type_name(kind.__args__[0])}, ...'
    return {int: 'int', float: 'float', str: 'text', bool: 'true or false'}[kind]


def commands() -> str:
    """Return the page of all commands and their options."""
    from elastic_ast_jax.cli import main as cli

    parser = cli.make_parser()
    listed = [
        (f'[`elastic-ast {name}`](#elastic-ast-{name})', purpose)
        for name, _, purpose in subcommands(parser)
    ]
    parts = [COMMANDS, table(('command', 'purpose'), listed), '']
    for _, command, _ in subcommands(parser):
        parts += sections(command, 2)
    return '\n'.join(parts)


def sections(command: argparse.ArgumentParser, level: int) -> Iterator[str]:
    """Yield the section of a command, and those of its own commands."""
    rows = [option(action) for action in command._actions if described(action)]
    yield f'{"#" * level} {command.prog}\n'
    if command.description:
        yield f'{escaped(" ".join(command.description.split()))}\n'
    if rows:
        yield table(('option', 'meaning'), rows) + '\n'
    for _, inner, _ in subcommands(command):
        yield from sections(inner, level + 1)


def subcommands(
    parser: argparse.ArgumentParser,
) -> Iterator[tuple[str, argparse.ArgumentParser, str]]:
    """Yield the name, parser and purpose of each command of a parser."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            purposes = {choice.dest: choice.help or '' for choice in action._choices_actions}
            for name, command in action.choices.items():
                yield name, command, purposes.get(name, '')


def described(action: argparse.Action) -> bool:
    """Return whether an option is listed."""
    hidden = action.help == argparse.SUPPRESS
    return not hidden and not isinstance(action, argparse._HelpAction | argparse._SubParsersAction)


def option(action: argparse.Action) -> tuple[str, str]:
    """Return an option as it is written, and its meaning."""
    value = action.metavar or (
        '|'.join(map(str, action.choices)) if action.choices else action.dest.upper()
    )
    if action.option_strings:
        names = [name if action.nargs == 0 else f'{name}={value}' for name in action.option_strings]
        needed = ' (required)' if action.required else ''
    else:
        names = [f'{value} ...' if action.nargs in ('*', '+') else str(value)]
        needed = ' (optional)' if action.nargs in ('*', '?') else ''
    written = ', '.join(f'`{name}`' for name in names).replace('|', '\\|')
    values = vars(action) | {'prog': ''}
    return written + needed, (action.help or '') % values


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [header, ['---'] * len(header), *([escaped(cell) for cell in row] for row in rows)]
    return '\n'.join(f'| {" | ".join(line)} |' for line in lines)


def escaped(text: str) -> str:
    """Return a text whose bars and angle brackets are shown as they are."""
    text = re.sub(r'(?<!\\)\|', r'\\|', text)
    return text if '`' in text else text.replace('<', '&lt;')


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
