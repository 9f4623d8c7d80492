"""Write the files that the documented commands are run on: `python docs/command_inputs.py FOLDER`.

They stand for a reader's own: recordings, a manifest, data sets as their owners publish them (of a
few tones), and weights of other programs.
"""

import json
import os
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# The names that the pages use, by the data set that the folder holds.
MINIATURES = ('audioset', 'vggsound', 'voxceleb1', 'epic_sounds', 'speech_commands', 'esc50')
RATE = 16000


def main(folder: Path) -> None:
    """Write all files into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in (
        'configs',
        'launch',
        'docs',
        'tests',
        'elastic_ast_jax',
        '.venv',
        'README.md',
        'setup.cfg',
    ):
        os.symlink(ROOT / name, folder / name)
    sys.path.insert(0, str(ROOT))
    _recordings(folder)
    _data_sets(folder)
    _weights(folder)


def _recordings(folder: Path) -> None:
    import numpy as np
    import soundfile

    random = np.random.default_rng(0)

    def write(path: Path, seconds: float, rate: int = RATE) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        time = np.arange(int(seconds * rate)) / rate
        hertz = random.uniform(200, 2000)
        noise = 0.01 * random.standard_normal(len(time))
        soundfile.write(path, (0.3 * np.sin(2 * np.pi * hertz * time) + noise), rate)

    write(folder / 'recording.wav', 2.0)
    write(folder / 'folder' / 'other.wav', 1.0)
    write(folder / 'hour.flac', 40.0)
    with (folder / 'mine.jsonl').open('w', encoding='utf-8') as manifest:
        for i in range(12):
            write(folder / 'mine' / f'{i}.wav', random.uniform(0.3, 2.0))
            entry = {'audio': f'mine/{i}.wav', 'labels': ['ab'[i % 2]], 'split': 'train'}
            manifest.write(json.dumps(entry) + '\n')
    (folder / 'mine.csv').write_text(
        'audio,labels\nmine/0.wav,"a,b"\nmine/1.wav,b\nmine/2.wav,a\n', encoding='utf-8'
    )
    # Names as in the Free Spoken Digit Dataset; recordings 0 to 4 are for testing.
    for speaker in ('george', 'jackson', 'theo', 'lucas', 'nicolas', 'yweweler'):
        for digit in range(10):
            for index in (0, 7):
                name = f'{digit}_{speaker}_{index}.wav'
                write(folder / 'free-spoken-digit-dataset' / 'recordings' / name, 0.4, 8000)


def _data_sets(folder: Path) -> None:
    from tests.fixtures import miniatures

    for name in MINIATURES:
        target = folder / 'downloaded' / name
        target.mkdir(parents=True)
        getattr(miniatures, name)(target)
    shutil.copytree(folder / 'downloaded' / 'vggsound', folder / 'DOWNLOADED')


def _weights(folder: Path) -> None:
    import numpy as np
    import torch
    import transformers

    # The tensors of a published network of two blocks, at the width of its smallest size.
    golden = np.load(ROOT / 'elastic_ast_jax' / 'parity' / 'reference' / 'elasticast_tiny.npz')
    wide = {48 * times: 192 * times for times in (1, 2, 4)}
    random = torch.Generator().manual_seed(0)
    state = {
        name.removeprefix('weights/'): 0.02
        * torch.randn([wide.get(n, n) for n in golden[name].shape], generator=random)
        for name in golden.files
        if name.startswith('weights/')
    }
    torch.save(state, folder / 'checkpoint.pth')
    classes = len(state['head.bias'])
    (folder / 'classes.txt').write_text(
        ''.join(f'class {c}\n' for c in range(classes)), encoding='utf-8'
    )
    config = transformers.ASTConfig(
        hidden_size=48, num_hidden_layers=2, num_attention_heads=4, intermediate_size=192
    )
    transformers.ASTForAudioClassification(config).save_pretrained(
        folder / 'ast-finetuned-audioset'
    )
    transformers.ASTFeatureExtractor().save_pretrained(folder / 'ast-finetuned-audioset')


if __name__ == '__main__':
    main(Path(sys.argv[1]))
