"""The command line. Each command's module, and all that is slow to import with it, is imported when the command runs."""

import argparse
import importlib
import logging
import sys
from collections.abc import Sequence

from elastic_ast_jax.errors import UserError

_OVERRIDES = 'Any key of the config can be overridden: --config.section.key=value.'


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command; returns its exit code. Errors that a user can mend are printed without a traceback."""
    logging.basicConfig(format='%(levelname)s: %(message)s')
    # Orbax logs through absl and warns of what is meant so, such as a directory opened for reading only.
    logging.getLogger('absl').addFilter(lambda record: record.levelno >= logging.ERROR)
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = _parser()
    options, overrides = parser.parse_known_args(arguments)
    unknown = [override for override in overrides if not override.startswith('--config.')]
    if unknown or (overrides and not hasattr(options, 'config')):
        parser.error(f'unrecognized arguments: {" ".join(unknown or overrides)}')
    options.overrides = [override.removeprefix('--config.') for override in overrides]
    try:
        return _COMMANDS[options.command](options) or 0
    except UserError as error:
        print(f'elastic-ast {options.command}: {error}', file=sys.stderr)
        return 1
    except OSError as error:  # a folder that cannot be written, a full disk
        what = f'{error.filename or "a file"}: cannot be written or read ({error.strerror or error})'
        print(f'elastic-ast {options.command}: {what}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='elastic-ast', description='Audio classification of clips of any length. Each command has its own --help.')
    commands = parser.add_subparsers(dest='command', required=True, metavar='COMMAND')

    def add(name: str, purpose: str, more: str = '') -> argparse.ArgumentParser:
        return commands.add_parser(name, help=purpose, description=f'{purpose[0].upper()}{purpose[1:]}. {more}'.strip())

    def takes_config(command: argparse.ArgumentParser) -> None:
        command.add_argument('--config', required=True, metavar='FILE[:ARG]', help='a config file, such as configs/fsdd.py')

    def takes_checkpoint(command: argparse.ArgumentParser) -> None:
        command.add_argument('--checkpoint', default='latest', help='latest (default), best, or a step')

    train = add('train', 'train a model, or go on with training', _OVERRIDES)
    takes_config(train)
    train.add_argument('--workdir', required=True, help='where the run is kept; an unfinished run in it goes on')

    evaluate = add('evaluate', 'evaluate a trained model on its evaluation split')
    evaluate.add_argument('--workdir', required=True, help='of a training run')
    takes_checkpoint(evaluate)

    predict = add('predict', 'classify recordings with a trained model')
    predict.add_argument('workdir', help='of a training run')
    predict.add_argument('inputs', nargs='+', metavar='INPUT', help='a recording, or a folder of recordings')
    predict.add_argument('--top_k', type=_positive, default=5, help='classes shown for each input (default 5)')
    predict.add_argument('--json', action='store_true', help='print JSON Lines')
    takes_checkpoint(predict)

    takes_config(add('plan', 'show how the data fill their batches, without decoding audio', _OVERRIDES))

    synthesize = add('synthesize', 'write clips of the embedded data set as WAV files', _OVERRIDES)
    synthesize.add_argument('folder', help='where to write')
    takes_config(synthesize)
    synthesize.add_argument('--clips', type=_positive, default=3, help='number of clips (default 3)')
    return parser


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f'{text!r} is no positive whole number')
    return int(text)


def _load_config(options: argparse.Namespace):
    from elastic_ast_jax import config

    return config.load(options.config, options.overrides)


def _module(name: str):
    return importlib.import_module(f'elastic_ast_jax.{name}')


def _train(options: argparse.Namespace) -> None:
    config = _load_config(options)
    train = _module('train')
    train.run(train.absolute_paths(config), options.workdir)


def _evaluate(options: argparse.Namespace) -> None:
    _module('evaluate').run(options.workdir, options.checkpoint)


def _predict(options: argparse.Namespace) -> int:
    return _module('predict').run(options.workdir, options.inputs, options.top_k, options.json, options.checkpoint)


def _plan(options: argparse.Namespace) -> None:
    _module('plan').run(_load_config(options))


def _synthesize(options: argparse.Namespace) -> None:
    _module('synthesize').run(options.folder, _load_config(options), options.clips)


_COMMANDS = {
    'train': _train, 'evaluate': _evaluate, 'predict': _predict, 'plan': _plan, 'synthesize': _synthesize,
}  # fmt: skip
