"""Check who imports what: the order of the rooms, and the libraries that few modules may use."""

import ast
import graphlib
import os
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = 'elastic_ast_jax'
# The rooms of the package from top to bottom. A module imports from its own room and from the rooms
# below it.
ROOMS = (
    '__init__',
    '__main__',
    'cli',
    'experiments',
    'probing',
    'configure',
    'train',
    'parity',
    'evaluation',
    'inference',
    'perf',
    'pretrained',
    'training',
    'checkpointing',
    'distributed',
    'models',
    'data',
    'packing',
    'config',
    'synthesis',
    'audio',
    'utils',
)
MODULES = {
    '.'.join(path.relative_to(ROOT).with_suffix('').parts).removesuffix('.__init__'): path
    for path in sorted((ROOT / PACKAGE).rglob('*.py'))
}
# Modules that import TensorFlow when they are imported, or another module that does.
WITH_TENSORFLOW = {
    f'{PACKAGE}.{name}'
    for name in (
        'data.tf',
        'data.fbank_tf',
        'data.pipeline',
        'data.row_reader',
        'train',
        'evaluation.evaluate',
        'evaluation.evaluator',
        'evaluation.budget_report',
        'evaluation.budget_sweep',
        'evaluation.fitted_statistics',
        'probing.cross_validation',
        'probing.features',
        'probing.probe',
        'probing.save',
    )
} | {
    f'{PACKAGE}.data.prepare.{name}'
    for name in (
        'builder',
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
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        if isinstance(node, ast.Import):
            names |= {name.name for name in node.names}
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f'{path}: relative import'
            names |= {node.module} | {f'{node.module}.{name.name}' for name in node.names}
    return names


# Parsed while tests are collected: CPython 3.11 counts the depth of its parser for all threads
# together, and may refuse to parse while others do.
IMPORTS = {module: imports(path) for module, path in MODULES.items()}


def importers(*targets):
    """Modules that import one of the targets or something in it."""
    return {
        module
        for module, names in IMPORTS.items()
        for name in names
        if any(name == target or name.startswith(f'{target}.') for target in targets)
    }


def within(*packages):
    return {
        module
        for module in MODULES
        for package in packages
        if module == package or module.startswith(f'{package}.')
    }


def room(module):
    """The folder or the module at the top of the package that a module belongs to."""
    return ([*module.split('.'), '__init__'])[1]


def package_imports(module):
    """Modules of the package that a module imports; not the package that one is imported from."""
    names = {name for name in IMPORTS[module] if name.split('.')[0] == PACKAGE}
    targets = {name if name in MODULES else name.rpartition('.')[0] for name in names}
    return {
        target
        for target in targets
        if not any(other.startswith(f'{target}.') for other in targets) or target not in names
    }


def test_the_rules_see_the_package():
    assert MODULES.keys() >= WITH_TENSORFLOW
    assert importers('tensorflow') and f'{PACKAGE}.audio.fbank' in importers('numpy')
    assert package_imports(f'{PACKAGE}.__main__') == {
        f'{PACKAGE}.cli.main',
        f'{PACKAGE}.utils.interrupts',
    }


def test_every_module_is_in_a_room_of_the_list():
    assert {room(module) for module in MODULES} == set(ROOMS)


@pytest.mark.parametrize('name', ROOMS)
def test_imports_run_downwards_only(name):
    upwards = [
        f'{module} imports {target}'
        for module in MODULES
        if room(module) == name
        for target in sorted(package_imports(module))
        if ROOMS.index(room(target)) < ROOMS.index(name)
    ]
    assert upwards == []


def test_no_modules_import_each_other():
    """Not in circles either."""
    graphlib.TopologicalSorter({module: package_imports(module) for module in MODULES}).prepare()


def test_audio_and_models_know_neither_each_other_nor_data():
    audio, models, data = (f'{PACKAGE}.{name}' for name in ('audio', 'models', 'data'))
    assert not within(audio) & importers(models, data)
    assert not within(models) & importers(audio, data)
    assert not within(data) & importers(models)
    assert not within(f'{PACKAGE}.inference') & importers(data)


def test_only_data_and_training_import_tensorflow():
    assert importers('tensorflow', 'tensorflow_datasets') <= within(f'{PACKAGE}.data') | {
        f'{PACKAGE}.train'
    }


@pytest.mark.parametrize(
    'library, but',
    [
        ('clu', ()),
        ('torch', ('inference.hear', 'pretrained.torch_file')),
        ('safetensors', ('pretrained.state_dict',)),
        ('torchaudio', ()),
        ('transformers', ()),
        ('wandb', ('training.wandb_log',)),
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
    result = subprocess.run(arguments, env=environment, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    assert result.stdout == 'tensorflow is blocked\n'


def test_every_folder_of_modules_is_a_package():
    names = {module.name for module in pkgutil.walk_packages([str(ROOT / PACKAGE)], f'{PACKAGE}.')}
    assert names | {PACKAGE} == MODULES.keys()
