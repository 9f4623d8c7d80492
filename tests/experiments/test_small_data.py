"""Test the tasks of the small-data study: archives of strangers, manifests, missing programs."""

import csv
import dataclasses
import gzip
import io
import json
import os
import re
import shutil
import stat
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import soundfile

from elastic_ast_jax.cli.main import main
from elastic_ast_jax.data.sources import manifest as manifest_source
from elastic_ast_jax.experiments.small_data import fetch, packages, tasks
from elastic_ast_jax.experiments.small_data.packages import PackageError, archived_files
from elastic_ast_jax.experiments.small_data.tasks import TASKS, Package, Rule, Task

needs_dpkg = pytest.mark.skipif(shutil.which('dpkg-deb') is None, reason='needs dpkg-deb')


def recording(pitch: int) -> bytes:
    """Return a WAV file of a tenth of a second that differs by pitch."""
    file = io.BytesIO()
    soundfile.write(file, np.sin(np.arange(800) * pitch / 99), 8000, format='WAV')
    return file.getvalue()


def tar_file(files: dict[str, bytes], links: dict[str, str] | None = None) -> bytes:
    """Return a tar archive of files, and of symbolic and hard links."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode='w') as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
        for name, target in (links or {}).items():
            for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
                member = tarfile.TarInfo(name)
                member.type, member.linkname = kind, target
                archive.addfile(member)
    return file.getvalue()


def zip_file(
    files: dict[str, bytes],
    links: dict[str, str] | None = None,
    method: int = zipfile.ZIP_STORED,
) -> bytes:
    """Return a zip archive of files and symbolic links."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, 'w', method) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
        for name, target in (links or {}).items():
            member = zipfile.ZipInfo(name)
            member.external_attr = (stat.S_IFLNK | 0o777) << 16
            archive.writestr(member, target)
    return file.getvalue()


def deb_file(files: dict[str, bytes], links: dict[str, str] | None = None) -> bytes:
    """Return a Debian package: an `ar` archive of a version and two tar archives."""
    control = tar_file({'./control': b'Package: sounds\nVersion: 1\n'})
    parts = {
        'debian-binary': b'2.0\n',
        'control.tar.gz': gzip.compress(control),
        'data.tar.gz': gzip.compress(tar_file(files, links)),
    }
    data = b'!<arch>\n'
    for name, part in parts.items():
        header = f'{name:<16}{0:<12}{0:<6}{0:<6}{"100644":<8}{len(part):<10}`\n'
        data += header.encode() + part + b'\n' * (len(part) % 2)
    return data


def write(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def damage(data: bytes) -> bytes:
    """Return a zip archive of one file of lzma, whose content is inverted."""
    start, stop = data.index(b'.wav') + 4 + 9, data.index(b'PK\x01\x02')
    return data[:start] + bytes(255 - byte for byte in data[start:stop]) + data[stop:]


def names_of(archive: Path) -> list[str]:
    return [name for name, _ in archived_files(archive, bool)]


# Archives


HOSTILE = {
    'good/a.wav': b'1',
    '../outside.wav': b'2',
    'good/../../outside.wav': b'3',
    '/absolute.wav': b'4',
    'good//double.wav': b'5',
    'good/back\\slash.wav': b'6',
    'good/line\nbreak.wav': b'7',
}
LINKS = {'good/link.wav': '/etc/passwd', 'good/folder': '..'}


@pytest.mark.parametrize(
    'name, make',
    [
        pytest.param('a.deb', deb_file, marks=needs_dpkg),
        ('a.tgz', lambda files, links: gzip.compress(tar_file(files, links))),
        ('a.whl', zip_file),
    ],
)
def test_links_and_names_that_lead_out_are_skipped(tmp_path, name, make):
    assert names_of(write(tmp_path / name, make(HOSTILE, LINKS))) == ['good/a.wav']


def test_an_archive_in_a_package_counts_as_a_folder(tmp_path):
    nested = zip_file({'sound/b.wav': b'2', '../outside.wav': b'3'}, LINKS)
    archive = write(tmp_path / 'a.whl', zip_file({'a.wav': b'1', 'data/pak0.pk3': nested}))
    assert names_of(archive) == ['a.wav', 'data/pak0.pk3/sound/b.wav']


@pytest.mark.parametrize(
    'name, data',
    [
        pytest.param('a.deb', b'no package', marks=needs_dpkg),
        pytest.param('a.deb', deb_file({'a.wav': b'1' * 99999})[:-200], marks=needs_dpkg),
        ('a.tgz', b'no archive'),
        ('a.tgz', gzip.compress(tar_file({'a.wav': os.urandom(9999)}))[:-5000]),
        ('a.whl', b'no archive'),
        ('a.whl', zip_file({'a.pk3': b'no archive'})),
        ('a.whl', damage(zip_file({'a.wav': b'1' * 99}, method=zipfile.ZIP_LZMA))),
        ('a.whl', zip_file({'\xe4.wav': b'1'}).replace('\xe4'.encode(), b'\xff\xff')),
    ],
)
def test_a_damaged_archive_is_named(tmp_path, name, data):
    archive = write(tmp_path / name, data)
    with pytest.raises(PackageError, match=re.escape(f'{archive}: ')):
        names_of(archive)


def test_files_and_nested_archives_have_a_limit(tmp_path, monkeypatch):
    archive = write(tmp_path / 'a.whl', zip_file({'long.wav': b'0' * 101}))
    monkeypatch.setattr(packages, '_MAX_FILE_BYTES', 100)
    with pytest.raises(PackageError, match=r'a\.whl: long\.wav: more than 100 bytes'):
        names_of(archive)
    monkeypatch.setattr(packages, '_MAX_NESTED_BYTES', 100)
    nested = zip_file({'a.wav': b'0' * 101})
    archive = write(tmp_path / 'b.whl', zip_file({'pak.pk3': nested}))
    with pytest.raises(PackageError, match=r'pak\.pk3: more than 100 bytes'):
        names_of(archive)


def test_a_nested_archive_is_copied_up_to_the_limit(tmp_path, monkeypatch):
    copy = io.BytesIO()
    monkeypatch.setattr(copy, 'close', lambda: None, raising=False)
    monkeypatch.setattr(packages.tempfile, 'TemporaryFile', lambda: copy)
    monkeypatch.setattr(packages, '_MAX_NESTED_BYTES', 100)
    archive = write(tmp_path / 'a.whl', zip_file({'pak.pk3': b'0' * 99_999}))
    with pytest.raises(PackageError, match=r'pak\.pk3: more than 100 bytes'):
        names_of(archive)
    assert len(copy.getvalue()) == 101


@pytest.mark.parametrize('name', ['5.wav', 'pak.pk3'])
@pytest.mark.parametrize(
    'kind, make', [('whl', zip_file), ('tgz', lambda files: gzip.compress(tar_file(files)))]
)
def test_all_files_of_a_package_have_a_limit(tmp_path, monkeypatch, name, kind, make):
    last = zip_file({'5.wav': b'0' * 20}) if name == 'pak.pk3' else b'0' * 20
    files = {f'{number}.wav': b'0' * 20 for number in range(4)} | {name: last}
    archive = write(tmp_path / f'a.{kind}', make(files))
    monkeypatch.setattr(packages, '_MAX_PACKAGE_BYTES', 100)
    assert len(names_of(archive)) == 5
    monkeypatch.setattr(packages, '_MAX_PACKAGE_BYTES', 99)
    with pytest.raises(PackageError, match=r'all of its files: more than 99 bytes.*delete the'):
        names_of(archive)
    with pytest.raises(PackageError):  # files that are not read count
        list(archived_files(archive, lambda path: False))


def test_a_fault_of_the_machine_is_no_reason_to_delete(tmp_path, monkeypatch):
    def no_file():
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(packages.tempfile, 'TemporaryFile', no_file)
    archive = write(tmp_path / 'a.whl', zip_file({'pak.pk3': zip_file({})}))
    with pytest.raises(PackageError, match=r'cannot be unpacked \(.*No space left on device\)$'):
        names_of(archive)


# A task of two packages


@pytest.fixture
def sounds(tmp_path, monkeypatch) -> Task:
    """Return a task of two packages in the folder `out/downloads`, the only one of the list."""
    downloads = tmp_path / 'out' / 'downloads'
    wheel = {
        f'sounds/{label}/{group}-{take}.wav': recording(
            take + 10 * ord(label[0]) + 100 * ord(group)
        )
        for label in ('cat', 'dog')
        for group in 'xy'
        for take in (1, 2)
    }
    wheel['sounds/cat/x-3.wav'] = wheel['sounds/cat/x-1.wav']
    wheel['sounds-1.0.dist-info/LICENSE'] = b'may be given away'
    write(downloads / 'sounds-1.0-py3-none-any.whl', zip_file(wheel))
    both = recording(5)
    tgz = {'package/dog/z-1.wav': both, 'package/cat/z-1.wav': both, 'package/code.js': b''}
    write(downloads / 'more-2.0.tgz', gzip.compress(tar_file(tgz)))
    task = Task(
        name='animals',
        question='cat or dog?',
        packages=(
            Package('pypi', 'sounds', '1.0', 'MIT'),
            Package('npm', 'more', '2.0', 'CC0-1.0'),
        ),
        rules=(Rule(r'.*/(cat|dog)/(.)-\d\.wav', r'\1', r'\2'),),
        group='animal',
        clips=8,
        classes=2,
        content='26f4a4f9',
    )
    monkeypatch.setattr(fetch, 'TASKS', {'animals': task})
    clips = [
        clip
        for package in task.packages
        for clip in fetch.unpack(
            task, package, packages.download(package, downloads), tmp_path / 'listed'
        )
    ]
    task = dataclasses.replace(task, content=fetch.content_hash(clips))
    monkeypatch.setattr(fetch, 'TASKS', {'animals': task})
    return task


def test_a_task_is_fetched_once(sounds, tmp_path, capsys):
    command = ['experiment', 'fetch_small_data', str(tmp_path / 'out')]
    assert main(command) == 0
    output = capsys.readouterr().out
    assert 'animals: 8 clips, 3 duplicates removed' in output
    assert '| 8 | 2 | 4 to 4 | 0.10 / 0.10 / 0.10 | 8000 | 2 | animal | held back |' in output
    folder = tmp_path / 'out' / 'animals'
    assert sorted(os.listdir(tmp_path / 'out')) == ['animals', 'downloads']
    assert sorted(os.listdir(folder)) == ['clips', 'licenses', 'manifest.csv', 'packages.json']
    license_file = folder / 'licenses/sounds/sounds-1.0.dist-info/LICENSE'
    assert license_file.read_text() == 'may be given away'
    record = json.loads((folder / 'packages.json').read_text())
    assert [package['version'] for package in record['packages']] == ['1.0', '2.0']
    assert all(len(package['sha256']) == 64 for package in record['packages'])
    shutil.rmtree(tmp_path / 'out' / 'downloads')
    assert main(command) == 0  # nothing is downloaded
    assert 'duplicates' not in capsys.readouterr().out


@pytest.mark.parametrize('text', ['[]', '3', 'null', '{', '{}'])
def test_a_record_of_another_kind_is_incomplete(sounds, tmp_path, text):
    fetch.fetch(tmp_path / 'out')
    write(tmp_path / 'out' / 'animals' / 'packages.json', text.encode())
    assert not fetch.is_complete(fetch.TASKS['animals'], tmp_path / 'out')
    fetch.fetch(tmp_path / 'out')
    assert fetch.is_complete(fetch.TASKS['animals'], tmp_path / 'out')


def test_equal_clips_are_removed(sounds, tmp_path):
    fetch.fetch(tmp_path / 'out')
    folder = tmp_path / 'out' / 'animals'
    removed = json.loads((folder / 'packages.json').read_text())['removed_duplicates']
    assert removed == [
        'more/package/cat/z-1.wav',  # of two classes
        'more/package/dog/z-1.wav',
        'sounds/sounds/cat/x-3.wav',  # of one class, whose first path stays
    ]
    rows = fetch.read_manifest(folder)
    assert [row['audio'] for row in rows] == sorted(
        str(path.relative_to(folder)) for path in folder.rglob('*.wav')
    )


def test_the_manifest_source_reads_it(sounds, tmp_path):
    fetch.fetch(tmp_path / 'out')
    source = manifest_source.load(tmp_path / 'out' / 'animals' / 'manifest.csv', None, 8000)
    assert source.classes == ('cat', 'dog')
    with (tmp_path / 'out' / 'animals' / 'manifest.csv').open(newline='') as file:
        rows = list(csv.DictReader(file))
    assert len(source) == len(rows) == 8
    assert rows[0] == {
        'audio': 'clips/sounds/sounds/cat/x-1.wav',
        'label': 'cat',
        'group': 'x',
    }


def test_a_changed_package_is_noticed(sounds, tmp_path, capsys):
    package = tmp_path / 'out' / 'downloads' / 'more-2.0.tgz'
    write(package, gzip.compress(tar_file({'package/dog/z-1.wav': recording(6)})))
    assert main(['experiment', 'fetch_small_data', str(tmp_path / 'out')]) == 1
    error = capsys.readouterr().err
    assert '1 task of 1 could not be fetched:\nanimals: ' in error
    assert f'{package} hold other clips than listed: 9 clips of 2 classes' in error
    assert os.listdir(tmp_path / 'out') == ['downloads']


def test_another_list_replaces_the_folder(sounds, tmp_path, monkeypatch, capsys):
    fetch.fetch(tmp_path / 'out')
    record = tmp_path / 'out' / 'animals' / 'packages.json'
    record.write_text(record.read_text().replace(sounds.content, 'another'))
    (tmp_path / 'out' / 'animals' / 'clips' / 'old.wav').touch()
    capsys.readouterr()
    fetch.fetch(tmp_path / 'out')
    assert 'animals: 8 clips' in capsys.readouterr().out
    assert not (tmp_path / 'out' / 'animals' / 'clips' / 'old.wav').exists()


# Package managers


def program(folder: Path, name: str, text: str) -> None:
    write(folder / name, f'#!/bin/sh\n{text}\n'.encode()).chmod(0o755)


def test_a_missing_program_is_named_and_other_tasks_are_fetched(
    sounds, tmp_path, monkeypatch, capsys
):
    other = dataclasses.replace(
        sounds, name='other', packages=(Package('debian', 'elsewhere', '1:2.0', 'MIT'),)
    )
    monkeypatch.setattr(fetch, 'TASKS', {'other': other, 'animals': sounds})
    monkeypatch.setenv('PATH', str(tmp_path))
    assert main(['experiment', 'fetch_small_data', str(tmp_path / 'out')]) == 1
    streams = capsys.readouterr()
    assert 'animals: 8 clips' in streams.out
    assert (
        'other: apt-get is missing, which downloads elsewhere 1:2.0: install it, or put'
        ' elsewhere_1%3a2.0_*.deb into'
    ) in streams.err


@pytest.mark.parametrize(
    'package, name, arguments',
    [
        (Package('debian', 'a-data', '1:2~b-3', 'MIT'), 'apt-get', '-qq download a-data=1:2~b-3'),
        (Package('npm', 'b', '1.0', 'MIT'), 'npm', 'pack --silent --ignore-scripts b@1.0'),
        (
            Package('pypi', 'c', '1.0', 'MIT'),
            'pip',
            'download --quiet --no-deps --only-binary :all: c==1.0',
        ),
    ],
)
def test_each_package_manager_downloads(tmp_path, monkeypatch, package, name, arguments):
    files = {'apt-get': 'a-data_1%3a2~b-3_all.deb', 'npm': 'b-1.0.tgz', 'pip': 'c-1.0-any.whl'}
    program(tmp_path / 'bin', name, f'echo "$@" > {files[name]}')
    monkeypatch.setenv('PATH', f'{tmp_path / "bin"}:{os.environ["PATH"]}')
    file = packages.download(package, tmp_path / 'downloads')
    assert file == tmp_path / 'downloads' / files[name]
    assert file.read_text() == f'{arguments}\n'
    assert os.listdir(tmp_path / 'downloads') == [files[name]]


def test_a_failed_download_gives_its_reason(sounds, tmp_path, monkeypatch, capsys):
    program(tmp_path / 'bin', 'npm', 'echo no network >&2; exit 1')
    monkeypatch.setenv('PATH', f'{tmp_path / "bin"}:{os.environ["PATH"]}')
    (tmp_path / 'out' / 'downloads' / 'more-2.0.tgz').unlink()
    assert main(['experiment', 'fetch_small_data', str(tmp_path / 'out')]) == 1
    error = capsys.readouterr().err
    assert (
        'npm pack --silent --ignore-scripts more@2.0 downloaded nothing: no network; npm' in error
    )
    assert not list((tmp_path / 'out' / 'downloads').glob('.part*'))


def test_a_folder_that_cannot_be_written_is_named(sounds, tmp_path, capsys):
    (tmp_path / 'file').touch()
    assert main(['experiment', 'fetch_small_data', str(tmp_path / 'file')]) == 1
    assert f'{tmp_path / "file"}' in capsys.readouterr().err


def test_unknown_tasks_are_refused(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(['experiment', 'fetch_small_data', str(tmp_path), '--tasks=drums,birds'])
    assert '--tasks has no birds: there are instruments, ' in capsys.readouterr().err


# The list


PATHS = {
    'instruments': ('tonejs-instrument-tuba-mp3/package/As1.mp3', 'tuba', None),
    'battle': (
        'wesnoth-1.16-data/usr/share/games/wesnoth/1.16/data/core/sounds/magic-holy-miss-2.ogg',
        'miss',
        'magic-holy',
    ),
    'voices': (
        'hedgewars-data/usr/share/games/hedgewars/Data/Sounds/voices/Pirate/Ow3.ogg',
        'Pirate',
        'Ow',
    ),
    'drums': (
        'hydrogen-data/usr/share/hydrogen/data/drumkits/GMRockKit/HatSemiOpen-Hard.wav',
        'open hi-hat',
        'GMRockKit',
    ),
    'keyboards': ('keyboardsounds/keyboardsounds/profiles/alpaca/press_key1.mp3', 'alpaca', None),
    'cries': ('nexuiz-data/a/data.pk3/sound/player/marine/player/pain25.ogg', 'pain', 'marine'),
    'prompts': (
        'asterisk-core-sounds-it-wav/usr/share/asterisk/sounds/it_IT_m_Carlo/digits/8.wav',
        'it',
        'digits/8',
    ),
    'dialogues': (
        'fillets-ng-data-nl/usr/share/games/fillets-ng/sound/cave/nl/jes-m-ze.ogg',
        'nl-m',
        'cave',
    ),
    'words': ('ktuberling-data/usr/share/ktuberling/sounds/el/hat.ogg', 'el', None),
}


@pytest.mark.parametrize('name', TASKS)
def test_paths_give_classes_and_groups(name):
    path, label, group = PATHS[name]
    assert fetch.classify(TASKS[name], path) == (label, group or path)
    assert fetch.classify(TASKS[name], f'{path}.txt') is None


def test_development_and_held_back_tasks_share_no_package():
    development = {p.name for task in TASKS.values() if task.development for p in task.packages}
    held_back = {p.name for task in TASKS.values() if not task.development for p in task.packages}
    assert sum(task.development for task in TASKS.values()) == 3
    assert not development & held_back
    assert len({task.content for task in TASKS.values()}) == len(TASKS)
    assert all(50 <= task.clips <= 2000 and task.classes >= 4 for task in TASKS.values())


@pytest.mark.slow
@pytest.mark.skipif(
    os.environ.get('ELASTIC_AST_NETWORK') != '1',
    reason='downloads a package; ELASTIC_AST_NETWORK=1 runs it',
)
def test_the_smallest_task_is_fetched(tmp_path):
    fetch.fetch(tmp_path, ['keyboards'])
    assert len(fetch.read_manifest(tmp_path / 'keyboards')) == tasks.TASKS['keyboards'].clips
