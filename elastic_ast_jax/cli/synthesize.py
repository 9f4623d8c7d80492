"""`elastic-ast synthesize`: write clips of the embedded data set as WAV files with a manifest."""

import argparse
import dataclasses
import json
from pathlib import Path

from elastic_ast_jax.cli.commands import ConfigOptions, add_config, load_config
from elastic_ast_jax.cli.types import local_path, positive_int
from elastic_ast_jax.utils.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(ConfigOptions):
    """The data set, how many of its clips are written, and the folder."""

    folder: str
    clips: int = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument('folder', type=local_path, help='folder that is written')
    add_config(parser)
    parser.add_argument('--clips', type=positive_int, help='number of clips (default 3)')


def run(options: Options) -> None:
    """Write test clips from the shortest to the longest, and `manifest.jsonl` last.

    Their lengths are spread evenly over the sorted lengths of the split.
    """
    config = load_config(options)
    import numpy as np
    import soundfile

    from elastic_ast_jax.data import splits

    if config.data.source != 'synthetic':
        raise UserError(
            f"data.source={config.data.source!r}: only a config with data.source='synthetic' has"
            ' clips to write'
        )
    source = splits.open_source(config, 'eval')
    if not 1 <= options.clips <= len(source.keys):
        raise UserError(
            f'--clips={options.clips} must be from 1 to data.synthetic_eval={len(source.keys)}'
        )
    by_length = np.argsort(source.samples, kind='stable')
    ranks = np.round(np.linspace(0, len(by_length) - 1, options.clips)).astype(int)
    clips = by_length[ranks]
    folder, sample_rate = Path(options.folder), config.frontend.sample_rate
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for number, clip in enumerate(clips):
        (label,) = source.labels[clip]
        name = f'{number:03d}_{label}.wav'
        soundfile.write(folder / name, source.read(int(clip)), sample_rate, subtype='PCM_16')
        lines.append(json.dumps({'audio': name, 'labels': [label]}))
    (folder / 'manifest.jsonl').write_text('\n'.join(lines) + '\n', encoding='utf-8')
    shortest, longest = source.samples[clips[0]], source.samples[clips[-1]]
    print(
        f'{options.clips} clips of {shortest / sample_rate:.2f} s to'
        f' {longest / sample_rate:.2f} s in {folder}'
    )
