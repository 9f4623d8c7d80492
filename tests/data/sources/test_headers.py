import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from elastic_ast_jax.audio import oddities
from elastic_ast_jax.audio.reading import AudioError, Header
from elastic_ast_jax.data.sources import headers


def write(path, samples, sample_rate=8000):
    soundfile.write(str(path), np.zeros(samples, np.int16), sample_rate)
    return str(path)


def spoil(path):
    """Fill a file with rubbish of the same size, and restore its time.

    Only a reader of the file notices.
    """
    status = os.stat(path)
    Path(path).write_bytes(b'x' * status.st_size)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def scan(paths, cache):
    """Headers, or the first error as an exception."""
    status = headers.read_headers(paths, cache)
    for header in status:
        if isinstance(header, AudioError):
            raise header
    return status


@pytest.fixture
def cache(tmp_path):
    return tmp_path / 'cache.npz'


def test_headers_come_in_the_order_of_the_paths_with_and_without_cache(tmp_path, cache):
    paths = [write(tmp_path / f'{i}.wav', 1 + i, 8000 + i) for i in range(200)]
    want = [Header(1 + i, 8000 + i, 1) for i in range(200)]
    assert scan(paths, None) == want
    for _ in range(2):
        assert scan(paths, cache) == want
    assert scan(paths[::-1] + paths[:3], cache) == want[::-1] + want[:3]
    assert scan([], cache) == []


def test_a_file_that_did_not_change_is_not_opened_again(tmp_path, cache):
    path = write(tmp_path / 'a.wav', 100)
    scan([path], cache)
    spoil(path)
    assert scan([path], cache) == [Header(100, 8000, 1)]
    with pytest.raises(AudioError):
        scan([path], None)


def test_a_file_of_another_time_or_size_is_read_again(tmp_path, cache):
    path = write(tmp_path / 'a.wav', 100)
    scan([path], cache)
    write(path, 100, 16000)
    os.utime(path, ns=(1, 1))
    assert scan([path], cache) == [Header(100, 16000, 1)]
    write(path, 200)
    os.utime(path, ns=(1, 1))
    assert scan([path], cache) == [Header(200, 8000, 1)]
    os.remove(path)
    with pytest.raises(AudioError, match='no such file'):
        scan([path], cache)


def test_splits_that_share_a_cache_do_not_push_each_other_out(tmp_path, cache):
    paths = [write(tmp_path / name, 100) for name in ('train.wav', 'test.wav')]
    for path in paths:
        scan([path], cache)
    for path in paths:
        spoil(path)
        assert scan([path], cache) == [Header(100, 8000, 1)]


def test_a_relative_path_means_the_file_in_the_working_folder(tmp_path, cache, monkeypatch):
    for name, samples in (('one', 100), ('two', 200)):
        (tmp_path / name).mkdir()
        write(tmp_path / name / 'a.wav', samples)
        monkeypatch.chdir(tmp_path / name)
        assert scan(['a.wav'], cache) == [Header(samples, 8000, 1)]


def test_names_of_any_bytes_are_remembered(tmp_path, cache):
    paths = [write(tmp_path / 'plain.wav', 100)]
    for name in ('a\nb.wav', 'ünïcode.wav', os.fsdecode(b'\xff\xfe.wav')):
        paths.append(shutil.copy(paths[0], tmp_path / name))
    scan(paths, cache)
    for path in paths:
        spoil(path)
    assert scan(paths, cache) == [Header(100, 8000, 1)] * 4


@pytest.mark.parametrize(
    'damage',
    [
        lambda data: b'',
        lambda data: b'rubbish',
        lambda data: data[: len(data) // 2],
        lambda data: data.replace(b'version', b'variant'),
        lambda data: data[:200] + bytes(50) + data[250:],
    ],
)
def test_a_damaged_cache_is_reported_ignored_and_rewritten(tmp_path, cache, caplog, damage):
    path = write(tmp_path / 'a.wav', 100)
    scan([path], cache)
    cache.write_bytes(damage(cache.read_bytes()))
    assert scan([path], cache) == [Header(100, 8000, 1)]
    assert [record.levelname for record in caplog.records] == ['WARNING'] and str(
        cache
    ) in caplog.text
    caplog.clear()
    spoil(path)
    assert scan([path], cache) == [Header(100, 8000, 1)]
    assert not caplog.records


def test_a_cache_is_never_unpickled(tmp_path, cache, caplog):
    path = write(tmp_path / 'a.wav', 100)
    with open(cache, 'wb') as file:
        np.savez(
            file, version=1, names=np.array([path], object), numbers=np.zeros((1, 5), np.int64)
        )
    assert scan([path], cache) == [Header(100, 8000, 1)]
    assert 'cannot be used' in caplog.text


def test_a_cache_that_cannot_be_written_costs_a_warning(tmp_path, caplog):
    path = write(tmp_path / 'a.wav', 100)
    assert scan([path], tmp_path / 'missing' / 'cache.npz') == [Header(100, 8000, 1)]
    assert 'cannot be written' in caplog.text


def test_no_temporary_files_stay(tmp_path, cache):
    scan([write(tmp_path / 'a.wav', 100)], cache)
    assert sorted(os.listdir(tmp_path)) == ['a.wav', 'cache.npz']


def test_a_bad_file_has_its_error_in_the_place_of_a_header(tmp_path, cache):
    paths = [write(tmp_path / 'good.wav', 100)] + [
        str(tmp_path / f'missing{i:02}.wav') for i in range(13)
    ]
    good, *bad = headers.read_headers(paths, cache)
    assert good == Header(100, 8000, 1)
    assert all(str(error).startswith(path) for error, path in zip(bad, paths[1:], strict=True))
    listed = headers.format_problems(list(map(str, bad)))
    assert listed.endswith('and 3 more') and all(
        (path in listed) == (i < 10) for i, path in enumerate(paths[1:])
    )
    spoil(paths[0])  # what was good is remembered all the same
    assert scan(paths[:1], cache) == [Header(100, 8000, 1)]


def test_the_error_of_one_bad_file_begins_with_its_path(tmp_path):
    path = str(tmp_path / 'missing.wav')
    with pytest.raises(AudioError) as error:
        scan([path], None)
    assert str(error.value).startswith(path)


def test_the_cache_lies_beside_the_data_or_else_in_the_users_cache(tmp_path, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'xdg'))
    data = tmp_path / 'data'
    fallback = headers.cache_path(
        data
    )  # the folder does not exist, so nothing can be written there
    assert fallback is not None
    assert fallback.parent == tmp_path / 'xdg/elastic-ast/headers' and fallback.parent.is_dir()
    assert headers.cache_path(tmp_path / 'other') != fallback
    monkeypatch.chdir(tmp_path)
    assert headers.cache_path('data') == fallback
    data.mkdir()
    assert headers.cache_path(data) == data / '.elastic-ast-headers.npz'


def test_without_a_place_to_write_there_is_no_cache(tmp_path, monkeypatch):
    (tmp_path / 'file').touch()
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'file'))
    assert headers.cache_path(tmp_path / 'missing') is None


def test_what_is_remembered_under_other_names_lies_apart(tmp_path, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'xdg'))
    assert headers.cache_path(tmp_path, '.lengths.json') == tmp_path / '.lengths.json'
    places = {headers.cache_path(tmp_path / 'missing', name) for name in ('.a.json', '.b.json')}
    assert len(places | {headers.cache_path(tmp_path / 'missing')}) == 3
    assert {place and place.suffix for place in places} == {'.json'} and {
        place and place.parent for place in places
    } == {tmp_path / 'xdg/elastic-ast/headers'}


def test_a_cache_is_replaced_as_a_whole_or_not_at_all(tmp_path, caplog):
    place = tmp_path / 'a.json'
    headers.replace_cache(place, lambda file: file.write(b'first'))

    def full(file):
        file.write(b'half')
        raise OSError('no space left on device')

    headers.replace_cache(place, full)
    assert place.read_bytes() == b'first' and os.listdir(tmp_path) == ['a.json']
    assert 'no space left' in caplog.text


def test_odd_recordings_are_reported_at_each_start(tmp_path, cache, caplog):
    path = write(tmp_path / 'a.wav', 100)
    content = Path(path).read_bytes()
    Path(path).write_bytes(content[:40] + bytes(4) + content[44:])  # no size of the samples
    for _ in range(2):
        oddities.log_summary()
        caplog.clear()
        assert scan([path], cache) == [Header(100, 8000, 1)]
        assert caplog.messages == [
            f'{path}: the header was never finished: the samples reach to the end of the file'
        ]
