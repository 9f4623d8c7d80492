"""Read, write and move files in a bucket, and explain every failure."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from elastic_ast_jax.checkpointing.checkpoints import CheckpointError, Checkpoints
from elastic_ast_jax.checkpointing.workdir import Workdir
from elastic_ast_jax.training.profiling import Profile
from elastic_ast_jax.utils import files, gcs
from elastic_ast_jax.utils.files import WriteError
from elastic_ast_jax.utils.gcs import (
    UNREACHABLE,
    BucketPath,
    BucketPathError,
    exit_code,
    with_exit_code,
)

ROLE = 'Storage Object User and Storage Legacy Bucket Reader'


@pytest.fixture
def folder(shelf) -> BucketPath:
    return gcs.bucket_path('gs://shelf/runs/one')


# Paths


@pytest.mark.parametrize(
    'text', ['gs://shelf/a', 'gs://shelf/a/', 'gs://shelf//a', 'gs://shelf/./a']
)
def test_a_path_in_a_bucket(text):
    path = files.as_path(text)
    assert str(path) == os.fspath(path) == 'gs://shelf/a'
    assert path == files.as_path(path) and isinstance(path / 'b', BucketPath)
    assert (
        str(path / 'b.txt') == 'gs://shelf/a/b.txt'
        and str((path / 'b.txt').with_suffix('')) == 'gs://shelf/a/b'
    )
    assert (path.name, (path / 'b.txt').suffix, str(path.parent)) == ('a', '.txt', 'gs://shelf')


def test_other_paths_are_local_and_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert files.as_path('runs/gs:1') == tmp_path / 'runs' / 'gs:1'
    assert files.as_path(tmp_path) == tmp_path and type(files.as_path('x')) is type(tmp_path)


@pytest.mark.parametrize(
    'text', ['s3://shelf/run', 'gs://shelf', 'gs://', 'gs:///run', 'http://a/b', 'x/gs://shelf/a']
)
def test_other_urls_are_refused(text):
    with pytest.raises(BucketPathError) as caught:
        files.as_path(text)
    assert str(caught.value).startswith(
        f'{text}: is neither a local path nor'
    ) and 'gs://BUCKET/FOLDER' in str(caught.value)


@pytest.mark.parametrize(
    'text',
    ['gs://shelf/a/../b', 'gs://shelf/a*', 'gs://shelf/a[1]', 'gs://shelf/a?', 'gs://shelf/a#1'],
)
def test_names_with_reserved_characters_are_refused(text):
    with pytest.raises(BucketPathError, match='choose another name'):
        files.as_path(text)


# Files


@pytest.mark.parametrize('data', [b'', b'\r\n\r\n--==0==\n\n', bytes(range(256)) * 3])
def test_written_bytes_are_read_back(folder, shelf, data):
    file = folder / 'a.bin'
    for _ in range(2):  # the second replaces the first
        file.write_bytes(data)
        assert file.read_bytes() == data == shelf.objects['runs/one/a.bin'].data
    assert (
        file.exists()
        and not file.is_dir()
        and folder.is_dir()
        and files.folder_bytes(folder) == len(data)
    )


def test_a_large_file_is_uploaded_in_pieces(folder, shelf, tmp_path):
    data = bytes(range(256)) * 25000
    (tmp_path / 'large').write_bytes(data)
    (folder / 'large').upload(tmp_path / 'large')
    assert shelf.objects['runs/one/large'].data == data and shelf.sessions
    with files.local_copy(folder / 'large') as copy:
        assert copy.read_bytes() == data
    assert not copy.exists()


def test_writes_of_other_clients_are_visible_at_once(folder, shelf):
    """TensorStore and other processes bypass this client, which has read listings before."""
    assert list(folder.iterdir()) == [] and not folder.is_dir()
    folder.mkdir(parents=True, exist_ok=True)
    shelf.put('runs/one/a', b'1')
    shelf.put('runs/one/b/c', b'2')
    shelf.put('runs/one-and-more/x', b'3')
    assert [path.name for path in folder.iterdir()] == ['a', 'b'] and (folder / 'b').is_dir()
    del shelf.objects['runs/one/a']
    assert (
        [path.name for path in folder.iterdir()] == ['b']
        and not (folder / 'a').exists()
        and files.folder_bytes(folder) == 1
    )


def test_a_folder_moves_with_its_contents(folder, shelf):
    for name in ('a', 'b/c', 'b/a/b'):
        (folder / name).write_text(name)
    (folder.parent / 'one-more').write_text('stays')
    folder.rename(folder.parent / 'two')
    assert {name: stored.data for name, stored in shelf.objects.items()} == {
        'runs/two/a': b'a',
        'runs/two/b/c': b'b/c',
        'runs/two/b/a/b': b'b/a/b',
        'runs/one-more': b'stays',
    }


def test_missing_files(folder):
    file = folder / 'no'
    assert not file.exists() and not file.is_dir()
    file.unlink(missing_ok=True)
    for call in (file.unlink, file.read_bytes, files.as_path('gs://other/x').touch):
        with pytest.raises(FileNotFoundError) as caught:
            call()
        assert (
            caught.value.filename.startswith('gs://')
            and caught.value.strerror == 'no such file or bucket'
        )


@pytest.mark.parametrize('status', [401, 403])
def test_every_call_explains_missing_access(folder, shelf, tmp_path, status):
    (tmp_path / 'x').touch()
    shelf.refuse = lambda method, path: status
    file = folder / 'x'
    for call in (
        file.exists,
        file.is_dir,
        file.touch,
        file.read_text,
        file.unlink,
        file.file_size,
        lambda: list(file.iterdir()),
        lambda: file.upload(tmp_path / 'x'),
        lambda: file.rename(folder / 'y'),
    ):
        with pytest.raises(OSError) as caught:
            call()
        assert caught.value.filename == str(file)
        message = caught.value.strerror
        assert message and 'no access' in message
        assert 'gcloud auth application-default login' in message and ROLE in message


def test_a_failed_request_is_retried(folder, shelf):
    failures = [503]
    shelf.refuse = lambda method, path: failures.pop() if failures else None
    (folder / 'x').write_text('x')
    assert (folder / 'x').read_text() == 'x' and not failures


def run_python(program: str) -> subprocess.CompletedProcess:
    """Run a program in its own process."""
    environment = os.environ | {
        'JAX_PLATFORMS': 'cpu',
        'PYTHONPATH': str(Path(__file__).parents[2]),
    }
    return subprocess.run(
        [sys.executable, '-c', program],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_missing_packages_are_an_error_that_names_the_extra(shelf):
    process = run_python(
        "import sys; sys.modules['gcsfs'] = None\n"
        "from elastic_ast_jax.checkpointing.workdir import Workdir; Workdir('gs://shelf/runs/one').config()"
    )
    assert (
        'WorkdirError: gs://shelf/runs/one/config.json: cannot be read (gs:// needs gcsfs and'
        in process.stderr
    )
    assert 'bash launch/install.sh gcs' in process.stderr


# Files of results


def test_an_atomic_write_appears_at_the_end_or_not_at_all(folder, shelf):
    with files.atomic_write(folder / 'a.png') as temporary:
        assert temporary.suffix == '.png' and isinstance(temporary, Path)
        temporary.write_bytes(b'new')
        assert not shelf.objects
    assert shelf.under('runs/one') == {'a.png': b'new'} and not temporary.exists()
    with pytest.raises(RuntimeError), files.atomic_write(folder / 'a.png') as temporary:
        temporary.write_bytes(b'newer')
        raise RuntimeError
    assert shelf.under('runs/one') == {'a.png': b'new'} and not temporary.exists()


def test_text_is_written_as_in_local_files(folder, shelf, tmp_path):
    for parent in (folder, tmp_path):
        files.write_text(parent / 'a.txt', 'näme \udce9\n')
    assert shelf.under('runs/one')['a.txt'] == (tmp_path / 'a.txt').read_bytes()


def test_a_failed_write_is_an_error_with_advice(folder, shelf):
    shelf.refuse = lambda method, path: 403
    with pytest.raises(WriteError) as caught:
        files.write_text(folder / 'a.txt', 'x')
    assert str(caught.value).startswith(
        f'{folder}/a.txt: cannot be written (no access: '
    ) and ROLE in str(caught.value)


@pytest.mark.parametrize(
    'error, code',
    [
        (ConnectionError('reset'), UNREACHABLE),
        (TimeoutError(), UNREACHABLE),
        (FileNotFoundError('gs://b'), 1),
        (ImportError('gcsfs'), 1),
        (ValueError('PERMISSION_DENIED: storage.objects.create'), 1),
    ],
)
def test_a_temporary_failure_of_a_bucket_has_its_own_exit_code(folder, error, code):
    assert with_exit_code(WriteError('x'), folder / 'a', error).exit_code == code
    assert (
        with_exit_code(WriteError('x'), Path('a'), error).exit_code == 1
    )  # unchanged for a local path


def test_an_unhandled_failure_of_a_bucket_has_this_exit_code(folder, shelf):
    shelf.refuse = lambda method, path: 403
    with pytest.raises(OSError) as caught:
        (folder / 'x').read_bytes()
    assert exit_code(caught.value) == 1
    assert (
        exit_code(OSError(errno.EIO, 'no answer', 'gs://b/x')) == UNREACHABLE
        and exit_code(OSError(errno.EIO, '', 'x')) == 1
    )


# Use


def test_a_run_has_a_checkpoint_only_if_it_is_complete(folder):
    workdir = Workdir(folder)
    (workdir.checkpoints / '3' / 'params' / 'd' / 'x').touch()
    (workdir.checkpoints / '3' / 'params' / 'commit_success.txt').touch()
    (workdir.checkpoints / 'damaged' / '5-0' / 'commit_success.txt').touch()
    assert not workdir.has_checkpoint()
    (workdir.checkpoints / '3' / 'commit_success.txt').touch()
    assert workdir.has_checkpoint()


def test_a_similar_workdir_is_suggested(folder):
    (folder / 'config.json').touch()
    with pytest.raises(
        ValueError, match=r'there is no such workdir; did you mean gs://shelf/runs/one?'
    ):
        Workdir('gs://shelf/runs/onr').config()


def test_a_profile_is_uploaded_to_the_bucket(folder, shelf):
    with Profile(folder, 1, 0, 1, lambda _: None) as profile:
        with profile.step(0):
            pass
        profile.stop_after(1, lambda: None)
    assert any(
        name.startswith('plugins/profile/') and name.endswith('.xplane.pb')
        for name in shelf.under('runs/one')
    )


def test_missing_rights_for_the_bucket_itself_are_an_error(folder, shelf):
    """Orbax requests the bucket itself, which rights to its objects do not include."""
    shelf.refuse = lambda method, path: 403 if path.endswith('/b/shelf') else None
    with pytest.raises(CheckpointError) as caught:
        Checkpoints(folder / 'checkpoints')
    assert str(caught.value).startswith(
        f'{folder}/checkpoints: cannot be used for checkpoints (no access: '
    )
    assert ROLE in str(caught.value)


def test_local_paths_import_no_bucket_clients():
    program = (
        'import sys; from elastic_ast_jax.cli import main as cli; '
        "from elastic_ast_jax.checkpointing import workdir; workdir.Workdir('x'); "
        "print([name for name in ('fsspec', 'etils', 'gcsfs') if name in sys.modules])"
    )
    process = run_python(program)
    assert process.stdout == '[]\n', process.stderr
