"""Write files completely or not at all."""

import errno
import os
import sys

import pytest

from elastic_ast_jax.utils.files import WriteError, atomic_write, write_problem, write_text


def test_the_old_file_stays_until_the_new_file_is_complete(tmp_path):
    file = tmp_path / 'new folder' / 'x.json'
    for old, new in ((None, 'one'), ('one', 'two')):
        with atomic_write(file) as temporary:
            temporary.write_text(new)
            assert temporary.suffix == '.json' and temporary.parent == file.parent
            assert (file.read_text() if file.exists() else None) == old
        assert file.read_text() == new
    assert os.listdir(file.parent) == ['x.json']


@pytest.mark.parametrize('failure', [ZeroDivisionError, KeyboardInterrupt, OSError])
def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path, failure):
    file = tmp_path / 'x.json'
    file.write_text('old')
    with (
        pytest.raises(WriteError if failure is OSError else failure),
        atomic_write(file) as temporary,
    ):
        temporary.write_text('half')
        raise failure
    assert file.read_text() == 'old' and os.listdir(tmp_path) == ['x.json']


@pytest.mark.skipif(not sys.platform.startswith('linux'), reason='sizes are limited as Linux does')
def test_a_full_disk(tmp_path, little_room):
    with little_room(1000):
        write_text(tmp_path / 'x.md', 'x' * 1000)
        with pytest.raises(WriteError, match='make room'):
            write_text(tmp_path / 'x.md', 'y' * 1001)
    assert (tmp_path / 'x.md').read_text() == 'x' * 1000 and os.listdir(tmp_path) == ['x.md']


@pytest.mark.parametrize(
    'number, advice',
    [
        (errno.ENOSPC, 'make room on that disk, or choose another place'),
        (errno.EDQUOT, 'make room on that disk'),
        (errno.EFBIG, 'make room on that disk'),
        (errno.EACCES, ': choose another place'),
        (errno.EROFS, ': choose another place'),
        (None, ': choose another place'),
    ],
)
def test_the_advice_depends_on_the_error(number, advice):
    error = (
        OSError('the reason')
        if number is None
        else OSError(number, os.strerror(number), '/temporary')
    )
    message = write_problem('results/x.json', error)
    assert message.startswith('results/x.json: cannot be written (') and advice in message
    assert '/temporary' not in message


def test_an_impossible_path_is_named(tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(
        WriteError,
        match=rf'^{tmp_path}/file/x.json: cannot be written \(.*\): choose another place$',
    ):
        write_text(tmp_path / 'file' / 'x.json', '')
    (tmp_path / 'folder.json' / 'below').mkdir(parents=True)
    with pytest.raises(WriteError, match=f'^{tmp_path}/folder.json: cannot be written'):
        write_text(tmp_path / 'folder.json', '')
    assert sorted(os.listdir(tmp_path)) == ['file', 'folder.json']


def test_long_names_and_undecodable_names_work(tmp_path):
    for name in ('x' * 250 + '.json', 'é' * 125 + '.json', 'caf\udce9.json'):
        write_text(tmp_path / name, 'caf\udce9')
        assert (tmp_path / name).read_text() == 'caf\\udce9'
