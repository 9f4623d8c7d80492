import os

import numpy as np
import pytest
import soundfile

from elastic_ast_jax.audio import reading
from elastic_ast_jax.data.sources import base as sources_base
from elastic_ast_jax.data.sources import clip_labels
from elastic_ast_jax.data.sources.base import DataError, FileClip, FileSource

RATE = 8000


@pytest.fixture
def clip(tmp_path):
    """Makes clips of a two-second recording, which is written when it is first needed."""

    def make(name='a.wav', start=None, end=None, labels=('x',), origin='', frames=2 * RATE):
        path = tmp_path / name
        if not path.exists() and frames:
            soundfile.write(str(path), np.random.default_rng(0).uniform(-0.5, 0.5, frames), RATE)
        return FileClip(str(path), name, start, end, labels, origin)

    return make


def open_source(*clips, sample_rate=RATE):
    return FileSource(clips, sample_rate, None)


def test_lengths_are_known_and_right(clip):
    clips = (
        clip(),
        clip(start=0.5),
        clip(end=0.25),
        clip(start=1.0, end=1.50006),
        clip('b.wav', frames=777),
    )
    source = open_source(*clips, sample_rate=44100)
    assert source.samples.dtype == np.int64
    for i in range(len(source)):
        assert source.read(i).shape == (source.samples[i],)
    assert source.samples[0] == 88200 and source.samples[1] == 66150


def test_a_part_is_a_slice_of_its_recording(clip):
    source = open_source(clip(), clip(start=0.5, end=1.25), clip(start=1.5))
    whole = reading.read(source.clips[0].path, RATE)
    np.testing.assert_array_equal(source.read(0), whole)
    np.testing.assert_array_equal(source.read(1), whole[4000:10000])
    np.testing.assert_array_equal(source.read(2), whole[12000:])


def test_keys_show_the_part(clip):
    source = open_source(clip(), clip(start=0.5, end=1.25), clip(start=1.0), clip(end=1.5))
    assert list(source.keys) == ['a.wav', 'a.wav[0.5:1.25]', 'a.wav[1.0:]', 'a.wav[0.0:1.5]']


def test_an_end_that_was_rounded_up_means_the_end(clip):
    source = open_source(clip(end=2.01))
    assert source.samples.tolist() == [16000]
    with pytest.raises(
        DataError, match=r'm.csv line 7 \(a.wav\[0.0:2.02\]\): end=2.02 s .* 2.000 s long'
    ):
        open_source(clip(end=2.02, origin='m.csv line 7'))


@pytest.mark.parametrize(
    'start, end, words',
    [
        (1.0, 1.0, 'not before'),
        (1.5, 1.0, 'not before'),
        (-0.1, 1.0, 'seconds from 0'),
        (2.0, None, 'past the end'),
        (float('nan'), 1.0, 'seconds from 0'),
        (0.0, float('inf'), 'seconds from 0'),
        (0.5, 0.50001, 'no whole sample'),
    ],
)
def test_parts_that_are_empty_or_outside_are_refused(clip, start, end, words):
    with pytest.raises(DataError, match=f'^1 problem in 1 clip:\n  here .*{words}'):
        open_source(clip(start=start, end=end, origin='here'))


def test_the_same_samples_twice_are_refused_with_both_places(clip):
    for other in ({}, {'start': 0.0}, {'end': 2.0}, {'name': './a.wav'}):
        with pytest.raises(DataError, match=r'line 2 .*listed before, in line 1 '):
            open_source(clip(origin='line 1'), clip(**other, origin='line 2'))


def test_no_clips_and_no_rate_are_refused(clip):
    with pytest.raises(DataError, match='without clips'):
        open_source()
    with pytest.raises(DataError, match='rate=0'):
        open_source(clip(), sample_rate=0)


def test_all_problems_are_in_one_report(clip):
    good = [clip(start=i / 10) for i in range(5)]
    bad = [clip(f'missing{i}.wav', frames=0, origin=f'line {i}') for i in range(6)] + [
        clip(start=9.0 + i) for i in range(6)
    ]
    again = [
        clip('missing0.wav', start=1.0, frames=0)
    ]  # a recording that cannot be used is one problem
    with pytest.raises(DataError) as error:
        open_source(*good, *bad, *again)
    message = str(error.value)
    assert message.startswith('12 problems in 18 clips') and message.endswith('and 2 more')
    assert (
        f'line 3: {bad[3].path}: no such file' in message
        and 'a.wav[12.0:]' in message
        and 'a.wav[13.0:]' not in message
    )


def test_a_recording_that_changed_after_opening_is_refused(clip):
    source = open_source(clip())
    soundfile.write(source.clips[0].path, np.zeros(2 * RATE), 2 * RATE)
    with pytest.raises(DataError, match=r'a.wav: has 8000 samples .* had 16000'):
        source.read(0)


def test_headers_are_remembered_beside_the_data(clip, tmp_path):
    first = FileSource([clip()], RATE, tmp_path)
    assert os.path.exists(tmp_path / '.elastic-ast-headers.npz')
    assert FileSource([clip()], RATE, tmp_path).fingerprint == first.fingerprint


def test_the_fingerprint_changes_with_the_data_and_only_then(clip):
    base = open_source(clip(), clip('b.wav')).fingerprint
    assert open_source(clip(), clip('b.wav')).fingerprint == base and len(base) == 64
    other_sources = [
        open_source(clip('b.wav'), clip()),
        open_source(clip()),
        open_source(clip(), clip('c.wav')),
        open_source(clip(), clip('b.wav', labels=('y',))),
        open_source(clip(), clip('b.wav', labels=('x', 'y'))),
        open_source(clip(), clip('b.wav', end=1.0)),
        open_source(clip(), clip('b.wav'), sample_rate=16000),
    ]
    prints = {source.fingerprint for source in other_sources}
    soundfile.write(clip('b.wav').path, np.zeros(100), RATE)
    prints.add(open_source(clip(), clip('b.wav')).fingerprint)
    assert len(prints) == 8 and base not in prints


def test_the_fingerprint_tells_values_apart_that_look_alike_joined():
    one_clip = np.array([10], np.int64)
    prints = [
        sources_base.fingerprint(['a'], one_clip, [('x', 'y')], 8000),
        sources_base.fingerprint(['a'], one_clip, [('x', 'y')], 8001),
        sources_base.fingerprint(['a'], one_clip, [('xy',)], 8000),
        sources_base.fingerprint(['ax'], one_clip, [('y',)], 8000),
        sources_base.fingerprint(['a'], one_clip + 1, [('x', 'y')], 8000),
    ]
    assert len(set(prints)) == 5


def test_labels_become_class_numbers(clip):
    source = open_source(clip(labels=('dog', 'cat')), clip('b.wav', labels=('bird',)))
    assert clip_labels.label_names(source) == ('bird', 'cat', 'dog')
    assert clip_labels.targets(source, ('bird', 'cat', 'dog'), 'train') == [(2, 1), (0,)]


def test_classes_are_those_the_data_define_in_their_order(clip):
    names = 'dog', 'cow', 'ant', 'bee'
    source = FileSource(
        [clip(labels=('dog',)), clip('b.wav', labels=('ant',))], RATE, None, classes=names
    )
    assert clip_labels.label_names(source) == names
    assert clip_labels.targets(source, names, 'train') == [(0,), (2,)]
    assert clip_labels.classes_without_clips(source, names) == ['cow', 'bee']
    assert (
        clip_labels.classes_without_clips(open_source(clip(labels=('dog', 'ant'))), ('ant', 'dog'))
        == []
    )


def test_unreadable_recordings_are_skipped_where_that_is_asked_for(clip, caplog):
    clips = [
        clip(),
        clip('missing.wav', frames=0, origin='line 2'),
        clip('b.wav'),
        clip('missing.wav', start=1.0, frames=0, origin='line 4'),
    ]
    source = FileSource(clips, RATE, None, 'skip')
    assert (
        source.keys == ('a.wav', 'b.wav')
        and source.skipped[0].startswith('line 2: ')
        and len(source.skipped) == 2
    )
    assert source.fingerprint == open_source(clip(), clip('b.wav')).fingerprint
    assert [record.levelname for record in caplog.records] == ['WARNING']
    assert (
        "2 of 4 clips are skipped (data.on_bad_audio='skip')" in caplog.text
        and 'missing.wav: no such file' in caplog.text
    )
    assert FileSource(clips[:1], RATE, None, 'skip').skipped == ()
    with pytest.raises(DataError, match=r'none of 2 clips can be used:\n  line 2: .*no such file'):
        FileSource(clips[1::2], RATE, None, 'skip')


def test_a_wrong_list_is_no_unreadable_recording(clip):
    for wrong in (clip(start=3.0), clip('./a.wav')):
        with pytest.raises(DataError, match='1 problem in 2 clips'):
            FileSource([clip(), wrong], RATE, None, 'skip')


def test_unknown_and_missing_labels_are_refused_by_place(clip):
    source = open_source(
        clip(labels=('dog',)),
        clip('b.wav', labels=('cat', 'dgo'), origin='m.csv line 3'),
        clip('c.wav', labels=()),
    )
    with pytest.raises(DataError) as error:
        clip_labels.targets(source, ('cat', 'cow', 'dog'), 'test')
    message = str(error.value)
    assert "2 clips of 3 in split 'test'" in message
    assert "m.csv line 3 (b.wav): unknown label 'dgo'; the nearest known one is 'dog'" in message
    assert 'c.wav: no label' in message
    with pytest.raises(DataError, match="'cat' is listed twice"):
        clip_labels.targets(source, ('cat', 'cat'), 'test')


def test_the_loss_says_how_many_labels_a_clip_has(clip):
    source = open_source(
        clip(labels=('dog',)),
        clip('b.wav', labels=('dog', 'cat'), origin='m.csv line 3'),
        clip('c.wav', labels=(), origin='m.csv line 4'),
    )
    names = ('cat', 'dog')
    assert clip_labels.targets(source, names, 'training', 'bce') == [(1,), (1, 0), ()]
    with pytest.raises(DataError) as error:
        clip_labels.targets(source, names, 'evaluation', 'cross_entropy')
    message = str(error.value)
    assert "2 clips of 3 in split 'evaluation'" in message
    assert (
        'm.csv line 3 (b.wav): has 2 labels (dog, cat)' in message and 'train.loss=bce' in message
    )
    assert 'm.csv line 4 (c.wav): no label: give it one' in message
    with pytest.raises(DataError, match='no class'):
        clip_labels.targets(open_source(clip(labels=())), (), 'training', 'bce')


def test_labels_are_compared_as_people_read_them(clip):
    source = open_source(clip(labels=('cafe\u0301',)), clip('b.wav', labels=('dog ',)))
    assert clip_labels.targets(source, ('café', 'dog'), 'test') == [(0,), (1,)]
    assert clip_labels.classes_without_clips(source, ('café', 'dog', 'owl')) == ['owl']
    assert clip_labels.label_names(
        open_source(clip(labels=('dog',)), clip('b.wav', labels=('dog ',)))
    ) == ('dog',)
    old_names = ('cafe\u0301', 'café')  # of a workdir that took them for two classes
    assert clip_labels.targets(open_source(clip(labels=('cafe\u0301',))), old_names, 'test') == [
        (0,)
    ]


def test_many_unknown_labels_are_counted(clip):
    source = open_source(*[clip(start=i / 100, labels=(f'label{i}',)) for i in range(25)])
    with pytest.raises(DataError, match=r'25 clips of 25 .*') as error:
        clip_labels.targets(source, ('dog',), 'test')
    assert str(error.value).endswith('and 15 more')


def test_overlap_counts_clips_in_both(clip):
    a = open_source(clip(), clip('b.wav'), clip('c.wav', end=1.0))
    b = open_source(clip('b.wav'), clip('c.wav', end=1.0), clip('c.wav'))
    assert sources_base.count_shared_clips(a, b) == 2
