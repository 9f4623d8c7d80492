"""Packing: every clip once, rows full, in order of age; rows laid out as by simple loops."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from elastic_ast_jax.packing import packer
from elastic_ast_jax.packing.batch import NO_CLIP, BatchShape, validate
from elastic_ast_jax.packing.packer import pack

# Clips that the packer considers, for up to as many slots.
POOL = 32


@st.composite
def problems(draw, clips=150, tokens=300):
    """Lengths, tokens a row, slots a row; from many clips a row to hardly more than one."""
    budget = draw(st.integers(1, tokens))
    largest = draw(st.integers(1, budget))
    lengths = draw(st.lists(st.integers(1, largest), max_size=clips))
    return lengths, budget, draw(st.integers(1, 40))


@given(problems())
def test_every_clip_once_within_budget_and_slots(problem):
    lengths, tokens, slots = problem
    rows = pack(lengths, tokens, slots)
    assert sorted(rows.clips.tolist()) == list(range(len(lengths)))
    assert len(rows) == len(list(rows))
    for row in rows:
        assert 1 <= len(row) <= slots
        assert sum(lengths[i] for i in row) <= tokens


@given(problems())
def test_a_row_takes_the_oldest_clip_and_nothing_from_beyond_the_pool(problem):
    """Check that a clip waits for at most as many rows as the pool holds clips.

    The wait is counted from the row for which the packer first considers it.
    """
    lengths, tokens, slots = problem
    waiting = list(range(len(lengths)))
    for row in pack(lengths, tokens, slots):
        assert row[0] == waiting[0]
        positions = [waiting.index(i) for i in row]
        assert positions == sorted(positions)
        assert positions[-1] < max(slots, POOL)
        waiting = [i for i in waiting if i not in set(row.tolist())]
    assert not waiting


@given(problems())
def test_packing_is_a_function_of_its_arguments(problem):
    lengths, tokens, slots = problem
    first, again = pack(lengths, tokens, slots), pack(np.array(lengths, np.int32), tokens, slots)
    assert np.array_equal(first.clips, again.clips) and np.array_equal(first.offsets, again.offsets)


@given(problems(clips=150), st.integers(1, 30))
def test_the_rows_before_the_end_do_not_depend_on_what_comes_long_after(problem, more):
    lengths, tokens, slots = problem
    pool = max(slots, POOL)
    rows, longer = pack(lengths, tokens, slots), pack(lengths + [tokens] * more, tokens, slots)
    remaining = len(lengths)
    for row, longer_row in zip(rows, longer, strict=False):
        if remaining < pool:
            break
        assert np.array_equal(row, longer_row)
        remaining -= len(row)


def fullest(sizes, tokens, most):
    """Return the tokens of the fullest row of the first clip and at most `most - 1` more.

    All subsets are tried.
    """
    other_sizes = sizes[1:]
    subsets = itertools.chain.from_iterable(
        itertools.combinations(other_sizes, n) for n in range(min(most, len(sizes)))
    )
    return max(total for subset in subsets if (total := sizes[0] + sum(subset)) <= tokens)


@settings(max_examples=60)
@given(problems(clips=9, tokens=60))
def test_rows_are_as_full_as_brute_force_makes_them(problem):
    lengths, tokens, slots = problem
    waiting = dict(enumerate(lengths))
    for row in pack(lengths, tokens, slots):
        sizes, tokens_used = list(waiting.values()), sum(lengths[i] for i in row)
        unlimited = fullest(sizes, tokens, len(sizes))
        if len(sizes) <= slots or tokens_used == unlimited:
            assert tokens_used == unlimited
        # the slots limit the row: it is the fullest of the clips up to where more slots would have
        # filled it
        else:
            prefixes = (k for k in range(1, len(sizes)) if fullest(sizes[:k], tokens, k) == tokens)
            assert (
                fullest(sizes[: next(prefixes, len(sizes))], tokens, slots)
                <= tokens_used
                <= fullest(sizes, tokens, slots)
            )
        for i in row.tolist():
            del waiting[i]


def test_a_row_is_full_if_the_pool_can_fill_it():
    # 7 + 3 would waste two tokens of a row; only 7 + 5 and 3 + 4 + 5 leave none.
    assert [row.tolist() for row in pack([7, 3, 4, 5, 5], 12, 4)] == [[0, 3], [1, 2, 4]]


def test_of_equally_full_rows_the_one_of_older_clips_is_taken():
    assert [row.tolist() for row in pack([6, 4, 4, 2, 2], 10, 5)] == [[0, 1], [2, 3, 4]]


def test_few_slots_are_filled_with_the_clips_that_fill_them_best():
    assert [row.tolist() for row in pack([1, 2, 3, 4], 10, 3)] == [[0, 2, 3], [1]]
    assert [len(row) for row in pack([1] * 7, 10, 3)] == [3, 3, 1]
    assert [row.tolist() for row in pack([3, 2, 1], 10, 1)] == [[0], [1], [2]]


def test_no_clips_no_rows():
    assert len(pack([], 10, 3)) == 0


@pytest.mark.parametrize('length', [0, -1, 11])
def test_a_clip_that_no_row_holds_is_refused_by_position(length):
    with pytest.raises(ValueError, match=f'clip 2 has {length} tokens, but a row holds 1 to 10'):
        pack([3, 10, length, 5, 0], 10, 4)


def mix(name, count=20_000):
    """Return tokens of clips as long as those of a data set.

    There are 8 mel patches, and 16 frames of 10 ms in a patch.
    """
    rng = np.random.default_rng(0)
    ratio = np.ones(count)
    match name:
        case 'VoxCeleb':  # utterances of 4 s and more, 8.2 s on average
            seconds = 4 + rng.exponential(4.2, count)
        case (
            'EPIC-SOUNDS'
        ):  # from a tenth of a second to minutes; those longer than a row are cropped
            seconds = 0.1 + rng.lognormal(0.6, 1.3, count)
        case 'AudioSet':  # mostly ten seconds, at frame-shift ratios 1.0, 1.2, ..., 4.0
            seconds = np.where(rng.random(count) < 0.87, 10.0, rng.uniform(1, 10, count))
            ratio = 1 + 0.2 * rng.integers(0, 16, count)
        case 'FSDD':  # spoken digits
            seconds = rng.uniform(0.15, 0.8, count)
    frames = 1 + (np.minimum(seconds, 40.0) - 0.025) // (0.01 * ratio)
    return 8 * np.ceil(frames / 16).astype(int)


@pytest.mark.parametrize(
    'name, tokens, slots',
    [
        ('VoxCeleb', 2048, 16),
        ('VoxCeleb', 2048, 32),
        ('EPIC-SOUNDS', 2048, 16),
        ('EPIC-SOUNDS', 2048, 32),
        ('AudioSet', 2048, 16),
        ('AudioSet', 2048, 32),
        ('FSDD', 512, 64),
    ],
)
def test_realistic_mixes_fill_their_rows(name, tokens, slots):
    lengths, rows_per_step = mix(name), 16
    rows = pack(lengths, tokens, slots)
    tokens_used = np.add.reduceat(lengths[rows.clips], rows.offsets[:-1])
    assert (
        tokens_used[: (len(tokens_used) - 1) // rows_per_step * rows_per_step].mean() / tokens
        >= 0.995
    )


# A few columns for each clip of a row, and which tokens are kept (None: all).
layouts = st.lists(
    st.tuples(st.integers(1, 6), st.none() | st.sets(st.integers(0, 10_000), min_size=1)),
    min_size=1,
    max_size=6,
)


@given(layouts, st.integers(1, 4))
def test_row_layout_is_that_of_simple_loops(clips, mel_patches):
    kept_tokens = [
        None if selection is None else sorted({i % (mel_patches * columns) for i in selection})
        for columns, selection in clips
    ]
    expected = []
    for slot, (columns, _) in enumerate(clips):
        index, tokens = 0, kept_tokens[slot]
        for freq in range(mel_patches):
            for time in range(columns):
                if tokens is None or index in tokens:
                    expected.append((slot + 1, freq, time))
                index += 1
    selection = [None if tokens is None else np.array(tokens, np.int64) for tokens in kept_tokens]
    layout = packer.row_layout(np.array([columns for columns, _ in clips]), mel_patches, selection)
    fields = layout.segment_ids, layout.freq_pos, layout.time_pos
    assert all(field.dtype == np.int32 for field in fields)
    assert list(zip(*(field.tolist() for field in fields), strict=True)) == expected


def test_no_kept_tokens_means_all():
    columns = np.array([3, 1])
    whole, listed = (
        packer.row_layout(columns, 2),
        packer.row_layout(columns, 2, [np.arange(6), np.arange(2)]),
    )
    for name in ('segment_ids', 'freq_pos', 'time_pos'):
        assert np.array_equal(getattr(whole, name), getattr(listed, name))


def patches_by_loops(log_mel, mels, frames, columns):
    bands = log_mel.shape[1] // mels
    patches = np.zeros((bands * columns, mels * frames), np.float32)
    for band, column, mel, frame in itertools.product(
        range(bands), range(columns), range(mels), range(frames)
    ):
        if column * frames + frame < len(log_mel):
            value = log_mel[column * frames + frame, band * mels + mel]
            patches[band * columns + column, mel * frames + frame] = value
    return patches


@pytest.mark.parametrize('count, columns', [(1, 1), (3, 1), (7, 2), (7, 3), (8, 2), (9, 2)])
def test_patchify_is_that_of_simple_loops(count, columns):
    """Too few frames for the columns, just enough, or some that are dropped."""
    log_mel = np.random.default_rng(count).normal(size=(count, 6)).astype(np.float32)
    assert np.array_equal(
        packer.patchify(log_mel, 2, 4, columns), patches_by_loops(log_mel, 2, 4, columns)
    )


def test_fill_batch_is_that_of_simple_loops():
    rng = np.random.default_rng(0)
    columns, mel_patches = [2, 1, 3, 1, 2], 2
    clips = [rng.normal(size=(mel_patches * n, 4)).astype(np.float32) for n in columns]
    shape = BatchShape(rows=4, tokens=11, slots=3, patch_size=4, classes=5)
    rows = [[3, 0], [2], [4, 1]]
    batch = packer.fill_batch(rows, clips, mel_patches, shape)
    validate(batch, shape, (mel_patches, 3))

    expected = shape.empty()
    for r, members in enumerate(rows):
        place = 0
        for slot, clip in enumerate(members):
            expected.valid[r, slot], expected.clip_id[r, slot] = True, clip
            for token, patch in enumerate(clips[clip]):
                expected.patches[r, place] = patch
                expected.segment_ids[r, place] = slot + 1
                expected.freq_pos[r, place], expected.time_pos[r, place] = divmod(
                    token, columns[clip]
                )
                place += 1
    for name, array in expected._asdict().items():
        assert np.array_equal(getattr(batch, name), array), name
    assert (batch.clip_id[3] == NO_CLIP).all()
