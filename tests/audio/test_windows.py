"""Test the laws of splitting long recordings into windows."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from elastic_ast_jax.audio.frontend import FrontendSpec
from elastic_ast_jax.audio.windows import WindowError, Windows, make_windows, split

SPEC = FrontendSpec()
specs = st.builds(
    FrontendSpec,
    sample_rate=st.sampled_from([8000, 16000, 44100]),
    shift_ms=st.sampled_from([5.0, 10.0, 12.5]),
    partial=st.sampled_from(['pad', 'zero', 'floor', 'edge']),
    max_frames=st.sampled_from([16, 96, 1024]),
)
overlaps = st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.75])


@st.composite
def windows(draw) -> Windows:
    length = draw(st.integers(1, 50))
    return Windows(length, draw(st.integers(1, length)), length + draw(st.integers(0, 20)))


@given(windows(), st.integers(1, 500))
def test_no_sample_is_lost_and_no_window_is_short(windows, samples):
    spans = windows.spans(samples)
    assert len(spans) == windows.count(samples)
    if samples <= windows.max_unsplit:
        assert spans == [(0, samples)]
        return
    assert spans[0][0] == 0 and spans[-1][1] == samples
    assert all(stop - start == windows.length for start, stop in spans)
    steps = np.diff([start for start, _ in spans])
    assert (steps[:-1] == windows.hop).all()
    assert 0 < steps[-1] <= windows.hop


@given(windows(), st.lists(st.integers(1, 500), min_size=1, max_size=9))
def test_arrays_equal_single_numbers(windows, samples):
    assert windows.count(np.array(samples)).tolist() == [int(windows.count(n)) for n in samples]


@given(specs, overlaps)
def test_the_longest_windows_fill_the_positions(spec, overlap):
    model_windows = make_windows(spec, overlap)
    frames = spec.frames(model_windows.length, spec.shift())
    assert frames == spec.max_frames
    assert spec.time_patches(frames) == spec.max_time_patches
    assert model_windows.hop == model_windows.length - int(overlap * model_windows.length)


@given(specs, st.integers(-300, 300))
def test_only_recordings_that_exceed_the_positions_are_split(spec, more):
    """Check the boundary to the sample."""
    model_windows = make_windows(spec, 0.5)
    samples = model_windows.max_unsplit + more
    assert bool(spec.too_long(spec.frames(samples, spec.shift()))) == (more > 0)
    assert (model_windows.count(samples) > 1) == (more > 0)


def test_a_larger_frame_shift_gives_longer_windows():
    assert make_windows(SPEC, 0.0).length == 400 + 1023 * 160
    assert make_windows(SPEC, 0.0, shift=320).length == 400 + 1023 * 320


@given(st.sampled_from([0.025, 0.5, 1.0, 10.0, 10.255]), st.sampled_from([0.0, 0.1, 0.5]))
def test_windows_of_an_explicit_length(seconds, overlap):
    model_windows = make_windows(SPEC, overlap, seconds)
    assert model_windows.length == model_windows.max_unsplit == round(16000 * seconds)
    assert model_windows.spans(model_windows.length) == [(0, model_windows.length)]
    assert model_windows.count(model_windows.length + 1) == 2


@pytest.mark.parametrize('seconds', [0.0, -1.0, 0.0249, 10.3, 1e9, float('nan'), float('inf')])
def test_impossible_lengths_come_with_possible_ones(seconds):
    with pytest.raises(WindowError) as raised:
        make_windows(SPEC, 0.5, seconds)
    message = str(raised.value)
    assert f'a window of {seconds:g} s' in message and 'frontend.max_frames=1024' in message
    assert '0.025 s (one frame) to 10.255 s' in message
    for suggested in (0.025, 10.255):
        make_windows(SPEC, 0.5, suggested)


@pytest.mark.parametrize('overlap', [-0.1, 1.0, 2.0, float('nan')])
def test_an_overlap_is_a_share(overlap):
    with pytest.raises(WindowError, match='from 0 to below 1'):
        make_windows(SPEC, overlap)


@pytest.mark.parametrize('seconds', [None, 10.0, 1.0, 0.025])
def test_a_tiny_hop_is_refused_with_the_largest_overlap(seconds):
    with pytest.raises(WindowError, match='less than the 160 from one frame to the next') as raised:
        make_windows(SPEC, 0.99999, seconds)
    suggested = float(str(raised.value).split('at most ')[1])
    assert make_windows(SPEC, suggested, seconds).hop >= 160


def test_windows_are_immutable():
    """Windows are keys of caches."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        make_windows(SPEC, 0.5).length = 1  # pyright: ignore[reportAttributeAccessIssue]  frozen


@given(windows(), st.integers(1, 500), st.lists(st.integers(1, 70), min_size=1, max_size=20))
def test_splits_of_blocks_equal_splits_of_the_whole(windows, samples, sizes):
    waveform = np.arange(samples, dtype=np.float32)

    def blocks():
        first = 0
        for i in range(samples):  # more than necessary
            size = sizes[i % len(sizes)]
            yield waveform[first : first + size]
            first += size

    spans = windows.spans(samples)
    for (start, stop), piece in zip(spans, split(blocks(), spans), strict=True):
        assert piece.tolist() == waveform[start:stop].tolist()


def test_split_reads_no_further_than_necessary():
    read = []

    def blocks():
        for i in range(1000):
            read.append(i)
            yield np.full(10, i, np.float32)

    pieces = split(blocks(), Windows(25, 10, 25).spans(10_000))
    for number in range(100):
        assert next(pieces)[0] == number
        assert len(read) == number + 3


def test_blocks_that_end_early_are_an_error():
    with pytest.raises(ValueError, match='the waveform has 20 samples'):
        list(split([np.zeros(20, np.float32)], [(0, 10), (15, 25)]))
