"""Embeddings of time steps: their times, joined windows, and vectors between steps."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from elastic_ast_jax.audio import windows
from elastic_ast_jax.audio.frontend import FrontendSpec
from elastic_ast_jax.inference import clips, embeddings
from elastic_ast_jax.inference.embeddings import ClipEmbedding, Steps

AST = FrontendSpec()
EPIC = FrontendSpec(
    kind='librosa',
    sample_rate=24000,
    window_ms=10.0,
    shift_ms=5.0,
    fft=2048,
    partial='edge',
    min_frames=192,
    max_frames=3072,
)


def numbered(times):
    """Return steps whose vectors are their times."""
    return Steps(np.asarray(times, np.float32)[:, None], np.asarray(times, np.float64))


def test_a_step_is_centered_on_the_samples_of_its_frames():
    """Check the first patch: its frames begin at 0, 10, ... 150 ms and last 25 ms."""
    assert embeddings.step_times(AST, 3).tolist() == [87.5, 247.5, 407.5]
    assert embeddings.step_times(AST, 2, start=16000).tolist() == [1087.5, 1247.5]
    # librosa centers its frames: the first patch's are centered on 0, 5, ... 75 ms.
    assert embeddings.step_times(EPIC, 2).tolist() == [37.5, 117.5]


def test_a_step_is_the_mean_over_the_mel_patches_of_its_column():
    columns, width = 5, 3
    grid = (
        np.random.default_rng(0).normal(size=(AST.mel_patches, columns, width)).astype(np.float32)
    )
    samples = int(AST.samples_for(columns * AST.patch_frames, AST.shift()))
    vectors, times = embeddings.clip_steps(grid.reshape(-1, width), AST, 0, samples)
    np.testing.assert_allclose(vectors, grid.mean(axis=0), atol=1e-6)
    assert len(times) == columns


@pytest.mark.parametrize(('samples', 'steps'), [(1, 1), (2000, 2), (1800, 1), (24000, 13)])
def test_columns_that_hold_no_frame_are_no_steps(samples, steps):
    """Use 24 kHz, where a patch of 16 frames has 1920 samples; clips have at least 12 patches."""
    columns = int(EPIC.time_patches(int(EPIC.frames(samples, EPIC.shift()))))
    assert columns >= 12
    tokens = np.zeros((EPIC.mel_patches * columns, 2), np.float32)
    assert len(embeddings.clip_steps(tokens, EPIC, 0, samples).times) == steps


def test_windows_that_begin_at_whole_steps_join_to_regular_steps():
    step = embeddings.step_samples(AST)
    long = [embeddings.step_times(AST, 64, start=start * step) for start in (0, 32, 64)]
    joined = embeddings.join_steps(
        [Steps(np.full((64, 1), i, np.float32), times) for i, times in enumerate(long)]
    )
    np.testing.assert_array_equal(joined.times, embeddings.step_times(AST, 128))
    # Each window gives way to the next in the middle of what they share.
    assert joined.vectors.ravel().tolist() == [0] * 48 + [1] * 32 + [2] * 48


@given(st.integers(1, 60), st.floats(0, 0.9), st.integers(1, 4_000_000))
def test_joined_steps_ascend_and_leave_no_gap(patches, overlap, samples):
    frontend = FrontendSpec(max_frames=16 * patches)
    split = embeddings.align_windows(windows.make_windows(frontend, overlap), frontend)
    parts = []
    for start, stop in split.spans(samples)[:50]:
        frames = int(frontend.frames(stop - start, frontend.shift()))
        parts.append(
            numbered(embeddings.step_times(frontend, int(frontend.time_patches(frames)), start))
        )
    joined = embeddings.join_steps(parts)
    apart = np.diff(joined.times)
    assert (apart > 0).all()
    step = embeddings.step_samples(frontend) / 16
    assert apart.max(initial=0) <= 1.5 * step + 1e-9
    assert joined.times[0] == parts[0].times[0]
    assert parts[-1].times[-1] - joined.times[-1] <= step / 2
    np.testing.assert_allclose(joined.vectors[:, 0], joined.times, rtol=1e-6)


@given(st.floats(0, 0.9))
def test_aligned_windows_begin_at_whole_steps_and_overlap_no_less(overlap):
    split = windows.make_windows(AST, overlap)
    aligned = embeddings.align_windows(split, AST)
    assert (aligned.length, aligned.max_unsplit) == (split.length, split.max_unsplit)
    assert aligned.hop <= split.hop
    if split.hop >= embeddings.step_samples(AST):
        assert aligned.hop > 0 and aligned.hop % embeddings.step_samples(AST) == 0


def test_vectors_between_and_beyond_steps():
    steps = numbered([100, 260, 420])
    interpolated = embeddings.interpolate(
        steps, np.array([0.0, 100.0, 180.0, 260.0, 300.0, 420.0, 500.0])
    )
    np.testing.assert_allclose(interpolated[:, 0], [100, 100, 180, 260, 300, 420, 420], rtol=1e-6)
    assert interpolated.dtype == np.float32
    assert embeddings.interpolate(numbered([87.5]), np.array([0.0, 50.0])).tolist() == [
        [87.5],
        [87.5],
    ]


def test_a_recording_is_the_mean_of_its_windows_by_length():
    def clip(index, start, stop):
        return clips.Clip('long.wav', samples=400, index=index, count=2, start=start, stop=stop)

    first, second = np.array([1.0, 0.0], np.float32), np.array([0.0, 1.0], np.float32)
    embedded = [
        (clips.Clip('bad.wav', error='bad.wav: is empty'), None),
        (clip(0, 0, 300), ClipEmbedding(first, numbered([10, 20]))),
        (clip(1, 300, 400), ClipEmbedding(second, numbered([30]))),
        (clips.Clip('short.wav', samples=80, stop=80), ClipEmbedding(second, numbered([10]))),
    ]
    bad, long, short = embeddings.recording_embeddings(embedded, sample_rate=100)
    assert bad == {'path': 'bad.wav', 'error': 'bad.wav: is empty'}
    assert long['embedding'].tolist() == [0.75, 0.25]
    assert long['timestamps'].tolist() == [10, 20, 30]
    assert (long['seconds'], long['windows']) == (4.0, 2)
    assert short['embedding'].tolist() == [0, 1] and 'windows' not in short


def test_a_recording_that_fails_half_way_leaves_nothing_behind():
    clip = clips.Clip('long.wav', samples=400, count=2, stop=300)
    good = clips.Clip('short.wav', samples=80, stop=80)
    vector = np.ones(2, np.float32)
    embedded = [
        (clip, ClipEmbedding(vector, None)),
        (clips.Clip('long.wav', error='long.wav: damaged'), None),
        (good, ClipEmbedding(vector, None)),
    ]
    failed, short = embeddings.recording_embeddings(embedded, sample_rate=100)
    assert failed == {'path': 'long.wav', 'error': 'long.wav: damaged'}
    assert short['embedding'].tolist() == [1, 1] and 'timestamps' not in short
