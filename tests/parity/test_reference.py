"""Reference values: in the package, in its wheel, and an error if they are missing."""

import configparser
import fnmatch
from pathlib import Path

import pytest

from elastic_ast_jax.parity import reference

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize('name', reference.NAMES)
def test_every_file_has_settings_and_arrays(name):
    stored = reference.load(name)
    assert stored.name == name and stored.meta and stored.arrays and 'meta' not in stored.arrays


def test_a_part_is_keyed_by_the_rest_of_its_names():
    stored = reference.load('elasticast_tiny')
    assert stored.part('clips/').keys() == {str(i) for i in range(8)}
    assert stored.part('clips/')['3'] is stored['clips/3']


def test_a_wheel_has_them():
    """Check package_data: `packages = find:` takes Python files alone."""
    parser = configparser.RawConfigParser()
    parser.read(ROOT / 'setup.cfg')
    patterns = parser['options.package_data'][reference.__name__].split()
    files = [
        file.name
        for file in Path(reference.__file__).parent.iterdir()
        if file.is_file() and file.suffix != '.py'
    ]
    assert {f'{name}.npz' for name in reference.NAMES} | {'README.md'} == set(files)
    assert all(any(fnmatch.fnmatch(name, pattern) for pattern in patterns) for name in files)


def test_a_missing_file_is_an_error_with_advice():
    with pytest.raises(
        reference.ReferenceFileError,
        match=r'absent.npz: cannot be read .*install elastic-ast-jax again',
    ):
        reference.load('absent')
