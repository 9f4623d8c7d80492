"""Data sets of TFDS: known by keys, read at random, refused with what to do."""

import concurrent.futures
import importlib
import os
import pathlib
import subprocess
import sys
import time

import numpy as np
import pytest
import soundfile
import tensorflow_datasets
from numpy.typing import DTypeLike

from elastic_ast_jax.audio import reading
from elastic_ast_jax.data.sources import base, clip_labels, tfds
from elastic_ast_jax.data.sources.base import BadAudio, DataError
from elastic_ast_jax.data.sources.tfds_builder import Features
from tests.fixtures.prepared import prepare as write

RATE = 8000
NAMES = ('rex', 'dog', 'cat')  # not in alphabetical order
KEYED = Features(key='file', sample_rate=RATE)
KINDS = tensorflow_datasets.features


def samples(i, dtype: DTypeLike = np.int16):
    """Clip `i`: of a length of its own; quieter than full scale."""
    found = np.random.default_rng(i).integers(-20000, 20000, 400 + 37 * i)
    return (found / 32768 if np.dtype(dtype).kind == 'f' else found).astype(dtype)


def clips(number=12, dtype: DTypeLike = np.int16):
    return [
        {'audio': samples(i, dtype), 'file': f'{i:02}.wav', 'label': NAMES[i % 3]}
        for i in range(number)
    ]


BYTES = KINDS.Tensor(shape=(None,), dtype=np.int16, encoding=KINDS.Encoding.BYTES)
AUDIO = KINDS.Audio(sample_rate=RATE)
FILE, LABEL = KINDS.Text(), KINDS.ClassLabel(names=list(NAMES))


@pytest.fixture
def prepare(tmp_path):
    """`prepare(examples, **features)` writes a data set `animals` and gives the folder it is in."""

    def make(examples, folder='data', file_format='array_record', splits=None, **features):
        features = {'audio': BYTES, 'file': FILE, 'label': LABEL} | features
        return write(
            tmp_path / folder,
            'animals',
            features,
            splits or {'train': examples},
            file_format=file_format,
        )

    return make


def load(
    folder,
    split='train',
    sample_rate=RATE,
    features=KEYED,
    on_bad_audio: BadAudio = 'error',
    keep=None,
):
    return tfds.load('animals', folder, split, sample_rate, features, on_bad_audio, keep)


def test_clips_stand_in_the_order_of_their_keys_with_their_own_samples_and_labels(prepare):
    source = load(prepare(clips()))
    assert list(source.keys) == [f'{i:02}.wav' for i in range(12)]
    assert list(source.labels) == [(NAMES[i % 3],) for i in range(12)]
    assert (
        source.samples.tolist() == [400 + 37 * i for i in range(12)]
        and source.samples.dtype == np.int64
    )
    for i in range(12):
        np.testing.assert_array_equal(source.read(i), samples(i).astype(np.float32) / 32768)
    assert isinstance(source, base.Source)


def test_every_form_of_the_samples_gives_what_a_wav_file_gives(prepare, tmp_path):
    forms = [('bytes', BYTES, np.int16), ('audio', AUDIO, np.int64)]
    forms += [
        (f'{kind.__name__}', KINDS.Audio(sample_rate=RATE, dtype=kind), kind)
        for kind in (np.int16, np.float32)
    ]
    forms += [
        (
            'zlib',
            KINDS.Tensor(shape=(None,), dtype=np.int16, encoding=KINDS.Encoding.ZLIB),
            np.int16,
        )
    ]
    soundfile.write(tmp_path / 'a.wav', samples(5), RATE)
    for sample_rate in (RATE, 2 * RATE):
        wanted = reading.read(tmp_path / 'a.wav', sample_rate)
        for name, feature, dtype in forms:
            folder = (
                str(tmp_path / name)
                if (tmp_path / name).exists()
                else prepare(clips(6, dtype), name, audio=feature)
            )
            features = Features(
                key='file', sample_rate=0 if isinstance(feature, KINDS.Audio) else RATE
            )
            source = load(folder, sample_rate=sample_rate, features=features)
            np.testing.assert_array_equal(source.read(5), wanted)
            assert source.samples[5] == len(wanted)


def test_channels_are_averaged(prepare):
    stereo = np.stack([samples(3), samples(4)[: len(samples(3))]], axis=1)
    source = load(
        prepare(
            [clips(1)[0] | {'audio': stereo}],
            audio=KINDS.Audio(shape=(None, 2), sample_rate=RATE),
        )
    )
    np.testing.assert_allclose(source.read(0), stereo.mean(axis=1) / 32768, atol=1e-7)


def test_classes_are_those_of_the_class_label_in_its_order(prepare):
    source = load(prepare(clips(2)))
    assert source.classes == NAMES and clip_labels.label_names(source) == NAMES
    assert clip_labels.targets(source, NAMES, 'train') == [(0,), (1,)]
    assert clip_labels.classes_without_clips(source, NAMES) == ['cat']


def test_labels_may_be_several_or_text_or_none(prepare):
    first, second = clips(2)
    multi_label = load(
        prepare(
            [first | {'label': ['cat', 'rex']}, second | {'label': []}], label=KINDS.Sequence(LABEL)
        )
    )
    assert multi_label.labels == (('cat', 'rex'), ()) and multi_label.classes == NAMES
    text = load(
        prepare([first | {'label': 'sheep'}, second | {'label': 'ox'}], 'b', label=KINDS.Text())
    )
    assert (
        text.labels == (('sheep',), ('ox',))
        and text.classes is None
        and clip_labels.label_names(text) == ('ox', 'sheep')
    )
    texts = load(
        prepare(
            [first | {'label': ['a', 'b']}, second | {'label': ['b']}],
            'c',
            label=KINDS.Sequence(KINDS.Text()),
        )
    )
    assert texts.labels == (('a', 'b'), ('b',))
    unlabelled = load(prepare([first | {'label': -1}, second], 'd'))
    assert unlabelled.labels == ((), ('dog',))


def test_without_a_key_clips_are_known_by_their_samples_whatever_the_form(prepare):
    """The same samples twice are two clips, told apart by a number."""
    examples = [*clips(4), clips(1)[0] | {'file': 'again.wav', 'label': 'cat'}]
    one = load(prepare(examples), features=Features(sample_rate=RATE))
    other = load(
        prepare(
            [
                example | {'audio': example['audio'].astype(np.int64)}
                for example in reversed(examples)
            ],
            'b',
            audio=AUDIO,
        ),
        features=Features(),
    )
    assert one.keys == other.keys == tuple(sorted(one.keys)) and one.labels == other.labels
    assert one.fingerprint == other.fingerprint
    (again,) = [key for key in one.keys if '#' in key]
    assert (
        again.endswith('#2')
        and len(set(one.keys)) == 5
        and all(len(key.partition('#')[0]) == 64 for key in one.keys)
    )
    assert {one.labels[one.keys.index(key)] for key in (again, again[:-2])} == {('rex',), ('cat',)}


def test_keys_may_be_numbers(prepare):
    examples = [example | {'file': 30 - i} for i, example in enumerate(clips(3))]
    assert load(prepare(examples, file=KINDS.Scalar(np.int64))).keys == ('28', '29', '30')


def test_a_key_that_names_two_clips_is_refused(prepare):
    with pytest.raises(
        DataError, match=r"1 keys are there more than once:\n  '01.wav' 2 times\nset data.tfds_key"
    ):
        load(prepare(clips(3) + clips(2)[1:]))


def test_parts_of_a_split_share_no_clip_and_make_up_the_whole(prepare):
    folder = prepare(clips(10))
    parts = [load(folder, split) for split in ('train[:70%]', 'train[70%:]')]
    assert [len(part) for part in parts] == [7, 3]
    assert sorted(parts[0].keys + parts[1].keys) == list(load(folder).keys)
    np.testing.assert_array_equal(
        parts[1].read(0), samples(int(parts[1].keys[0][:2])) / np.float32(32768)
    )


def test_only_what_is_asked_for_is_kept(prepare):
    source = load(prepare(clips()), keep=lambda key: int(key[:2]) % 2 == 0)
    assert source.keys == tuple(f'{i:02}.wav' for i in range(0, 12, 2))


def test_the_folder_may_be_that_of_the_data_set_itself(prepare):
    folder = prepare(clips(3))
    assert load(f'{folder}/animals/1.0.0').fingerprint == load(folder).fingerprint


def test_reading_is_safe_from_many_threads(prepare):
    source = load(prepare(clips(40)))
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        found = list(pool.map(source.read, [i for _ in range(5) for i in range(40)]))
    for i, one in enumerate(found):
        np.testing.assert_array_equal(one, samples(i % 40).astype(np.float32) / 32768)


def shard(folder) -> pathlib.Path:
    (found,) = pathlib.Path(folder, 'animals', '1.0.0').glob('*array_record*')
    return found


def cache(folder) -> pathlib.Path:
    (found,) = pathlib.Path(folder, 'animals', '1.0.0').glob('.elastic-ast-tfds-*.json')
    return found


def test_lengths_are_remembered_and_found_again_when_the_data_change(prepare, caplog):
    folder = prepare(clips(3))
    first = load(folder)
    kept = cache(folder).read_bytes()
    cache(folder).write_bytes(kept.replace(b'"00.wav"', b'"ZZ.wav"'))
    assert load(folder).keys == ('01.wav', '02.wav', 'ZZ.wav')  # it is read and nothing else is
    later = time.time_ns() + 10**9
    os.utime(shard(folder), ns=(later, later))
    assert load(folder).fingerprint == first.fingerprint  # other times, so all is read again
    assert cache(folder).read_bytes() != kept
    assert not caplog.records
    cache(folder).write_bytes(b'{"version": 1')
    assert load(folder).fingerprint == first.fingerprint
    assert 'cannot be used' in caplog.text
    caplog.clear()
    assert load(folder).fingerprint == first.fingerprint and not caplog.records


def test_where_the_data_cannot_be_written_lengths_are_remembered_elsewhere(
    prepare, tmp_path, monkeypatch
):
    folder = prepare(clips(3))
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'home'))
    inner = pathlib.Path(folder, 'animals', '1.0.0')
    inner.chmod(0o555)
    try:
        first = load(folder)
        assert not list(inner.glob('.elastic*'))
        (_kept,) = (tmp_path / 'home').rglob('*.json')
        assert load(folder).fingerprint == first.fingerprint
    finally:
        inner.chmod(0o755)


BAD = [
    ('empty', np.zeros(0, np.float32), 'holds no samples'),
    ('nan', np.array([0, np.nan, 0], np.float32), 'NaN or infinite'),
    ('loud', np.array([0, 12345], np.float32), 'full scale of floats is 1'),
]


def test_clips_that_cannot_be_used_are_refused_or_skipped_by_their_key(prepare, caplog):
    examples = clips(3, np.float32)
    examples += [{'audio': audio, 'file': f'{name}.wav', 'label': 'dog'} for name, audio, _ in BAD]
    folder = prepare(examples, audio=KINDS.Audio(sample_rate=RATE, dtype=np.float32))
    for _ in range(2):  # found by reading, then remembered
        with pytest.raises(
            DataError, match=r"animals/1.0.0 split 'train': 3 of 6 clips cannot be used"
        ) as error:
            load(folder)
        assert all(
            f'{name}.wav: ' in str(error.value) and words in str(error.value)
            for name, _, words in BAD
        )
        caplog.clear()
        source = load(folder, on_bad_audio='skip')
        assert source.keys == ('00.wav', '01.wav', '02.wav') and len(source.skipped) == 3
        assert (
            "3 of 6 clips are skipped (data.on_bad_audio='skip')" in caplog.text
            and 'nan.wav' in caplog.text
        )
    with pytest.raises(DataError, match='none of 3 clips can be used'):
        load(
            prepare(examples[3:], 'b', audio=KINDS.Audio(sample_rate=RATE, dtype=np.float32)),
            on_bad_audio='skip',
        )


def test_integers_beyond_16_bits_are_refused(prepare):
    folder = prepare([clips(1)[0] | {'audio': np.array([0, 70000])}], audio=AUDIO)
    with pytest.raises(
        DataError, match=r'00.wav: samples reach from 0 to 70000, but integers must have 16 bits'
    ):
        load(folder)


def test_labels_past_the_classes_are_refused(prepare):
    folder = prepare(clips(3))
    (pathlib.Path(folder) / 'animals' / '1.0.0' / 'label.labels.txt').write_text('rex\ndog\n')
    with pytest.raises(DataError, match=r'02.wav: the label 2 is past the 2 classes'):
        load(folder)


def test_a_damaged_file_is_refused_when_it_is_opened_and_when_it_is_read(prepare):
    folder = prepare(clips())
    source = load(folder)
    data = bytearray(shard(folder).read_bytes())
    place = 6000  # amid the samples of one of the clips, which fill 16 kB
    data[place : place + 4] = bytes(byte ^ 255 for byte in data[place : place + 4])
    shard(folder).write_bytes(data)
    with pytest.raises(
        DataError,
        match=(
            r'1 of 12 clips cannot be used:\n  animals/1.0.0 .* cannot be read .*prepare .* again'
        ),
    ):
        load(folder)
    assert len(load(folder, on_bad_audio='skip')) == 11
    failed = []
    for i in range(12):
        try:
            source.read(i)
        except DataError as error:
            failed.append(str(error))
    assert (
        len(failed) == 1
        and "split 'train': " in failed[0]
        and '.wav: the record cannot be read' in failed[0]
    )
    # The file may have been unreachable for a moment: that is not remembered.
    about = shard(folder).stat()
    data[place : place + 4] = bytes(byte ^ 255 for byte in data[place : place + 4])
    shard(folder).write_bytes(data)
    os.utime(shard(folder), ns=(about.st_atime_ns, about.st_mtime_ns))
    assert len(load(folder)) == 12


@pytest.mark.parametrize(
    'features, words',
    [
        (
            Features(audio='sound', sample_rate=RATE),
            r"no feature 'sound': set data.tfds_audio to .*: audio \(Tensor.*, file \(Text",
        ),
        (
            Features(audio='file', sample_rate=RATE),
            "data.tfds_audio='file' is Text.* but must be samples",
        ),
        (
            Features(label='audio', sample_rate=RATE),
            "data.tfds_label='audio' is Tensor.*must be a ClassLabel",
        ),
        (
            Features(key='audio', sample_rate=RATE),
            "data.tfds_key='audio' is Tensor.*must be a Text",
        ),
        (
            Features(key='file'),
            ("the feature 'audio' has no sample rate: give it in Hz with --config.data.tfds_rate"),
        ),
    ],
)
def test_features_that_cannot_be_used_are_refused_with_those_that_are_there(
    prepare, features, words
):
    folder = prepare(clips(2))
    with pytest.raises(DataError, match=words):
        load(folder, features=features)


def test_two_sample_rates_are_refused(prepare):
    with pytest.raises(
        DataError, match=r"data.tfds_rate=16000, but the feature 'audio' says 8000 Hz"
    ):
        load(prepare(clips(2, np.int64), audio=AUDIO), features=Features(sample_rate=16000))


def test_an_unknown_split_is_refused_with_those_there(prepare):
    folder = prepare(None, splits={'train': clips(3), 'dev': clips(2)})
    for split in ('test', 'train[:', 'train+test'):
        with pytest.raises(DataError, match=r"the splits are: .*'dev' \(2 clips\).*train\[:80%\]"):
            load(folder, split)


def test_an_unknown_data_set_is_refused(tmp_path):
    with pytest.raises(
        DataError, match=r"no data set 'animals' in .*check data.tfds_name and data.tfds_dir"
    ):
        load(str(tmp_path))


def test_a_data_set_that_is_not_there_is_prepared(tmp_path, caplog, capsys):
    class CountedTicks(tensorflow_datasets.core.GeneratorBasedBuilder):
        VERSION = tensorflow_datasets.core.Version('1.0.0')

        def _info(self):
            features = KINDS.FeaturesDict({'audio': AUDIO, 'label': LABEL})
            return tensorflow_datasets.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, manager):
            return {'train': self._generate_examples()}

        def _generate_examples(self):
            if (tmp_path / 'offline').exists():
                raise OSError('the server\ncannot be reached')
            if (tmp_path / 'bare').exists():
                importlib.import_module('a_package_that_reads_audio')
            yield from enumerate(
                {'audio': samples(i, np.int64), 'label': NAMES[i % 3]} for i in range(4)
            )

    def opened():
        return tfds.load('counted_ticks', str(tmp_path / 'data'), 'train', RATE, Features())

    (tmp_path / 'offline').touch()
    with pytest.raises(
        DataError,
        match=(
            r'counted_ticks/1.0.0 cannot be prepared in .* \(OSError: the server\).*data.tfds_dir'
        ),
    ):
        opened()
    (tmp_path / 'offline').rename(tmp_path / 'bare')
    with pytest.raises(
        DataError,
        match=r'needs the package a_package_that_reads_audio, .*: pip install a_package_that_reads',
    ):
        opened()
    (tmp_path / 'bare').unlink()
    caplog.clear()
    assert len(opened()) == 4
    assert 'counted_ticks/1.0.0 is not prepared' in caplog.text
    assert not capsys.readouterr().out  # which is for results
    caplog.clear()
    assert len(opened()) == 4 and not caplog.records


def test_a_data_set_in_other_files_is_refused_with_what_to_do(prepare):
    folder = prepare(clips(2), file_format='tfrecord')
    with pytest.raises(
        DataError,
        match=r'is in tfrecord files, .*\n  python -m .*\nOr .*array_record.*data.tfds_dir',
    ) as error:
        load(folder)
    assert str(error.value).startswith(f'{folder}/animals/1.0.0: ')


@pytest.mark.slow
def test_what_to_do_with_other_files_works(prepare):
    pytest.importorskip('apache_beam', reason='the command needs it: pip install apache-beam')
    folder = prepare(clips(2), file_format='tfrecord')
    with pytest.raises(DataError) as error:
        load(folder)
    command = next(
        line.split() for line in str(error.value).splitlines() if line.startswith('  python')
    )
    subprocess.run([sys.executable, *command[1:]], check=True, capture_output=True, timeout=300)
    assert load(folder).keys == ('00.wav', '01.wav')
