"""A stranger's workdir gets a model or a named error; nothing outside of it is opened."""

import ctypes
import json
import os
import select
import shutil
import struct
import subprocess
import time

import pytest
import tensorstore

from elastic_ast_jax.checkpointing import vetting
from elastic_ast_jax.checkpointing.checkpoints import Checkpoints
from elastic_ast_jax.checkpointing.load_model import load_model
from elastic_ast_jax.checkpointing.restored_params import CheckpointError, select_steps
from elastic_ast_jax.checkpointing.workdir import Workdir, WorkdirError
from elastic_ast_jax.models.memory import MemoryLimitError
from elastic_ast_jax.utils.errors import UserError
from tests.fixtures import untrained

IN_OPEN = 0x20


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    """A workdir with one checkpoint, not to be changed."""
    folder = tmp_path_factory.mktemp('stranger') / 'whole'
    untrained.workdir(folder)
    return folder


@pytest.fixture
def workdir(whole, tmp_path):
    """A copy of the workdir."""
    return shutil.copytree(whole, tmp_path / 'workdir')


@pytest.fixture
def outside(tmp_path):
    """A folder beside the workdir, and a function that returns what was opened in it."""
    folder = tmp_path / 'outside'
    folder.mkdir()
    (folder / 'secret').write_text('{}', encoding='utf-8')
    library = ctypes.CDLL(None, use_errno=True)
    watch = library.inotify_init1(os.O_NONBLOCK)
    assert library.inotify_add_watch(watch, os.fsencode(folder), IN_OPEN) >= 0

    def opened() -> list[str]:
        if not select.select([watch], [], [], 0)[0]:
            return []
        events = os.read(watch, 1 << 16)
        size = struct.calcsize('iIII')
        names = []
        while events:
            length = struct.unpack_from('iIII', events)[3]
            names.append(events[size : size + length].rstrip(b'\0').decode() or '.')
            events = events[size + length :]
        return names

    yield folder, opened
    os.close(watch)


def refused(path, error=UserError, **options) -> str:
    """Return the message for a workdir that is refused at once."""
    begin = time.monotonic()
    with pytest.raises(error) as caught:
        load_model(path, **options)
    assert time.monotonic() - begin < 20
    assert str(path) in str(caught.value) and len(str(caught.value)) < 3000
    return str(caught.value)


def change(path, **sections) -> None:
    """Write these values into the stored config."""
    file = path / 'config.json'
    values = json.loads(file.read_text('utf-8'))
    for name, entries in sections.items():
        values[name] |= entries
    file.write_text(json.dumps(values), encoding='utf-8')


FILES = ('config.json', 'model.json', 'checkpoints/0/params/_METADATA')


@pytest.mark.parametrize('name', FILES)
def test_pipes_and_devices_in_place_of_files_are_refused(workdir, name):
    (workdir / name).unlink()
    os.mkfifo(workdir / name)
    assert 'is a named pipe' in refused(workdir)
    (workdir / name).unlink()
    (workdir / name).symlink_to('/dev/zero')
    assert 'is a link' in refused(workdir)


@pytest.mark.parametrize(
    'name',
    [*FILES, 'checkpoints/0/_CHECKPOINT_METADATA', 'checkpoints/0/params/manifest.ocdbt'],
)
def test_links_to_other_places_are_not_opened(workdir, outside, name):
    folder, opened = outside
    shutil.copy(workdir / name, folder / 'secret')
    opened()  # the copy itself
    (workdir / name).unlink()
    (workdir / name).symlink_to(folder / 'secret')
    assert 'is a link' in refused(workdir)
    assert opened() == []


@pytest.mark.parametrize(
    'name', ['checkpoints', 'checkpoints/0', 'checkpoints/0/params', 'checkpoints/0/params/d']
)
def test_folders_that_are_links_are_not_opened(workdir, outside, name):
    folder, opened = outside
    (workdir / name).rename(folder / 'moved')
    (workdir / name).symlink_to(folder / 'moved')
    message = refused(workdir)
    assert f'{workdir / name}: is a link' in message and 'Errno' not in message
    assert opened() == []
    if name == 'checkpoints':
        assert f'to store a workdir on another disk, link {workdir} itself' in message


def test_a_workdir_on_another_disk_is_opened_and_written_through_a_link(whole, tmp_path):
    (tmp_path / 'scratch').mkdir()
    shutil.copytree(whole, tmp_path / 'scratch' / 'run')
    link = tmp_path / 'run'
    link.symlink_to('scratch/run')
    assert load_model(link).step == 0
    with Checkpoints(link / 'checkpoints') as checkpoints:
        assert checkpoints.steps() == [0]
    stored = Workdir(link)
    stored.prepare(stored.config())
    stored.check_inside(stored.evaluations)


def test_a_link_to_a_missing_folder_is_named(whole, tmp_path):
    link = tmp_path / 'run'
    link.symlink_to(tmp_path / 'scratch')
    config = Workdir(whole).config()
    with pytest.raises(WorkdirError, match=r'is a link to .*scratch, which does not exist'):
        Workdir(link).prepare(config)


def test_results_are_neither_read_nor_written_through_links(workdir, outside):
    folder, opened = outside
    (workdir / 'eval').symlink_to(folder)
    stored = Workdir(workdir)
    with pytest.raises(OSError, match='is a link that leaves'):
        stored.read_json(stored.evaluations / 'secret')
    with pytest.raises(WorkdirError, match='is a link that leaves'):
        stored.check_inside(stored.evaluations)
    with pytest.raises(WorkdirError, match='is a link that leaves'):
        stored.prepare(stored.config())
    assert opened() == [] and os.listdir(folder) == ['secret']


def test_huge_files_are_not_read(workdir):
    for name, reason in (
        ('config.json', 'more than the'),
        ('checkpoints/0/params/_METADATA', 'bytes of metadata'),
    ):
        size = (workdir / name).stat().st_size
        os.truncate(workdir / name, 2**42)
        assert reason in refused(workdir)
        os.truncate(workdir / name, size)
    (data,) = (workdir / 'checkpoints/0/params/d').iterdir()
    os.truncate(data, 2**42)
    assert 'too many for arrays of' in refused(workdir)


@pytest.mark.parametrize(
    'text', ['[' * 100_000, '{"model": ' * 3000 + '1' + '}' * 3000, '{"a": 1, "a": 2}', '\0\1\2']
)
def test_odd_json_is_refused(workdir, text):
    for name in ('config.json', 'model.json'):
        before = (workdir / name).read_text('utf-8')
        (workdir / name).write_text(text, encoding='utf-8')
        assert name in refused(workdir, WorkdirError)
        (workdir / name).write_text(before, encoding='utf-8')
    (workdir / 'checkpoints/0/_CHECKPOINT_METADATA').write_text('[' * 100_000, encoding='utf-8')
    (workdir / 'checkpoints/0/params/_METADATA').write_text(text, encoding='utf-8')
    refused(workdir, CheckpointError)


def test_folders_are_nested_as_deep_as_checkpoints_need(workdir):
    descriptor = os.open(workdir / 'checkpoints/0/params', os.O_RDONLY)
    for _ in range(1200):
        os.mkdir('deep', dir_fd=descriptor)
        deeper = os.open('deep', os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = deeper
    os.close(descriptor)
    try:
        assert 'folders deep' in refused(workdir)
    finally:  # pytest's own way to remove folders ends at Python's limit of calls
        subprocess.run(['rm', '-rf', workdir / 'checkpoints'], check=True)


def test_a_path_of_many_folders_is_refused(tmp_path):
    with pytest.raises(WorkdirError, match='File name too long'):
        load_model(tmp_path / ('a/' * 2100))


@pytest.mark.parametrize(
    'selection', ['9' * 5000, 'average:' + '9' * 5000, 'average:' + '0' * 5000, '-1', '٣', '']
)
def test_selections_of_thousands_of_digits_are_refused(tmp_path, selection):
    with pytest.raises(CheckpointError) as caught:
        select_steps(tmp_path, selection, [1, 2, 4], 2)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    ('sections', 'key'),
    [
        ({'model': {'width': 2**63}}, 'model.width'),
        ({'packing': {'tokens': 2**31}}, 'packing.tokens'),
        ({'packing': {'slots': 2**20, 'tokens': 2**20}}, 'packing.slots'),
        ({'packing': {'tokens': 2**14, 'slots': 2**14}}, 'packing.slots'),
        ({'packing': {'tokens': 2**17}}, 'packing.tokens'),
        ({'model': {'depth': 2**31}}, 'model.depth'),
    ],
)
def test_sizes_beyond_any_machine_are_refused_by_their_keys(workdir, sections, key):
    change(workdir, **sections)
    with pytest.raises((WorkdirError, MemoryLimitError), match=key):
        load_model(workdir)


def test_a_network_that_the_checkpoint_does_not_hold_is_refused(workdir):
    change(workdir, model={'width': 8192, 'depth': 64})
    assert 'too few for arrays' in refused(workdir, CheckpointError)
    change(workdir, model={'width': 32, 'depth': 2})
    assert 'of another model' in refused(workdir, CheckpointError)


@pytest.mark.parametrize(
    'values',
    [
        {'shape': [2, 16], 'chunks': [2, 2**40]},
        {'shape': [2, 16], 'chunks': [2]},
        {'shape': [2, 16], 'chunks': [0, 16]},
        {'shape': [2], 'chunk_grid': {'configuration': {'chunk_shape': [3]}}},
        {'shape': 'ab', 'chunks': 'ab'},
        {'shape': [2]},
        [],
    ],
)
def test_chunks_that_are_no_parts_of_their_array_are_refused(workdir, values):
    item = workdir / 'checkpoints/0/params'
    vetting.check_arrays(item)
    store = tensorstore.KvStore.open({'driver': 'ocdbt', 'base': f'file://{item}/'}).result()
    store.write('embed.bias/.zarray', json.dumps(values)).result()
    with pytest.raises(ValueError, match=r'embed\.bias'):
        vetting.check_arrays(item)
    assert 'embed.bias' in refused(workdir, CheckpointError)


def test_names_of_arrays_that_are_paths_are_not_opened(workdir, outside):
    folder, opened = outside
    item = workdir / 'checkpoints/0/params'
    values = json.loads((item / '_METADATA').read_text('utf-8'))
    entry = values['tree_metadata']["('embed', 'bias')"]
    entry['key_metadata'] = [{'key': f'../../../../{folder.name}/a', 'key_type': 2}]
    values['use_ocdbt'] = False
    (item / '_METADATA').write_text(json.dumps(values), encoding='utf-8')
    assert 'is a path' in refused(workdir, CheckpointError)
    assert opened() == []


def test_damaged_files_of_arrays_print_no_traceback(workdir, capfd):
    file = workdir / 'checkpoints/0/params/manifest.ocdbt'
    file.write_bytes(file.read_bytes()[:-20])
    refused(workdir, CheckpointError)
    assert 'Traceback' not in capfd.readouterr().err


def test_a_run_that_deletes_checkpoints_does_not_disturb_a_reader(workdir, monkeypatch):
    scan = os.scandir

    def vanishing(folder):
        if str(folder).endswith('params'):
            raise FileNotFoundError(folder)
        return scan(folder)

    monkeypatch.setattr(os, 'scandir', vanishing)
    vetting.check_tree(workdir / 'checkpoints')


def test_an_untouched_workdir_opens(whole):
    assert load_model(whole).step == 0
    with Checkpoints(whole / 'checkpoints', read_only=True) as checkpoints:
        assert checkpoints.steps() == [0]
