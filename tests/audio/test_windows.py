"""Windows of long recordings: arithmetic, so its laws are tested."""

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
def test_arrays_give_what_numbers_give(windows, samples):
    assert windows.count(np.array(samples)).tolist() == [int(windows.count(n)) for n in samples]


@given(specs, overlaps)
def test_the_longest_windows_fill_the_positions(spec, overlap):
    chosen = make_windows(spec, overlap)
    frames = spec.frames(chosen.length, spec.shift())
    assert frames == spec.max_frames
    assert spec.time_patches(frames) == spec.max_time_patches
    assert chosen.hop == chosen.length - int(overlap * chosen.length)


@given(specs, st.integers(-300, 300))
def test_cut_is_exactly_what_does_not_fit(spec, more):
    """Up to the last sample: what the model takes whole is not cut."""
    chosen = make_windows(spec, 0.5)
    samples = chosen.max_unsplit + more
    assert bool(spec.too_long(spec.frames(samples, spec.shift()))) == (more > 0)
    assert (chosen.count(samples) > 1) == (more > 0)


def test_another_frame_shift_takes_longer_windows():
    assert make_windows(SPEC, 0.0).length == 400 + 1023 * 160
    assert make_windows(SPEC, 0.0, shift=320).length == 400 + 1023 * 320


@given(st.sampled_from([0.025, 0.5, 1.0, 10.0, 10.255]), st.sampled_from([0.0, 0.1, 0.5]))
def test_windows_of_a_length_asked_for(seconds, overlap):
    chosen = make_windows(SPEC, overlap, seconds)
    assert chosen.length == chosen.max_unsplit == round(16000 * seconds)
    assert chosen.spans(chosen.length) == [(0, chosen.length)]
    assert chosen.count(chosen.length + 1) == 2


@pytest.mark.parametrize('seconds', [0.0, -1.0, 0.0249, 10.3, 1e9, float('nan'), float('inf')])
def test_lengths_that_cannot_be_come_with_those_that_can(seconds):
    with pytest.raises(WindowError) as raised:
        make_windows(SPEC, 0.5, seconds)
    message = str(raised.value)
    assert f'a window of {seconds:g} s' in message and 'frontend.max_frames=1024' in message
    assert '0.025 s (one frame) to 10.255 s' in message
    for advised in (0.025, 10.255):
        make_windows(SPEC, 0.5, advised)


@pytest.mark.parametrize('overlap', [-0.1, 1.0, 2.0, float('nan')])
def test_an_overlap_is_a_share(overlap):
    with pytest.raises(WindowError, match='from 0 to below 1'):
        make_windows(SPEC, overlap)


@pytest.mark.parametrize('seconds', [None, 10.0, 1.0, 0.025])
def test_windows_that_hardly_move_are_refused_with_what_is_allowed(seconds):
    with pytest.raises(WindowError, match='less than the 160 from one frame to the next') as raised:
        make_windows(SPEC, 0.99999, seconds)
    advised = float(str(raised.value).split('at most ')[1])
    assert make_windows(SPEC, advised, seconds).hop >= 160


def test_windows_are_immutable():
    """They are keys of what is cached and printed."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        make_windows(SPEC, 0.5).length = 1


@given(windows(), st.integers(1, 500), st.lists(st.integers(1, 70), min_size=1, max_size=20))
def test_cut_from_blocks_is_cut_from_the_whole(windows, samples, sizes):
    waveform = np.arange(samples, dtype=np.float32)

    def blocks():
        first = 0
        for i in range(samples):  # more than are needed
            size = sizes[i % len(sizes)]
            yield waveform[first : first + size]
            first += size

    spans = windows.spans(samples)
    for (start, stop), piece in zip(spans, split(blocks(), spans), strict=True):
        assert piece.tolist() == waveform[start:stop].tolist()


def test_cut_reads_no_further_than_it_must():
    read = []

    def blocks():
        for i in range(1000):
            read.append(i)
            yield np.full(10, i, np.float32)

    pieces = split(blocks(), Windows(25, 10, 25).spans(10_000))
    for number in range(100):
        assert next(pieces)[0] == number
        assert len(read) == number + 3


def test_blocks_that_end_early_are_no_windows():
    with pytest.raises(ValueError, match='the waveform has 20 samples'):
        list(split([np.zeros(20, np.float32)], [(0, 10), (15, 25)]))
