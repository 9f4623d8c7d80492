"""Test the points of sweeps and their files; end_to_end/test_sweeps.py tests their numbers."""

import json
import math
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.collections import LineCollection

from elastic_ast_jax.audio.frontend import FrontendSpec
from elastic_ast_jax.config import loading, schema
from elastic_ast_jax.evaluation import plots, sweep
from elastic_ast_jax.evaluation.results import Evaluation
from elastic_ast_jax.training.metrics import compute_metrics
from elastic_ast_jax.utils.errors import UserError
from elastic_ast_jax.utils.files import WriteError

PNG = b'\x89PNG\r\n\x1a\n'


def xs(kind, frontend, values=None):
    return [point.x for point in sweep.sweep_points(kind, frontend, values)]


def test_the_points_of_the_paper():
    """Those of the published curves: 25 lengths up to 3072 frames, 16 ratios up to 4."""
    lengths = xs('length', FrontendSpec(max_frames=3072))
    assert len(lengths) == 25 and lengths[:5] == [256, 384, 400, 512, 640] and lengths[-1] == 3072
    assert {1024, 1600, 1664} <= set(lengths)
    ratios = xs('resolution', FrontendSpec())
    assert len(ratios) == 16 and ratios == pytest.approx(np.arange(1.0, 4.01, 0.2))
    assert [point.physical for point in sweep.sweep_points('resolution', FrontendSpec())] == list(
        range(10, 41, 2)
    )


def test_a_model_with_fewer_positions_goes_as_far_as_they_do():
    assert xs('length', FrontendSpec(max_frames=1024)) == [256, 384, 400, 512, 640, 768, 896, 1024]
    assert xs('length', FrontendSpec(max_frames=1008)) == [256, 384, 400, 512, 640, 768, 896, 1008]
    assert xs('length', FrontendSpec(max_frames=128)) == [16, 32, 48, 64, 80, 96, 112, 128]


@given(st.integers(1, 300), st.sampled_from([1, 4, 16, 24]))
def test_default_lengths_are_whole_patches_up_to_all_positions(patches, patch_frames):
    frontend = FrontendSpec(patch_frames=patch_frames, max_frames=patches * patch_frames)
    lengths = sweep.default_lengths(frontend)
    assert lengths[-1] == frontend.max_frames
    assert list(lengths) == sorted(set(lengths)) and all(
        frames > 0 and frames % patch_frames == 0 for frames in lengths
    )
    assert len(lengths) >= min(4, patches)


def test_points_are_sorted_and_unique():
    assert xs('length', FrontendSpec(), (64.0, 16.0, 64.0)) == [16, 64]
    assert xs('resolution', FrontendSpec(), (2.0, 0.5)) == [0.5, 2.0]


def test_a_length_in_seconds_is_that_of_the_fewest_samples():
    (point,) = sweep.sweep_points('length', FrontendSpec(), (100.0,))
    assert point.physical == pytest.approx(0.025 + 99 * 0.010)
    assert (point.max_frames, point.ratio) == (100, 1.0)


@pytest.mark.parametrize(
    ('kind', 'value', 'message'),
    [
        ('length', 1025.0, '--points=1025'),
        ('length', 1025.0, 'frontend.max_frames=1024'),
        ('length', 0.5, 'whole numbers'),
        ('length', 16.5, 'whole numbers'),
        ('resolution', 0.05, 'less than a millisecond'),
    ],
)
def test_impossible_points_are_refused(kind, value, message):
    with pytest.raises(UserError, match=message):
        sweep.sweep_points(kind, FrontendSpec(), (value,))


def make_evaluation(scores, cut: int, skipped: tuple[str, ...] = ()) -> Evaluation:
    return Evaluation(
        compute_metrics(np.array(scores, np.float32), [(0,), (1,)], ('a', 'b')), cut, 0, skipped
    )


def settings(loss: str = 'cross_entropy') -> schema.Config:
    return loading.from_dict({'data': {'source': 'synthetic'}, 'train': {'loss': loss}})


RIGHT, HALF = [[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [1.0, 0.0]]


@pytest.fixture
def curve() -> sweep.Curve:
    evaluations = (
        make_evaluation(HALF, 2, ('x|y.wav: damaged\nhere',)),
        make_evaluation(RIGHT, 1, ('x|y.wav: damaged\nhere',)),
    )
    return sweep.Curve(
        'length', sweep.sweep_points('length', FrontendSpec(), (16.0, 32.0)), evaluations
    )


def test_an_ast_may_be_tried_at_lengths_beyond_its_own():
    frontend = FrontendSpec(max_frames=128)
    with pytest.raises(
        UserError, match=r'whole numbers of frames from 1 to frontend.max_frames=128'
    ):
        sweep.sweep_points('length', frontend, (256.0,))
    (point,) = sweep.sweep_points('length', frontend, (256.0,), fixed_length=True)
    assert point.x == point.max_frames == 256


def test_shifts_are_the_same_points_for_models_of_different_shifts():
    fine, coarse = FrontendSpec(shift_ms=10.0), FrontendSpec(shift_ms=40.0)
    shifts = 10.0, 15.0, 40.0
    for frontend in (fine, coarse):
        points = sweep.sweep_points(
            'resolution', frontend, sweep.shifts_to_ratios(frontend, shifts)
        )
        assert [point.physical for point in points] == list(shifts)
    with pytest.raises(UserError, match=r'--shifts=12.5: give whole numbers of milliseconds'):
        sweep.shifts_to_ratios(fine, (12.5,))
    assert sweep.shifts_to_ratios(FrontendSpec(shift_ms=2.5), (2.5, 5.0)) == (1.0, 2.0)
    # Where milliseconds are no whole samples, too.
    odd = FrontendSpec(sample_rate=11025)
    assert [
        point.physical
        for point in sweep.sweep_points('resolution', odd, sweep.shifts_to_ratios(odd, shifts))
    ] == list(shifts)


def test_files_describe_the_curve(curve, tmp_path):
    files = sweep.write_curve(
        curve,
        settings(),
        'step 30, moving average',
        30,
        ('data.eval=other.jsonl',),
        tmp_path / 'eval',
    )
    assert [file.name for file in files] == ['length.json', 'length.md', 'length.png']
    values = json.loads(
        files[0].read_text('utf-8'), parse_constant=lambda name: pytest.fail(f'{name} is not JSON')
    )
    assert (values['sweep'], values['checkpoint'], values['step']) == (
        'length',
        'step 30, moving average',
        30,
    )
    assert values['metric'] == 'accuracy' and values['overrides'] == ['data.eval=other.jsonl']
    assert values['skipped'] == [
        'x|y.wav: damaged\nhere'
    ]  # once, though it was found at both points
    first, second = values['points']
    assert (first['frames'], first['clips'], first['cut'], first['accuracy']) == (16, 2, 2, 0.5)
    assert (second['frames'], second['clips'], second['cut'], second['accuracy']) == (32, 2, 1, 1.0)
    assert second['seconds'] == pytest.approx(0.335)
    assert second['d_prime'] is None  # infinite
    text = files[1].read_text('utf-8')
    assert 'step 30, moving average' in text and 'data.eval=other.jsonl' in text
    assert '| 32 | 0.335 | 2 | 1 | 100.00 % | 1.0000 | 1.0000 |' in text
    assert '- x\\|y.wav: damaged here' in text
    assert files[2].read_bytes().startswith(PNG)


@pytest.mark.skipif(not sys.platform.startswith('linux'), reason='sizes are limited as Linux does')
@pytest.mark.parametrize(
    ('room', 'complete_files'), [(100, []), (2000, ['length.json', 'length.md'])]
)
def test_a_full_disk_leaves_whole_files_only(curve, tmp_path, room, complete_files, little_room):
    with (
        little_room(room),
        pytest.raises(
            WriteError,
            match=f'^{tmp_path}/length.{"png" if complete_files else "json"}: .*make room',
        ),
    ):
        sweep.write_curve(curve, settings(), 'step 30', 30, (), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == complete_files


def test_undefined_metrics_are_dashes_null_and_gaps(tmp_path):
    """Clips of one class only: no mAP."""
    metrics = compute_metrics(np.array(RIGHT, np.float32), [(0,), (0,)], ('a', 'b'))
    assert math.isnan(metrics.mean_average_precision)
    curve = sweep.Curve(
        'resolution',
        sweep.sweep_points('resolution', FrontendSpec(), (1.0,)),
        (Evaluation(metrics, 0, 0, ()),),
    )
    json_file, table_file, plot_file = sweep.write_curve(
        curve, settings('bce'), 'step 30', 30, (), tmp_path
    )
    values = json.loads(json_file.read_text('utf-8'))
    assert (
        values['metric'] == 'mean_average_precision'
        and values['points'][0]['mean_average_precision'] is None
    )
    assert '| 1 | 10 | 2 | 0 | 50.00 % | – | – | – |' in table_file.read_text('utf-8')
    assert plot_file.read_bytes().startswith(PNG)


def test_the_plot_shows_units_and_clips_of_each_point():
    figure = plots.plot_curve(
        [16.0, 32.0, 1008.0],
        [50.0, math.nan, 100.0],
        [400, 399, 400],
        [300, 20, 0],
        title='Cut; $step$ 3',
        x_label='frames',
        y_label='accuracy (%)',
        y_max=100.0,
        top_ticks=['0.18', '0.34', '10'],
        top_label='seconds',
    )
    upper, lower = figure.axes
    (edge,) = upper.child_axes
    assert (upper.get_ylabel(), lower.get_xlabel(), lower.get_ylabel(), edge.get_xlabel()) == (
        'accuracy (%)',
        'frames',
        'clips',
        'seconds',
    )
    assert [text.get_text() for text in lower.get_xticklabels()] == ['16', '32', '1008']
    assert [text.get_text() for text in edge.get_xticklabels()] == ['0.18', '0.34', '10']
    heights = []
    for bars in lower.collections:
        assert isinstance(bars, LineCollection)
        heights.append([segment[1][1] for segment in bars.get_segments()])
    assert heights == [[400, 399, 400], [300, 20, 0]]
    np.testing.assert_array_equal(upper.lines[0].get_ydata(), [50.0, math.nan, 100.0])


def test_many_points_share_their_labels():
    lengths = [float(frames) for frames in sweep.PAPER_LENGTHS]
    figure = plain(lengths, lengths)
    labels = [text.get_text() for text in figure.axes[1].get_xticklabels()]
    assert 8 <= len(labels) <= 16 and labels[-1] == '3072'


@pytest.mark.parametrize(
    'y', [[98.0, 98.5], [0.5, 1.0], [0.0, 0.0], [100.0, 100.0], [math.nan, math.nan]]
)
def test_noise_does_not_look_like_a_slope(y):
    low, high = plain([1.0, 2.0], y).axes[0].get_ylim()
    assert high - low >= 10 - 1e-9 and low >= -10 and high <= 102 + 1e-9
    assert all(math.isnan(value) or low < value < high for value in y)


def plain(x, y):
    names = dict.fromkeys(('title', 'x_label', 'y_label', 'top_label'), '')
    return plots.plot_curve(
        x, y, [9] * len(x), [0] * len(x), y_max=100.0, top_ticks=['x'] * len(x), **names
    )


def test_windows_are_a_column_where_there_are_any(curve):
    assert 'in windows' not in sweep.curve_table(curve)
    evaluations = make_evaluation(RIGHT, 0), Evaluation(make_evaluation(RIGHT, 0).metrics, 0, 1, ())
    assert 'in windows' in sweep.curve_table(sweep.Curve('length', curve.points, evaluations))
