"""Test sweeps, windows and skipped clips of `elastic-ast evaluate`: each clip counts once."""

import contextlib
import json
import pathlib
from typing import Any

import numpy as np
import pytest
import soundfile

import elastic_ast_jax
from elastic_ast_jax.audio import fbank, reading
from elastic_ast_jax.checkpointing.load_model import load_model
from elastic_ast_jax.distributed import sharding
from elastic_ast_jax.evaluation.eval_config import eval_config
from elastic_ast_jax.evaluation.evaluator import Evaluator
from elastic_ast_jax.training.compilations import CompilationCounter
from elastic_ast_jax.training.factory import make_loss
from elastic_ast_jax.training.step import make_eval_step

RATE, CLIPS, MOST_FRAMES = 8000, 12, 100
# Of the largest logit: two ways through the same computation, and the graph's fbank against NumPy's
# (see test_predict.py).
CLOSE, NEAR = 1e-4, 2e-3


def largest_difference(values: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(values - expected).max() / np.abs(expected).max())


@pytest.fixture
def results(workdir):
    return lambda name: json.loads(
        (workdir / 'eval' / name).read_text('utf-8'), parse_constant=pytest.fail
    )


@contextlib.contextmanager
def open_evaluator(workdir, *overrides: str):
    """Yield an evaluator of the model with overrides, the parameters, and the compiled step."""
    mesh = sharding.make_mesh()
    model = load_model(workdir, mesh=mesh)

    def apply(params, batch) -> Any:
        return model.network.apply({'params': params}, batch)

    step = sharding.jit_eval_step(make_eval_step(apply, make_loss(model.config)), mesh)
    yield (
        Evaluator(eval_config(model.config, overrides), model.labels, step, mesh),
        model.params,
        step,
    )


def write_manifest(
    folder, sounds: dict[str, np.ndarray], labels: list[str], rate: int = RATE
) -> str:
    """Write recordings and their manifest; return its path."""
    folder.mkdir(exist_ok=True)
    lines = []
    for (name, samples), label in zip(sounds.items(), labels, strict=True):
        soundfile.write(
            folder / name, samples, rate, subtype='FLOAT' if name.endswith('.wav') else 'PCM_16'
        )
        lines.append(json.dumps({'audio': name, 'labels': [label]}))
    (folder / 'list.jsonl').write_text('\n'.join(lines) + '\n', encoding='utf-8')
    return str(folder / 'list.jsonl')


@pytest.fixture(scope='module')
def clips(recordings) -> list[np.ndarray]:
    return [reading.read(path, RATE) for path in recordings.test_files]


@pytest.fixture(scope='module')
def labels(recordings) -> list[str]:
    return [line['labels'][0] for line in recordings.test]


def frames(samples: int, shift: int = 80) -> int:
    return 1 + (samples - 200) // shift


def test_the_length_curve(workdir, command, results, clips):
    assert command('evaluate', f'--workdir={workdir}').code == 0
    metrics = results('metrics.json')
    result = command('evaluate', f'--workdir={workdir}', '--sweep=length', '--points=8,24,60,100')
    assert result.code == 0
    curve = results('length.json')
    assert [point['frames'] for point in curve['points']] == [8, 24, 60, 100]
    for point in curve['points']:
        assert point['clips'] == CLIPS
        assert point['cut'] == sum(frames(len(clip)) > point['frames'] for clip in clips)
    assert curve['points'][0]['cut'] == CLIPS and curve['points'][-1]['cut'] == 0
    # A length that cuts nothing is no cut.
    for key in ('accuracy', 'mean_average_precision', 'auc', 'd_prime'):
        assert curve['points'][-1][key] == metrics[key]
    assert (curve['checkpoint'], curve['step']) == ('step 21', 21)
    table = (workdir / 'eval' / 'length.md').read_text('utf-8')
    assert (
        result.out.strip() in table
        and f'| 8 | 0.095 | 12 | 12 | {100 * curve["points"][0]["accuracy"]:.2f} % |' in table
    )
    for name in ('length.json', 'length.md', 'length.png'):
        assert str(workdir / 'eval' / name) in result.err


def test_batches_that_take_too_much_memory_have_fewer_rows(workdir, command, results):
    scores = []
    for rows in (2, 2**16):
        evaluated = command('evaluate', f'--workdir={workdir}', f'--config.packing.rows={rows}')
        assert evaluated.code == 0, evaluated.err
        scores.append(results('metrics.json')['mean_average_precision'])
    assert scores[1] == pytest.approx(scores[0], rel=1e-6)


def test_a_point_of_the_length_curve_is_what_a_shorter_recording_gives(
    trained, clips, labels, tmp_path
):
    for length in (7, 40):
        shorter = {f'{i:02d}.wav': clip[: 200 + (length - 1) * 80] for i, clip in enumerate(clips)}
        manifest = write_manifest(tmp_path / str(length), shorter, labels)
        with (
            open_evaluator(trained) as (evaluator, params, _),
            open_evaluator(trained, f'data.eval={manifest}') as (cropped_evaluator, _, _),
        ):
            logits = evaluator.logits(params, evaluator.setting(max_frames=length))
            assert largest_difference(logits, cropped_evaluator.logits(params)) <= CLOSE


def test_a_point_of_the_resolution_curve_has_that_frame_shift(trained, clips):
    """Compare with features of the same shift from NumPy."""
    model = elastic_ast_jax.load(trained)
    frontend = model.config.frontend
    with open_evaluator(trained) as (evaluator, params, _):
        for ratio, shift in ((1.0, 80), (1.3, 104), (2.5, 200)):
            features = [
                fbank.normalize(fbank.log_mel(clip, frontend, shift), frontend).T for clip in clips
            ]
            logits = evaluator.logits(params, evaluator.setting(ratio=ratio))
            assert largest_difference(logits, model.logits(features)) <= NEAR


@pytest.mark.slow
def test_the_resolution_curve_of_the_paper(workdir, command, results):
    result = command('evaluate', f'--workdir={workdir}', '--sweep=resolution')
    assert result.code == 0
    points = results('resolution.json')['points']
    assert [point['ratio'] for point in points] == pytest.approx(np.arange(1, 4.01, 0.2))
    assert [point['shift_ms'] for point in points] == list(range(10, 41, 2))
    assert all(point['clips'] == CLIPS and point['cut'] == 0 for point in points)
    assert len(result.out.splitlines()) == 2 + len(points)


def test_a_sweep_compiles_once(trained):
    with open_evaluator(trained) as (evaluator, params, step), CompilationCounter() as compilations:
        for setting in (
            evaluator.setting(),
            evaluator.setting(max_frames=8),
            evaluator.setting(ratio=3.0),
        ):
            evaluator.evaluate(params, setting)
        assert compilations.count(step) == 1


def test_a_finer_resolution_has_no_positions_for_long_clips(workdir, command, results, clips):
    """Refuse clips before anything is evaluated; or crop and count them with `too_long=crop`."""
    arguments = 'evaluate', f'--workdir={workdir}', '--sweep=resolution', '--points=0.8,1'
    result = command(*arguments)
    assert result.code == 1
    assert (
        '0.8' in result.err
        and '8 ms' in result.err
        and '.wav' in result.err
        and "data.too_long='crop'" in result.err
    )
    assert not (workdir / 'eval').exists()
    assert command(*arguments, '--config.data.too_long=crop').code == 0
    curve = results('resolution.json')
    longer = sum(frames(len(clip), 64) > MOST_FRAMES for clip in clips)
    assert [point['cut'] for point in curve['points']] == [longer, 0] and longer > 0
    assert curve['overrides'] == ['data.too_long=crop']


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--sweep=length', '--points=104'], 'frontend.max_frames=100'),
        (['--sweep=length', '--points=2.5'], 'whole numbers of frames'),
        (['--points=8'], 'add --sweep=length'),
        (['--config.model.depth=1'], 'model.depth cannot change'),
        (['--config.packing.tokens=8'], 'packing.tokens=8: raise packing.tokens'),
        (['--config.data.evil=x'], 'the nearest valid one is data.eval'),
    ],
)
def test_impossible_evaluations_are_refused(workdir, command, arguments, message):
    result = command('evaluate', f'--workdir={workdir}', *arguments)
    assert result.code == 1 and message in result.err
    assert not (workdir / 'eval').exists()


@pytest.fixture(scope='module')
def long_recordings(clips, labels, tmp_path_factory):
    """Return manifest and files of recordings up to ten times the model's length."""
    folder = tmp_path_factory.mktemp('long')
    sounds = {
        'ten.wav': np.concatenate([*clips] * 2)[: 10 * RATE],
        'two.wav': np.concatenate(clips[3:7])[: 2 * RATE + 17],
        'just.wav': np.concatenate(clips[7:11])[:8200],  # 101 frames, and not a sample more
        'short.wav': clips[0],
    }
    manifest = write_manifest(folder, sounds, ['low', 'middle', 'low', labels[0]])
    soundfile.write(
        folder / 'twice.flac', np.stack([np.repeat(sounds['ten.wav'], 2)] * 2, axis=1), 2 * RATE
    )
    with open(manifest, 'a', encoding='utf-8') as file:
        file.write(json.dumps({'audio': 'twice.flac', 'labels': ['middle']}) + '\n')
    return manifest, [str(folder / name) for name in (*sounds, 'twice.flac')]


@pytest.mark.parametrize('overlap', [0.5, 0.0, 0.3])
def test_windows_in_evaluation_are_those_of_prediction(trained, long_recordings, overlap):
    manifest, files = long_recordings
    model = elastic_ast_jax.load(trained)
    overrides = f'data.eval={manifest}', 'data.too_long=window', f'data.overlap={overlap}'
    with open_evaluator(trained, *overrides) as (evaluator, params, _):
        scores = evaluator.logits(params)
        assert evaluator.windowed == 4 and evaluator.cropped == 0
        assert len(evaluator.source.keys) == len(scores) == len(files)
    exponents = np.exp(scores - scores.max(axis=1, keepdims=True))
    probabilities = exponents / exponents.sum(axis=1, keepdims=True)
    for row, result in zip(
        probabilities, model.predict(files, top_k=len(model.labels), overlap=overlap), strict=True
    ):
        predicted = {entry['label']: entry['probability'] for entry in result['predictions']}
        np.testing.assert_allclose(row, [predicted[label] for label in model.labels], atol=CLOSE)


def test_a_recording_in_windows_counts_once(workdir, command, results, long_recordings):
    arguments = ('evaluate', f'--workdir={workdir}', f'--config.data.eval={long_recordings[0]}')
    result = command(*arguments)
    assert result.code == 1 and "data.too_long='crop'" in result.err and 'ten' in result.err
    assert command(*arguments, '--config.data.too_long=window').code == 0
    metrics = results('metrics.json')
    assert (metrics['clips'], metrics['windowed_clips'], metrics['cropped_clips']) == (5, 4, 0)
    assert 'in windows' in (workdir / 'eval' / 'metrics.md').read_text('utf-8')
    assert command(*arguments, '--config.data.too_long=crop').code == 0
    metrics = results('metrics.json')
    assert (metrics['clips'], metrics['windowed_clips'], metrics['cropped_clips']) == (5, 0, 4)


def test_sweeps_of_long_recordings(workdir, command, results, long_recordings):
    """Check that a coarser resolution needs fewer windows, and cropped clips none."""
    overrides = f'--config.data.eval={long_recordings[0]}', '--config.data.too_long=window'
    arguments = 'evaluate', f'--workdir={workdir}', *overrides
    assert command(*arguments, '--sweep=resolution', '--points=0.8,1,4').code == 0
    points = results('resolution.json')['points']
    assert [(point['clips'], point['windowed'], point['cut']) for point in points] == [
        (5, 4, 0),
        (5, 4, 0),
        (5, 2, 0),
    ]
    assert command(*arguments, '--sweep=length', '--points=50,100').code == 0
    points = results('length.json')['points']
    assert [(point['clips'], point['windowed']) for point in points] == [(5, 0)] * 2
    assert points[1]['cut'] == 4


@pytest.fixture(scope='module')
def damaged(clips, labels, tmp_path_factory) -> str:
    """Return a manifest of evaluation clips, two of which do not decode."""
    folder = tmp_path_factory.mktemp('damaged')
    sounds = {f'{i:02d}.flac': clip for i, clip in enumerate(clips)}
    manifest = write_manifest(folder, sounds, labels)
    for name in ('03.flac', '07.flac'):
        damage(folder / name)
    return manifest


def damage(path) -> None:
    """Damage a recording behind its header, so that it does not decode."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 400] = bytes(400)
    path.write_bytes(content)
    assert reading.read_header(path).frames > 0
    with pytest.raises(reading.AudioError):
        reading.read(path, RATE)


@pytest.mark.parametrize('too_long', ['error', 'window'])
def test_clips_that_cannot_be_decoded_are_skipped_counted_and_listed(
    workdir, command, results, damaged, clips, labels, too_long, tmp_path
):
    arguments = (
        'evaluate',
        f'--workdir={workdir}',
        f'--config.data.eval={damaged}',
        f'--config.data.too_long={too_long}',
    )
    result = command(*arguments)
    assert result.code == 1 and ('03.flac' in result.err or '07.flac' in result.err)
    result = command(*arguments, '--config.data.on_bad_audio=skip')
    assert result.code == 0 and 'clips skipped: 2' in result.err and '03.flac' in result.err
    metrics = results('metrics.json')
    assert metrics['clips'] == CLIPS - 2 and len(metrics['skipped']) == 2
    assert '03.flac' in metrics['skipped'][0] and '07.flac' in metrics['skipped'][1]
    # The others have what they have without them.
    decodable = [i for i in range(CLIPS) if i not in (3, 7)]
    manifest = write_manifest(
        tmp_path / 'kept',
        {f'{i:02d}.flac': clips[i] for i in decodable},
        [labels[i] for i in decodable],
    )
    assert command('evaluate', f'--workdir={workdir}', f'--config.data.eval={manifest}').code == 0
    alone = results('metrics.json')
    assert [metrics[key] for key in ('accuracy', 'mean_average_precision', 'auc')] == [
        pytest.approx(alone[key], abs=1e-6) for key in ('accuracy', 'mean_average_precision', 'auc')
    ]


def test_a_long_recording_that_cannot_be_decoded_is_skipped_once(
    workdir, command, results, clips, labels, tmp_path
):
    """Whichever of its windows the damage is in."""
    sounds = {
        'long.flac': np.concatenate(clips),
        'also.flac': np.concatenate(clips[::-1]),
        'short.flac': clips[0],
    }
    manifest = write_manifest(tmp_path / 'long', sounds, labels[:3])
    damage(tmp_path / 'long' / 'long.flac')
    assert (
        command(
            'evaluate',
            f'--workdir={workdir}',
            f'--config.data.eval={manifest}',
            '--config.data.too_long=window',
            '--config.data.on_bad_audio=skip',
        ).code
        == 0
    )
    metrics = results('metrics.json')
    assert (metrics['clips'], metrics['windowed_clips'], len(metrics['skipped'])) == (2, 1, 1)
    assert 'long.flac' in metrics['skipped'][0]


def test_a_sweep_lists_skipped_clips_once(workdir, command, results, damaged):
    assert (
        command(
            'evaluate',
            f'--workdir={workdir}',
            f'--config.data.eval={damaged}',
            '--config.data.on_bad_audio=skip',
            '--sweep=length',
            '--points=20,100',
        ).code
        == 0
    )
    curve = results('length.json')
    assert [point['clips'] for point in curve['points']] == [CLIPS - 2] * 2
    assert len(curve['skipped']) == 2


def test_a_split_of_which_nothing_decodes_is_refused(workdir, command, clips, labels, tmp_path):
    manifest = write_manifest(tmp_path / 'one', {'only.flac': clips[0]}, labels[:1])
    damage(tmp_path / 'one' / 'only.flac')
    result = command(
        'evaluate',
        f'--workdir={workdir}',
        f'--config.data.eval={manifest}',
        '--config.data.on_bad_audio=skip',
    )
    assert (
        result.code == 1
        and 'no clip of the evaluation split can be decoded' in result.err
        and 'only.flac' in result.err
    )


def test_a_class_without_clips_is_reported(workdir, command, clips, labels, tmp_path):
    few = [i for i in range(CLIPS) if labels[i] != 'middle']
    manifest = write_manifest(
        tmp_path / 'few', {f'{i}.wav': clips[i] for i in few}, [labels[i] for i in few]
    )
    result = command('evaluate', f'--workdir={workdir}', f'--config.data.eval={manifest}')
    assert result.code == 0
    assert 'warning: 1 of 3 classes have no evaluation clip: middle' in result.err


def test_rows_of_another_shape_change_no_score(trained):
    with open_evaluator(trained) as (evaluator, params, _):
        expected = evaluator.logits(params)
    with open_evaluator(trained, 'packing.tokens=200', 'packing.rows=3', 'packing.slots=4') as (
        evaluator,
        params,
        _,
    ):
        assert largest_difference(evaluator.logits(params), expected) <= CLOSE


def test_averaged_parameters_are_described(workdir, command, results):
    result = command(
        'evaluate',
        f'--workdir={workdir}',
        '--checkpoint=average:2',
        '--sweep=length',
        '--points=100',
    )
    assert result.code == 0
    assert results('length.json')['checkpoint'] == 'mean of steps 18, 21'
    assert 'mean of steps 18, 21' in (workdir / 'eval' / 'length.md').read_text('utf-8')


@pytest.mark.slow
def test_the_curves_of_the_quickstart(command, tmp_path):
    """One model works at every length and resolution, as the paper claims.

    The commands are those of quickstart.sh.
    """
    config, workdir = (
        pathlib.Path(__file__).parents[2] / 'configs' / 'quickstart.py',
        tmp_path / 'run',
    )
    assert command('train', f'--config={config}', f'--workdir={workdir}').code == 0
    assert (
        command(
            'evaluate', f'--workdir={workdir}', '--sweep=length', '--points=16,64,256,1008'
        ).code
        == 0
    )
    assert (
        command(
            'evaluate', f'--workdir={workdir}', '--sweep=resolution', '--points=1,1.2,2.4,4'
        ).code
        == 0
    )
    curves = {
        kind: [
            point['accuracy']
            for point in json.loads((workdir / 'eval' / f'{kind}.json').read_text('utf-8'))[
                'points'
            ]
        ]
        for kind in ('length', 'resolution')
    }
    assert min(curves['resolution']) >= 0.9  # at ratios it was trained at and at others
    assert curves['length'] == sorted(curves['length']) and curves['length'][0] < 0.6
    assert curves['length'][-1] == curves['resolution'][0] >= 0.95
