"""Download packages with the machine's package managers, and read files in them.

Nothing in a package is run or installed. An archive is read from front to back, and the caller
decides which of its regular files to write. Links, and names that lead out of the archive, are
skipped.
"""

import contextlib
import lzma
import re
import shutil
import struct
import subprocess
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import IO, NamedTuple

from elastic_ast_jax.experiments.small_data.tasks import Package
from elastic_ast_jax.utils.errors import UserError

__all__ = ['PackageError', 'archived_files', 'download']

# An archive in a package, whose files count as files of the package.
_NESTED = '.pk3'
_MAX_NESTED_BYTES = 1 << 30
# The longest clip of the tasks has two megabytes.
_MAX_FILE_BYTES = 64 << 20
# The files of the largest package of the tasks have 0.93 GB, with those of archives in it.
_MAX_PACKAGE_BYTES = 4 << 30
_BLOCK_BYTES = 1 << 20
_SECONDS = 1800
# What the standard library raises for damaged archives, beside OSError.
_DAMAGES = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    EOFError,
    ValueError,
)
_BAD_NAME = re.compile(r'[\\\0-\x1f]')


class PackageError(UserError):
    """Report a package that cannot be downloaded or read."""


class _ArchivedFile(NamedTuple):
    """Hold a regular file of an archive.

    Attributes:
        name: Path in the archive, with slashes and without `..`.
        size: Bytes of its content, which are not exceeded in reading it.
        file: Its content, to read before the next one.
    """

    name: str
    size: int
    file: IO[bytes]


class _Client(NamedTuple):
    """Describe a package manager: its program, and the arguments that download a package."""

    program: str
    arguments: tuple[str, ...]
    # File that it writes.
    file: str
    hint: str


_CLIENTS = {
    'debian': _Client(
        'apt-get',
        ('-qq', 'download', '{name}={version}'),
        '{name}_{version}_*.deb',
        'apt-get update fetches the lists of packages; other releases have other versions',
    ),
    'npm': _Client(
        'npm',
        ('pack', '--silent', '--ignore-scripts', '{name}@{version}'),
        '{name}-{version}.tgz',
        'npm ping checks the connection to the registry',
    ),
    'pypi': _Client(
        'pip',
        ('download', '--quiet', '--no-deps', '--only-binary', ':all:', '{name}=={version}'),
        '{name}-{version}-*.whl',
        'pip config list shows the registry',
    ),
}


def download(package: Package, folder: Path) -> Path:
    """Return the file of a package in a folder, and download it if it is not there.

    Raises:
        PackageError: The package manager is missing or fails.
    """
    client = _CLIENTS[package.ecosystem]
    values = {'name': package.name, 'version': package.version}
    pattern = client.file.format(name=package.name, version=package.version.replace(':', '%3a'))
    if files := sorted(folder.glob(pattern)):
        return files[0]
    if shutil.which(client.program) is None:
        raise PackageError(
            f'{client.program} is missing, which downloads {package.name} {package.version}:'
            f' install it, or put {pattern} into {folder}'
        )
    folder.mkdir(parents=True, exist_ok=True)
    command = [client.program, *(argument.format(**values) for argument in client.arguments)]
    with tempfile.TemporaryDirectory(dir=folder, prefix='.part.') as scratch:
        output = _run(command, scratch)
        files = sorted(Path(scratch).glob(pattern))
        if not files:
            raise PackageError(
                f'{" ".join(command)} downloaded nothing: {output or "no reason given"};'
                f' {client.hint}'
            )
        return files[0].replace(folder / files[0].name)


def _run(command: Sequence[str], folder: str) -> str:
    """Run a package manager in a folder, and return the end of its output."""
    try:
        process = subprocess.run(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=_SECONDS,
        )
    except subprocess.TimeoutExpired:
        return f'it took more than {_SECONDS} s'
    except OSError as error:
        return f'it cannot be started ({error.strerror})'
    text = process.stdout.decode(errors='replace').split()
    return ' '.join(text)[-400:]


def archived_files(archive: Path, select: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
    """Yield paths and contents of regular files of a package.

    An archive in it is a folder. Links and names that lead out of an archive are skipped.

    Args:
        archive: File of the package.
        select: Says of a path whether the file is read.

    Raises:
        PackageError: It is damaged or of another kind, a file to read has more than 64 MiB, or all
            files have more than 4 GiB.
    """
    try:
        with contextlib.closing(_members(archive)) as members:
            total = 0
            for member in members:
                total += member.size
                if total > _MAX_PACKAGE_BYTES:
                    raise _too_large('all of its files', _MAX_PACKAGE_BYTES)
                if not select(member.name):
                    continue
                data = member.file.read(_MAX_FILE_BYTES + 1)
                if len(data) > _MAX_FILE_BYTES:
                    raise _too_large(member.name, _MAX_FILE_BYTES)
                yield member.name, data
    except PackageError as error:
        raise PackageError(f'{archive}: {error}') from error
    except _DAMAGES as error:
        raise PackageError(f'{archive}: cannot be unpacked ({error}): delete it') from error
    except OSError as error:  # of the machine, unless it has no number
        advice = '' if error.errno else ': delete it'
        raise PackageError(f'{archive}: cannot be unpacked ({error}){advice}') from error
    except (NotImplementedError, RuntimeError) as error:  # a kind of zip that Python cannot read
        raise PackageError(f'{archive}: cannot be unpacked ({error})') from error


def _members(archive: Path) -> Generator[_ArchivedFile, None, None]:
    """Yield the files of a package and of the archives in it."""
    for member in _open(archive):
        if not member.name.endswith(_NESTED):
            yield member
            continue
        for nested in _nested(member):
            yield nested._replace(name=f'{member.name}/{nested.name}')


def _open(archive: Path) -> Iterator[_ArchivedFile]:
    """Yield the regular files of an archive by its kind."""
    if archive.suffix == '.deb':
        yield from _deb_files(archive)
    elif archive.suffix == '.whl':
        with archive.open('rb') as file:
            yield from _zip_files(file)
    else:
        with tarfile.open(archive, 'r|gz') as file:
            yield from _tar_files(file)


def _deb_files(archive: Path) -> Iterator[_ArchivedFile]:
    if shutil.which('dpkg-deb') is None:
        raise PackageError('dpkg-deb is missing, which unpacks it: install dpkg')
    command = ['dpkg-deb', '--fsys-tarfile', str(archive)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        try:
            with tarfile.open(fileobj=process.stdout, mode='r|') as file:
                yield from _tar_files(file)
            process.stdout.read()  # padding at the end
        finally:
            process.stdout.close()
            code = process.wait()
    if code:
        raise PackageError(f'dpkg-deb cannot unpack it (exit code {code}): delete it')


def _tar_files(archive: tarfile.TarFile) -> Iterator[_ArchivedFile]:
    for member in archive:
        name = member.name.removeprefix('./')
        if member.isreg() and _stays_inside(name) and (file := archive.extractfile(member)):
            yield _ArchivedFile(name, member.size, file)


def _zip_files(file: IO[bytes]) -> Iterator[_ArchivedFile]:
    with zipfile.ZipFile(file) as archive:
        for member in archive.infolist():
            is_link = (member.external_attr >> 16) & 0o170000 == 0o120000
            if not is_link and _stays_inside(member.filename):
                with archive.open(member) as content:
                    yield _ArchivedFile(member.filename, member.file_size, content)


def _nested(member: _ArchivedFile) -> Iterator[_ArchivedFile]:
    """Yield the files of an archive in an archive."""
    with tempfile.TemporaryFile() as copy:
        while block := member.file.read(min(_BLOCK_BYTES, _MAX_NESTED_BYTES + 1 - copy.tell())):
            copy.write(block)
        if copy.tell() > _MAX_NESTED_BYTES:
            raise _too_large(member.name, _MAX_NESTED_BYTES)
        yield from _zip_files(copy)


def _too_large(name: str, limit: int) -> PackageError:
    return PackageError(
        f'{name}: more than {limit} bytes, which no package of the tasks needs: delete the package'
    )


def _stays_inside(name: str) -> bool:
    """Return whether a name stays inside of a folder that it is written to."""
    parts = name.split('/')
    return not (_BAD_NAME.search(name) or {'', '.', '..'} & {*parts})
