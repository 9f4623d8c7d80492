"""The synthetic data: the same clips for ever, and no shortcut to their classes."""

import concurrent.futures

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from elastic_ast_jax.audio.fbank import log_mel
from elastic_ast_jax.audio.frontend import FrontendSpec
from elastic_ast_jax.data.sources.synthetic import CLASSES, SyntheticSource

RATE = 16000
TRAIN, TEST = 640, 320
CHANCE = 1 / len(CLASSES)
# Of the accuracy on TEST clips of a classifier that guesses.
STANDARD_ERROR = np.sqrt(CHANCE * (1 - CHANCE) / TEST)


@pytest.fixture(scope='module')
def clips():
    """Of both splits: waveforms, log-mels and class indices."""
    spec = FrontendSpec(sample_rate=RATE)
    rendered = {}
    for split, count in (('train', TRAIN), ('test', TEST)):
        source = SyntheticSource(split, count, seed=0, sample_rate=RATE)
        waveforms = [source.read(i) for i in range(count)]
        rendered[split] = (
            waveforms,
            [log_mel(x, spec) for x in waveforms],
            [CLASSES.index(name) for (name,) in source.labels],
        )
    return rendered


def accuracy(clips, features):
    """Return the test accuracy of logistic regression on features of clips.

    `features` computes them from the waveform and the log-mel.
    """
    rendered = {
        split: np.stack([features(x, mel) for x, mel in zip(waveforms, mels, strict=True)])
        for split, (waveforms, mels, _) in clips.items()
    }
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    return model.fit(rendered['train'], clips['train'][2]).score(rendered['test'], clips['test'][2])


@pytest.mark.slow
def test_long_term_statistics_do_not_tell_the_classes(clips):
    assert (
        accuracy(clips, lambda _, mel: np.concatenate([mel.mean(axis=0), mel.std(axis=0)])) <= 0.4
    )


def test_duration_and_loudness_are_at_chance(clips):
    def features(waveform, _):
        power = np.mean(np.square(waveform, dtype=np.float64))
        return np.array(
            [
                len(waveform),
                np.log(len(waveform)),
                10 * np.log10(power),
                20 * np.log10(np.abs(waveform).max()),
            ]
        )

    assert accuracy(clips, features) <= CHANCE + 3 * STANDARD_ERROR


def test_the_course_tells_the_classes(clips):
    def course(_, mel):
        """The log-mel at 24 points of the clip's time, however long it is, in 16 bands."""
        frames = np.linspace(0, len(mel) - 1, 24).round().astype(int)
        return mel[frames].reshape(24, 16, -1).mean(axis=-1).ravel()

    assert accuracy(clips, course) >= 0.9


def test_clips_are_finite_and_in_range(clips):
    for waveforms, _, _ in clips.values():
        for waveform in waveforms:
            assert waveform.dtype == np.float32
            assert np.isfinite(waveform).all()
            assert 0 < np.abs(waveform).max() <= 1


def test_a_clip_is_the_same_whatever_is_read_before_and_by_whom(clips):
    source = SyntheticSource('train', TRAIN, seed=0, sample_rate=RATE)
    order = list(reversed(range(40)))
    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        for i, waveform in zip(order, threads.map(source.read, order), strict=True):
            assert np.array_equal(waveform, clips['train'][0][i])


def test_more_clips_change_none():
    few, many = (SyntheticSource('test', count, seed=3, sample_rate=8000) for count in (21, 1000))
    assert many.keys[:21] == few.keys
    assert many.labels[:21] == few.labels
    assert np.array_equal(many.samples[:21], few.samples)
    assert all(np.array_equal(many.read(i), few.read(i)) for i in range(21))
    assert many.fingerprint != few.fingerprint


@pytest.mark.parametrize('split, seed', [('train', 1), ('test', 0), ('test', 1)])
def test_splits_and_seeds_share_nothing(split, seed):
    source, other = (
        SyntheticSource('train', 200, 0, RATE),
        SyntheticSource(split, 200, seed, RATE),
    )
    assert np.mean(source.samples == other.samples) < 0.1
    assert np.mean([a == b for a, b in zip(source.labels, other.labels, strict=True)]) < 0.3
    for i in range(10):
        a, b = source.read(i), other.read(i)
        shared = min(len(a), len(b))
        assert not np.array_equal(a[:shared], b[:shared])
    assert source.fingerprint != other.fingerprint
    assert split == 'train' or not set(source.keys) & set(other.keys)


def test_lengths_are_those_of_the_clips_with_a_long_tail():
    source = SyntheticSource('train', 4000, seed=0, sample_rate=RATE)
    assert source.samples.dtype == np.int64
    assert all(len(source.read(i)) == source.samples[i] for i in range(30))
    seconds = source.samples / RATE
    assert seconds.min() == 0.2
    assert seconds.max() == 10
    assert 0.9 < np.median(seconds) < 1.1
    assert 2.3 < np.quantile(seconds, 0.9) < 2.9
    assert 4.5 < np.quantile(seconds, 0.99) < 7


def test_the_shortest_and_longest_clips_hold_a_whole_course():
    """Measure the pitch of rises and falls from the first frames to the last.

    The clips have the shortest and the longest durations.
    """
    source = SyntheticSource('train', 4000, seed=0, sample_rate=RATE)
    spec = FrontendSpec(sample_rate=RATE)
    for name, sign in (('rise', 1), ('fall', -1)):
        clips = np.array([i for i, label in enumerate(source.labels) if label == (name,)])
        by_length = clips[np.argsort(source.samples[clips], kind='stable')]
        for i in (by_length[0], by_length[-1]):
            pitch = log_mel(source.read(int(i)), spec).argmax(axis=1)
            first, last = (
                np.median(part) for part in (pitch[: len(pitch) // 3], pitch[-(len(pitch) // 3) :])
            )
            assert sign * (last - first) > 16, f'{name} in {source.samples[i] / RATE:.1f} s'


def test_rates_change_neither_lengths_nor_labels():
    low, high = (
        SyntheticSource('train', 100, seed=5, sample_rate=sample_rate)
        for sample_rate in (8000, 44100)
    )
    assert low.labels == high.labels
    assert np.allclose(low.samples / 8000, high.samples / 44100, atol=1 / 8000)
    assert len(high.read(7)) == high.samples[7]
    assert low.fingerprint != high.fingerprint


@pytest.mark.parametrize('count', [1, len(CLASSES), 1001])
def test_classes_are_balanced(count):
    counts = np.unique(
        SyntheticSource('train', count, seed=0, sample_rate=RATE).labels, return_counts=True
    )[1]
    assert counts.max() - counts.min() <= 1
    assert len(counts) == min(count, len(CLASSES))


def test_keys_and_fingerprint():
    source = SyntheticSource('train', 20, seed=0, sample_rate=RATE)
    assert source.keys[17] == 'synthetic/train/00017'
    assert source.fingerprint == SyntheticSource('train', 20, seed=0, sample_rate=RATE).fingerprint
    assert len(bytes.fromhex(source.fingerprint)) == 32


@pytest.mark.parametrize(
    'wrong, message',
    [
        ({'split': 'validation'}, "no split 'validation': use 'train' or 'test'"),
        ({'clips': 0}, 'clips=0 .* between 1 and'),
        ({'seed': -1}, 'seed=-1 .* between 0 and'),
        ({'sample_rate': 4000}, 'sample_rate=4000 is too low .* at least 8000'),
    ],
)
def test_wrong_arguments_are_named(wrong, message):
    with pytest.raises(ValueError, match=message):
        SyntheticSource(**{'split': 'train', 'clips': 1, 'seed': 0, 'sample_rate': RATE} | wrong)


@pytest.mark.parametrize('i', [-1, 20])
def test_a_clip_that_is_not_there_is_named(i):
    with pytest.raises(IndexError, match=f'no clip {i}: it has clips 0 to 19'):
        SyntheticSource('train', 20, seed=0, sample_rate=RATE).read(i)
