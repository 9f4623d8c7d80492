"""Preparation that is interrupted, repeated or impossible, and the index that it writes."""

import errno
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from elastic_ast_jax.data.prepare import index, shards, skipped
from elastic_ast_jax.data.prepare.shards import ClipFormat
from elastic_ast_jax.data.sources import tfds
from elastic_ast_jax.data.sources.base import DataError, FileClip
from elastic_ast_jax.data.sources.tfds_builder import Features
from tests.fixtures import miniatures
from tests.fixtures.miniatures import Miniature

pytest.importorskip('apache_beam', reason='data sets are prepared by Apache Beam')


@pytest.fixture
def esc50(tmp_path) -> Miniature:
    return miniatures.esc50(tmp_path / 'esc50')


@pytest.fixture
def prepare(command, tmp_path):
    """Return a function that prepares a miniature into `tmp_path / 'out'`.

    `prepare(miniature, *options)` returns the outcome of the command.
    """
    return lambda miniature, *options: command(
        'prepare', *miniature.command, f'--out={tmp_path}/out', *options
    )


@pytest.fixture(scope='module')
def prepared(tmp_path_factory) -> pathlib.Path:
    """A folder with the miniature of ESC-50, prepared, not to be changed."""
    from elastic_ast_jax.cli.main import main

    folder = tmp_path_factory.mktemp('prepared')
    miniature = miniatures.esc50(folder / 'esc50')
    assert main(['prepare', *miniature.command, f'--out={folder}/out']) == 0
    return folder / 'out'


KILLED = """
import glob, os, signal, sys
from elastic_ast_jax.cli import main as cli
from elastic_ast_jax.data.prepare import shards

write = shards.write_listed_shard

def write_some(path, form):
    if len(glob.glob(os.path.dirname(path) + '/*.json')) == 2:
        open(path, 'wb').write(b'half of it')
        os.kill(os.getpid(), signal.SIGKILL)
    write(path, form)

shards.write_listed_shard = write_some
cli.main(sys.argv[1:])
"""


@pytest.mark.slow
def test_a_killed_preparation_is_not_taken_for_done_and_goes_on(esc50, prepare, python, tmp_path):
    out = tmp_path / 'out'
    killed = python(KILLED, 'prepare', *esc50.command, f'--out={out}')
    assert killed.code == -signal.SIGKILL, killed.err
    assert not (out / 'esc50' / '1.0.0').exists() and (out / 'esc50' / '1.0.0.unfinished').exists()
    with pytest.raises(DataError, match='no data set'):
        tfds.load('esc50', str(out), 'fold1', miniatures.RATE, Features())
    result = [path.with_suffix('') for path in (out / 'esc50' / '1.0.0.unfinished').glob('*.json')]
    before = {path.name: path.stat().st_ino for path in result}
    assert len(before) == 2 and prepare(esc50).code == 0
    assert os.listdir(out / 'esc50') == ['1.0.0']
    for name, inode in before.items():  # moved, not written again
        assert (
            out / 'esc50' / '1.0.0' / f'esc50-{name.replace("-", ".array_record-", 1)}'
        ).stat().st_ino == inode
    check(esc50, out)


LATE = """
import os, signal, sys
import tensorflow_datasets as tfds
from elastic_ast_jax.cli import main as cli

# TFDS calls it when the shards are in the folder that it will rename.
def last_of_all(info, folder):
    os.kill(os.getpid(), signal.SIGKILL)

tfds.core.DatasetInfo.write_to_directory = last_of_all
cli.main(sys.argv[1:])
"""


def without_recordings(miniature: Miniature) -> None:
    """Removes what can be used, so that no shard can be written again."""
    for key in (key for clips in miniature.clips.values() for key in clips):
        (miniature.folder / 'audio' / key).unlink()


@pytest.mark.slow
def test_a_preparation_that_is_killed_when_all_is_written_keeps_what_is_written(
    esc50, prepare, python, tmp_path
):
    killed = python(LATE, 'prepare', *esc50.command, f'--out={tmp_path}/out')
    assert killed.code == -signal.SIGKILL, killed.err
    assert (
        len(os.listdir(tmp_path / 'out' / 'esc50')) == 2
        and not (tmp_path / 'out' / 'esc50' / '1.0.0').exists()
    )
    without_recordings(esc50)
    assert prepare(esc50).code == 0 and os.listdir(tmp_path / 'out' / 'esc50') == ['1.0.0']
    check(esc50, tmp_path / 'out')


@pytest.mark.parametrize('links', [True, False], ids=['links', 'no links'])
def test_a_disk_that_is_full_when_all_is_written_loses_nothing_of_it(
    links, esc50, prepare, tmp_path, monkeypatch
):
    from tensorflow_datasets.core import DatasetInfo

    def fails(*_):
        raise OSError(errno.ENOSPC, 'No space left on device')

    if not links:
        monkeypatch.setattr(os, 'link', fails)
    with monkeypatch.context() as patch:
        patch.setattr(DatasetInfo, 'write_to_directory', fails)
        full = prepare(esc50)
    assert full.code == 1 and 'No space left on device' in full.err
    assert os.listdir(tmp_path / 'out' / 'esc50') == ['1.0.0.unfinished']
    without_recordings(esc50)
    assert prepare(esc50).code == 0 and os.listdir(tmp_path / 'out' / 'esc50') == ['1.0.0']
    check(esc50, tmp_path / 'out')


def test_shards_that_cannot_be_put_into_the_data_set_are_kept(
    esc50, prepare, tmp_path, monkeypatch
):
    def fails(*_):
        raise OSError(errno.ENOSPC, 'No space left on device')

    with monkeypatch.context() as patch:
        patch.setattr(os, 'link', fails)
        patch.setattr('shutil.copyfile', fails)
        full = prepare(esc50)
    assert (
        full.code == 1
        and 'array_record-00000-of-00001: cannot be written (No space left on device): make room'
        in full.err
    )
    assert 'finished shards are kept' in full.err
    without_recordings(esc50)
    assert prepare(esc50).code == 0
    check(esc50, tmp_path / 'out')


def check(miniature: Miniature, out: pathlib.Path) -> None:
    for split, clips in miniature.clips.items():
        source = tfds.load(miniature.name, str(out), split, miniature.sample_rate, Features())
        assert source.keys == tuple(sorted(clips))
        for i, key in enumerate(source.keys):
            np.testing.assert_array_equal(source.read(i) * 32768, clips[key][0])


def test_missing_and_broken_recordings_stop_it_if_asked_to_and_what_is_mended_is_read_again(
    esc50, prepare, tmp_path
):
    stopped = prepare(esc50, '--on-bad-audio=error')
    assert (
        stopped.code == 1
        and 'esc50: 2 of 18 clips cannot be used (1 missing, 1 broken):\n  fold2: esc50.csv'
        in stopped.err
    )
    assert (
        '2-200000-A-0.wav' in stopped.err
        and 'no recording' in stopped.err
        and '--on-bad-audio=skip' in stopped.err
    )
    assert not (tmp_path / 'out' / 'esc50' / '1.0.0').exists()
    esc50.add('fold2', '2-200000-A-0.wav', 'audio/2-200000-A-0.wav', 'dog', number=40)
    esc50.add('fold5', '5-500000-B-1.wav', 'audio/5-500000-B-1.wav', 'rooster', number=41)
    result = prepare(esc50, '--on-bad-audio=error')
    assert result.code == 0 and 'skipped' not in result.out
    check(esc50, tmp_path / 'out')


def test_lists_that_change_meanwhile_are_heeded(esc50, prepare, tmp_path):
    assert prepare(esc50, '--on-bad-audio=error').code == 1
    path = esc50.folder / 'meta' / 'esc50.csv'
    path.write_text(path.read_text().replace('dog', 'wolf'))
    assert prepare(esc50).code == 0
    source = tfds.load('esc50', str(tmp_path / 'out'), 'fold1', miniatures.RATE, Features())
    assert source.classes == ('wolf', 'rooster', 'sea_waves')
    assert {labels for labels in source.labels} == {('wolf',), ('rooster',), ('sea_waves',)}


def test_a_data_set_is_prepared_once_and_some_splits_may_do(esc50, prepare, tmp_path):
    result = prepare(esc50, '--splits=fold1,fold5')
    assert (
        result.code == 0
        and '--config.data.train_split=fold1 --config.data.eval_split=fold5' in result.out
    )
    again = prepare(esc50, '--splits=fold1')
    assert again.code == 0 and 'is prepared already' in again.out and not again.err
    for options in (['--splits=fold1,fold2'], []):
        other = prepare(esc50, *options)
        assert (
            other.code == 1
            and 'is prepared with the splits fold1, fold5, without fold2: choose others'
            in other.err
        )
    with pytest.raises(DataError, match=r"'fold1' .3 clips.*'fold5' .4 clips"):
        tfds.load('esc50', str(tmp_path / 'out'), 'fold2', miniatures.RATE, Features())


def test_a_data_set_that_is_prepared_otherwise_than_asked_for_is_not_taken_for_it(
    esc50, prepare, tmp_path
):
    assert prepare(esc50).code == 0
    strict = prepare(esc50, '--on-bad-audio=error')
    assert (
        strict.code == 1
        and 'is prepared without 2 clips, which skipped.txt lists: mend the recordings'
        in strict.err
    )
    assert (
        prepare(esc50, '--on-bad-audio=error', '--splits=fold1,fold3').code == 0
    )  # which lack none
    path = esc50.folder / 'meta' / 'esc50.csv'
    text = path.read_text()
    path.write_text(
        ''.join(line for line in text.splitlines(keepends=True) if not line.startswith('4-'))
    )
    other = prepare(esc50, '--splits=fold4,fold5')
    assert other.code == 1 and "no clip is of split 'fold4'" in other.err
    path.write_text(
        ''.join(line for line in text.splitlines(keepends=True) if not line.startswith('1-100030'))
    )
    other = prepare(esc50)
    assert (
        other.code == 1
        and "1.0.0: split 'fold1' is prepared from other lists than those in" in other.err
    )
    assert (
        'choose another folder with --out' in other.err
        and prepare(esc50, '--splits=fold2').code == 0
    )
    path.write_text(text.replace('dog', 'wolf'))
    assert prepare(esc50, '--splits=fold2').code == 1
    path.write_text(text)
    assert prepare(esc50).code == 0
    esc50.folder.rename(tmp_path / 'elsewhere')
    output = prepare(esc50)
    assert (
        output.code == 0
        and f'from lists that cannot be compared with what is in {esc50.folder}\n' in output.out
    )
    esc50.command[1] = f'--manual-dir={tmp_path}/elsewhere'
    moved = prepare(esc50)
    assert moved.code == 0 and 'is prepared already\n' in moved.out
    check(esc50, tmp_path / 'out')


def test_a_manifest_that_is_prepared_otherwise_than_asked_for_is_not_taken_for_it(
    prepare, tmp_path
):
    miniature = miniatures.manifest(tmp_path / 'manifest')
    assert (
        prepare(miniature, '--rate=8000').code == 0 and prepare(miniature, '--rate=8000').code == 0
    )
    other = prepare(miniature)
    assert (
        other.code == 1
        and 'my_sounds/1.0.0: is prepared at 8000 Hz, not at 16000: choose another folder'
        in other.err
    )
    path = miniature.folder / 'My sounds.jsonl'
    lines = path.read_text().splitlines(keepends=True)
    for changed in (
        lines[1:],
        [*lines[:-1], lines[-1].replace('[]', '["low"]')],
        [line for line in lines if 'train' in line],
        [*lines, '{"audio": "0.wav", "labels": ["low"], "split": "more"}\n'],
        [line.replace('0.2', '0.3') for line in lines],
    ):
        path.write_text(''.join(changed))
        other = prepare(miniature, '--rate=8000')
        assert other.code == 1 and 'is prepared from other lists than those in' in other.err
    path.write_text(''.join(reversed(lines)))
    assert prepare(miniature, '--rate=8000').code == 0


def test_names_of_clips_that_were_skipped_are_a_line_each(prepare, tmp_path):
    miniature = miniatures.manifest(tmp_path / 'manifest')
    with open(miniature.folder / 'My sounds.jsonl', 'a') as file:
        for name in ('two\nlines\tmissing.wav', 'red\x1b[31m\u2028.wav', 'no text\udcff.wav'):
            file.write(json.dumps({'audio': name, 'labels': ['low'], 'split': 'test'}) + '\n')
    result = prepare(miniature)
    assert result.code == 0, result.err
    cells = [
        line.split('\t')
        for line in (tmp_path / 'out/my_sounds/1.0.0/skipped.txt').read_text().splitlines()
    ]
    assert {len(line) for line in cells} == {4} and '\x1b' not in result.err
    assert sorted(line[2] for line in cells) == sorted(
        [
            'broken.wav',
            'missing.wav',
            r'two\nlines\tmissing.wav',
            r'red\x1b[31m\u2028.wav',
            r'no text\udcff.wav',
        ]
    )
    (row,) = (line.split() for line in result.out.splitlines() if line.startswith('  test'))
    assert row[-2:] == ['4', '0'] and '5 clips skipped' in result.out


WAITS = """
import os, sys, time
import tensorflow_datasets as tfds
from elastic_ast_jax.cli import main as cli

write, there = tfds.core.DatasetInfo.write_to_directory, sys.argv.pop(1)

def waits(info, folder):
    open(there, 'w').close()
    while os.path.exists(there):
        time.sleep(0.05)
    write(info, folder)

tfds.core.DatasetInfo.write_to_directory = waits
sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_of_two_preparations_the_second_is_refused_until_the_data_set_is_in_place(
    esc50, prepare, environment, tmp_path
):
    there = tmp_path / 'there'
    first = subprocess.Popen(
        [
            sys.executable,
            '-c',
            WAITS,
            str(there),
            'prepare',
            *esc50.command,
            f'--out={tmp_path}/out',
        ],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding='utf-8',
    )
    try:
        while not there.exists():
            assert first.poll() is None, first.communicate()[0]
            time.sleep(0.05)
        before = sorted(os.listdir(tmp_path / 'out' / 'esc50'))
        refused = prepare(esc50)
        assert refused.code == 1 and 'another process is preparing this data set' in refused.err
        assert sorted(os.listdir(tmp_path / 'out' / 'esc50')) == before
        there.unlink()
        messages, _ = first.communicate(timeout=120)
    finally:
        first.kill()
    assert first.returncode == 0, messages
    again = prepare(esc50)
    assert again.code == 0 and 'is prepared already' in again.out
    check(esc50, tmp_path / 'out')


def test_what_another_has_prepared_meanwhile_is_not_prepared_again(esc50, tmp_path):
    from elastic_ast_jax.data.prepare.esc50 import Esc50

    late, early = (Esc50(data_dir=tmp_path / 'out') for _ in range(2))
    assert not late.is_prepared() and early.prepare(esc50.folder)
    folder = pathlib.Path(early.data_dir)
    files = {path.name: path.stat().st_ino for path in folder.iterdir()}
    (
        tmp_path / 'out' / 'esc50' / '1.0.0.unfinished'
    ).mkdir()  # as one leaves it that is killed at the very end
    assert not late.prepare(esc50.folder) and late.check(esc50.folder)
    assert {path.name: path.stat().st_ino for path in folder.iterdir()} == files
    assert (
        late.classes == early.classes
        and dict(late.info.splits).keys() == dict(early.info.splits).keys()
    )
    assert os.listdir(tmp_path / 'out' / 'esc50') == ['1.0.0']


def test_what_cannot_be_prepared_is_said_with_what_goes_where(esc50, prepare, command, tmp_path):
    (tmp_path / 'empty').mkdir()
    for folder in ('nothing', 'empty'):
        refused = command(
            'prepare', 'esc50', f'--manual-dir={tmp_path}/{folder}', f'--out={tmp_path}/out'
        )
        assert (
            refused.code == 1
            and f'{tmp_path}/{folder}: no such folder, or nothing in it' in refused.err
        )
        assert 'meta/esc50.csv\n' in refused.err
    refused = command(
        'prepare', 'vggsound', f'--manual-dir={esc50.folder}', f'--out={tmp_path}/out'
    )
    assert (
        refused.code == 1
        and 'vggsound.csv: no such list' in refused.err
        and 'YTID_START.wav' in refused.err
    )
    refused = prepare(esc50, '--splits=fold6')
    assert refused.code == 1 and "no split 'fold6': choose from fold1, fold2" in refused.err
    assert prepare(esc50, '--splits=fold1,').code == 2
    (tmp_path / 'half' / 'esc50' / '1.0.0').mkdir(parents=True)
    refused = command('prepare', *esc50.command, f'--out={tmp_path}/half')
    assert (
        refused.code == 1
        and 'esc50/1.0.0: is no whole data set: choose another folder' in refused.err
    )
    for recording in (esc50.folder / 'audio').glob('3-*'):
        recording.unlink()
    refused = prepare(esc50)
    assert (
        refused.code == 1
        and "so none of split 'fold3' is left:" in refused.err
        and 'audio/1-100032-A-0.wav' in refused.err
    )
    assert not list((tmp_path / 'out').rglob('dataset_info.json'))


def test_a_full_disk_is_named_and_what_is_done_is_kept(esc50, prepare, little_room, tmp_path):
    with little_room(60_000):
        full = prepare(esc50)
    assert full.code == 1 and 'cannot be written' in full.err and 'make room' in full.err
    assert 'Traceback' not in full.err
    assert prepare(esc50).code == 0
    check(esc50, tmp_path / 'out')


@pytest.mark.slow
def test_several_processes_write_what_one_writes(esc50, prepare, tmp_path):
    assert (
        prepare(
            esc50, '--beam=direct_running_mode=multi_processing', '--beam=direct_num_workers=2'
        ).code
        == 0
    )
    check(esc50, tmp_path / 'out')


def test_the_index_says_what_reading_every_record_says(prepared, tmp_path, caplog):
    """Of whole splits, parts and sums of them."""
    folder = prepared / 'esc50' / '1.0.0'
    named = ('fold1', 'fold1+fold5', 'fold5[:50%]', 'fold2[1:]+fold1[:2]')
    sources = [load(prepared, split) for split in named]
    assert not list(folder.glob('.elastic-ast-*'))
    for split in ('fold1', 'fold2', 'fold5'):
        (folder / f'index-{split}.npz').rename(tmp_path / f'{split}.npz')
    assert [load(prepared, split).fingerprint for split in named] == [
        source.fingerprint for source in sources
    ]
    assert len(list(folder.glob('.elastic-ast-*'))) == len(named) and not caplog.records
    for split in ('fold1', 'fold2', 'fold5'):
        (tmp_path / f'{split}.npz').rename(folder / f'index-{split}.npz')
    for cache in folder.glob('.elastic-ast-*'):
        cache.unlink()
    for source in sources:
        for i in range(len(source)):
            assert len(source.read(i)) == source.samples[i]


def load(out, split, sample_rate=miniatures.RATE, features=None):
    return tfds.load('esc50', str(out), split, sample_rate, features or Features())


def test_labels_past_the_classes_are_refused(prepared):
    names = prepared / 'esc50' / '1.0.0' / 'label.labels.txt'
    kept = names.read_text()
    names.write_text('\n'.join(kept.split('\n')[:2]))
    try:
        with pytest.raises(DataError, match='the label 2 is past the 2 classes'):
            load(prepared, 'fold5')
    finally:
        names.write_text(kept)
        for cache in names.parent.glob('.elastic-ast-*'):
            cache.unlink()


def test_rate_and_key_are_those_of_the_data_set(prepared):
    with pytest.raises(DataError, match=r'data.tfds_rate=8000, but the data set says 16000 Hz'):
        load(prepared, 'fold1', features=Features(sample_rate=8000))
    assert (
        load(prepared, 'fold1', features=Features(key='key', sample_rate=16000)).keys
        == load(prepared, 'fold1').keys
    )
    halved = load(prepared, 'fold1', sample_rate=8000)
    assert halved.samples.tolist() == [
        -(-count // 2) for count in load(prepared, 'fold1').samples.tolist()
    ]


def test_an_index_that_is_damaged_or_of_other_files_is_not_used(prepared, caplog):
    folder = prepared / 'esc50' / '1.0.0'
    path = folder / 'index-fold1.npz'
    kept, fingerprint = path.read_bytes(), load(prepared, 'fold1').fingerprint
    path.write_bytes(kept[:-40])
    assert load(prepared, 'fold1').fingerprint == fingerprint
    assert 'index-fold1.npz: the index cannot be used' in caplog.text
    path.write_bytes(kept)
    (shard,) = folder.glob('esc50-fold1.array_record*')
    for cache in folder.glob('.elastic-ast-*'):
        cache.unlink()
    files = index.load(folder, 'fold1')
    assert files is not None
    assert files[shard.name].size == shard.stat().st_size and list(files) == [shard.name]
    with open(shard, 'ab') as file:  # no longer the file that was indexed
        file.write(b'\0' * 65536)
    try:
        with pytest.raises(DataError):
            load(prepared, 'fold1')
    finally:
        os.truncate(shard, files[shard.name].size)
        for cache in folder.glob('.elastic-ast-*'):
            cache.unlink()


def clip(path, number=0, start=None, end=None) -> FileClip:
    return FileClip(str(path), str(path), start, end, ('a',), f'list line {number}')


FORM = ClipFormat(sample_rate=16000, classes=('a',), multi_label=False)


def test_clips_are_dealt_to_shards_by_their_keys_alone(tmp_path):
    clips = {f'clip {i}': clip(f'{i}.wav') for i in range(2500)}
    dealt = shards.assign_shards(tmp_path, 'train', clips)
    assert [pathlib.Path(shard.path).name for shard in dealt] == [
        f'train-{i:05d}-of-00003' for i in range(3)
    ]
    assert sorted(key for shard in dealt for key, _ in shard.clips) == sorted(clips)
    assert max(len(shard.clips) for shard in dealt) - min(len(shard.clips) for shard in dealt) <= 1
    assert shards.assign_shards(tmp_path, 'train', dict(reversed(clips.items()))) == dealt
    first = [int(key.split()[1]) for key, _ in dealt[0].clips]
    assert 1100 < np.mean(first) < 1400  # no run of them
    assert (
        len(
            shards.assign_shards(
                tmp_path, 'train', dict.fromkeys(map(str, range(600_000)), clip('a.wav'))
            )
        )
        == 512
    )


def test_a_shard_is_written_again_only_if_it_has_to_be(tmp_path):
    miniatures.write(tmp_path / 'a.wav', 1, 16000)
    (shard,) = shards.assign_shards(
        tmp_path, 'train', {'a': clip(tmp_path / 'a.wav'), 'b': clip(tmp_path / 'b.wav', 2)}
    )
    assert shards.load_record(shard, FORM) is None
    shards.write_shard(shard, FORM)
    record = shards.load_record(shard, FORM)
    assert record is not None
    assert (record.keys, record.frames, record.labels) == (
        ('a',),
        (len(miniatures.tone(1)),),
        ((0,),),
    )
    (clip_b,) = record.skipped
    assert clip_b.missing and clip_b.key == 'b'
    assert clip_b.message == f'list line 2: no recording {tmp_path}/b.wav'
    written = os.stat(shard.path).st_ino
    shards.write_shard(shard, FORM)
    assert os.stat(shard.path).st_ino == written
    assert shards.load_record(shard, ClipFormat(8000, ('a',), False)) is None
    assert shards.load_record(shards.Shard(shard.path, shard.clips[:1]), FORM) is None
    content = pathlib.Path(shard.record_path).read_text()
    earlier = content.replace('"skipped"', '"left_out"')  # as earlier versions wrote it
    pathlib.Path(shard.record_path).write_text(earlier)
    assert earlier != content and shards.load_record(shard, FORM) == record
    for damaged in ('', content[:100], '[]', json.dumps(json.loads(content) | {'size': 3})):
        pathlib.Path(shard.record_path).write_text(damaged)
        assert shards.load_record(shard, FORM) is None
    pathlib.Path(shard.record_path).write_text(content)
    miniatures.write(tmp_path / 'b.wav', 2, 16000)
    assert shards.load_record(shard, FORM) is None
    shards.write_list(shard)
    shards.write_listed_shard(shard.path, FORM)
    complete = shards.load_record(shard, FORM)
    assert complete is not None and set(complete.keys) == {'a', 'b'}
    os.truncate(shard.path, 10)
    assert shards.load_record(shard, FORM) is None


def test_the_list_of_skipped_clips_of_an_earlier_version_is_read(tmp_path):
    (tmp_path / 'left_out.txt').write_text('train\tmissing\tb\tno recording\n')
    assert skipped.list_path(tmp_path) == tmp_path / 'left_out.txt'
    assert skipped.count(tmp_path) == {('train', 'missing'): 1}
    (tmp_path / 'left_out.txt').unlink()
    assert skipped.list_path(tmp_path) == tmp_path / 'skipped.txt'
    with pytest.raises(DataError, match='the list of skipped clips cannot be read'):
        skipped.count(tmp_path)


def test_what_is_stored_is_mono_at_the_rate_asked_for_and_within_16_bits(tmp_path):
    import soundfile

    loud = np.tile([[1.0, 1.0], [-1.0, -1.0]], (4000, 1))
    soundfile.write(tmp_path / 'loud.wav', loud, 8000, subtype='FLOAT')
    soundfile.write(tmp_path / 'silent.wav', np.zeros(0), 16000)
    parts = {'loud': (0.25, 0.75), 'beyond': (0.5, 1.5), 'empty': (0.5, 0.5)}
    found = {key: clip(tmp_path / 'loud.wav', 0, start, end) for key, (start, end) in parts.items()}
    found['silent'] = clip(tmp_path / 'silent.wav')
    (shard,) = shards.assign_shards(tmp_path, 'train', found)
    shards.write_shard(shard, FORM)
    record = shards.load_record(shard, FORM)
    assert record is not None
    assert record.keys == ('loud',) and record.frames == (8000,)
    messages = {clip.key: clip.message for clip in record.skipped}
    assert (
        'holds no samples' in messages['silent']
        and 'past the end' in messages['beyond']
        and 'is not before end' in messages['empty']
    )
