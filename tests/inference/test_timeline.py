"""Timelines as files: unique names inside the folder, complete JSON, a plot for any recording."""

import json
import os
import sys
import warnings

import matplotlib.image
import numpy as np
import pytest
from matplotlib.collections import QuadMesh

from elastic_ast_jax.inference import plots
from elastic_ast_jax.inference.timeline import TimelineError, TimelineFolder, safe_name
from elastic_ast_jax.utils import plotting
from elastic_ast_jax.utils.files import WriteError


def example(
    path: str = 'a.wav', windows: int = 3, classes: int = 2, seconds: float = 12.0, labels=None
) -> dict:
    """Return a timeline of random probabilities as `Predictor.timeline` yields it."""
    weights = np.random.default_rng(0).random((windows, classes)) ** 8
    probabilities = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    window = 2 * seconds / (windows + 1)
    starts = [window / 2 * number for number in range(windows)]
    return {
        'path': path,
        'seconds': seconds,
        'predictions': [{'label': 'class 0', 'probability': 0.5}],
        'windows': windows,
        'labels': labels or [f'class {c}' for c in range(classes)],
        'window': window,
        'overlap': 0.5,
        'timeline': [
            {'start': start, 'end': start + window, 'probabilities': row}
            for start, row in zip(starts, probabilities, strict=True)
        ],
    }


@pytest.mark.parametrize(
    ('path', 'name'),
    [
        ('folder/rain.wav', 'rain'),
        ('rain', 'rain'),
        ('a.b.flac', 'a.b'),
        ('/x/../y/../rain.wav', 'rain'),
        ('...', 'recording'),
        ('..', 'recording'),
        ('', 'recording'),
        ('.wav', 'wav'),
        ('a\\..\\b.wav', 'a_.._b'),
        ('C:con|nul?.wav', 'C_con_nul_'),
        ('line\nbreak\0.wav', 'line_break_'),
        ('caf\udce9.wav', 'caf_'),
        ('été 日本.ogg', 'été 日本'),
        ('no end. .wav', 'no end'),
    ],
)
def test_names_of_files(path, name):
    assert safe_name(path) == name


@pytest.mark.parametrize('letter', ['x', 'é', '日', '🎵'])
def test_names_are_short_enough_for_every_file_system(letter):
    name = safe_name(letter * 300 + '.wav')
    assert 190 < len(os.fsencode(name)) <= 200
    assert set(name) == {letter}


def test_recordings_of_the_same_name_do_not_replace_each_other(tmp_path):
    paths = ['a/rain.wav', 'b/rain.wav', 'rain-2.wav', 'a/Rain.flac', 'rain.ogg', '../rain.wav']
    folder = TimelineFolder(tmp_path / 'timelines')
    files = [folder.write(example(path)) for path in paths]
    names = [json_file.stem for json_file, _ in files]
    assert names == ['rain', 'rain-2', 'rain-2-2', 'Rain-3', 'rain-4', 'rain-5']
    for path, (json_file, png_file) in zip(paths, files, strict=True):
        assert json_file.parent == png_file.parent == tmp_path / 'timelines'
        assert json_file.stem == png_file.stem
        assert json.loads(json_file.read_text('utf-8'))['path'] == path
    assert len(list((tmp_path / 'timelines').iterdir())) == 2 * len(paths)
    assert os.listdir(tmp_path) == ['timelines']


def test_a_second_run_replaces_the_files_of_the_first(tmp_path):
    for seconds in (12.0, 24.0):
        json_file, _ = TimelineFolder(tmp_path).write(example(seconds=seconds))
    assert json.loads(json_file.read_text('utf-8'))['seconds'] == 24.0
    assert sorted(os.listdir(tmp_path)) == ['a.json', 'a.png']


def test_the_json_holds_the_timeline_a_window_on_each_line(tmp_path):
    timeline = example('caf\udce9 "x".wav', windows=7, classes=5)
    json_file, _ = TimelineFolder(tmp_path).write(timeline)
    text = json_file.read_text('utf-8')
    stored = json.loads(text)
    assert list(stored) == list(timeline)
    assert {
        key: stored[key]
        for key in ('seconds', 'predictions', 'windows', 'labels', 'window', 'overlap')
    } == {
        key: timeline[key]
        for key in ('seconds', 'predictions', 'windows', 'labels', 'window', 'overlap')
    }
    assert len(stored['timeline']) == 7
    assert sum(line.startswith('  {"start":') for line in text.splitlines()) == 7
    for entry, expected in zip(stored['timeline'], timeline['timeline'], strict=True):
        assert (entry['start'], entry['end']) == (expected['start'], expected['end'])
        np.testing.assert_allclose(entry['probabilities'], expected['probabilities'], rtol=1e-3)


def test_an_hour_of_many_classes_is_a_file_of_a_few_megabytes(tmp_path):
    json_file, png_file = TimelineFolder(tmp_path).write(
        example(windows=700, classes=527, seconds=3600.0)
    )
    assert json_file.stat().st_size < 5e6
    assert png_file.stat().st_size < 1e6


def test_a_folder_that_cannot_exist_is_an_error_at_once(tmp_path):
    (tmp_path / 'file').write_text('')
    for path in (tmp_path / 'file', tmp_path / 'file' / 'below'):
        with pytest.raises(
            TimelineError, match=f'^{path}: no folder for timelines .*choose another'
        ):
            TimelineFolder(path)


@pytest.mark.parametrize(
    ('windows', 'classes', 'seconds'),
    [
        (1, 2, 1 / 16000),
        (1, 1, 0.7),
        (2, 2, 15.0),
        (7, 3, 59.0),
        (719, 527, 3600.0),
        (2500, 30, 36000.0),
        (20, 4, 4e6),
    ],
)
def test_a_plot_of_any_length_and_number_of_classes(windows, classes, seconds, tmp_path):
    labels = [
        '$\\frac',
        'Musique à 日本 \udce9',
        'x' * 100,
        *(f'class {c}' for c in range(classes)),
    ][:classes]
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        figure = plots.plot_timeline(example('$\\frac \n.wav', windows, classes, seconds, labels))
        plotting.save_figure(figure, tmp_path / 'plot.png')
    pixels = matplotlib.image.imread(tmp_path / 'plot.png')
    assert 1000 < pixels.shape[1] < 2000 and 150 < pixels.shape[0] < 1200
    axes = figure.axes[0]
    assert axes.get_xlim() == pytest.approx((0, seconds))
    assert 1 <= len(axes.get_xticks()) <= 14
    assert max(axes.get_xticks()) <= seconds
    assert len(axes.get_yticks()) <= 24


def ticks(figure) -> list[str]:
    return [label.get_text() for label in figure.axes[0].get_xticklabels()]


@pytest.mark.parametrize(
    ('seconds', 'first', 'last', 'length'),
    [
        (0.02, ['0', '0.002', '0.004'], '0.02', '0.02 s'),
        (0.5, ['0', '0.05', '0.1'], '0.5', '0.50 s'),
        (59.9, ['0', '5', '10'], '55', '59.90 s'),
        (65.0, ['0:00', '0:10', '0:20'], '1:00', '1:05'),
        (3600.0, ['0:00', '5:00', '10:00'], '1:00:00', '1:00:00'),
    ],
)
def test_times_are_seconds_up_to_a_minute(seconds, first, last, length):
    figure = plots.plot_timeline(example(seconds=seconds))
    assert ticks(figure)[:3] == first and ticks(figure)[-1] == last
    assert figure.axes[0].get_xlabel() == ('time [s]' if seconds < 60 else 'time')
    assert f'\n{length}, ' in figure.axes[0].get_title()


def test_names_are_drawn_on_one_line_without_control_characters():
    figure = plots.plot_timeline(example('a\nb\x1b[31m.wav', labels=['c\td', 'e\u3000f']))
    assert figure.axes[0].get_title().splitlines()[0] == 'a\\nb\\x1b[31m.wav'
    assert {label.get_text() for label in figure.axes[0].get_yticklabels()} == {'c\\td', 'e\u3000f'}


@pytest.mark.skipif(not sys.platform.startswith('linux'), reason='sizes are limited as Linux does')
@pytest.mark.parametrize(('room', 'failing'), [(300, 'a.json'), (2000, 'a.png')])
def test_a_full_disk_leaves_the_files_as_they_were(tmp_path, room, failing, little_room):
    folder = TimelineFolder(tmp_path)
    for name in ('a.json', 'a.png'):
        (tmp_path / name).write_text('older')
    with little_room(room), pytest.raises(WriteError) as raised:
        folder.write(example())
    assert str(raised.value).startswith(
        f'{tmp_path / failing}: cannot be written (File too large): make room on that disk'
    )
    assert (tmp_path / failing).read_text() == 'older'
    assert sorted(os.listdir(tmp_path)) == ['a.json', 'a.png']


def test_classes_are_drawn_at_their_times():
    """Two of 100 classes: one in the first half, one in a single window of the second."""
    timeline = example(windows=3999, classes=100, seconds=4000.0)
    for number, entry in enumerate(timeline['timeline']):
        entry['probabilities'] = np.full(100, 0.0001, np.float32)
        entry['probabilities'][7 if number < 2000 else 3] = 0.9 if number < 2000 else 0.2
        entry['probabilities'][42] = 0.95 if number == 3000 else 0.0
    figure = plots.plot_timeline(timeline)
    axes = figure.axes[0]
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names[0] == 'class 7' and {'class 3', 'class 42'} <= set(names[:3])
    mesh = axes.collections[0]
    assert isinstance(mesh, QuadMesh)
    values = np.asarray(mesh.get_array())
    edges = np.asarray(mesh.get_coordinates())[0, :, 0]
    columns = values.shape[1]
    assert columns <= 1000 and len(edges) == columns + 1  # fewer columns than windows
    middles = (edges[1:] + edges[:-1]) / 2
    assert (values[0][middles < 1990] > 0.8).all() and (values[0][middles > 2010] < 0.1).all()
    loud = np.flatnonzero(values[names.index('class 42')] > 0.5)
    assert len(loud) == 1 and abs(middles[loud[0]] - 3000) < 10


def test_a_class_that_is_never_likely_takes_no_row():
    timeline = example(windows=40, classes=300)
    random = np.random.default_rng(0)
    for entry in timeline['timeline']:
        entry['probabilities'] = (0.003 * random.random(300)).astype(np.float32)
        entry['probabilities'][5] = 0.9
    assert len(plots.plot_timeline(timeline).axes[0].get_yticks()) == 3
