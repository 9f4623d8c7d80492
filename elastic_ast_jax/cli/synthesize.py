"""`elastic-ast synthesize`: writes clips of the embedded data set as WAV files with a manifest."""

import json
from pathlib import Path

import numpy as np
import soundfile

from elastic_ast_jax.config.schema import Config
from elastic_ast_jax.data import splits
from elastic_ast_jax.utils.errors import UserError


def run(folder: str, config: Config, clips: int) -> None:
    """Writes test clips from the shortest to the longest, evenly spread over the lengths between,
    and `manifest.jsonl` last.
    """
    if config.data.source != 'synthetic':
        raise UserError(
            f"data.source={config.data.source!r}: only a config with data.source='synthetic' has"
            ' clips to write'
        )
    source = splits.open_source(config, 'eval')
    if not 1 <= clips <= len(source.keys):
        raise UserError(f'--clips={clips} must be from 1 to data.synthetic_eval={len(source.keys)}')
    by_length = np.argsort(source.samples, kind='stable')
    chosen = by_length[np.round(np.linspace(0, len(by_length) - 1, clips)).astype(int)]
    out = Path(folder)
    out.mkdir(parents=True, exist_ok=True)
    lines = []
    for number, clip in enumerate(chosen):
        (label,) = source.labels[clip]
        name = f'{number:03d}_{label}.wav'
        soundfile.write(
            out / name, source.read(int(clip)), config.frontend.sample_rate, subtype='PCM_16'
        )
        lines.append(json.dumps({'audio': name, 'labels': [label]}))
    (out / 'manifest.jsonl').write_text('\n'.join(lines) + '\n', encoding='utf-8')
    print(
        f'{clips} clips of {source.samples[chosen[0]] / config.frontend.sample_rate:.2f} s to '
        f'{source.samples[chosen[-1]] / config.frontend.sample_rate:.2f} s in {out}'
    )
