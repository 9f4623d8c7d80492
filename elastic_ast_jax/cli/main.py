"""The command line.

Each command's module, and all that is slow to import with it, is imported when the command runs.
"""

import argparse
import importlib
import logging
import os
import sys
import traceback
from collections.abc import Callable, Sequence

from elastic_ast_jax.cli.types import (
    flops,
    local,
    names,
    numbers,
    path,
    positive,
    positive_share,
    runs,
    seconds,
    share,
    whole,
)
from elastic_ast_jax.utils import gcs
from elastic_ast_jax.utils.errors import UserError
from elastic_ast_jax.utils.progress import Progress

# As a shell reports a program that a closed pipe ended.
_BROKEN_PIPE = 141
# `EX_SOFTWARE` of sysexits.h; 1 is for what the user can mend.
_CRASHED = 70
_OVERRIDES = 'Any key of the config can be overridden: --config.section.key=value.'


class _Plain(logging.Formatter):
    """`warning: ...`, as the commands themselves write it."""

    def format(self, record: logging.LogRecord) -> str:
        return f'{record.levelname.lower()}: {record.getMessage()}'


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command;

    returns its exit code. Errors that a user can mend are printed without a traceback.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(_Plain())
    logging.basicConfig(handlers=[handler])
    # Orbax logs through absl: it warns of what is meant so (a directory opened for reading only)
    # and traces what it raises.
    logging.getLogger('absl').addFilter(lambda record: record.levelno > logging.ERROR)
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = _parser()
    options, overrides = parser.parse_known_args(arguments)
    unknown = [override for override in overrides if not override.startswith('--config.')]
    if unknown or (
        overrides and not (hasattr(options, 'config') or hasattr(options, 'overridable'))
    ):
        options.parser.error(f'unrecognized arguments: {" ".join(unknown or overrides)}')
    options.overrides = [override.removeprefix('--config.') for override in overrides]
    try:
        return _COMMANDS[options.command](options) or 0
    except UserError as error:
        Progress().say(
            f'elastic-ast {options.command}: {error}'
        )  # names in it may hold what steers a terminal
        return error.exit_code
    except BrokenPipeError:  # whoever read the output has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _BROKEN_PIPE
    except OSError as error:  # a folder that cannot be written, a full disk
        what = (
            f'{error.filename or "the output"}: cannot be written or read'
            f' ({error.strerror or error})'
        )
        print(f'elastic-ast {options.command}: {what}', file=sys.stderr)
        return gcs.exit_code(error)
    except KeyboardInterrupt:
        return 130
    except (
        Exception
    ):  # a defect here, or a process that lost another: a launcher starts the latter again
        traceback.print_exc()
        return _CRASHED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='elastic-ast',
        description='Audio classification of clips of any length. Each command has its own --help.',
    )
    add = _commands(parser, 'command', 'COMMAND')

    def takes_config(command: argparse.ArgumentParser) -> None:
        command.add_argument(
            '--config',
            required=True,
            metavar='FILE[:ARG]',
            help='a config file, such as configs/fsdd.py',
        )

    def takes_checkpoint(command: argparse.ArgumentParser) -> None:
        command.add_argument(
            '--checkpoint',
            default='latest',
            help='latest (default), best, a step, average or average:N',
        )

    train = add('train', 'train a model, or go on with training', _OVERRIDES)
    takes_config(train)
    train.add_argument(
        '--workdir', required=True, help='where the run is kept; an unfinished run in it goes on'
    )

    evaluate = add(
        'evaluate',
        'evaluate a trained model on its evaluation split',
        'Where data moved since training: --config.data.eval=FILE and the like.',
    )
    evaluate.add_argument('--workdir', required=True, help='of a training run')
    evaluate.add_argument(
        '--sweep',
        choices=('length', 'resolution', 'budget'),
        help=(
            'a curve: accuracy against the longest length that is used of a clip, in frames, or'
            ' against the ratio of the frame shift; or against the tokens that a clip may cost, the'
            ' best ways of which predict --budget_tokens uses'
        ),
    )
    evaluate.add_argument(
        '--points',
        type=numbers,
        metavar='N,N,...',
        help='of the sweep; without, as in the paper as far as the model goes',
    )
    evaluate.add_argument(
        '--shifts',
        type=numbers,
        metavar='MS,MS,...',
        help='points of --sweep=resolution, as frame shifts in milliseconds',
    )
    evaluate.add_argument(
        '--fixed_length',
        choices=('own', 'resized'),
        default='own',
        help=(
            'in a sweep, an AST pads or cuts clips to its own length (default), or to each'
            " point's, with its positions resized as in the paper"
        ),
    )
    evaluate.set_defaults(overridable=True)
    takes_checkpoint(evaluate)

    compare = add(
        'compare',
        'compare runs in a table, or models over a sweep, each by several runs',
        'The table has what differs in their configs and how training went. For --sweep, first run'
        ' elastic-ast evaluate --sweep in each workdir, with the same --points.',
    )
    compare.add_argument(
        'runs',
        nargs='+',
        type=runs,
        metavar='WORKDIR|NAME=W[,W...]',
        help=(
            'a workdir, or a model and the workdirs of its runs; with --sweep, workdirs that differ'
            ' in the seed only are one model'
        ),
    )
    compare.add_argument(
        '--out',
        type=path,
        metavar='FOLDER',
        help='where to write; without, the table is printed only',
    )
    compare.add_argument(
        '--sweep', choices=('length', 'resolution'), help='compare over this sweep'
    )
    compare.add_argument(
        '--fixed_length', choices=('own', 'resized'), default='own', help='how ASTs were evaluated'
    )
    compare.add_argument(
        '--published',
        metavar='DATASET',
        help=(
            "draw the paper's curves too: voxceleb or epic_sounds over the "
            'length, audioset or vggsound over the resolution'
        ),
    )
    compare.add_argument(
        '--beside',
        action='append',
        default=[],
        type=runs,
        metavar='NAME=W[,W...]',
        help="show this too, but measure no model's drop by it, as of elastic-ast baseline",
    )
    compare.add_argument(
        '--over',
        metavar='KEY',
        help='compare the last evaluation of training over this key of the config',
    )

    predict = add('predict', 'classify recordings with a trained model')
    predict.add_argument('workdir', help='of a training run')
    predict.add_argument(
        'inputs',
        nargs='+',
        type=local,
        metavar='INPUT',
        help='a recording, or a folder of recordings',
    )
    predict.add_argument(
        '--top_k', type=positive, default=5, help='classes shown for each input (default 5)'
    )
    predict.add_argument('--json', action='store_true', help='print JSON Lines')
    predict.add_argument(
        '--timeline',
        type=local,
        metavar='FOLDER',
        help='write what is heard when in each recording: JSON and a plot',
    )
    predict.add_argument(
        '--window',
        type=seconds,
        metavar='SECONDS',
        help=(
            'cut recordings into windows of this length; without, only those that are longer than'
            ' the model takes, into the longest windows it takes'
        ),
    )
    predict.add_argument(
        '--overlap',
        type=share,
        metavar='SHARE',
        help=(
            'share of a window that the next one repeats '
            '(without, data.overlap of the training config)'
        ),
    )
    predict.add_argument(
        '--budget_tokens',
        type=positive,
        metavar='N',
        help=(
            'spend at most N tokens on a recording, or '
            'window, in the best way that evaluate --sweep=budget has found'
        ),
    )
    predict.add_argument(
        '--explain',
        type=local,
        metavar='FILE.png',
        help='draw what the model listened to in one recording',
    )
    takes_checkpoint(predict)

    embed = add('embed', 'write embeddings of recordings to an .npz file')
    embed.add_argument('workdir', help='of a training run')
    embed.add_argument(
        'inputs',
        nargs='+',
        type=local,
        metavar='INPUT',
        help='a recording, or a folder of recordings',
    )
    embed.add_argument(
        '--out', type=local, required=True, metavar='FILE.npz', help='where to write'
    )
    embed.add_argument(
        '--timestamps',
        action='store_true',
        help='vectors of time steps, besides those of recordings',
    )
    takes_checkpoint(embed)

    _add_prepare(
        add(
            'prepare',
            'turn a data set, or the recordings of a manifest, into files that are read at random',
            'What it prints at the end reads them: --config.data.source=tfds and so on.',
        )
    )

    takes_config(
        plan := add(
            'plan',
            'show how the data fill their batches and what training takes, without decoding audio',
            'Where the data are not there, the lengths are those that the recipe ships. '
            + _OVERRIDES,
        )
    )
    plan.add_argument(
        '--lengths',
        choices=('data', 'recipe'),
        help=(
            "of the clips: the data's, or drawn from the histogram "
            "that the recipe ships (without, the data's if they can be opened)"
        ),
    )
    plan.add_argument(
        '--topology',
        help='chips that the time of training is told for: v5e:2x4, v6e:16x16, v4:2x2x1, v5p:4x4x4',
    )
    plan.add_argument(
        '--utilization',
        type=positive_share,
        metavar='SHARE',
        help="share of the chips' peak that the model's FLOPs reach (default 0.4)",
    )

    takes_config(
        baseline := add(
            'baseline',
            'evaluate logistic regression on mean and deviation of log-mels, to compare with',
            _OVERRIDES,
        )
    )
    baseline.add_argument(
        '--sweep', choices=('length', 'resolution'), help='see elastic-ast evaluate'
    )
    baseline.add_argument('--points', type=numbers, metavar='N,N,...', help='of the sweep')
    baseline.add_argument(
        '--shifts',
        type=numbers,
        metavar='MS,MS,...',
        help='points of --sweep=resolution in milliseconds',
    )
    baseline.add_argument(
        '--out',
        type=path,
        metavar='FOLDER',
        help='write the result here, for elastic-ast compare --beside',
    )

    takes_config(
        stats := add(
            'stats', 'measure mean and deviation of the log-mel of the training split', _OVERRIDES
        )
    )
    stats.add_argument(
        '--clips',
        type=positive,
        help='measure this many clips, spread over the split; without, all',
    )

    _add_convert(add('convert', 'convert weights of other programs to a workdir, or back'))

    parity = add(
        'parity',
        'compare with the PyTorch originals, or a clip alone with the clip in company',
        'Without arguments: features, logits, gradients and optimiser steps beside the values that'
        ' PyTorch computed. With a workdir and recordings: whether the result of each depends on it'
        ' alone.',
    )
    parity.add_argument('workdir', nargs='?', type=path, help='of a training run or a conversion')
    parity.add_argument(
        'inputs',
        nargs='*',
        type=local,
        metavar='INPUT',
        help='a recording, or a folder of recordings',
    )
    parity.add_argument('--json', action='store_true', help='print JSON')
    parity.add_argument('--seed', type=whole, default=0, help='of the random company (default 0)')
    takes_checkpoint(parity)

    _add_benchmark(
        add(
            'benchmark',
            'measure the training and the prediction step on the devices that are there',
            'Synthetic packed batches, no data. ' + _OVERRIDES,
        )
    )

    takes_config(
        aot := add(
            'compile',
            'compile the steps for TPUs that are not there, and say what they need',
            _OVERRIDES,
        )
    )
    aot.add_argument(
        '--topology', required=True, help='such as v5e:2x4, v6e:16x16, v4:2x2x1 or v5p:4x4x4'
    )
    aot.add_argument(
        '--search', action='store_true', help='find the most rows that fit, with and without remat'
    )
    aot.add_argument('--check', action='store_true', help='exit with 1 if a step does not fit')
    aot.add_argument(
        '--lengths',
        metavar='MIX',
        help=(
            'lengths of the clips, for FLOPs: audioset, voxceleb, epic, or a file '
            "with the seconds of a clip on each line (without, those of the config's data)"
        ),
    )
    aot.add_argument(
        '--classes',
        type=positive,
        help="number of classes (without, those of the config's data, or 527)",
    )

    synthesize = add('synthesize', 'write clips of the embedded data set as WAV files', _OVERRIDES)
    synthesize.add_argument('folder', type=local, help='where to write')
    takes_config(synthesize)
    synthesize.add_argument('--clips', type=positive, default=3, help='number of clips (default 3)')
    return parser


def _commands(
    parser: argparse.ArgumentParser, dest: str, metavar: str
) -> Callable[..., argparse.ArgumentParser]:
    """`add(name, purpose, more)` makes a command of this parser."""
    commands = parser.add_subparsers(dest=dest, required=True, metavar=metavar)

    def add(name: str, purpose: str, more: str = '') -> argparse.ArgumentParser:
        made = commands.add_parser(
            name, help=purpose, description=f'{purpose[0].upper()}{purpose[1:]}. {more}'.strip()
        )
        made.set_defaults(parser=made)  # so that an error shows how this command is used
        return made

    return add


def _add_convert(command: argparse.ArgumentParser) -> None:
    """What weights are converted from or to is a command of its own, with its own options."""
    add = _commands(command, 'kind', 'KIND')

    here = add('elasticast_torch', 'a state dict of the published PyTorch ElasticAST to a workdir')
    here.add_argument(
        'source', type=local, metavar='IN', help='a state dict: .pth, .pt, .safetensors or .npz'
    )
    here.add_argument('out', type=path, metavar='OUT', help='the workdir, a new folder')
    here.add_argument(
        '--heads', type=positive, help='number of attention heads (without, heads of width 64)'
    )
    here.add_argument(
        '--pool',
        '--pooling',
        choices=('attention', 'mean'),
        default='attention',
        help='how tokens become one vector (default attention)',
    )
    here.add_argument(
        '--recipe',
        choices=('audioset', 'vggsound', 'voxceleb', 'epic_sounds'),
        help=(
            'whose features, mean, '
            'deviation and loss (without, that with as many classes, or audioset)'
        ),
    )
    here.add_argument('--mean', type=float, help="of the log-mel, instead of the recipe's")
    here.add_argument('--std', type=float, help="of the log-mel, instead of the recipe's")
    here.add_argument(
        '--labels',
        type=local,
        metavar='FILE',
        help=(
            'names of the classes: a name a line, or a CSV with the '
            'columns index, mid and display_name'
        ),
    )
    here.add_argument(
        '--loss',
        choices=('bce', 'cross_entropy'),
        help="that it was trained with, instead of the recipe's",
    )
    here.add_argument(
        '--scaled',
        action='store_true',
        help='attention logits are divided by sqrt(head width), as the published code does not',
    )

    fixed = add('ast_hf', 'a fixed-length AST that transformers wrote, to a workdir')
    fixed.add_argument(
        'source',
        type=local,
        metavar='DIR',
        help='with config.json, model.safetensors and preprocessor_config.json',
    )
    fixed.add_argument('out', type=path, metavar='OUT', help='the workdir, a new folder')
    fixed.add_argument(
        '--loss',
        choices=('bce', 'cross_entropy'),
        help='that it was trained with, instead of what the directory says',
    )

    back = add(
        'to_elasticast_torch',
        'the model of a workdir to a state dict that the published PyTorch code loads',
    )
    back.add_argument('workdir', help='of a training run or a conversion')
    back.add_argument('out', type=path, metavar='OUT.safetensors', help='where to write')
    back.add_argument(
        '--checkpoint',
        default='latest',
        help='latest (default), best, a step, average or average:N',
    )


def _add_prepare(command: argparse.ArgumentParser) -> None:
    """Each data set is a command of its own."""
    add = _commands(command, 'data_set', 'DATASET')

    def takes_rest(made: argparse.ArgumentParser) -> None:
        made.add_argument(
            '--out', type=local, required=True, metavar='DIR', help='folder of prepared data sets'
        )
        made.add_argument(
            '--splits',
            type=names,
            default=(),
            metavar='SPLIT,...',
            help='prepare these only (without, all)',
        )
        made.add_argument(
            '--on-bad-audio',
            choices=('skip', 'error'),
            default='skip',
            help='leave missing and broken recordings out and list them (default), or stop',
        )
        made.add_argument(
            '--beam',
            action='append',
            default=[],
            metavar='KEY=VALUE',
            help=(
                'an option of Apache Beam, such as '
                'runner=DataflowRunner; may be given again (without, it runs here)'
            ),
        )

    for name, what in (
        ('audioset', 'AudioSet: balanced, unbalanced, eval'),
        ('vggsound', 'VGGSound'),
        ('voxceleb1', 'VoxCeleb1, identification of speakers'),
        ('epic_sounds', 'EPIC-SOUNDS'),
        ('speech_commands', 'Speech Commands, version 0.02'),
        ('esc50', 'ESC-50, five folds'),
    ):
        made = add(name, what)
        made.add_argument(
            '--manual-dir',
            dest='source',
            type=local,
            required=True,
            metavar='DIR',
            help=(
                'folder with what its '
                'owners hand out; if something is missing there, it is said what goes where'
            ),
        )
        takes_rest(made)
    made = add('manifest', 'the recordings that a manifest lists')
    made.add_argument('source', type=local, metavar='FILE', help='a manifest: .jsonl or .csv')
    made.add_argument(
        '--rate', type=positive, default=16000, help='sample rate in Hz (default 16000)'
    )
    made.add_argument('--name', default='', help='of the data set (without, that of the file)')
    takes_rest(made)


def _add_benchmark(command: argparse.ArgumentParser) -> None:
    command.add_argument('--size', default='B', help='of the model: Mi, Ti, S, B (default) or L')
    command.add_argument(
        '--rows', type=positive, help='of a batch (without, 8 for each device; on a CPU 1)'
    )
    command.add_argument('--tokens', type=positive, default=2048, help='of a row (default 2048)')
    command.add_argument(
        '--slots', type=positive, default=32, help='clips a row holds at most (default 32)'
    )
    _takes_lengths(command)
    command.add_argument(
        '--attention',
        action='append',
        metavar='NAME',
        help=(
            'an implementation, or the beginning of the '
            'names of several, or auto; may be given again (without, all that are there)'
        ),
    )
    command.add_argument(
        '--dtype',
        choices=('auto', 'float32', 'bfloat16'),
        default='auto',
        help='of the computation (default auto: bfloat16 on accelerators)',
    )
    command.add_argument(
        '--steps', type=positive, help='timed steps, after two to warm up (without, 10; on a CPU 3)'
    )
    command.add_argument('--predict', action='store_true', help='measure prediction only')
    command.add_argument(
        '--peak',
        type=flops,
        metavar='FLOPS',
        help='FLOP/s of one device, such as 197e12 (without, that of the table of known devices)',
    )
    command.add_argument('--json', action='store_true', help='print JSON Lines')
    command.set_defaults(overridable=True)


def _takes_lengths(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        '--lengths',
        default='audioset',
        metavar='MIX',
        help=(
            'lengths of the clips: audioset (default), '
            'voxceleb, epic, or a file with the seconds of a clip on each line'
        ),
    )


def _load_config(options: argparse.Namespace, complete: bool = True):
    from elastic_ast_jax.config import loading

    return loading.absolute_paths(loading.load(options.config, options.overrides, complete))


def _module(name: str):
    return importlib.import_module(f'elastic_ast_jax.{name}')


def _train(options: argparse.Namespace) -> None:
    config = _load_config(options)
    _module('distributed.processes').initialize()
    _module('train').run(config, options.workdir)


def _evaluate(options: argparse.Namespace) -> None:
    _module('distributed.processes').initialize()
    _module('evaluation.evaluate').run(
        options.workdir,
        options.checkpoint,
        options.sweep,
        options.points,
        options.overrides,
        options.shifts,
        options.fixed_length == 'resized',
    )


def _compare(options: argparse.Namespace) -> None:
    _module('evaluation.compare_sweeps').run(
        options.runs,
        options.out,
        options.sweep,
        options.fixed_length == 'resized',
        options.published,
        options.over,
        options.beside,
    )


def _predict(options: argparse.Namespace) -> int:
    return _module('cli.predict').run(
        options.workdir,
        options.inputs,
        options.top_k,
        options.json,
        options.checkpoint,
        options.timeline,
        options.window,
        options.overlap,
        options.explain,
        options.budget_tokens,
    )


def _embed(options: argparse.Namespace) -> int:
    return _module('cli.embed').run(
        options.workdir, options.inputs, options.out, options.timestamps, options.checkpoint
    )


def _baseline(options: argparse.Namespace) -> None:
    _module('evaluation.baseline').run(
        _load_config(options), options.out, options.sweep, options.points, options.shifts
    )


def _stats(options: argparse.Namespace) -> None:
    _module('cli.stats').run(_load_config(options), options.clips)


def _plan(options: argparse.Namespace) -> None:
    if options.utilization and not options.topology:
        options.parser.error('--utilization is of chips: name them with --topology')
    config, plan = _load_config(options, complete=False), _module('cli.plan')
    plan.run(
        config,
        options.config,
        options.lengths,
        options.topology,
        options.utilization or plan.UTILIZATION,
    )


def _convert(options: argparse.Namespace) -> None:
    if options.kind == 'to_elasticast_torch':
        _module('cli.convert_elastic_ast').run_back(
            options.workdir, options.out, options.checkpoint
        )
        return
    if options.kind == 'ast_hf':
        _module('cli.convert_ast_hf').run(options.source, options.out, options.loss)
        return
    _module('cli.convert_elastic_ast').run(
        options.source,
        options.out,
        options.heads,
        options.pool,
        options.mean,
        options.std,
        options.labels,
        options.recipe,
        options.loss,
        options.scaled,
    )


def _parity(options: argparse.Namespace) -> int:
    if options.workdir is None:
        return _module('parity.report').run(options.json)
    if not options.inputs:
        options.parser.error(
            f'recordings are missing: which clips should {options.workdir} be tried with?'
        )
    return _module('parity.packing_invariance').run(
        options.workdir, options.inputs, options.checkpoint, options.seed, options.json
    )


def _compile(options: argparse.Namespace) -> int:
    _module('perf.topologies').prepare()  # before JAX is imported
    config = _load_config(options, complete=False)
    return _module('perf.aot').run(
        config, options.topology, options.lengths, options.classes, options.search, options.check
    )


def _benchmark(options: argparse.Namespace) -> int:
    benchmark = _module('perf.benchmark')
    wanted = benchmark.Options(
        options.size,
        options.rows,
        options.tokens,
        options.slots,
        options.lengths,
        tuple(options.attention or ()),
        options.dtype,
        options.steps,
        options.predict,
        options.peak,
        tuple(options.overrides),
    )
    return benchmark.run(wanted, options.json)


def _synthesize(options: argparse.Namespace) -> None:
    _module('cli.synthesize').run(options.folder, _load_config(options), options.clips)


def _prepare(options: argparse.Namespace) -> None:
    more = {'rate': options.rate, 'name': options.name} if options.data_set == 'manifest' else {}
    _module('cli.prepare').run(
        options.data_set,
        options.source,
        options.out,
        options.splits,
        options.on_bad_audio,
        options.beam,
        **more,
    )


_COMMANDS = {
    'train': _train,
    'evaluate': _evaluate,
    'predict': _predict,
    'embed': _embed,
    'plan': _plan,
    'stats': _stats,
    'baseline': _baseline,
    'synthesize': _synthesize,
    'parity': _parity,
    'convert': _convert,
    'compare': _compare,
    'benchmark': _benchmark,
    'compile': _compile,
    'prepare': _prepare,
}
