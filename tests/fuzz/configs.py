"""Damage the files of a stored workdir, and give it to the commands that open one.

Half of the inputs change the config alone. Where a changed frontend is a possible one, the labels
get its fingerprint, as a stranger would write it.
"""

import json
import pathlib
import random
import re
import shutil
import sys

from tests.fuzz import byte_damage, command, runner, text_damage
from tests.fuzz.target import Target, random_of

__all__ = ['Configs', 'OpenedConfigs']

_FILES = ('model.json', 'plan.json', 'eval/length.json', 'eval/metrics.json', 'metrics.jsonl')
_METADATA = ('_CHECKPOINT_METADATA', 'params/_METADATA', 'params/manifest.ocdbt')
# Values at the limits of what is accepted, and beyond what any machine holds.
_SIZES = (2**10, 2**14, 2**17, 2**20, 2**24, 2**31, 2**40, 2**63, 10**18, 10**19, 1e12, 1e300)
_PLAN = {'fingerprint': 'fedcba9876543210', 'epoch_rows': [4, 4]}
_LINES = (
    {'step': 4, 'kind': 'train', 'loss': 1.0, 'fill': 0.9, 'tokens_per_second': 100.0},
    {'step': 4, 'kind': 'eval', 'accuracy': 0.5},
)


class Configs(Target):
    """Workdirs of a tiny model with damage in their files."""

    inputs_per_child = 150
    commands = ('predict',) * 6 + ('embed', 'evaluate', 'evaluate', 'compare', 'lengths', 'convert')

    def prepare(self, folder: pathlib.Path) -> None:
        """Write a workdir and a recording, and run each command once."""
        import numpy as np
        import soundfile

        from tests.fixtures import untrained

        self._recording, clips = folder / 'recording.wav', folder / 'clips.jsonl'
        soundfile.write(self._recording, 0.1 * np.sin(np.arange(8000) / 7), 16000)
        lines = [
            {'audio': 'recording.wav', 'labels': [label], 'split': split, **part}
            for split in ('train', 'test')
            for label, part in (('low', {}), ('middle', {'start': 0.1, 'end': 0.4}))
        ]
        clips.write_text(''.join(json.dumps(line) + '\n' for line in lines), encoding='utf-8')
        data = {'source': 'manifest', 'train': str(clips), 'eval': str(clips), 'num_workers': 1}
        self._whole = folder / 'whole'
        untrained.workdir(self._whole, data=data)
        (self._whole / 'plan.json').write_text(json.dumps(_PLAN), encoding='utf-8')
        lines = ''.join(json.dumps(line) + '\n' for line in _LINES)
        (self._whole / 'metrics.jsonl').write_text(lines, encoding='utf-8')
        (self._whole / 'eval').mkdir()
        point = {'frames': 16, 'seconds': 0.16, 'clips': 4, 'accuracy': 0.5}
        sweep = {'metric': 'accuracy', 'model': 'elastic_ast', 'overrides': [], 'points': [point]}
        (self._whole / 'eval' / 'length.json').write_text(json.dumps(sweep), encoding='utf-8')
        (self._whole / 'eval' / 'metrics.json').write_text('{"accuracy": 0.5}', encoding='utf-8')
        for name in dict.fromkeys(self.commands):
            self._run(name, shutil.copytree(self._whole, folder / f'warm-{name}'))

    def make(self, seed: int, index: int, folder: pathlib.Path) -> pathlib.Path:
        """Copy the workdir and damage one file, or the config twice."""
        random = random_of(seed, index)
        path = folder / random.choice(self.commands)
        shutil.copytree(self._whole, path)
        if random.random() < 0.7:
            _damage_config(path, random)
        elif random.random() < 0.7:
            _damage_json(path / random.choice(_FILES), random)
        else:
            _damage_metadata(path / 'checkpoints' / '0' / random.choice(_METADATA), random)
        return path

    def use(self, path: pathlib.Path) -> str:
        """Run the command that the folder is named by."""
        return self._run(path.name, path)[:200]

    def problem_of(self, error: BaseException, path: pathlib.Path) -> str | None:
        """Return what is wrong with a message; it may name a key or a recording for the folder."""
        message = str(error)
        if not re.search(r'\b(data|frontend|augment|packing|model|init|train|mesh)\.\w+', message):
            return super().problem_of(error, path)
        return f'the message has {len(message)} characters' if len(message) > 4000 else None

    def _run(self, name: str, path: pathlib.Path) -> str:
        arguments = {
            'predict': ('predict', path, self._recording),
            'embed': ('embed', path, self._recording, f'--out={path}.npz'),
            'evaluate': ('evaluate', f'--workdir={path}'),
            'compare': ('compare', path),
            'lengths': ('compare', path, '--sweep=length'),
            'convert': ('convert', 'to_elasticast_torch', path, f'{path}.safetensors'),
        }[name]
        return command.run(*map(str, arguments))


class OpenedConfigs(Configs):
    """The same workdirs, of which the model is opened and nothing is computed."""

    commands = ('open',)

    def _run(self, name: str, path: pathlib.Path) -> str:
        from elastic_ast_jax.checkpointing.load_model import load_model

        return f'{name}ed {load_model(path).description}'


def _damage_config(path: pathlib.Path, random: random.Random) -> None:
    file = path / 'config.json'
    values = json.loads(file.read_text(encoding='utf-8'))
    kind = random.randrange(4)
    if kind == 0:
        file.write_bytes(text_damage.damage_text(file.read_text(encoding='utf-8'), random))
        return
    if kind == 1:
        values = text_damage.damage_json(values, random)
    else:
        sections = [name for name, keys in values.items() if isinstance(keys, dict)]
        for _ in range(random.choice((1, 1, 2))):
            keys = values[random.choice(('packing', 'frontend', 'model', *sections))]
            numbers = [key for key, value in keys.items() if type(value) in (int, float)]
            if numbers:
                value = random.choice(_SIZES)
                keys[random.choice(numbers)] = value if random.random() < 0.8 else -value
    file.write_text(json.dumps(values), encoding='utf-8')
    _adopt_frontend(path, values)


def _adopt_frontend(path: pathlib.Path, values: object) -> None:
    """Give `model.json` the fingerprint of the changed frontend, if it is a possible one."""
    from elastic_ast_jax.audio import fbank
    from elastic_ast_jax.config import stored
    from elastic_ast_jax.utils.errors import UserError

    file = path / 'model.json'
    metadata = json.loads(file.read_text(encoding='utf-8'))
    try:
        fingerprint = fbank.fingerprint(stored.from_json(values).frontend)  # pyright: ignore
    except (UserError, TypeError, AttributeError, ValueError):
        return
    metadata['frontend'] = {'spec': fingerprint.spec, 'golden': fingerprint.golden}
    file.write_text(json.dumps(metadata), encoding='utf-8')


def _damage_json(file: pathlib.Path, random: random.Random) -> None:
    text = file.read_text(encoding='utf-8')
    if file.suffix == '.jsonl' or random.random() < 0.3:
        file.write_bytes(text_damage.damage_text(text, random))
    else:
        file.write_text(json.dumps(text_damage.damage_json(json.loads(text), random)), 'utf-8')


def _damage_metadata(file: pathlib.Path, random: random.Random) -> None:
    if file.name.isupper() and random.random() < 0.7:
        values = json.loads(file.read_text(encoding='utf-8'))
        file.write_text(json.dumps(text_damage.damage_json(values, random)), encoding='utf-8')
    else:
        file.write_bytes(byte_damage.damage(file.read_bytes(), random, b''))


if __name__ == '__main__':
    sys.exit(runner.main('tests.fuzz.configs:Configs', 1000))
