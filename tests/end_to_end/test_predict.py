"""`elastic-ast predict` and `load`: results do not depend on other clips, formats or order."""

import json
import pathlib
import re
import shutil
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import soundfile

import elastic_ast_jax
from elastic_ast_jax.audio import fbank, reading
from elastic_ast_jax.checkpointing.checkpoints import Checkpoints
from elastic_ast_jax.checkpointing.workdir import Workdir
from elastic_ast_jax.data.sources import manifest
from elastic_ast_jax.distributed import sharding
from elastic_ast_jax.evaluation.evaluator import Evaluator
from elastic_ast_jax.models import factory as model_factory
from elastic_ast_jax.models.attention import selection
from elastic_ast_jax.packing import packer
from elastic_ast_jax.training import factory as training_factory
from elastic_ast_jax.training.step import make_eval_step

RATE, CLASSES, STEPS = 8000, 3, 21
ATTENTIONS = ('reference', 'blocked')
# Share of the largest logit by which a packed clip may differ from a single one in float32.
CLOSE = 1e-5


def worst(computed: np.ndarray, expected: np.ndarray) -> float:
    """Return the largest difference as a share of the largest expected value."""
    return float(np.abs(computed - expected).max() / np.abs(expected).max())


def tone(hertz: float, seconds: float, rate: int = RATE) -> np.ndarray:
    """Return a tone in noise whose density does not depend on the sample rate."""
    samples = round(seconds * rate)
    noise = 0.02 * (rate / RATE) ** 0.5 * np.random.default_rng(0).standard_normal(samples)
    return (0.4 * np.sin(2 * np.pi * hertz * np.arange(samples) / rate) + noise).astype(np.float32)


def quiet(output: str) -> bool:
    """Return whether the output is empty but for progress, which appears on slow machines."""
    return all(re.fullmatch(r'\d+ recordings? done', line) for line in output.splitlines())


@pytest.fixture(scope='module')
def variant(trained, tmp_path_factory):
    """Return a function that loads the trained model with another attention or row length."""

    def load(attention: str, tokens: int):
        workdir = tmp_path_factory.mktemp('variant') / 'workdir'
        shutil.copytree(trained, workdir)
        values = json.loads((workdir / 'config.json').read_text('utf-8'))
        values['model']['attention'] = attention
        values['packing']['tokens'] = tokens
        (workdir / 'config.json').write_text(json.dumps(values), encoding='utf-8')
        return elastic_ast_jax.load(workdir)

    return load


@pytest.fixture(scope='module')
def model(trained):
    return elastic_ast_jax.load(trained)


@pytest.fixture(scope='module')
def log_mels(model, recordings) -> list[np.ndarray]:
    """Return the evaluation clips as the model takes them: normalized, mel bin first."""
    frontend = model.config.frontend
    waveforms = [reading.read(path, frontend.sample_rate) for path in recordings.test_files]
    return [
        fbank.normalize(fbank.log_mel(waveform, frontend), frontend).T for waveform in waveforms
    ]


@pytest.fixture(scope='module')
def alone(model, log_mels) -> np.ndarray:
    """Return the logits of each clip, computed alone."""
    return np.concatenate([model.logits([log_mel]) for log_mel in log_mels])


@pytest.fixture(scope='module')
def trained_parts(trained):
    """Return config and parameters, read without `load`."""
    opened = Workdir(trained)
    config = opened.config()
    network = model_factory.make_model(
        config, CLASSES, selection.select_attention('reference'), jnp.float32
    )
    abstract = jax.eval_shape(
        lambda: model_factory.init_params(network, model_factory.batch_shape(config, CLASSES), 0)
    )
    with Checkpoints(opened.checkpoints, read_only=True) as checkpoints:
        return config, checkpoints.restore_params(abstract, 'latest').params


@pytest.mark.parametrize('tokens', [96, pytest.param(160, marks=pytest.mark.slow)])
@pytest.mark.parametrize('attention', ATTENTIONS)
def test_packed_equals_alone(attention, tokens, variant, log_mels, alone):
    packed = variant(attention, tokens)
    assert worst(packed.logits(log_mels), alone) <= CLOSE
    random = np.random.default_rng(tokens)
    for _ in range(5):
        company = [
            random.normal(size=(32, frames)).astype(np.float32)
            for frames in random.integers(1, 101, 6)
        ]
        sample = random.permutation(len(log_mels))[:9]
        clips = [log_mels[i] for i in sample] + company
        order = random.permutation(len(clips))
        logits = np.zeros((len(clips), CLASSES), np.float32)
        logits[order] = packed.logits([clips[i] for i in order])
        assert worst(logits[: len(sample)], alone[sample]) <= CLOSE


@pytest.mark.parametrize('attention', ATTENTIONS)
def test_the_gradient_of_a_clip_depends_on_the_clip_alone(attention, trained_parts, log_mels):
    config, params = trained_parts
    network = model_factory.make_model(
        config, CLASSES, selection.select_attention(attention), jnp.float32
    )
    frontend, shape = config.frontend, model_factory.batch_shape(config, CLASSES)
    size = frontend.patch_mels, frontend.patch_frames
    clips = [
        packer.patchify(log_mel.T, *size, int(frontend.time_patches(log_mel.shape[1])))
        for log_mel in log_mels
    ]
    clips = sorted(clips, key=len)

    @jax.jit
    def gradient(patches, batch, row, slot):
        def logit(patches):
            logits = network.apply({'params': params}, batch._replace(patches=patches))
            assert isinstance(logits, jax.Array)
            return logits[row, slot, 1]

        return jax.grad(logit)(patches)

    def row_gradient(rows, row, slot):
        batch = jax.tree.map(
            jnp.asarray, packer.fill_batch(rows, clips, frontend.mel_patches, shape)
        )
        return np.asarray(gradient(batch.patches, batch, row, slot)), np.asarray(batch.segment_ids)

    # The four shortest clips are in one row, two more in the other row; one clip is differentiated.
    assert sum(len(clip) for clip in clips[:4]) < shape.tokens
    for slot, row in ((0, 0), (2, 0), (3, 0), (1, 1)):
        rows = [[0, 1, 2, 3], [4, 5]]
        together, segment_ids = row_gradient(rows, row, slot)
        clip = rows[row][slot]
        in_clip = np.zeros_like(segment_ids, bool)
        in_clip[row] = segment_ids[row] == slot + 1
        single, _ = row_gradient([[clip]], 0, 0)
        assert in_clip.sum() == len(clips[clip])
        assert worst(together[in_clip], single[0, : len(clips[clip])]) <= CLOSE
        # Exactly 0: nothing leaks from other clips or from padding.
        assert not together[~in_clip].any()


def test_probabilities_of_files_are_those_of_their_log_mels(model, recordings, alone):
    results = model.predict(recordings.test_files, top_k=CLASSES)
    for path, result, logits in zip(recordings.test_files, results, alone, strict=True):
        weights = np.exp(logits.astype(np.float64) - logits.max())
        expected = dict(zip(model.labels, weights / weights.sum(), strict=True))
        assert result['path'] == path
        assert result['seconds'] == soundfile.info(path).duration
        assert {
            entry['label']: entry['probability'] for entry in result['predictions']
        } == pytest.approx(expected, abs=1e-5)


def test_training_and_prediction_compute_the_same(trained_parts, model, alone):
    """Compare evaluation, which reads clips by TensorFlow's graph, with prediction by NumPy."""
    config, params = trained_parts
    mesh = sharding.make_mesh()
    attend = sharding.sharded_attention(selection.select_attention(config.model.attention), mesh)
    network = model_factory.make_model(config, CLASSES, attend, jnp.float32)
    step = make_eval_step(
        lambda params, batch: network.apply({'params': params}, batch),
        training_factory.make_loss(config),
    )
    evaluator = Evaluator(config, model.labels, sharding.jit_eval_step(step, mesh), mesh)
    scores = evaluator.logits(jax.device_put(params, sharding.replicated(mesh)))
    assert worst(scores, alone) <= 2e-3


def test_json_lines(trained, command, recordings):
    files = recordings.test_files
    completed = command('predict', trained, *files, '--json', f'--top_k={CLASSES}')
    assert completed.code == 0
    results = [json.loads(line) for line in completed.out.splitlines()]
    assert [result['path'] for result in results] == files
    for result in results:
        assert list(result) == ['path', 'seconds', 'predictions']
        assert all(list(entry) == ['label', 'probability'] for entry in result['predictions'])
        assert {entry['label'] for entry in result['predictions']} == {'low', 'middle', 'très haut'}
        probabilities = [entry['probability'] for entry in result['predictions']]
        assert probabilities == sorted(probabilities, reverse=True)
        assert sum(probabilities) == pytest.approx(1, abs=1e-9)
    first = [
        json.loads(line)
        for line in command('predict', trained, *files, '--json', '--top_k=1').out.splitlines()
    ]
    assert [result['predictions'] for result in first] == [
        result['predictions'][:1] for result in results
    ]
    # Most predictions of a trained model are right.
    pairs = zip(results, recordings.test, strict=True)
    assert (
        sum(result['predictions'][0]['label'] == line['labels'][0] for result, line in pairs)
        >= len(files) - 1
    )


def test_the_table_equals_the_json_lines(trained, command, recordings):
    files = recordings.test_files[:3]
    results = [
        json.loads(line)
        for line in command('predict', trained, *files, '--json', '--top_k=2').out.splitlines()
    ]
    expected = []
    for result in results:
        expected.append(f'{result["path"]}  ({result["seconds"]:.2f} s)')
        expected += [
            f'  {100 * entry["probability"]:6.2f} %  {entry["label"]}'
            for entry in result['predictions']
        ]
    assert command('predict', trained, *files, '--top_k=2').out.splitlines() == expected


def test_the_table_holds_no_control_characters_and_no_length_of_nothing(trained, command, tmp_path):
    name = tmp_path / 'a\nb\x1b[31m.wav'
    soundfile.write(name, tone(900, 0.1)[:1], RATE)
    first, *_ = command('predict', trained, name).out.splitlines()
    assert first == f'{tmp_path}/a\\nb\\x1b[31m.wav  (0.000125 s)'
    missing = command('predict', trained, tmp_path / 'c\nd.wav').out.splitlines()
    assert (
        len(missing) == 2
        and missing[0] == f'{tmp_path}/c\\nd.wav'
        and '\\nd.wav: no such file' in missing[1]
    )
    assert json.loads(command('predict', trained, name, '--json').out)['path'] == str(name)


def test_checkpoints_by_step(trained, command, recordings, model):
    assert model.step == STEPS
    assert elastic_ast_jax.load(trained, checkpoint='7').step == 7
    arguments = ('predict', trained, recordings.test_files[0], '--json')
    latest = command(*arguments).out
    assert command(*arguments, f'--checkpoint={STEPS}').out == latest
    assert command(*arguments, '--checkpoint=7').out != latest


@pytest.fixture
def folder(tmp_path) -> pathlib.Path:
    """Return a folder of one tone in many formats, sample rates and channels, and a text file."""
    recordings = tmp_path / 'folder'
    (recordings / 'below').mkdir(parents=True)

    def write(name: str, rate: int = RATE, channels: int = 1, **form):
        samples = tone(900, 0.6, rate)
        soundfile.write(recordings / name, np.stack([samples] * channels, axis=1), rate, **form)

    write('8bit.wav', subtype='PCM_U8')
    write('16bit.wav', subtype='PCM_16')
    write('24bit.wav', subtype='PCM_24')
    write('float.wav', subtype='FLOAT')
    write('lossless.flac')
    write('lossy.ogg', subtype='VORBIS')
    write('lossy.mp3')
    write('cd.wav', rate=44100, channels=2)
    write('studio.flac', rate=96000)
    write('below/phone.WAV', rate=11025)
    write('below/six.wav', rate=48000, channels=6)
    (recordings / 'notes.txt').write_text('no recording')
    return recordings


def test_every_format_rate_and_number_of_channels(trained, command, folder):
    completed = command('predict', trained, folder, '--json', f'--top_k={CLASSES}')
    assert completed.code == 0
    lines = map(json.loads, completed.out.splitlines())
    results = {str(pathlib.Path(result['path']).relative_to(folder)): result for result in lines}
    assert list(results) == [
        '16bit.wav',
        '24bit.wav',
        '8bit.wav',
        'below/phone.WAV',
        'below/six.wav',
        'cd.wav',
        'float.wav',
        'lossless.flac',
        'lossy.mp3',
        'lossy.ogg',
        'studio.flac',
    ]
    expected = {
        entry['label']: entry['probability'] for entry in results['float.wav']['predictions']
    }
    for name, result in results.items():
        probabilities = {entry['label']: entry['probability'] for entry in result['predictions']}
        assert result['predictions'][0]['label'] == 'middle', name
        assert result['seconds'] == pytest.approx(0.6, abs=0.001), name
        same_samples = name in ('8bit.wav', '16bit.wav', '24bit.wav', 'lossless.flac')
        assert probabilities == pytest.approx(expected, abs=0.001 if same_samples else 0.15), name


def test_a_bad_file_is_reported_and_the_rest_is_predicted(trained, command, tmp_path, recordings):
    text = tmp_path / 'text.wav'
    text.write_text('this is no recording')
    missing = tmp_path / 'missing.wav'
    empty_folder = tmp_path / 'nothing here'
    empty_folder.mkdir()
    good = recordings.test_files[:2]
    address = 'gs://bucket/a.wav'
    inputs = [good[0], text, missing, empty_folder, address, good[1]]

    completed = command('predict', trained, *inputs, '--json')
    assert completed.code == 1
    results = [json.loads(line) for line in completed.out.splitlines()]
    assert [result['path'] for result in results] == list(map(str, inputs))
    assert [list(result) for result in results] == [
        ['path', 'seconds', 'predictions'],
        *[['path', 'error']] * 4,
        ['path', 'seconds', 'predictions'],
    ]
    errors = {
        pathlib.Path(result['path']).name: result['error']
        for result in results
        if 'error' in result
    }
    for name, (problem, remedy) in {
        'text.wav': ('libsndfile cannot read it', 'convert it to WAV or FLAC'),
        'missing.wav': ('no such file', 'check the path'),
        'nothing here': (
            'no recording in this folder or below',
            'pass another folder, or the files by name',
        ),
    }.items():
        assert (
            str(tmp_path / name) in errors[name]
            and problem in errors[name]
            and remedy in errors[name]
        )
    assert errors['a.wav'].startswith(f'{address}: is an address, and only local files are read')
    # Good recordings have the same results without the bad recordings.
    good_lines = command('predict', trained, *good, '--json').out.splitlines()
    for line, result in zip(good_lines, (results[0], results[-1]), strict=True):
        expected = {
            entry['label']: entry['probability'] for entry in json.loads(line)['predictions']
        }
        assert {
            entry['label']: entry['probability'] for entry in result['predictions']
        } == pytest.approx(expected, abs=1e-5)

    table = command('predict', trained, *inputs)
    assert table.code == 1
    assert f'{text}\n  error: {errors["text.wav"]}\n' in table.out


def test_parameters_other_than_the_latest_are_reported(trained, command, recordings):
    arguments = 'predict', trained, recordings.test_files[0], '--json'
    assert quiet(command(*arguments).err)
    for checkpoint, description in (
        ('7', 'step 7'),
        ('average:2', 'mean of steps 18, 21'),
        ('21', 'step 21'),
    ):
        result = command(*arguments, f'--checkpoint={checkpoint}')
        line = f'{trained}: parameters of {description}\n'
        assert line in result.err and quiet(result.err.replace(line, ''))
        json.loads(result.out)  # and nothing else


def test_only_one_recording_is_explained(trained, command, recordings, tmp_path):
    for inputs in (recordings.test_files[:2], [recordings.folder / 'test']):
        result = command('predict', trained, *inputs, f'--explain={tmp_path / "why.png"}')
        assert (result.code, result.out) == (1, '')
        assert (
            f'--explain={tmp_path / "why.png"} draws one recording' in result.err
            and 'name one' in result.err
        )
        assert recordings.test_files[0] in result.err and recordings.test_files[1] in result.err


def test_a_name_that_is_no_unicode_is_predicted(trained, command, tmp_path, recordings):
    name = tmp_path / 'caf\udce9.wav'  # as Latin-1 wrote it, and Python reads it
    shutil.copy(recordings.test_files[0], name)
    for options in (['--json'], []):
        assert command('predict', trained, tmp_path, *options).code == 0


def test_arrays_equal_files(model, recordings):
    path = recordings.test_files[4]
    samples, _ = soundfile.read(path, dtype='float32')
    integers, _ = soundfile.read(path, dtype='int16')
    stereo = np.stack([samples, samples], axis=1)
    results = model.predict(
        [samples, path, stereo, integers, samples.astype(np.float64)], top_k=CLASSES
    )
    assert [result['path'] for result in results] == [
        'array 0',
        path,
        'array 2',
        'array 3',
        'array 4',
    ]
    assert len({result['seconds'] for result in results}) == 1
    expected = {entry['label']: entry['probability'] for entry in results[1]['predictions']}
    for result in results:
        assert {
            entry['label']: entry['probability'] for entry in result['predictions']
        } == pytest.approx(expected, abs=1e-5)


def test_odd_clips_have_probabilities(model):
    sound = tone(900, 0.5)
    inputs = {
        'one sample': np.ones(1, np.float32),
        'shorter than a window': sound[:150],
        'exactly a window': sound[:200],
        'silence': np.zeros(4000, np.float32),
        'constant': np.full(4000, 0.5, np.float32),
        'full scale': np.sign(sound),
        'plain': sound,
        'with an offset': sound + np.float32(0.3),
    }
    results = dict(zip(inputs, model.predict(inputs.values(), top_k=CLASSES), strict=True))
    for name, result in results.items():
        assert 'error' not in result, name
        assert result['seconds'] == len(inputs[name]) / RATE
        probabilities = [entry['probability'] for entry in result['predictions']]
        assert sum(probabilities) == pytest.approx(1), name
    plain, offset = (
        {entry['label']: entry['probability'] for entry in results[name]['predictions']}
        for name in ('plain', 'with an offset')
    )
    assert offset == pytest.approx(plain, abs=1e-3)


def test_odd_files_have_results_without_warnings(trained, command, tmp_path):
    sound = tone(900, 0.8)
    odd = {
        'clipped.wav': (np.clip(5 * sound, -1, 1), RATE),
        'eight channels.wav': (np.stack([sound] * 8, axis=1), RATE),
        'high rate.flac': (tone(900, 0.8, 192_000), 192_000),
        'long.wav': (tone(900, 30.0), RATE),
        'offset.wav': (sound + np.float32(0.5), RATE),
        'one sample.wav': (sound[:1], RATE),
        'plain.wav': (sound, RATE),
        'quieter than 16 bits.wav': (sound * np.float32(1e-9), RATE),
        'shorter than a frame.wav': (sound[:50], RATE),
        'silence.flac': (np.zeros(RATE, np.float32), RATE),
        'slow.wav': (tone(300, 2.0, 1000), 1000),
    }
    for name, (samples, rate) in odd.items():
        subtype = 'FLOAT' if name.endswith('.wav') else None
        soundfile.write(tmp_path / name, samples, rate, subtype=subtype)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        completed = command(
            'predict',
            trained,
            tmp_path,
            '--json',
            f'--top_k={CLASSES}',
            f'--timeline={tmp_path / "timeline"}',
        )
    assert completed.code == 0 and quiet(completed.err)
    results = {
        pathlib.Path(result['path']).name: result
        for result in map(json.loads, completed.out.splitlines())
    }
    assert list(results) == sorted(odd)
    for name, (samples, rate) in odd.items():
        assert results[name]['seconds'] == pytest.approx(len(samples) / rate, abs=1 / RATE), name
        assert sum(entry['probability'] for entry in results[name]['predictions']) == pytest.approx(
            1
        ), name
    for name in ('plain.wav', 'eight channels.wav', 'offset.wav', 'high rate.flac', 'long.wav'):
        assert results[name]['predictions'][0]['label'] == 'middle', name


def test_samples_beyond_all_bounds_are_an_error_and_no_warning(model):
    wrong = [
        np.full(800, 1e25, np.float32) * np.array([1, -1] * 400, np.float32),
        np.full(20_000, 1e300),
    ]
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        results = model.predict([*wrong, tone(900, 0.5)])
    assert ['error' in result for result in results] == [True, True, False]
    for number, result in enumerate(results[:2]):
        assert (
            result['error'].startswith(f'array {number}')
            and 'repair the recording' in result['error']
        )


def test_no_inputs_have_no_results(model):
    assert model.predict([]) == []
    assert model.logits([]).shape == (0, CLASSES)


def test_invalid_log_mels_are_named(model, log_mels):
    wrong = {
        'log_mels[1]: shape [100, 32] is not [32 mel bins, frames]': np.zeros(
            (100, 32), np.float32
        ),
        'log_mels[1]: has 101 frames, but the model has positions for 100': np.zeros(
            (32, 101), np.float32
        ),
        'log_mels[1]: holds values that are not finite': np.full((32, 9), np.nan, np.float32),
        'log_mels[1]: shape [32, 0] is not': np.zeros((32, 0), np.float32),
    }
    for message, log_mel in wrong.items():
        with pytest.raises(ValueError, match=re.escape(message)):
            model.logits([log_mels[0], log_mel])


def test_synthesized_clips_are_a_data_set(tmp_path, command):
    config = pathlib.Path(__file__).parents[2] / 'configs' / 'quickstart.py'
    result = command('synthesize', tmp_path / 'clips', f'--config={config}', '--clips=4')
    assert result.code == 0
    source = manifest.load(tmp_path / 'clips' / 'manifest.jsonl', None, RATE)
    assert len(source) == 4
    assert source.samples.tolist() == sorted(source.samples)
    assert f'{source.samples[0] / RATE:.2f} s to {source.samples[-1] / RATE:.2f} s' in result.out
    assert all(
        name.endswith(f'_{label}.wav')
        for name, (label,) in zip(source.keys, source.labels, strict=True)
    )
    assert {path.name for path in (tmp_path / 'clips').iterdir() if path.suffix == '.wav'} == set(
        source.keys
    )
    assert np.abs(source.read(3)).max() > 0.05


@pytest.mark.parametrize(
    ('options', 'part'),
    [
        (['--clips=401'], '--clips=401 must be from 1 to data.synthetic_eval=400'),
        (['--config.data.source=fsdd'], "data.source='fsdd'"),
    ],
)
def test_clips_that_cannot_be_synthesized(options, part, tmp_path, command):
    config = pathlib.Path(__file__).parents[2] / 'configs' / 'quickstart.py'
    result = command('synthesize', tmp_path / 'clips', f'--config={config}', *options)
    assert result.code == 1
    assert part in result.err
    assert not (tmp_path / 'clips').exists()


# Imports that only training needs fail, as if they were not installed.
WITHOUT_TRAINING = """
import sys
sys.modules.update(dict.fromkeys(('tensorflow', 'tensorboard', 'tensorflow_datasets', 'clu')))
from elastic_ast_jax.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


def test_prediction_needs_no_tensorflow_and_survives_a_damaged_checkpoint(
    python, workdir, recordings, saved, tmp_path
):
    for path in (workdir / 'checkpoints' / str(STEPS) / 'params').rglob('*'):
        if path.is_file():
            path.write_bytes(b'')
    result = python(
        WITHOUT_TRAINING, 'predict', workdir, recordings.folder / 'test', '--json', cwd=tmp_path
    )
    assert result.code == 0
    assert [json.loads(line)['path'] for line in result.out.splitlines()] == recordings.test_files
    # The substitute is reported on standard error, apart from the results.
    assert (
        f'checkpoint {workdir}/checkpoints/{STEPS} is incomplete, using the one before, 18'
        in result.err
    )
    assert 'Traceback' not in result.err
