"""`Predictor.embed` and `elastic-ast embed`: the vectors that the head classifies."""

import numpy as np
import pytest
import soundfile

import elastic_ast_jax
from elastic_ast_jax.utils import progress

RATE = 8000
WIDTH = 16
# Steps of 4 frames of 10 ms; the first one's frames, windows of 25 ms, end after 55 ms.
STEP, FIRST = 40.0, 27.5


@pytest.fixture(scope='module')
def model(trained):
    return elastic_ast_jax.load(trained)


@pytest.fixture(scope='module')
def sounds():
    random = np.random.default_rng(0)
    return [
        0.1 * random.standard_normal(samples).astype(np.float32)
        for samples in (1, 700, 3000, 5555, 8000, 21_000)
    ]


def write_sound(path, samples):
    soundfile.write(path, samples, RATE, subtype='FLOAT')
    return str(path)


def test_an_embedding_is_the_vector_that_the_head_classifies(model, saved, trained, sounds):
    params = saved(trained, model.step)
    kernel, bias = params["params['head']['kernel']"], params["params['head']['bias']"]
    embedded, predicted = model.embed(sounds[:5]), model.predict(sounds[:5], top_k=3)
    for vector, result in zip(embedded, predicted, strict=True):
        assert list(vector) == ['path', 'seconds', 'embedding']
        assert (vector['path'], vector['seconds']) == (result['path'], result['seconds'])
        assert vector['embedding'].shape == (WIDTH,) and vector['embedding'].dtype == np.float32
        weights = np.exp(vector['embedding'] @ kernel + bias)
        probabilities = dict(zip(model.labels, weights / weights.sum(), strict=True))
        assert probabilities == pytest.approx(
            {entry['label']: entry['probability'] for entry in result['predictions']}, abs=1e-5
        )


def test_an_embedding_does_not_depend_on_other_inputs(model, sounds):
    together = model.embed(sounds + sounds[::-1], timestamps=True)
    for number, sound in enumerate(sounds):
        (alone,) = model.embed([sound], timestamps=True)
        (vector,) = model.embed([sound])
        np.testing.assert_allclose(vector['embedding'], alone['embedding'], atol=1e-5)
        for packed in (together[number], together[-1 - number]):
            for name in ('embedding', 'timestamp_embeddings', 'timestamps'):
                np.testing.assert_allclose(packed[name], alone[name], atol=1e-5)


def test_time_steps(model, sounds):
    for result, sound in zip(model.embed(sounds, timestamps=True), sounds, strict=True):
        times, vectors = result['timestamps'], result['timestamp_embeddings']
        assert vectors.shape == (len(times), WIDTH) and vectors.dtype == np.float32
        assert times[0] == FIRST
        apart = np.diff(times)
        assert (apart > 0).all()
        if len(sound) <= 8000:  # one clip
            assert (apart == STEP).all() and 'windows' not in result
        else:
            assert (
                result['windows'] > 1 and apart.max() <= 1.5 * STEP and (apart == STEP).mean() > 0.9
            )
        assert times[-1] >= 1000 * len(sound) / RATE - STEP - 10


def test_the_steps_of_a_window_are_those_of_the_same_sound(model, sounds):
    """Compare the first window of a long recording, up to half of its overlap with the second."""
    long = model.embed([sounds[-1]], timestamps=True)[0]
    window = model.windows().length
    (first,) = model.embed([sounds[-1][:window]], timestamps=True)
    same = first['timestamps'] < 1000 * window / RATE / 2
    count = int(same.sum())
    assert count > 5
    np.testing.assert_allclose(
        long['timestamp_embeddings'][:count], first['timestamp_embeddings'][same], atol=1e-5
    )


def test_the_file_holds_the_embeddings(trained, model, command, sounds, tmp_path):
    (tmp_path / 'sounds').mkdir()
    files = [
        write_sound(tmp_path / 'sounds' / f'{number} très.wav', sound)
        for number, sound in enumerate(sounds)
    ]
    out = tmp_path / 'out.npz'
    out.write_text('something older')
    completed = command(
        'embed', trained, files[3], tmp_path / 'sounds', f'--out={out}', '--timestamps'
    )
    assert completed.code == 0, completed.err
    expected = model.embed([files[3], *files], timestamps=True)
    with np.load(out, allow_pickle=False) as file:
        assert sorted(file) == [
            'embeddings',
            'offsets',
            'paths',
            'seconds',
            'timestamp_embeddings',
            'timestamps',
        ]
        assert file['paths'].tolist() == [files[3], *files]
        assert file['seconds'].tolist() == [result['seconds'] for result in expected]
        assert file['embeddings'].dtype == file['timestamp_embeddings'].dtype == np.float32
        np.testing.assert_allclose(
            file['embeddings'], [result['embedding'] for result in expected], atol=1e-5
        )
        for number, result in enumerate(expected):
            steps = slice(file['offsets'][number], file['offsets'][number + 1])
            np.testing.assert_array_equal(file['timestamps'][steps], result['timestamps'])
            np.testing.assert_allclose(
                file['timestamp_embeddings'][steps], result['timestamp_embeddings'], atol=1e-5
            )
        assert file['offsets'][0] == 0 and file['offsets'][-1] == len(file['timestamps']) == len(
            file['timestamp_embeddings']
        )
        assert (
            f'{out}: embeddings of 7 recordings, and of {file["offsets"][-1]} time steps, each of'
            ' 16 numbers' in completed.out
        )
    assert sorted(path.name for path in tmp_path.iterdir()) == ['out.npz', 'sounds']


def test_without_time_steps(trained, command, recordings, tmp_path):
    assert (
        command('embed', trained, recordings.folder / 'test', f'--out={tmp_path / "out.npz"}').code
        == 0
    )
    with np.load(tmp_path / 'out.npz', allow_pickle=False) as file:
        assert sorted(file) == ['embeddings', 'paths', 'seconds']
        assert file['paths'].tolist() == recordings.test_files and file['embeddings'].shape == (
            12,
            WIDTH,
        )


def test_a_bad_file_is_reported_and_the_rest_is_embedded(
    trained, model, command, recordings, tmp_path
):
    text = tmp_path / 'text.wav'
    text.write_text('this is no recording')
    good, out = recordings.test_files[:2], tmp_path / 'out.npz'
    completed = command(
        'embed', trained, good[0], text, tmp_path / 'missing.wav', good[1], f'--out={out}'
    )
    assert completed.code == 1
    assert (
        f'{text}: libsndfile cannot read it' in completed.err
        and f'{tmp_path}/missing.wav: no such file' in completed.err
    )
    with np.load(out, allow_pickle=False) as file:
        assert file['paths'].tolist() == good
        np.testing.assert_allclose(
            file['embeddings'], [result['embedding'] for result in model.embed(good)], atol=1e-5
        )
    bad, fine = model.embed([str(text), good[0]], timestamps=True)
    assert list(bad) == ['path', 'error'] and 'embedding' in fine


def test_progress_appears_during_long_work(trained, command, sounds, tmp_path, monkeypatch):
    monkeypatch.setattr(progress, '_PATIENCE', 0.0)
    long = write_sound(tmp_path / 'long\n.wav', np.tile(sounds[-1], 6))
    line, *_ = command('embed', trained, long, f'--out={tmp_path / "out.npz"}').err.splitlines()
    assert (
        ' of 0:16, ' in line
        and ' times real time, ' in line
        and line.endswith(f' left: {tmp_path}/long\\n.wav')
    )

    (tmp_path / 'many').mkdir()
    for number in range(130):
        write_sound(tmp_path / 'many' / f'{number:03d}.wav', sounds[1])
    result = command('embed', trained, tmp_path / 'many', f'--out={tmp_path / "out.npz"}')
    assert result.err.splitlines()[0] == '64 recordings done'


def test_nothing_but_bad_files(trained, command, tmp_path):
    out = tmp_path / 'out.npz'
    out.write_text('something older')
    result = command('embed', trained, tmp_path / 'missing.wav', f'--out={out}')
    assert result.code == 1
    assert f'{out}: is not written, as the one input cannot be used' in result.err
    assert out.read_text() == 'something older' and list(tmp_path.iterdir()) == [out]


@pytest.mark.parametrize(
    ('name', 'part'),
    [
        ('out.npy', 'the format is .npz'),
        ('out', 'such as --out={folder}/out.npz'),
        ('missing/out.npz', 'there is no folder'),
        ('folder.npz', 'is a folder'),
    ],
)
def test_files_that_cannot_be_written_are_errors_before_work(command, tmp_path, name, part):
    (tmp_path / 'folder.npz').mkdir()
    result = command('embed', 'no workdir', 'no recording', f'--out={tmp_path / name}')
    assert result.code == 1 and not result.out
    assert f'--out={tmp_path / name}: ' in result.err and part.format(folder=tmp_path) in result.err


# Files may not grow beyond 20 kB: an error at the same place as on a full disk.
FULL_DISK = """
import resource, sys
import jax
jax.config.update('jax_enable_compilation_cache', False)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
from elastic_ast_jax.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


def test_a_full_disk(python, trained, sounds, tmp_path):
    write_sound(tmp_path / 'long.wav', np.tile(sounds[-1], 12))
    before = sorted(tmp_path.iterdir())
    result = python(
        FULL_DISK,
        'embed',
        trained,
        tmp_path / 'long.wav',
        f'--out={tmp_path}/out.npz',
        '--timestamps',
    )
    assert result.code == 1, result.err
    assert (
        f'{tmp_path}/out.npz: cannot be written' in result.err
        and 'make room on that disk' in result.err
    )
    assert 'Traceback' not in result.err and sorted(tmp_path.iterdir()) == before
