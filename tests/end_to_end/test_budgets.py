"""Test `evaluate --sweep=budget` and `predict --budget_tokens`: measurement and use agree."""

import dataclasses
import json
import math
import socket
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import soundfile

import elastic_ast_jax
from elastic_ast_jax.audio import reading
from elastic_ast_jax.audio.frontend import FrontendSpec
from elastic_ast_jax.checkpointing.load_model import load_model
from elastic_ast_jax.config import schema, stored
from elastic_ast_jax.distributed import sharding
from elastic_ast_jax.evaluation import budget_sweep, plots
from elastic_ast_jax.evaluation.evaluator import Evaluator
from elastic_ast_jax.packing.token_budget import BudgetError, TokenReduction
from elastic_ast_jax.training.factory import make_loss
from elastic_ast_jax.training.step import make_eval_step
from elastic_ast_jax.utils import plotting

RATE, CLIPS = 8000, 12
# Of the largest logit.
CLOSE = 1e-5


@pytest.fixture(scope='module')
def model(trained):
    return elastic_ast_jax.load(trained)


@pytest.fixture(scope='module')
def evaluated(trained, recordings):
    """`evaluated(reduction, **data)`: the evaluator and its logits under a reduction."""
    mesh = sharding.make_mesh()
    opened = load_model(trained, mesh=mesh)

    def apply(params, batch) -> Any:
        return opened.network.apply({'params': params}, batch)

    step = sharding.jit_eval_step(make_eval_step(apply, make_loss(opened.config)), mesh)

    def evaluate(reduction, **data):
        values = {
            'train': str(recordings.folder / 'train.jsonl'),
            'eval': str(recordings.folder / 'test.jsonl'),
        } | data
        config = stored.from_json(
            json.loads(stored.to_json(opened.config)) | {'data': {'source': 'manifest'} | values}
        )
        evaluator = Evaluator(config, opened.labels, step, mesh)
        setting = evaluator.setting(reduction=reduction)
        return (
            evaluator,
            setting,
            evaluator.logits(opened.params, setting),
            evaluator.evaluate(opened.params, setting),
        )

    return evaluate


@pytest.mark.parametrize(
    'reduction',
    [
        TokenReduction(10),
        TokenReduction(10, method='drop'),
        TokenReduction(11, 2.0),
        TokenReduction(7, 1.4, 'drop'),
        TokenReduction(3, 4.0),
        TokenReduction(60, 2.0),
    ],
    ids=str,
)
def test_evaluation_and_prediction_agree(evaluated, model, recordings, reduction):
    _, setting, logits, evaluation = evaluated(reduction)
    waveforms = [reading.read(path, RATE) for path in recordings.test_files]
    single_logits = np.stack([model.waveform_logits(waveform, reduction) for waveform in waveforms])
    assert np.abs(logits - single_logits).max() <= CLOSE * np.abs(single_logits).max()
    assert (setting.tokens <= reduction.tokens).all() and evaluation.tokens == setting.tokens.mean()
    longest = np.array([len(waveform) for waveform in waveforms]) / RATE
    assert (setting.seconds <= longest).all() and evaluation.seconds == pytest.approx(
        setting.seconds.mean()
    )
    if reduction.method == 'crop' and reduction.tokens < 60:
        frames = reduction.tokens // 2 * 4
        assert setting.seconds.max() == pytest.approx(
            (200 + (frames - 1) * 80 * reduction.ratio) / RATE
        )
    else:  # all but what fills no frame
        assert (setting.seconds > longest - 80 * reduction.ratio / RATE).all()
    frontend = model.config.frontend
    shorter = [
        frontend.tokens(frontend.frames(len(waveform), frontend.shift(reduction.ratio)))
        > reduction.tokens
        for waveform in waveforms
    ]
    assert evaluation.cropped == sum(shorter) and setting.cropped.tolist() == shorter
    assert (evaluation.cropped == 0) == (reduction.tokens == 60)


def test_windows_of_evaluation_are_those_of_prediction(evaluated, model, recordings, tmp_path):
    sounds = [reading.read(path, RATE) for path in recordings.test_files]
    long = [np.concatenate(sounds), np.concatenate(sounds[:5]), sounds[0]]
    lines = []
    for number, sound in enumerate(long):
        soundfile.write(tmp_path / f'{number}.wav', sound, RATE, subtype='FLOAT')
        lines.append(json.dumps({'audio': f'{number}.wav', 'labels': ['low']}) + '\n')
    (tmp_path / 'list.jsonl').write_text(''.join(lines), encoding='utf-8')
    for reduction in (TokenReduction(12, 1.4), TokenReduction(9, 2.0, 'drop')):
        _, setting, scores, evaluation = evaluated(
            reduction, eval=str(tmp_path / 'list.jsonl'), too_long='window'
        )
        assert (
            evaluation.windowed == 2
            and (setting.tokens <= reduction.tokens).all()
            and len(setting.tokens) > 5
        )
        assert (setting.seconds <= [len(sound) / RATE for sound in long]).all()
        files = [str(tmp_path / f'{number}.wav') for number in range(3)]
        split = model.windows(reduction=reduction)
        results = model._scores(files, 3, split, reduction, None, keep_windows=True)
        for row, (result, spans, *_) in zip(scores, results, strict=True):
            predicted = {entry['label']: entry['probability'] for entry in result['predictions']}
            expected = model.probabilities(row.astype(np.float64))
            np.testing.assert_allclose(
                [predicted[label] for label in model.labels], expected, atol=CLOSE
            )
            assert len(spans) == result.get('windows', 1)


def test_prediction_uses_the_budgets_of_the_sweep(workdir, command, recordings, model, monkeypatch):
    monkeypatch.chdir(recordings.folder)
    arguments = 'evaluate', f'--workdir={workdir}', '--sweep=budget'
    assert command('evaluate', f'--workdir={workdir}').code == 0
    metrics = json.loads((workdir / 'eval' / 'metrics.json').read_text('utf-8'))
    result = command(*arguments, '--points=4,10,60')
    assert result.code == 0, result.err
    content = json.loads(
        (workdir / 'eval' / 'budget.json').read_text('utf-8'), parse_constant=pytest.fail
    )
    assert (
        content['checkpoint'],
        content['step'],
        content['metric'],
        content['latency_clips'],
    ) == (
        'step 21',
        21,
        'accuracy',
        CLIPS,
    )
    points = content['points']
    assert {point['shift_ms'] for point in points} == {10, 14, 20, 28, 40}
    assert {(point['budget'], point['how']) for point in points if point['shift_ms'] == 10} == {
        (4, 'crop'),
        (4, 'drop'),
        (10, 'crop'),
        (10, 'drop'),
        (60, 'all'),
    }
    for point in points:
        assert (
            point['clips'] == CLIPS
            and point['tokens'] <= point['budget']
            and 0 < point['latency_ms'] < 10_000
        )
        assert (point['shortened'] == 0) == (point['how'] == 'all')
        assert 0 < point['seconds'] <= 1
    (all_of_it,) = (point for point in points if point['how'] == 'all' and point['shift_ms'] == 10)
    assert all(
        all_of_it[key] == metrics[key]
        for key in ('accuracy', 'mean_average_precision', 'auc', 'd_prime')
    )
    # What is stored is the best of each budget on every second clip, and what it is worth on the
    # others.
    waveforms = [reading.read(path, RATE) for path in recordings.test_files]

    def right(point) -> np.ndarray:
        reduction = TokenReduction(
            point['budget'], point['ratio'], 'crop' if point['how'] == 'all' else point['how']
        )
        best = [
            model.labels[model.waveform_logits(waveform, reduction).argmax()]
            for waveform in waveforms
        ]
        return np.array(
            [label == line['labels'][0] for label, line in zip(best, recordings.test, strict=True)]
        )

    assert content['chosen_on'] == 'half of the clips'
    stored = json.loads((workdir / 'budgets.json').read_text('utf-8'))
    assert (stored['checkpoint'], stored['step'], stored['metric']) == ('step 21', 21, 'accuracy')
    stored_entries, top = iter(stored['budgets']), (-1.0, 0.0)
    for tokens in (4, 10, 60):
        same = [point for point in points if point['budget'] == tokens]
        scores = [right(point) for point in same]
        assert [every.mean() for every in scores] == pytest.approx(
            [point['accuracy'] for point in same]
        )
        halves = [(every[::2].mean(), every[1::2].mean()) for every in scores]
        best = max(
            range(len(same)), key=lambda place: (halves[place][0], -same[place]['latency_ms'])
        )
        rank = halves[best][0], -same[best]['latency_ms']
        better = rank > top  # than anything with fewer tokens
        assert [point['best'] for point in same] == [
            better and place == best for place in range(len(same))
        ]
        if not better:
            continue
        top, entry = rank, next(stored_entries)
        assert entry['tokens'] == tokens
        assert (entry['selection_score'], entry['heldout_score']) == pytest.approx(
            halves[best]
        ) and entry['unseen'] is True
        assert same[best]['unseen_score'] == entry['heldout_score']
        assert (same[best]['ratio'], same[best]['latency_ms']) == (
            entry['ratio'],
            entry['latency_ms'],
        )
    assert next(stored_entries, None) is None
    assert sum('unseen_score' in point for point in points) == len(stored['budgets'])
    table = (workdir / 'eval' / 'budget.md').read_text('utf-8')
    assert result.out.strip() in table and 'which the choice did not see' in table
    heading, _, *rows = result.out.splitlines()
    assert heading.endswith('| accuracy, unseen clips |')
    for row, entry in zip(rows, stored['budgets'], strict=True):
        assert row.endswith(f'| {100 * entry["heldout_score"]:.2f} % |')
    for name in ('eval/budget.json', 'eval/budget.md', 'eval/budget.png', 'budgets.json'):
        assert str(workdir / name) in result.err
    # Prediction on the evaluation clips is as good as was measured.
    result = command(
        'predict', workdir, *recordings.test_files, '--json', '--top_k=1', '--budget_tokens=25'
    )
    assert result.code == 0
    best = max(
        (entry for entry in stored['budgets'] if entry['tokens'] <= 25),
        key=lambda entry: (entry['selection_score'], -entry['latency_ms']),
    )
    assert f'at most {best["tokens"]} tokens, frame shift' in result.err
    assert (
        f'accuracy {100 * best["heldout_score"]:.2f} % on clips that the choice did not see, '
        in result.err
    )
    labels = [json.loads(line)['predictions'][0]['label'] for line in result.out.splitlines()]
    correct = [
        label == line['labels'][0] for label, line in zip(labels, recordings.test, strict=True)
    ]
    assert np.mean(correct[1::2]) == pytest.approx(best['heldout_score'])


@pytest.mark.slow
def test_stored_budgets_are_kept(workdir, recordings, command):
    arguments, file = (
        ('evaluate', f'--workdir={workdir}', '--sweep=budget'),
        workdir / 'budgets.json',
    )

    def tokens() -> list[int]:
        return [entry['tokens'] for entry in json.loads(file.read_text('utf-8'))['budgets']]

    # What was measured with other data says so, and is not kept beside what was measured without.
    result = command(*arguments, '--points=60', '--config.data.num_workers=1')
    assert result.code == 0 and f'stored: {file}\n' in result.err
    message = command('predict', workdir, recordings.test_files[0], '--budget_tokens=60').err
    assert 'in evaluation (with data.num_workers=1) accuracy ' in message
    result = command(*arguments, '--points=8')
    assert (
        f'written over: {file}\n' in result.err
        and 'written over earlier results: ' in result.err
        and tokens() == [8]
    )
    result = command(*arguments, '--points=60')
    assert f'written over: {file}; budgets that were measured before are kept: 8\n' in result.err
    file.unlink()
    result = command(*arguments, '--points=60')
    assert f'stored: {file}\n' in result.err
    before = json.loads(file.read_text('utf-8'))['budgets']
    # Others of the same parameters are added.
    result = command(*arguments, '--points=4')
    assert f'written over: {file}; budgets that were measured before are kept: 60\n' in result.err
    assert tokens() == [4, 60] and json.loads(file.read_text('utf-8'))['budgets'][1:] == before
    # Those of other parameters are replaced, and so is what cannot be read.
    for _ in range(2):
        result = command(*arguments, '--points=60', '--checkpoint=18')
        assert f'written over: {file}\n' in result.err and tokens() == [60]
        file.write_text('{', encoding='utf-8')


@pytest.mark.slow
def test_a_split_that_has_no_halves(workdir, command, recordings, tmp_path):
    """One clip cannot both choose and tell."""
    line = recordings.test[0] | {'audio': recordings.test_files[0]}
    (tmp_path / 'one.jsonl').write_text(json.dumps(line) + '\n', encoding='utf-8')
    values = json.loads((workdir / 'config.json').read_text('utf-8'))
    values['data']['eval'] = str(tmp_path / 'one.jsonl')
    (workdir / 'config.json').write_text(json.dumps(values), encoding='utf-8')
    result = command('evaluate', f'--workdir={workdir}', '--sweep=budget', '--points=4')
    assert (
        result.code == 0
        and 'warning: The best of a budget has the best accuracy on all clips, as one half'
        in result.err
    )
    assert 'unseen' not in result.out and 'did not see' not in (
        workdir / 'eval' / 'budget.md'
    ).read_text('utf-8')
    content = json.loads((workdir / 'eval' / 'budget.json').read_text('utf-8'))
    assert content['chosen_on'] == 'all clips' and not any(
        'unseen_score' in point for point in content['points']
    )
    (entry,) = json.loads((workdir / 'budgets.json').read_text('utf-8'))['budgets']
    assert entry['unseen'] is False and entry['heldout_score'] == entry['selection_score'] == max(
        point['accuracy'] for point in content['points']
    )
    result = command('predict', workdir, recordings.test_files[0], '--budget_tokens=4')
    assert ' on the clips that it was chosen on, ' in result.err


@pytest.mark.slow
def test_clips_that_cannot_be_decoded_belong_to_no_half(workdir, command, recordings, tmp_path):
    sounds, lines = [reading.read(path, RATE) for path in recordings.test_files], []
    for number, (sound, line) in enumerate(zip(sounds, recordings.test, strict=True)):
        soundfile.write(tmp_path / f'{number}.flac', sound, RATE, subtype='PCM_16')
        lines.append(json.dumps({'audio': f'{number}.flac', 'labels': line['labels']}) + '\n')
    content = bytearray((tmp_path / '3.flac').read_bytes())
    content[len(content) // 2 : len(content) // 2 + 400] = bytes(400)
    (tmp_path / '3.flac').write_bytes(content)
    (tmp_path / 'list.jsonl').write_text(''.join(lines), encoding='utf-8')
    options = f'--config.data.eval={tmp_path}/list.jsonl', '--config.data.on_bad_audio=skip'
    assert (
        command('evaluate', f'--workdir={workdir}', '--sweep=budget', '--points=60', *options).code
        == 0
    )
    content = json.loads((workdir / 'eval' / 'budget.json').read_text('utf-8'))
    assert command('evaluate', f'--workdir={workdir}', *options).code == 0
    metrics = json.loads((workdir / 'eval' / 'metrics.json').read_text('utf-8'))
    (point,) = (point for point in content['points'] if point['ratio'] == 1)
    assert (
        point['clips'] == CLIPS - 1
        and len(content['skipped']) == 1
        and '3.flac' in content['skipped'][0]
    )
    assert [point[key] for key in ('accuracy', 'mean_average_precision', 'auc')] == pytest.approx(
        [metrics[key] for key in ('accuracy', 'mean_average_precision', 'auc')]
    )


_PROCESS = """
import sys
from pathlib import Path
from elastic_ast_jax.distributed import processes
from elastic_ast_jax.evaluation import evaluate
processes.initialize()
evaluate.run(sys.argv[1], kind='budget', points=(4.0,))
print((Path(sys.argv[1]) / 'budgets.json').exists())
"""


@pytest.mark.slow
def test_other_processes_wait_for_the_first(workdir, environment, recordings):
    """It measures the latency and writes, which takes longer than they wait for it at their end."""
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        address = f'127.0.0.1:{free.getsockname()[1]}'
    started = [
        subprocess.Popen(
            [sys.executable, '-c', _PROCESS, str(workdir)],
            cwd=recordings.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding='utf-8',
            env=environment
            | {
                'XLA_FLAGS': '--xla_force_host_platform_device_count=1',
                'JAX_COORDINATOR_ADDRESS': address,
                'JAX_NUM_PROCESSES': '2',
                'JAX_PROCESS_ID': str(number),
            },
        )
        for number in range(2)
    ]
    outputs = [process.communicate(timeout=400) for process in started]
    assert [process.returncode for process in started] == [0, 0], outputs
    (primary_output, primary_messages), (other_output, _) = outputs
    assert (
        primary_output.endswith('True\n')
        and other_output.endswith('True\n')
        and '| budget' not in other_output
        and 'stored: ' in primary_messages
    )


def test_by_default_budgets_go_from_a_column_to_the_largest_clip(evaluated):
    evaluator, _, _, _ = evaluated(None)
    frontend = FrontendSpec(sample_rate=8000, mel_bins=32, patch_frames=4, max_frames=100)
    reductions = budget_sweep.list_reductions(evaluator, frontend, None)
    largest = int(evaluator.setting().tokens.max())
    budgets = sorted({reduction.tokens for reduction, _ in reductions})
    assert budgets[0] == 2 and budgets[-1] == largest and 6 <= len(budgets) <= 8
    assert [reduction for reduction, all_fit in reductions if all_fit and reduction.ratio == 1] == [
        TokenReduction(largest)
    ]
    for ratio in (1.4, 2.0, 2.8, 4.0):  # up to the first budget that changes nothing
        (end,) = (
            reduction.tokens
            for reduction, all_fit in reductions
            if all_fit and reduction.ratio == ratio
        )
        most = int(evaluator.setting(ratio).tokens.max())
        assert end == min(tokens for tokens in budgets if tokens >= most)
        for method in ('crop', 'drop'):
            short = [
                reduction.tokens
                for reduction, all_fit in reductions
                if (reduction.ratio, reduction.method, all_fit) == (ratio, method, False)
            ]
            assert short == [tokens for tokens in budgets if tokens < most]


@pytest.mark.parametrize(
    ('columns', 'budgets'),
    [
        (1, (8,)),
        (2, (8, 16)),
        (29, (8, 16, 24, 32, 56, 88, 144, 232)),
        (64, (8, 16, 24, 48, 88, 160, 280, 512)),
    ],
)
def test_default_budgets(columns, budgets):
    values = budget_sweep.default_budgets(FrontendSpec(), 8 * columns)
    assert values == budgets


def test_ratios_of_the_same_frame_shift_are_one():
    assert budget_sweep.distinct_ratios(FrontendSpec()) == budget_sweep.RATIOS
    assert budget_sweep.distinct_ratios(FrontendSpec(shift_ms=1.0)) == (1.0, 2.0, 4.0)
    assert budget_sweep.distinct_ratios(FrontendSpec(shift_ms=1.9)) == (1.0, 1.4, 2.0, 2.8, 4.0)


@pytest.mark.parametrize(
    ('points', 'message'),
    [
        ('1,4', 'a budget of 1 tokens is less than one column of patches: give at least 2'),
        ('2.5', 'give whole numbers of'),
    ],
)
def test_impossible_budgets_are_refused(workdir, command, points, message):
    result = command('evaluate', f'--workdir={workdir}', '--sweep=budget', f'--points={points}')
    assert result.code == 1 and message in result.err
    assert not (workdir / 'budgets.json').exists() and not (workdir / 'eval').exists()


def test_a_fixed_length_model_has_no_budget():
    ast = dataclasses.replace(schema.Config(), model=schema.Model(kind='ast'))
    with pytest.raises(BudgetError, match='fixed-length AST'):
        budget_sweep.check_budgets(ast, None)


def test_prediction_without_matching_budgets(workdir, command, recordings):
    clip = recordings.test_files[0]
    result = command('predict', workdir, clip, '--budget_tokens=8')
    assert (
        result.code == 1
        and f'run elastic-ast evaluate --workdir={workdir} --sweep=budget' in result.err
        and not result.out
    )
    budgets = {
        'checkpoint': 'step 18',
        'step': 18,
        'metric': 'accuracy',
        'budgets': [
            {
                'tokens': 6,
                'ratio': 1.4,
                'method': 'drop',
                'selection_score': None,
                'heldout_score': None,
                'unseen': False,
                'latency_ms': 1.5,
            }
        ],
    }
    (workdir / 'budgets.json').write_text(json.dumps(budgets), encoding='utf-8')
    result = command('predict', workdir, clip, '--budget_tokens=5')
    assert (
        result.code == 1
        and 'a budget of 5 tokens is less than any that was measured: give one of 6' in result.err
    )
    result = command('predict', workdir, clip, '--budget_tokens=6')
    assert (
        result.code == 0
        and 'at most 6 tokens, frame shift 14 ms, random tokens: in evaluation accuracy –'
        in result.err
    )
    assert (
        'warning: token budgets were measured with parameters of step 18, and these are of step 21:'
        ' measure ag' in result.err
    )
    result = command(
        'predict', workdir, clip, '--budget_tokens=6', f'--explain={workdir}/heard.png'
    )
    assert result.code == 1 and 'leave --budget_tokens out' in result.err
    result = command('predict', workdir, clip, '--budget_tokens=0')
    assert result.code == 2 and 'no positive whole number' in result.err


def test_the_plot(tmp_path):
    points = [
        plots.BudgetMark('5 ms', 'the first frames', False, 4.0, 0.1, 1.0, 50.0, False),
        plots.BudgetMark('5 ms', 'random tokens', False, 4.0, 0.4, 1.5, 60.0, True),
        plots.BudgetMark('5 ms', 'random tokens', True, 20.0, 0.4, 2.0, math.nan, True),
        plots.BudgetMark('10 ms', 'the first frames', True, 3.0, 0.4, 1.0, 40.0, False),
    ]
    figure = plots.plot_budgets(points, 'Token budgets; $step$ 3', 'accuracy (%)')
    plotting.save_figure(figure, tmp_path / 'budget.png')
    assert (tmp_path / 'budget.png').read_bytes().startswith(b'\x89PNG')
    tokens, seconds, latency = figure.axes
    assert (
        tokens.get_ylabel() == 'accuracy (%)'
        and 'seconds' in seconds.get_xlabel()
        and '(ms)' in latency.get_xlabel()
    )
    for axes, costs in ((tokens, [4.0, 20.0]), (seconds, [0.1, 0.4]), (latency, [1.0, 2.0])):
        cut, dropped, *other_lines, best = axes.lines
        np.testing.assert_array_equal(
            cut.get_xdata(), costs
        )  # the point where all fit ends both lines
        assert (
            np.size(dropped.get_xdata()) == 2
            and len(other_lines) == 2
            and np.size(best.get_xdata()) == 2
        )
