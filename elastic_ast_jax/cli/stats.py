"""`elastic-ast stats`: measure mean and deviation of the log-mel of the training split."""

import argparse
import dataclasses
import sys

from elastic_ast_jax.cli.commands import ConfigOptions, add_config, load_config
from elastic_ast_jax.cli.types import positive_int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(ConfigOptions):
    """The data, and how many clips of them are measured."""

    clips: int | None = None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_config(parser)
    parser.add_argument(
        '--clips',
        type=positive_int,
        help='measure this many clips, spread evenly over the split (default: all)',
    )


def run(options: Options) -> None:
    """Print the lines that a config needs."""
    config = load_config(options)
    from elastic_ast_jax.data import log_mel_stats, splits

    source = splits.open_source(config, 'train')
    skip = config.data.on_bad_audio == 'skip'
    stats = log_mel_stats.measure(source, config.frontend, skip=skip, clips=options.clips)
    for message in stats.skipped:
        print(f'skipped: {message}', file=sys.stderr)
    print(f'# log-mel of {stats.clips} of {len(source.keys)} training clips, {stats.frames} frames')
    print(f'config.frontend.mean = {stats.mean:.4f}')
    print(f'config.frontend.std = {stats.std:.4f}')
    print('# or on the command line:')
    print(f'--config.frontend.mean={stats.mean:.4f} --config.frontend.std={stats.std:.4f}')
