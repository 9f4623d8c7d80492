"""A file of a stranger is refused before it can wait, grow without end, or lead elsewhere."""

import json
import os
import pathlib
import re
import socket
import time

import pytest

from elastic_ast_jax.utils import bounded

LIMIT = 1000


@pytest.fixture
def place(tmp_path):
    """Return `place(kind)`, which makes a file of this kind and returns its path."""

    def make(kind: str):
        path = tmp_path / kind
        if kind == 'pipe':
            os.mkfifo(path)
        elif kind == 'folder':
            path.mkdir()
        elif kind == 'zero':
            path.symlink_to('/dev/zero')
        elif kind == 'socket':
            with socket.socket(socket.AF_UNIX) as server:
                server.bind(str(path))
        elif kind == 'sparse':
            with open(path, 'wb') as file:
                file.truncate(2**40)
        elif kind == 'loop':
            path.symlink_to(path)
        return path

    return make


@pytest.mark.parametrize(
    'read', [bounded.read_bytes, lambda *args: list(bounded.read_lines(*args))]
)
@pytest.mark.parametrize(
    ('kind', 'reason'),
    [
        ('pipe', 'is a named pipe'),
        ('folder', 'is a folder'),
        ('zero', 'is a device'),
        ('socket', 'is a socket'),
        ('sparse', 'more than the 1000 bytes'),
        ('loop', 'Too many levels of symbolic links'),
        ('missing', 'No such file'),
    ],
)
def test_what_is_no_small_file_is_refused_at_once(place, kind, reason, read):
    path, begin = place(kind), time.monotonic()
    with pytest.raises(OSError) as caught:
        read(path, LIMIT)
    assert reason in str(caught.value.strerror) and str(path) in str(caught.value)
    assert time.monotonic() - begin < 1


def test_a_file_that_claims_no_bytes_is_limited():
    with pytest.raises(OSError, match='more than the 10 bytes'):
        bounded.read_bytes(pathlib.Path('/proc/cpuinfo'), 10)


def test_what_is_no_path_is_an_error_of_files():
    for name in ('a\0b', '\ud800'):
        with pytest.raises(OSError, match='is no path'):
            bounded.read_bytes(pathlib.Path(name), LIMIT)


def test_a_small_file_is_read_whole(tmp_path):
    (tmp_path / 'a').write_bytes('é\r\nb\nc'.encode())
    assert bounded.read_bytes(tmp_path / 'a', 7) == 'é\r\nb\nc'.encode()
    assert list(bounded.read_lines(tmp_path / 'a', 7)) == ['é\r\n', 'b\n', 'c']
    with pytest.raises(OSError, match='line 1 has more than 3 bytes'):
        list(bounded.read_lines(tmp_path / 'a', 7, 3))


@pytest.mark.parametrize(
    ('text', 'reason'),
    [
        ('[' * 100 + ']' * 100, 'nested more than 64 levels'),
        ('[' * 100_000, 'nested more than 64 levels'),
        ('{"a":' * 50_000 + '1' + '}' * 50_000, 'nested more than 64 levels'),
        ('{"a": 1, "b": 2, "a": 3}', "the key 'a' is there twice"),
        ('{"a": NaN}', 'NaN is no number'),
        ('[-Infinity]', '-Infinity is no number'),
        ('9' * 5000, 'digits'),
        (b'\xff', 'utf-8'),
        ('{', 'Expecting'),
    ],
)
def test_json_that_no_writer_of_this_project_writes_is_refused(text, reason):
    with pytest.raises(ValueError, match=re.escape(reason)):
        bounded.parse_json(text)


def test_json_of_few_levels_is_parsed():
    value = {'a': [1, 2.5, None, {'b': 'é'}], 'c': {}}
    assert bounded.parse_json(json.dumps(value)) == value


def test_links_may_not_leave_the_folder(tmp_path):
    folder = tmp_path / 'w'
    (folder / 'inner').mkdir(parents=True)
    (folder / 'inner' / 'file').touch()
    (tmp_path / 'secret').touch()
    (folder / 'link').symlink_to('inner/file')
    bounded.check_inside(folder / 'inner' / 'file', folder)
    bounded.check_inside(folder / 'link', folder)
    bounded.check_inside(folder / 'missing', folder)
    (tmp_path / 'named').symlink_to('w')  # the folder that the user names may be a link
    bounded.check_inside(tmp_path / 'named' / 'link', tmp_path / 'named')
    for name, target in (('out', '../secret'), ('far', '/etc/passwd'), ('up', '..')):
        (folder / name).symlink_to(target)
        with pytest.raises(OSError, match='is a link that leaves') as caught:
            bounded.check_inside(folder / name, folder)
        assert f'to store a workdir on another disk, link {folder} itself' in str(caught.value)
    (folder / 'dangling').symlink_to('/nowhere/at/all')
    with pytest.raises(OSError, match='leads nowhere'):
        bounded.check_inside(folder / 'dangling', folder)
    with pytest.raises(OSError, match='is a link that leaves'):
        bounded.check_inside(folder / 'up' / 'secret', folder)
