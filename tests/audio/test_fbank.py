"""Compare filterbank features in NumPy and in the TensorFlow graph with torchaudio.

The bounds are explained in `elastic_ast_jax.parity.fbank`.
"""

import dataclasses
import hashlib
import json

import numpy as np
import pytest
import tensorflow as tf

from elastic_ast_jax.audio import fbank as audio_fbank
from elastic_ast_jax.audio.frontend import FrontendSpec
from elastic_ast_jax.data import fbank_tf
from elastic_ast_jax.parity import fbank as parity_fbank
from elastic_ast_jax.parity import reference

STORED = reference.load('kaldi_fbank')
META = {entry['key']: entry for entry in STORED.meta}
SPEC = FrontendSpec()
EPIC = FrontendSpec(
    kind='librosa',
    sample_rate=24_000,
    window_ms=10.0,
    shift_ms=5.0,
    fft=2048,
    mean=0.0,
    std=0.5,
    partial='edge',
    min_frames=192,
    max_frames=3072,
)


def assert_near(features, expected):
    assert features.shape == expected.shape and features.dtype == np.float32
    assert [
        row
        for row in parity_fbank.compare_log_mels('', '', [features], [expected])
        if not row.passed
    ] == []


def spec_of(key):
    return parity_fbank.frontend_spec(META[key])


def wave_of(key):
    return parity_fbank.to_float(STORED[META[key]['wave']])


def by_graph(waveforms, shifts, spec):
    """Return the features of consecutive clips in a row of the graph."""
    block = fbank_tf.block_size(spec, shifts)
    samples, starts, counts = [], [], []
    for waveform, shift in zip(waveforms, shifts, strict=True):
        offset = sum(map(len, samples)) // block
        needed = (
            len(waveform) + spec.window
            if spec.kind == 'librosa'
            else max(len(waveform), spec.window)
        )
        padded = np.zeros(-(-needed // block) * block, np.float32)
        padded[spec.lead_samples :][: len(waveform)] = waveform - (
            waveform.mean() if spec.kind == 'kaldi' else 0
        )
        counts.append(int(spec.frames(len(waveform), shift)))
        starts.append(offset + np.arange(counts[-1], dtype=np.int32) * (shift // block))
        samples.append(padded)
    features = tf.function(fbank_tf.log_mel)(
        np.concatenate(samples), np.concatenate(starts), spec, block
    ).numpy()
    return np.split(features, np.cumsum(counts)[:-1])


def exact(waveform, spec, shift):
    """Compute the definition step by step in float64."""
    samples = waveform.astype(np.float64) - waveform.astype(np.float64).mean()
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(spec.window) / (spec.window - 1))
    filters = audio_fbank.filters(spec).astype(np.float64)
    rows = []
    for start in range(0, len(samples) - spec.window + 1, shift):
        frame = samples[start : start + spec.window]
        frame = frame - frame.mean()
        frame = frame - audio_fbank.PREEMPHASIS * np.concatenate([frame[:1], frame[:-1]])
        power = np.abs(np.fft.rfft(frame * window, spec.fft_length)) ** 2
        rows.append(np.log(np.maximum(power @ filters, audio_fbank.ENERGY_FLOOR)))
    return np.stack(rows)


@pytest.mark.parametrize('key', META)
def test_features_equal_torchaudio(key):
    spec = spec_of(key)
    features = audio_fbank.log_mel(wave_of(key), spec)
    assert_near(features, STORED[key])
    (in_graph,) = by_graph([wave_of(key)], [spec.shift()], spec)
    assert_near(in_graph, STORED[key])
    assert_near(in_graph, features)


@pytest.mark.parametrize('key', META)
def test_features_are_as_exact_as_torchaudio(key):
    """Compare root mean squares, since the worst single bin of two float32 transforms is random."""
    spec, waveform = spec_of(key), wave_of(key)
    truth = exact(waveform, spec, spec.shift())

    def distance(features):
        return np.sqrt(np.mean((features - truth) ** 2))

    for features in (
        audio_fbank.log_mel(waveform, spec),
        by_graph([waveform], [spec.shift()], spec)[0],
    ):
        assert distance(features) <= distance(STORED[key])


def test_clips_at_different_shifts_in_a_row_equal_single_clips():
    rng = np.random.default_rng(0)
    clips = [rng.uniform(-0.5, 0.5, n).astype(np.float32) for n in (4001, 160, 12_345, 400, 7000)]
    shifts = [160, 192, 640, 160, 352]
    for clip, shift, features in zip(clips, shifts, by_graph(clips, shifts, SPEC), strict=True):
        assert_near(features, audio_fbank.log_mel(clip, SPEC, shift))


def test_a_sample_rate_without_a_common_block():
    spec = FrontendSpec(sample_rate=22050)
    assert fbank_tf.block_size(spec, [spec.shift()]) == 1
    clips = [
        np.random.default_rng(n).uniform(-0.5, 0.5, n).astype(np.float32) for n in (3000, 2221)
    ]
    for clip, features in zip(clips, by_graph(clips, [spec.shift()] * 2, spec), strict=True):
        assert_near(features, audio_fbank.log_mel(clip, spec))


@pytest.mark.parametrize('ratios', [(1.0,), (1.0, 1.2), (1.0, 1.5, 4.0), (2.0, 3.3)])
def test_windows_and_shifts_are_whole_blocks(ratios):
    shifts = [SPEC.shift(ratio) for ratio in ratios]
    block = fbank_tf.block_size(SPEC, shifts)
    assert not any(length % block for length in [SPEC.window, *shifts])


@pytest.mark.parametrize('samples', [1, 2, 250, 399])
def test_a_waveform_shorter_than_a_window_is_padded_to_a_frame(samples):
    waveform = np.random.default_rng(1).uniform(-0.5, 0.5, samples).astype(np.float32)
    features = audio_fbank.log_mel(waveform, SPEC)
    assert features.shape == (1, SPEC.mel_bins)
    padded = np.pad(waveform - waveform.mean(), (0, SPEC.window - samples))
    assert_near(features, audio_fbank.log_mel(padded, SPEC))
    assert_near(by_graph([waveform], [SPEC.shift()], SPEC)[0], features)


@pytest.mark.parametrize('level', [0.0, 0.25])
def test_silence_is_the_floor(level):
    silence = np.full(2000, level, np.float32)
    floor = np.float32(np.log(audio_fbank.ENERGY_FLOOR))
    for features in (
        audio_fbank.log_mel(silence, SPEC),
        by_graph([silence], [SPEC.shift()], SPEC)[0],
    ):
        assert np.array_equal(features, np.full_like(features, floor))


def test_a_constant_offset_changes_nothing():
    waveform = np.random.default_rng(2).uniform(-0.3, 0.3, 3000).astype(np.float32)
    assert_near(
        audio_fbank.log_mel(waveform + np.float32(0.25), SPEC), audio_fbank.log_mel(waveform, SPEC)
    )


def test_an_empty_waveform_is_refused():
    with pytest.raises(ValueError, match=r'at least one sample, not \[0\]'):
        audio_fbank.log_mel(np.zeros(0, np.float32), SPEC)


@pytest.mark.filterwarnings('ignore::RuntimeWarning')
@pytest.mark.parametrize('value', [np.nan, np.inf, 1e30])
def test_values_without_a_log_mel_are_refused(value):
    waveform = np.zeros(1000, np.float32)
    waveform[500] = value
    with pytest.raises(ValueError, match='not finite, or too large'):
        audio_fbank.log_mel(waveform, SPEC)


def test_filters_equal_kaldi():
    filters = audio_fbank.mel_filters(16000, 512, 128)
    assert filters.shape == (257, 128)
    hertz = np.arange(257) * 31.25
    assert not filters[(hertz < 20) | (hertz >= 8000)].any()
    assert (filters >= 0).all() and filters.max() <= 1
    with pytest.raises(ValueError, match='read-only'):
        filters[0, 0] = 1.0  # callers share the cached array


RANGES = [
    FrontendSpec(f_min=1000.0),
    FrontendSpec(f_max=4000.0),
    FrontendSpec(sample_rate=22050, f_min=2400.0, f_max=9000.0),
    FrontendSpec(sample_rate=256_000, window_ms=4.0, shift_ms=2.0, f_min=20e3, f_max=110e3),
    FrontendSpec(sample_rate=1000, window_ms=250.0, mel_bins=64, f_min=10.0, f_max=250.0),
]


@pytest.mark.filterwarnings('ignore:At least one mel filter')
@pytest.mark.parametrize('spec', RANGES)
def test_filters_of_a_range_equal_those_of_transformers(spec):
    """An independent implementation of Kaldi's triangles."""
    audio_utils = pytest.importorskip(
        'transformers.audio_utils', reason='pip install elastic-ast-jax[convert]'
    )
    expected = audio_utils.mel_filter_bank(
        num_frequency_bins=spec.fft_length // 2 + 1,
        num_mel_filters=spec.mel_bins,
        min_frequency=spec.f_min or 20.0,
        max_frequency=spec.f_max or spec.sample_rate / 2,
        sampling_rate=spec.sample_rate,
        mel_scale='kaldi',
        triangularize_in_mel_space=True,
    )
    # Kaldi ignores the Nyquist bin.
    np.testing.assert_allclose(audio_fbank.filters(spec)[:-1], expected[:-1], rtol=0, atol=1e-6)
    hertz = np.arange(spec.fft_length // 2 + 1) * spec.sample_rate / spec.fft_length
    outside = (hertz <= spec.lowest_hertz) | (hertz >= spec.highest_hertz)
    assert not audio_fbank.filters(spec)[outside].any()


@pytest.mark.parametrize(
    'spec', [*RANGES, dataclasses.replace(EPIC, f_min=300.0), dataclasses.replace(EPIC, f_max=8e3)]
)
def test_a_range_is_the_same_in_the_graph(spec):
    waveform = np.random.default_rng(3).uniform(-0.5, 0.5, spec.sample_rate).astype(np.float32)
    shift = spec.shift()
    features = audio_fbank.log_mel(waveform, spec)
    (in_graph,) = by_graph([waveform], [shift], spec)
    if spec.kind == 'kaldi':
        assert_near(in_graph, features)
        np.testing.assert_allclose(features, exact(waveform, spec, shift), rtol=0, atol=2e-3)
    else:
        np.testing.assert_allclose(in_graph, features, rtol=0, atol=2e-4)


@pytest.mark.parametrize('spec', [SPEC, EPIC], ids=['kaldi', 'librosa'])
def test_the_own_range_written_out_changes_no_feature(spec):
    whole = dataclasses.replace(spec, f_max=spec.sample_rate / 2, f_min=spec.lowest_hertz)
    assert np.array_equal(audio_fbank.filters(whole), audio_fbank.filters(spec))
    assert np.array_equal(
        audio_fbank.center_frequencies(whole), audio_fbank.center_frequencies(spec)
    )


def test_librosa_filters_begin_and_end_at_the_range():
    spec = dataclasses.replace(EPIC, f_min=300.0, f_max=8000.0)
    hertz = np.arange(spec.fft_length // 2 + 1) * spec.sample_rate / spec.fft_length
    used = hertz[audio_fbank.filters(spec).any(axis=1)]
    assert 300 < used[0] < 350 and 7900 < used[-1] < 8000


def test_normalization_follows_ast():
    spec = dataclasses.replace(SPEC, mean=-3.0, std=2.0)
    log_mel = np.array([[-3.0, 1.0, -7.0]], np.float32)
    normalized = audio_fbank.normalize(log_mel, spec)
    assert normalized.dtype == np.float32 and normalized.tolist() == [[0.0, 1.0, -1.0]]


def test_the_fingerprint_is_stable_and_depends_on_every_field():
    assert audio_fbank.fingerprint(SPEC) == audio_fbank.fingerprint(FrontendSpec())
    changes = {
        'sample_rate': 8000,
        'window_ms': 20.0,
        'shift_ms': 12.0,
        'mel_bins': 64,
        'mean': -4.0,
        'std': 4.0,
        'patch_mels': 8,
        'patch_frames': 8,
        'partial': 'floor',
        'max_frames': 512,
        'min_frames': 64,
        'fixed_frames': 512,
        'kind': 'librosa',
        'fft': 1024,
        'f_min': 50.0,
        'f_max': 7000.0,
    }
    assert changes.keys() == {field.name for field in dataclasses.fields(SPEC)}
    prints = {
        audio_fbank.fingerprint(
            dataclasses.replace(SPEC, **({'fft': 512} if name == 'kind' else {}), **{name: value})
        )
        for name, value in changes.items()
    }
    assert len(prints | {audio_fbank.fingerprint(SPEC)}) == len(changes) + 1


# The frontend of EPIC-SOUNDS


@pytest.mark.parametrize('samples', [1, 100, 239, 240, 2400, 24_001])
def test_librosa_features_equal_numpy_and_the_graph(samples):
    waveform = np.random.default_rng(samples).uniform(-0.5, 0.5, samples).astype(
        np.float32
    ) + np.float32(0.1)
    features = audio_fbank.log_mel(waveform, EPIC)
    assert features.shape == (EPIC.frames(samples, 120), 128) and features.dtype == np.float32
    np.testing.assert_allclose(features, epic_by_numpy(waveform), rtol=0, atol=2e-4)
    (graph,) = by_graph([waveform], [EPIC.shift()], EPIC)
    np.testing.assert_allclose(graph, features, rtol=0, atol=2e-4)


def epic_by_numpy(waveform):
    """Compute the paper's EPIC-SOUNDS features in float64, each frame and HTK filter by itself."""

    def mel(hertz):
        return 2595 * np.log10(1 + hertz / 700)

    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(240) / 240)
    edges = 700 * (10 ** (np.linspace(0, mel(12_000), 130) / 2595) - 1)
    hertz = np.arange(1025) * 24_000 / 2048
    padded = np.pad(waveform.astype(np.float64), 1024)
    frames = []
    for start in range(0, len(waveform) + 1, 120):
        frame = np.zeros(2048)
        frame[904:1144] = padded[start + 904 : start + 1144] * window
        magnitude = np.abs(np.fft.rfft(frame))
        sums = [
            (
                magnitude
                * np.clip(np.minimum((hertz - a) / (b - a), (c - hertz) / (c - b)), 0, None)
            ).sum()
            for a, b, c in zip(edges, edges[1:], edges[2:], strict=False)
        ]
        frames.append(np.log(np.array(sums) + 1e-6))
    return np.array(frames)


def test_librosa_features_keep_the_mean_and_have_their_own_floor():
    silence = audio_fbank.log_mel(np.zeros(500, np.float32), EPIC)
    np.testing.assert_allclose(silence, np.log(1e-6), atol=1e-4)
    low = audio_fbank.log_mel(np.full(2400, 0.5, np.float32), EPIC)[10, 0]
    assert low > np.log(1e-6) + 5  # a constant has energy in the lowest band


def test_mean_0_and_deviation_one_half_do_not_normalize():
    features = audio_fbank.log_mel(
        np.random.default_rng(0).normal(size=2400).astype(np.float32), EPIC
    )
    assert np.array_equal(audio_fbank.normalize(features, EPIC), features)


@pytest.mark.parametrize('spec', [SPEC, EPIC], ids=['kaldi', 'librosa'])
def test_a_long_clip_in_parts_equals_the_whole_clip(spec, monkeypatch):
    waveform = np.random.default_rng(0).uniform(-0.5, 0.5, 40_000).astype(np.float32)
    whole = audio_fbank.log_mel(waveform, spec)
    monkeypatch.setattr(audio_fbank, '_PART', 7)
    np.testing.assert_allclose(audio_fbank.log_mel(waveform, spec), whole, rtol=0, atol=1e-5)


def test_later_fields_change_no_fingerprint_at_their_defaults():
    """Workdirs with an older config keep their fingerprint."""
    values = {
        'sample_rate': 16000,
        'window_ms': 25.0,
        'shift_ms': 10.0,
        'mel_bins': 128,
        'mean': -4.2677393,
        'std': 4.5689974,
        'patch_mels': 16,
        'patch_frames': 16,
        'partial': 'pad',
        'max_frames': 1024,
    }
    digest = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
    assert audio_fbank.fingerprint(SPEC).spec == digest[:16]
