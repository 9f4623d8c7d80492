"""Test comparisons: runs in a table, and models over a sweep or a key."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from elastic_ast_jax.checkpointing.workdir import PlanRecord, Workdir
from elastic_ast_jax.cli.main import main
from elastic_ast_jax.config.loading import load
from elastic_ast_jax.evaluation import compare_over_key, compare_runs, plots, published

QUICKSTART = str(Path(__file__).parents[2] / 'configs' / 'quickstart.py')


def write_sweep(
    folder, values, xs=(16, 32, 64), metric='accuracy', clips=40, seconds=0.01, model='elastic_ast'
):
    """Write a length sweep into a workdir."""
    (folder / 'eval').mkdir(parents=True)
    points = [
        {'frames': x, 'seconds': x * seconds, 'clips': clips, 'cut': 0, metric: value}
        for x, value in zip(xs, values, strict=True)
    ]
    (folder / 'eval' / 'length.json').write_text(
        json.dumps({'metric': metric, 'model': model, 'points': points})
    )
    return folder


@pytest.fixture
def runs(tmp_path):
    write_sweep(tmp_path / 'a0', [0.5, 0.7, 0.9])
    write_sweep(tmp_path / 'a1', [0.6, 0.7, 1.0])
    write_sweep(tmp_path / 'b0', [0.25, 0.5, None])
    return tmp_path


def compare(folder, *models, sweep='length'):
    arguments = [
        f'{name}={",".join(str(folder / run) for run in workdirs)}' for name, workdirs in models
    ]
    return main(['compare', *arguments, f'--out={folder / "out"}', f'--sweep={sweep}'])


def test_mean_and_spread_of_each_point(runs, capsys):
    assert compare(runs, ('Elastic', ['a0', 'a1']), ('fixed | one', ['b0'])) == 0
    table = (runs / 'out' / 'length.md').read_text().splitlines()
    assert table[2:5] == [
        '| frames | seconds | Elastic (2) | fixed \\| one (1) |',
        '| ---: | ---: | ---: | ---: |',
        '| 16 | 0.16 | 55.00 % ± 7.07 % | 25.00 % ± – |',
    ]
    assert table[6].endswith('| 95.00 % ± 7.07 % | – ± – |')
    assert 'Accuracy of 40 clips' in table[0]
    printed = capsys.readouterr().out
    assert table[4] in printed and 'length.md' in printed
    content = json.loads((runs / 'out' / 'length.json').read_text())
    assert content['models'][0]['values'] == [[0.5, 0.7, 0.9], [0.6, 0.7, 1.0]]
    assert content['models'][0]['spread'] == pytest.approx(
        [np.std([0.5, 0.6], ddof=1), 0, np.std([0.9, 1.0], ddof=1)]
    )
    assert (
        content['models'][1]['mean'] == [0.25, 0.5, None]
        and content['models'][1]['spread'] == [None] * 3
    )
    assert (runs / 'out' / 'length.png').read_bytes().startswith(b'\x89PNG')


def test_the_plot_has_a_curve_with_bars_for_each_model():
    x, mean = [float(i) for i in range(1, 41)], np.linspace(0, 100, 40)
    figure = plots.plot_comparison(
        x,
        [('$a$', mean, 0 * mean + 2), ('b', mean / 2, np.full(40, np.nan))],
        title='t',
        x_label='x',
        y_label='y',
    )
    (axes,) = figure.axes
    legend = axes.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ['$a$', 'b']
    assert (
        axes.get_xscale() == 'log' and axes.get_xticks()[-1] == 40 and len(axes.get_xticks()) <= 16
    )
    assert len(axes.containers) == 2


@pytest.mark.parametrize(
    'change, expected',
    [
        ({'xs': (16, 32, 48)}, ['measured at frames 16,32,48', 'at 16,32,64', '--points']),
        ({'clips': 39}, ['clips=39', 'has 40', 'other clips']),
        ({'seconds': 0.02}, ['seconds=0.32', 'another frame shift']),
        ({'metric': 'mean_average_precision'}, ['mean_average_precision', 'train.loss']),
        ({'metric': 'luck'}, ['no sweep of this version']),
    ],
)
def test_sweeps_that_differ_are_refused(runs, capsys, change, expected):
    write_sweep(runs / 'c0', [0.1, 0.2, 0.3], **change)
    assert compare(runs, ('a', ['a0']), ('c', ['c0'])) != 0
    message = capsys.readouterr().err
    assert 'c0' in message and all(text in message for text in expected)
    assert not (runs / 'out').exists()


def test_the_error_of_a_missing_sweep_names_the_command(runs, capsys):
    (runs / 'd0').mkdir()
    assert compare(runs, ('d', ['d0'])) != 0
    assert '--sweep=length' in capsys.readouterr().err
    assert compare(runs, ('a', ['a0']), sweep='resolution') != 0
    assert '--sweep=resolution' in capsys.readouterr().err
    (runs / 'a0' / 'eval' / 'length.json').write_text('{"metric": "accuracy"')
    assert compare(runs, ('a', ['a0'])) != 0
    assert 'cannot be read' in capsys.readouterr().err


def write_shift_sweep(folder, values, own_shift, shifts=(10, 20, 40), model='ast'):
    """Write a sweep of frame shifts into a workdir whose own shift is `own_shift`."""
    (folder / 'eval').mkdir(parents=True)
    points = [
        {'ratio': shift / own_shift, 'shift_ms': shift, 'clips': 40, 'accuracy': value}
        for shift, value in zip(shifts, values, strict=True)
    ]
    content = {'metric': 'accuracy', 'model': model, 'points': points}
    (folder / 'eval' / 'resolution-resized.json').write_text(json.dumps(content))
    return f'{folder}'


def test_models_of_different_frame_shifts_are_compared_by_milliseconds(tmp_path, capsys):
    elastic = [
        write_shift_sweep(
            tmp_path / f'e{seed}', [0.8, 0.7, 0.6 + seed / 10], 10, model='elastic_ast'
        )
        for seed in range(2)
    ]
    fine = [write_shift_sweep(tmp_path / f'f{seed}', [0.7, 0.6, 0.1], 10) for seed in range(2)]
    coarse = [write_shift_sweep(tmp_path / f'c{seed}', [0.2, 0.5, 0.7], 40) for seed in range(2)]
    baseline = write_shift_sweep(tmp_path / 'baseline', [0.9, 0.9, 0.9], 10)
    out = tmp_path / 'out'
    models = ('E', elastic), ('AST at 10 ms', fine), ('AST at 40 ms', coarse)
    arguments = (
        *(f'{name}={",".join(runs)}' for name, runs in models),
        f'--beside=average={baseline}',
    )
    assert (
        main(
            ['compare', *arguments, '--sweep=resolution', '--fixed_length=resized', f'--out={out}']
        )
        == 0
    )
    table = (out / 'resolution-resized.md').read_text()
    assert (
        '| 4 | 40 | 65.00 % ± 7.07 % | 10.00 % ± 0.00 % | 70.00 % ± 0.00 % | 90.00 % ± – |' in table
    )
    # By seed, E falls 10 % and 0 % below the AST at 40 ms there; that falls 50 % below the other
    # AST at 10 ms, 60 % below E.
    drops = table.partition('How far')[2]
    assert '| E | 5.00 % ± 7.07 % | 40 | 5.00 % ± 7.07 % | 40 |' in drops
    assert '| AST at 40 ms | 50.00 % ± 0.00 % | 10 | 60.00 % ± 0.00 % | 10 |' in drops
    assert 'average' not in drops
    content = json.loads((out / 'resolution-resized.json').read_text())
    assert content['resized'] and content['worst_drops'][0]['values'] == pytest.approx([0.1, 0.0])
    assert content['worst_drops'][0]['below'] == 'the fixed-length ASTs'
    mismatched = write_shift_sweep(tmp_path / 'other', [0.5, 0.5, 0.5], 10, shifts=(10, 20, 30))
    assert (
        main(
            [
                'compare',
                f'E={elastic[0]}',
                f'O={mismatched}',
                '--sweep=resolution',
                '--fixed_length=resized',
            ]
        )
        != 0
    )
    assert '--shifts' in capsys.readouterr().err


def test_resized_sweeps_are_used_for_asts_only(runs):
    (runs / 'b0' / 'eval' / 'length-resized.json').write_text(
        (runs / 'a0' / 'eval' / 'length.json').read_text()
    )
    models = f'Elastic={runs / "a1"}', f'AST={runs / "b0"}'
    for option, expected in (('own', '25.00 %'), ('resized', '50.00 %')):
        assert (
            main(
                [
                    'compare',
                    *models,
                    '--sweep=length',
                    f'--fixed_length={option}',
                    f'--out={runs / "out"}',
                ]
            )
            == 0
        )
        table = (runs / 'out' / f'length{"-resized" * (option == "resized")}.md').read_text()
        assert f'| 16 | 0.16 | 60.00 % ± – | {expected} ± – |' in table


def test_an_ast_that_was_not_run_at_other_lengths_is_refused(runs, capsys):
    write_sweep(runs / 'ast', [0.5, 0.5, 0.5], model='ast')
    assert (
        main(
            [
                'compare',
                f'E={runs / "a0"}',
                f'AST={runs / "ast"}',
                '--sweep=length',
                '--fixed_length=resized',
            ]
        )
        != 0
    )
    message = capsys.readouterr().err
    assert (
        f'elastic-ast evaluate --workdir={runs / "ast"} --sweep=length --fixed_length=resized'
        in message
    )
    # Beside the others it is shown as it was evaluated.
    arguments = [
        f'E={runs / "a0"}',
        f'--beside=AST={runs / "ast"}',
        '--sweep=length',
        '--fixed_length=resized',
    ]
    assert main(['compare', *arguments]) == 0
    assert '| 16 | 0.16 | 50.00 % ± – | 50.00 % ± – |' in capsys.readouterr().out


@pytest.mark.parametrize(
    'change',
    [
        {'metric': []},
        {'metric': 3},
        {'overrides': None},
        {'overrides': [3]},
        {'points': []},
        {'points': [3]},
        {'model': 7},
        {'points': [{'frames': None, 'seconds': 1, 'clips': 1, 'accuracy': 0.5}]},
        {'points': [{'frames': 16, 'seconds': 1, 'clips': '1', 'accuracy': 0.5}]},
        {'points': [{'frames': 16, 'seconds': 1, 'clips': 1}]},
    ],
)
def test_files_without_a_sweep_are_refused(runs, capsys, change):
    file = runs / 'a0' / 'eval' / 'length.json'
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    assert compare(runs, ('a', ['a0'])) != 0
    assert 'is no sweep of this version' in capsys.readouterr().err


def test_published_curves_are_drawn(tmp_path, capsys):
    run = write_sweep(tmp_path / 'a', [0.4, 0.5, 0.6], xs=(256, 300, 400))
    assert (
        main(
            [
                'compare',
                f'mine={run}',
                '--sweep=length',
                '--published=voxceleb',
                f'--out={tmp_path / "out"}',
            ]
        )
        == 0
    )
    table = (tmp_path / 'out' / 'length.md').read_text()
    assert 'AST at 400 frames, published' in table
    assert '| 400 | 4 | 60.00 % ± – | 53.24 % | 48.98 % | 51.24 % | 47.47 % |' in table
    assert (
        '| 300 | 3 | 50.00 % ± – | – | – | – | – |' in table
    )  # a length that the paper does not have
    assert main(['compare', f'mine={run}', '--sweep=length', '--published=audioset']) != 0
    assert 'has curves of voxceleb and epic_sounds' in capsys.readouterr().err
    write_sweep(tmp_path / 'b', [0.4], xs=(256,), metric='mean_average_precision')
    assert main(['compare', f'b={tmp_path / "b"}', '--sweep=length', '--published=voxceleb']) != 0
    assert 'the published curves are in accuracy' in capsys.readouterr().err
    assert main(['compare', str(run), '--published=voxceleb']) != 0
    assert 'add --sweep' in capsys.readouterr().err


@pytest.mark.parametrize(
    'kind, data_set',
    [(kind, name) for kind, names in published.DATA_SETS.items() for name in names],
)
def test_every_published_curve_has_a_value_at_each_point(kind, data_set):
    published_curves = published.read(data_set, kind)
    assert all(
        len(curve) == len(published_curves.points) and all(0 < value < 1 for value in curve)
        for curve in published_curves.curves.values()
    )
    assert len(published_curves.curves) == {'length': 4, 'resolution': 5}[kind]
    assert published_curves.metric == (
        'mean_average_precision' if data_set == 'audioset' else 'accuracy'
    )


@pytest.mark.parametrize('text', ['', '=runs', 'a=', 'a=r,,s'])
def test_a_model_is_a_name_and_workdirs(text, capsys):
    with pytest.raises(SystemExit):
        main(['compare', text, '--out=x'])
    assert 'NAME=W,W,W' in capsys.readouterr().err


# Workdirs without a name are models by their configs.


def trained(folder, evaluations=(), *overrides, steps=None, planned=20, rows=8, seconds=2.0):
    """Write the workdir of a run with an evaluation every 10 steps, which took `seconds`."""
    config = load(QUICKSTART, [f'packing.rows={rows}', *overrides])
    workdir = Workdir(folder)
    workdir.prepare(config)
    workdir.set_plan(PlanRecord('plan', (rows * planned,)))
    lines = []
    for step in range(10, (steps if steps is not None else 10 * len(evaluations)) + 1, 10):
        speed = 0.5 * 10 * rows * config.packing.tokens / seconds
        lines.append(
            {'step': step, 'kind': 'train', 'loss': 1.0, 'fill': 0.5, 'tokens_per_second': speed}
        )
        if step // 10 <= len(evaluations):
            value = evaluations[step // 10 - 1]
            lines.append(
                {'step': step, 'kind': 'eval', 'accuracy': value, 'mean_average_precision': value}
            )
    workdir.metrics.write_text(''.join(json.dumps(line) + '\n' for line in lines))
    return str(folder)


def test_workdirs_that_differ_in_the_seed_alone_are_one_model(tmp_path, capsys):
    for rate in (1e-3, 2e-3):
        for seed in range(2):
            run = tmp_path / 'runs' / f'{rate}-{seed}'
            trained(run, [], f'optimizer.learning_rate={rate}', f'train.seed={seed}')
            write_sweep(run, [0.5 + rate, 0.6, 0.7 + seed / 10])
    runs = [str(path) for path in sorted((tmp_path / 'runs').iterdir())]
    write_sweep(tmp_path / 'other', [0.1, 0.2, 0.3])
    assert main(['compare', *runs, f'old={tmp_path / "other"}', '--sweep=length']) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == (
        '| frames | seconds | old (1) | optimizer.learning_rate=0.001 (2)'
        ' | optimizer.learning_rate=0.002 (2) |'
    )
    assert lines[4] == '| 64 | 0.64 | 30.00 % ± – | 75.00 % ± 7.07 % | 75.00 % ± 7.07 % |'
    assert main(['compare', *runs[:2], '--sweep=length']) == 0
    assert '| runs (2) |' in capsys.readouterr().out
    assert main(['compare', runs[0], '--sweep=length']) == 0
    assert '| 0.001-0 (1) |' in capsys.readouterr().out


# The table of runs


def table(capsys, *arguments):
    """Return the printed cells, by row and column."""
    assert main(['compare', *map(str, arguments)]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith('|')]
    head, _, *rows = [[cell.strip() for cell in line[1:-1].split(' | ')] for line in lines]
    return [dict(zip(head, row, strict=True)) for row in rows]


def test_each_run_has_a_row_with_its_differing_keys(tmp_path, capsys):
    trained(tmp_path / 'a', [0.5, 0.75], 'train.seed=1')
    trained(tmp_path / 'b', [0.8, 0.7], 'augment.ratios=1.0,2.0', seconds=35.0)
    first, second = table(capsys, tmp_path / 'a', tmp_path / 'b')
    assert first == {
        'run': 'a',
        'augment.ratios': '1.0,1.4,2.0,2.8,4.0',
        'train.seed': '1',
        'steps': '20',
        'time': '0:04',
        'accuracy, last': '75.00 %',
        'accuracy, best': '75.00 %',
        'at step': '20',
    }
    assert second == {
        'run': 'b',
        'augment.ratios': '1.0,2.0',
        'train.seed': '0',
        'steps': '20',
        'time': '1:10',
        'accuracy, last': '70.00 %',
        'accuracy, best': '80.00 %',
        'at step': '10',
    }


def test_files_have_exact_numbers(tmp_path, capsys):
    trained(tmp_path / 'a', [0.5, 1 / 3], 'train.seed=1')
    trained(tmp_path / 'b', [None, 0.7])
    out = tmp_path / 'out'
    assert main(['compare', str(tmp_path / 'a'), str(tmp_path / 'b'), f'--out={out}']) == 0
    printed = capsys.readouterr().out
    assert (
        all(line in printed for line in (out / 'runs.md').read_text().splitlines()[2:])
        and 'runs.md, .csv, .png' in printed
    )
    first, second = csv.DictReader((out / 'runs.csv').read_text().splitlines())
    assert (
        float(first['last_accuracy']) == 1 / 3
        and float(first['best_accuracy']) == 0.5
        and first['best_step'] == '10'
    )
    assert (
        float(first['seconds']) == pytest.approx(4)
        and first['steps'] == first['planned_steps'] == '20'
    )
    assert first['train.seed'] == '1' and first['workdir'] == str(tmp_path / 'a')
    assert (second['last_accuracy'], second['best_step']) == ('0.7', '20')
    assert (out / 'runs.png').read_bytes().startswith(b'\x89PNG')


def test_models_have_a_column_and_runs_of_the_same_name_their_paths(tmp_path, capsys):
    for folder in ('x', 'y'):
        trained(tmp_path / folder / 'run', [0.5])
    first, second = table(capsys, f'one | two={tmp_path / "x" / "run"}', tmp_path / 'y' / 'run')
    assert (first['model'], second['model']) == ('one \\| two', '')
    assert (first['run'], second['run']) == (
        str(tmp_path / 'x' / 'run'),
        str(tmp_path / 'y' / 'run'),
    )


def test_an_unfinished_run_shows_how_far_it_is(tmp_path, capsys):
    trained(tmp_path / 'half', [0.5], planned=30)
    trained(tmp_path / 'begun', [])
    with open(tmp_path / 'half' / 'metrics.jsonl', 'a') as file:
        file.write('{"step": 20, "kind": "tra')  # is being written
    half, begun = table(capsys, tmp_path / 'half', tmp_path / 'begun')
    assert half['steps'] == '10 of 30' and half['accuracy, last'] == '50.00 %'
    assert (begun['steps'], begun['time'], begun['accuracy, best'], begun['at step']) == (
        '0 of 20',
        '–',
        '–',
        '–',
    )


def test_the_best_is_the_later_of_equal_ones_and_several_labels_have_map(tmp_path, capsys):
    trained(tmp_path / 'a', [0.5, 0.5], 'train.loss=bce')
    (row,) = table(capsys, tmp_path / 'a')
    assert (row['mAP, best'], row['at step']) == ('0.5000', '20')


def test_a_folder_with_the_sign_in_its_name_is_a_workdir(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trained(tmp_path / 'optimizer.learning_rate=0.001+train.seed=0', [0.5])
    (row,) = table(capsys, 'optimizer.learning_rate=0.001+train.seed=0')
    assert row['run'] == 'optimizer.learning_rate=0.001+train.seed=0' and 'model' not in row


@pytest.mark.parametrize(
    'damage, parts',
    [
        (
            lambda folder: trained(folder / 'b', [0.5], 'train.loss=bce'),
            ['mean_average_precision', 'accuracy', 'train.loss'],
        ),
        (
            lambda folder: (
                trained(folder / 'b', [0.5]),
                (folder / 'b' / 'metrics.jsonl').unlink(),
            ),
            ['metrics.jsonl is missing'],
        ),
        (
            lambda folder: (trained(folder / 'b', [0.5]), (folder / 'b' / 'plan.json').unlink()),
            ['plan.json is missing'],
        ),
        (
            lambda folder: (
                trained(folder / 'b', [0.5]),
                (folder / 'b' / 'metrics.jsonl').write_text('{"step": 3}\n'),
            ),
            ['metrics.jsonl: cannot be read'],
        ),
        (lambda folder: None, ['there is no such workdir']),
    ],
)
def test_runs_that_cannot_be_compared_are_named(tmp_path, capsys, damage, parts):
    trained(tmp_path / 'a', [0.5])
    damage(tmp_path)
    assert (
        main(['compare', str(tmp_path / 'a'), str(tmp_path / 'b'), f'--out={tmp_path / "out"}'])
        == 1
    )
    message = capsys.readouterr().err
    assert str(tmp_path / 'b') in message and all(part in message for part in parts)
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize('sweep', [[], ['--sweep=length']])
def test_a_run_counts_once(tmp_path, capsys, monkeypatch, sweep):
    trained(tmp_path / 'a', [0.5])
    monkeypatch.chdir(tmp_path)
    assert main(['compare', 'a', f'b={tmp_path / "a"}', *sweep]) == 1
    assert 'is given twice' in capsys.readouterr().err


def test_the_plot_has_a_curve_for_each_run(tmp_path):
    runs = [
        compare_runs.read_run(trained(tmp_path / f'{count}', [0.5, None, 0.25][:count]))
        for count in (1, 3)
    ]
    (axes,) = compare_runs.plot_runs(runs, ['$a$', 'b']).axes
    legend = axes.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ['$a$', 'b']
    first, second = axes.get_lines()
    assert np.asarray(first.get_xdata()).tolist() == [10]
    assert np.asarray(first.get_ydata()).tolist() == [50]
    np.testing.assert_equal(second.get_ydata(), [50, np.nan, 25])


def test_a_table_needs_neither_jax_nor_a_drawing_library(tmp_path):
    trained(tmp_path / 'a', [0.5])
    program = (
        'import sys\nfrom elastic_ast_jax.cli.main import main\n'
        f'main(["compare", {str(tmp_path / "a")!r}])\n'
        'print("loaded", *sorted({"jax", "tensorflow", "matplotlib"} & set(sys.modules)))'
    )
    result = subprocess.run(
        [sys.executable, '-c', program],
        capture_output=True,
        text=True,
        cwd=Path(QUICKSTART).parents[1],
    )
    assert result.stdout.splitlines()[-1] == 'loaded', result.stderr


# Runs over a key of their configs.


def test_runs_over_a_key(tmp_path, capsys):
    for share in (0.0, 0.3):
        for seed in range(2):
            trained(
                tmp_path / f'{share}-{seed}',
                [0.1, 0.5 + share + seed / 10],
                f'augment.token_dropout={share}',
                f'train.seed={seed}',
                planned=20,
            )
    trained(tmp_path / 'other', [0.2, 0.25], 'augment.token_dropout=0.9', planned=20)
    runs = f'E={",".join(str(tmp_path / name) for name in ("0.3-0", "0.0-1", "0.0-0", "0.3-1"))}'
    out = tmp_path / 'out'
    arguments = (
        'compare',
        runs,
        f'one={tmp_path / "other"}',
        '--over=augment.token_dropout',
        f'--out={out}',
    )
    assert main([*arguments]) == 0
    table = (out / 'augment.token_dropout.md').read_text().splitlines()
    assert table[2].startswith(
        '| model | augment.token_dropout | runs | steps | accuracy | training |'
    )
    assert table[4].startswith('| E | 0.0 | 2 | 20 | 55.00 % ± 7.07 % | 0:04 |')
    assert table[5].startswith('| E | 0.3 | 2 | 20 | 85.00 % ± 7.07 % |')
    assert table[6].startswith('| one | 0.9 | 1 | 20 | 25.00 % ± – |')
    content = json.loads((out / 'augment.token_dropout.json').read_text())
    assert content['groups'][0]['values'] == pytest.approx([0.6, 0.5])
    assert (out / 'augment.token_dropout.png').read_bytes().startswith(b'\x89PNG')
    assert main(['compare', runs, '--over=augment.dropout']) != 0
    assert 'has no such key; its keys are' in capsys.readouterr().err
    assert main(['compare', runs, '--over=augment.token_dropout', '--sweep=length']) != 0
    assert 'two comparisons' in capsys.readouterr().err
    trained(tmp_path / 'half', [0.2], planned=20)
    assert main(['compare', f'h={tmp_path / "half"}', '--over=augment.token_dropout']) != 0
    assert 'is not finished, 10 of 20 steps' in capsys.readouterr().err


def test_unnamed_models_are_named_by_their_differing_keys(tmp_path, capsys):
    for share in (0.0, 0.3):
        trained(
            tmp_path / f'{share}', [0.5], f'augment.token_dropout={share}', planned=20, steps=20
        )
    workdirs = [str(tmp_path / name) for name in ('0.0', '0.3')]
    assert main(['compare', *workdirs, '--over=augment.token_dropout']) == 0
    names = {line.split('|')[1] for line in capsys.readouterr().out.splitlines()[2:]}
    assert len(names) == 1


def test_a_model_beside_those_over_a_key(tmp_path, capsys):
    trained(tmp_path / 'e', [0.5], planned=20, steps=20)
    (tmp_path / 'average' / 'eval').mkdir(parents=True)
    arguments = [
        'compare',
        f'E={tmp_path / "e"}',
        '--over=train.seed',
        f'--beside=average={tmp_path / "average"}',
    ]
    assert main(arguments) == 1
    assert 'average/eval/metrics.json: cannot be read' in capsys.readouterr().err
    (tmp_path / 'average' / 'eval' / 'metrics.json').write_text('{"accuracy": 0.25}')
    assert main([*arguments, f'--out={tmp_path}']) == 0
    assert capsys.readouterr().out.splitlines()[3] == '| average | – | 1 | – | 25.00 % ± – | – |'
    assert json.loads((tmp_path / 'train.seed.json').read_text())['beside'] == [
        {'model': 'average', 'values': [0.25]}
    ]
    assert main(['compare', str(tmp_path / 'e'), f'--beside=average={tmp_path / "average"}']) == 1
    assert 'add --sweep=length, --sweep=resolution or --over=KEY' in capsys.readouterr().err


def test_a_model_with_one_value_is_a_horizontal_line(tmp_path):
    for frames in (64, 128):
        trained(tmp_path / f'{frames}', [0.1, 0.5], f'frontend.max_frames={frames}', planned=20)
    trained(tmp_path / 'e', [0.2, 0.7], planned=20)
    groups = compare_over_key.group_runs(
        [('AST', [str(tmp_path / '128'), str(tmp_path / '64')]), ('E', [str(tmp_path / 'e')])],
        'frontend.max_frames',
    )
    (axes,) = compare_over_key.plot_groups(groups, 'frontend.max_frames', 'accuracy').axes
    assert [text.get_text() for text in axes.get_xticklabels()] == ['64', '128']
    across = [line for line in axes.get_lines() if line.get_label() == 'E']
    assert len(across) == 1 and set(np.asarray(across[0].get_ydata())) == {70.0}
