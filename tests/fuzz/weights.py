"""Fuzz the readers of weights: damaged files of tensors, indexes and configs.

python -m tests.fuzz.weights --count 500
"""

import json
import pathlib
import sys

import numpy as np

from elastic_ast_jax.config.model_sizes import Size
from elastic_ast_jax.pretrained import ast_hf, elastic_ast_torch, initialize, state_dict
from elastic_ast_jax.pretrained.elastic_ast_torch import Layout
from tests.fixtures import weight_files
from tests.fuzz import byte_damage, runner, text_damage
from tests.fuzz.target import Target, random_of

__all__ = ['Weights']

_SIZE = weight_files.SIZE
_AST = {
    'model_type': 'audio-spectrogram-transformer',
    'hidden_size': _SIZE.width,
    'num_hidden_layers': _SIZE.depth,
    'num_attention_heads': _SIZE.heads,
    'intermediate_size': 4 * _SIZE.width,
    'num_mel_bins': 32,
    'max_length': 96,
    'patch_size': 16,
    'frequency_stride': 10,
    'time_stride': 10,
    'id2label': {'0': 'bark', '1': 'rain', '2': 'siren'},
}
_PREPROCESSOR = {'num_mel_bins': 32, 'max_length': 96, 'mean': -4.0, 'std': 4.5}
_VIT = {
    'model_type': 'vit',
    'num_hidden_layers': _SIZE.depth,
    'num_attention_heads': _SIZE.heads,
    'image_size': weight_files.SIDE * weight_files.PATCH,
    'layer_norm_eps': 1e-6,
}


class Weights(Target):
    """Read damaged weights as a starting point, and convert those of an AST."""

    def prepare(self, folder: pathlib.Path) -> None:
        """Write weights in every form, and compile nothing."""
        import torch

        networks = weight_files.elastic(), weight_files.fixed(epsilon=1e-6)
        self._networks = [(network, weight_files.abstract(network)) for network in networks]
        self._originals: list[dict[str, bytes]] = []
        timm, ast = weight_files.timm(), weight_files.ast()
        elastic = _published()

        def add(write) -> None:
            place = folder / str(len(self._originals))
            place.mkdir()
            write(place)
            self._originals.append({path.name: path.read_bytes() for path in place.iterdir()})

        def save(content, name, **options):
            add(lambda place: torch.save(_torch(content), place / name, **options))

        for state in (timm, ast, weight_files.big_vision(timm), elastic):
            for name in ('w.npz', 'w.safetensors'):
                add(lambda place, state=state, name=name: weight_files.saved(place, state, name))
        save(timm, 'w.pth')
        save({'epoch': 3, 'state_dict': {f'model.{k}': v for k, v in timm.items()}}, 'w.ckpt')
        save(ast, 'w.bin')
        save({'model': weight_files.ssast()}, 'w.pt', _use_new_zipfile_serialization=False)
        add(lambda place: weight_files.write_shards(place, timm))
        add(lambda place: weight_files.write_shards(place, elastic, pickles=True))
        add(lambda place: _write_folder(place, weight_files.hugging_face(timm), config=_VIT))
        add(_write_ast)
        add(lambda place: _write_ast(place, headless=True))

    def make(self, seed: int, index: int, folder: pathlib.Path) -> pathlib.Path:
        """Write the files of one form, one of them damaged."""
        random = random_of(seed, index)
        original, other = random.choice(self._originals), random.choice(self._originals)
        damaged = random.choice(sorted(original))
        for name, content in original.items():
            if name == damaged:
                content = _damage(name, content, random, random.choice(sorted(other.values())))
            (folder / name).write_bytes(content)
        return folder if len(original) > 1 else folder / damaged

    def use(self, path: pathlib.Path) -> str:
        """Initialize a network; an AST of transformers is converted as well."""
        is_ast = path.is_dir() and (path / 'preprocessor_config.json').exists()
        network, abstract = self._networks[is_ast]
        initialized = initialize.initialize_params(
            path, network, abstract, weight_files.LABELS, weight_files.FRONTEND, quirks=False
        )
        for name, array in initialized.params.items():
            assert array.dtype == np.float32 and np.isfinite(array).all(), name
        if is_ast:
            ast_hf.load(path)
        elif path.is_file():
            state = state_dict.read(path)
            if elastic_ast_torch.recognizes(list(state.tensors)):
                elastic_ast_torch.infer_layout(state.tensors, heads=2)
        return initialized.report[0].partition(': ')[2]


def _published() -> dict[str, np.ndarray]:
    random = np.random.default_rng(1)
    layout = Layout(Size(_SIZE.width, _SIZE.depth, _SIZE.heads), 3, (2, 6), weight_files.PATCH)
    return {
        row.source: random.standard_normal(row.shape, np.float32)
        for row in elastic_ast_torch.tensor_mappings(layout)
    }


def _torch(content):
    """Return nested dictionaries with tensors in place of arrays."""
    import torch

    if isinstance(content, dict):
        return {key: _torch(value) for key, value in content.items()}
    return torch.from_numpy(np.array(content)) if not isinstance(content, int) else content


def _write_folder(place: pathlib.Path, state, **configs) -> None:
    weight_files.saved(place, state, 'model.safetensors')
    for name, values in configs.items():
        (place / f'{name}.json').write_text(json.dumps(values))


def _write_ast(place: pathlib.Path, *, headless: bool = False) -> None:
    """Write the folder of an AST: 2 x 9 patches on 32 mel bins and 96 frames."""
    state = weight_files.timm(2, 1, positions=20)
    state = {name: array for name, array in state.items() if not name.startswith('head')}
    if headless:
        _write_folder(place, weight_files.hugging_face(state, ''), config=_AST)
        return
    state = weight_files.hugging_face(state, 'audio_spectrogram_transformer.')
    for part, shape in (('layernorm', (_SIZE.width,)), ('dense', (3, _SIZE.width))):
        state |= {
            f'classifier.{part}.weight': np.ones(shape, np.float32),
            f'classifier.{part}.bias': np.zeros(shape[0], np.float32),
        }
    _write_folder(place, state, config=_AST, preprocessor_config=_PREPROCESSOR)


def _damage(name: str, content: bytes, random, other: bytes) -> bytes:
    if name.endswith('.json') and random.random() < 0.8:
        if random.random() < 0.2:
            return text_damage.damage_text(content.decode(), random)
        return json.dumps(text_damage.damage_json(json.loads(content), random)).encode()
    if name.endswith('.safetensors') and random.random() < 0.5:
        return _damage_header(content, random)
    return byte_damage.damage(content, random, other)


def _damage_header(content: bytes, random) -> bytes:
    """Damage the JSON at the start of a file of safetensors, and keep its length right."""
    length = int.from_bytes(content[:8], 'little')
    header = json.loads(content[8 : 8 + length])
    text = json.dumps(text_damage.damage_json(header, random)).encode()
    return len(text).to_bytes(8, 'little') + text + content[8 + length :]


if __name__ == '__main__':
    sys.exit(runner.main('tests.fuzz.weights:Weights', 500))
