"""Comparison of models over a sweep, from what evaluation left in their workdirs."""

import json

import numpy as np
import pytest

from elastic_ast_jax import plots
from elastic_ast_jax.cli import main


def leave(folder, values, xs=(16, 32, 64), metric='accuracy', clips=40, seconds=0.01):
    """A workdir with a length sweep."""
    (folder / 'eval').mkdir(parents=True)
    points = [{'frames': x, 'seconds': x * seconds, 'clips': clips, 'cut': 0, metric: value}
              for x, value in zip(xs, values, strict=True)]  # fmt: skip
    (folder / 'eval' / 'length.json').write_text(json.dumps({'metric': metric, 'points': points}))
    return folder


@pytest.fixture
def runs(tmp_path):
    leave(tmp_path / 'a0', [0.5, 0.7, 0.9])
    leave(tmp_path / 'a1', [0.6, 0.7, 1.0])
    leave(tmp_path / 'b0', [0.25, 0.5, None])
    return tmp_path


def compare(folder, *models, **more):
    written = [f'{name}={",".join(str(folder / run) for run in found)}' for name, found in models]
    return main(['compare', *written, f'--out={folder / "out"}', *(f'--{key}={value}' for key, value in more.items())])


def test_mean_and_spread_of_each_point(runs, capsys):
    assert compare(runs, ('Elastic', ['a0', 'a1']), ('fixed | one', ['b0'])) == 0
    table = (runs / 'out' / 'length.md').read_text().splitlines()
    assert table[2:5] == [
        '| frames | seconds | Elastic (2) | fixed \\| one (1) |', '| ---: | ---: | ---: | ---: |',
        '| 16 | 0.16 | 55.00 % ± 7.07 % | 25.00 % ± – |']  # fmt: skip
    assert table[6].endswith('| 95.00 % ± 7.07 % | – ± – |')
    assert 'Accuracy of 40 clips' in table[0]
    printed = capsys.readouterr().out
    assert table[4] in printed and 'length.md' in printed
    found = json.loads((runs / 'out' / 'length.json').read_text())
    assert found['models'][0]['values'] == [[0.5, 0.7, 0.9], [0.6, 0.7, 1.0]]
    assert found['models'][0]['spread'] == pytest.approx([np.std([0.5, 0.6], ddof=1), 0, np.std([0.9, 1.0], ddof=1)])
    assert found['models'][1]['mean'] == [0.25, 0.5, None] and found['models'][1]['spread'] == [None] * 3
    assert (runs / 'out' / 'length.png').read_bytes().startswith(b'\x89PNG')


def test_the_plot_has_a_curve_with_bars_for_each_model():
    x, mean = [float(i) for i in range(1, 41)], np.linspace(0, 100, 40)
    figure = plots.comparison(x, [('$a$', mean, 0 * mean + 2), ('b', mean / 2, np.full(40, np.nan))], title='t', x_label='x',
                              y_label='y')  # fmt: skip
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ['$a$', 'b']
    assert axes.get_xscale() == 'log' and axes.get_xticks()[-1] == 40 and len(axes.get_xticks()) <= 16
    assert len(axes.containers) == 2


@pytest.mark.parametrize('other, expected', [
    ({'xs': (16, 32, 48)}, ['measured at frames 16,32,48', 'at 16,32,64', '--points']),
    ({'clips': 39}, ['clips=39', 'has 40', 'other clips']),
    ({'seconds': 0.02}, ['seconds=0.32', 'another frame shift']),
    ({'metric': 'mean_average_precision'}, ['mean_average_precision', 'train.loss']),
    ({'metric': 'luck'}, ['no sweep of this version']),
])  # fmt: skip
def test_runs_that_differ_are_refused(runs, capsys, other, expected):
    leave(runs / 'c0', [0.1, 0.2, 0.3], **other)
    assert compare(runs, ('a', ['a0']), ('c', ['c0'])) != 0
    said = capsys.readouterr().err
    assert 'c0' in said and all(text in said for text in expected)
    assert not (runs / 'out').exists()


def test_a_workdir_without_a_sweep_says_how_to_make_one(runs, capsys):
    (runs / 'd0').mkdir()
    assert compare(runs, ('d', ['d0'])) != 0
    assert '--sweep=length' in capsys.readouterr().err
    assert compare(runs, ('a', ['a0']), sweep='resolution') != 0
    assert '--sweep=resolution' in capsys.readouterr().err
    (runs / 'a0' / 'eval' / 'length.json').write_text('{"metric": "accuracy"')
    assert compare(runs, ('a', ['a0'])) != 0
    assert 'cannot be read' in capsys.readouterr().err


@pytest.mark.parametrize('text', ['runs', '=runs', 'a=', 'a=r,,s'])
def test_a_model_is_a_name_and_workdirs(text, capsys):
    with pytest.raises(SystemExit):
        main(['compare', text, '--out=x'])
    assert 'NAME=W,W,W' in capsys.readouterr().err
