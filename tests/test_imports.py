"""Rules of the house about who imports what."""

import ast
import os
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = 'elastic_ast_jax'
MODULES = {
    '.'.join(path.relative_to(ROOT).with_suffix('').parts).removesuffix('.__init__'): path
    for path in sorted((ROOT / PACKAGE).rglob('*.py'))
}
COMMANDS = {
    f'{PACKAGE}.{name}'
    for name in (
        'cli',
        'train',
        'evaluate',
        'predict',
        'embed',
        'plan',
        'stats',
        'baseline',
        'synthesize',
        'compare',
        'convert.__main__',
        'convert.elasticast_torch',
        'convert.ast_hf_command',
        'parity.__main__',
        'parity.certificate',
        'benchmark',
        'compile',
        'prepare',
    )
}
# What training needs: TensorFlow itself, the pipeline made of it, and the commands that run it.
WITH_TENSORFLOW = {
    f'{PACKAGE}.{name}'
    for name in (
        'data.tf',
        'data.fbank',
        'data.pipeline',
        'train',
        'evaluate',
        'evaluator',
        'sweep',
        'budget_sweep',
        'baseline',
    )
} | {
    f'{PACKAGE}.data.builders.{name}'
    for name in (
        'base',
        'audioset',
        'vggsound',
        'voxceleb1',
        'epic_sounds',
        'speech_commands',
        'esc50',
        'manifest',
    )
}


def imports(path):
    """Full names of everything that a file imports, wherever in the file."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f'{path}: relative import'
            found |= {node.module} | {f'{node.module}.{name.name}' for name in node.names}
    return found


# Parsed while tests are collected: CPython 3.11 counts the depth of its parser for all threads
# together, and may refuse to parse while others do.
IMPORTS = {module: imports(path) for module, path in MODULES.items()}


def importers(*targets):
    """Modules that import one of the targets or something in it."""
    return {
        module
        for module, found in IMPORTS.items()
        for name in found
        if any(name == target or name.startswith(f'{target}.') for target in targets)
    }


def within(*packages):
    return {
        module
        for module in MODULES
        for package in packages
        if module == package or module.startswith(f'{package}.')
    }


def test_the_rules_see_the_package():
    assert WITH_TENSORFLOW | COMMANDS <= MODULES.keys()
    assert importers('tensorflow') and f'{PACKAGE}.audio.fbank' in importers('numpy')


def test_audio_and_models_know_neither_each_other_nor_data():
    audio, models, data = (f'{PACKAGE}.{name}' for name in ('audio', 'models', 'data'))
    assert not within(audio) & importers(models, data)
    assert not within(models) & importers(audio, data)
    assert not within(data) & importers(models)
    assert not within(f'{PACKAGE}.inference') & importers(data)


def test_only_commands_know_commands():
    assert importers(*COMMANDS) <= COMMANDS


def test_only_data_and_training_import_tensorflow():
    assert importers('tensorflow', 'tensorflow_datasets') <= within(f'{PACKAGE}.data') | {
        f'{PACKAGE}.train'
    }


@pytest.mark.parametrize(
    'library, but',
    [
        ('clu', ()),
        ('torch', ('hear', 'convert.tensors')),
        ('safetensors', ('convert.tensors',)),
        ('torchaudio', ()),
        ('transformers', ()),
        ('wandb', ('wandb_log',)),
        ('tests', ()),
    ],
)
def test_nothing_imports(library, but):
    """Except for the modules that serve it."""
    assert importers(library) == {f'{PACKAGE}.{module}' for module in but}


def test_nothing_evaluates_text():
    for path in MODULES.values():
        for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in ('eval', 'exec', 'compile'), f'{path}:{node.lineno}'


def test_all_but_training_and_evaluation_work_without_tensorflow():
    program = """
import importlib, sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] in ('tensorflow', 'tensorflow_datasets', 'tensorboard', 'clu'):
            raise ImportError(f'{name} is blocked')

sys.meta_path.insert(0, Blocked())
for module in sys.argv[1:]:
    importlib.import_module(module)
import elastic_ast_jax
assert callable(elastic_ast_jax.load)
try:
    import tensorflow
except ImportError as error:
    print(error)
"""
    environment = os.environ | {'PYTHONPATH': str(ROOT), 'JAX_PLATFORMS': 'cpu'}
    arguments = [sys.executable, '-c', program, *sorted(MODULES.keys() - WITH_TENSORFLOW)]
    done = subprocess.run(arguments, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout == 'tensorflow is blocked\n'


def test_every_folder_of_modules_is_a_package():
    found = {module.name for module in pkgutil.walk_packages([str(ROOT / PACKAGE)], f'{PACKAGE}.')}
    assert found | {PACKAGE} == MODULES.keys()
