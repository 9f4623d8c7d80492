"""The HEAR interface: the checks of the benchmark's validator, and errors."""

import sys

import numpy as np
import pytest

from elastic_ast_jax.inference import hear
from elastic_ast_jax.utils.errors import UserError
from tests.fixtures import untrained

RATE = 16000
WIDTH = 16
# The longest advised distance of timestamps, in milliseconds.
ADVISED = 50.0


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp('runs') / 'fresh'
    untrained.workdir(path)
    return path


@pytest.fixture(scope='module')
def model(folder):
    return hear.load_model(str(folder))


@pytest.fixture(scope='module')
def torch():
    return pytest.importorskip(
        'torch', reason='PyTorch is not installed: pip install elastic-ast-jax[hear]'
    )


def noise(sounds, samples, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, (sounds, samples)).astype(np.float32)


def test_the_model_has_the_attributes_of_the_interface(model):
    assert model.sample_rate == RATE
    assert (model.scene_embedding_size, model.timestamp_embedding_size) == (WIDTH, WIDTH)
    for value in (model.sample_rate, model.scene_embedding_size, model.timestamp_embedding_size):
        assert isinstance(value, int)


@pytest.mark.parametrize('seconds', [1.07, 1.98, 4.0, 0.001, 0.049, 0.1, 1 / RATE])
def test_timestamps_are_regular_and_cover_the_sound(model, seconds):
    """Check the validator's lengths, and lengths shorter than a frame and than a patch."""
    samples = int(seconds * RATE)
    embeddings, timestamps = hear.get_timestamp_embeddings(noise(2, samples), model)
    assert embeddings.dtype == timestamps.dtype == np.float32
    assert embeddings.shape == (2, timestamps.shape[1], WIDTH) and timestamps.shape[0] == 2
    assert np.isfinite(embeddings).all()
    apart = np.diff(timestamps)
    assert (apart > 0).all() and apart.max(initial=0) <= ADVISED
    assert np.abs(apart - (apart.mean() if apart.size else 0)).max(initial=0) < 1e-3
    assert timestamps.min() == 0
    assert 1000 * seconds - ADVISED <= timestamps.max() <= 1000 * seconds


@pytest.mark.parametrize('samples', [1, 43840, 3 * RATE + 77])
def test_scenes(model, samples):
    embeddings = hear.get_scene_embeddings(noise(4, samples), model)
    assert embeddings.dtype == np.float32 and embeddings.shape == (4, WIDTH)
    assert np.isfinite(embeddings).all()


def test_a_sound_does_not_depend_on_other_sounds(model):
    """Compare a sound that is one clip, and a sound that has several windows."""
    for samples in (9000, 60000):
        audio = noise(5, samples)
        scenes, (steps, _) = (
            hear.get_scene_embeddings(audio, model),
            hear.get_timestamp_embeddings(audio, model),
        )
        np.testing.assert_allclose(
            hear.get_scene_embeddings(audio[3:4], model)[0], scenes[3], atol=1e-5
        )
        np.testing.assert_allclose(
            hear.get_timestamp_embeddings(audio[3:4], model)[0][0], steps[3], atol=1e-5
        )
        assert np.abs(scenes[3] - scenes[0]).max() > 1e-3


def test_timestamps_lie_where_the_sound_is(model):
    """Check that a click changes the embeddings around it most."""
    audio = noise(1, RATE // 2) * 0.01
    changed = audio.copy()
    at = int(0.41 * RATE)  # in the third patch, whose frames are from 320 to 495 ms
    changed[0, at : at + 400] += 0.9 * np.sin(np.arange(400)).astype(np.float32)
    (before, timestamps), (after, _) = (
        hear.get_timestamp_embeddings(waveforms, model) for waveforms in (audio, changed)
    )
    change = np.abs(after - before).max(axis=2)[0]
    assert 320 <= timestamps[0, change.argmax()] <= 495


def test_the_shorter_of_50_ms_and_a_step_without_drift():
    # 2560 samples of 16 kHz are 160 ms; 240 are 15 ms.
    assert hear.timestamps(16000, 16000, 2560).tolist() == [50.0 * n for n in range(21)]
    assert hear.timestamps(800, 16000, 240).tolist() == [0, 15, 30, 45]
    # 50 ms of 22050 Hz are 1102.5 samples: an hour later the times are still right.
    hour = hear.timestamps(3600 * 22050, 22050, 3520)
    assert len(hour) == 72001 and hour[-1] == 3_600_000
    assert hear.timestamps(1, 44100, 7040).tolist() == [0]


def test_no_sounds_give_no_embeddings(model):
    empty = np.zeros((0, 8000), np.float32)
    assert hear.get_scene_embeddings(empty, model).shape == (0, WIDTH)
    embeddings, timestamps = hear.get_timestamp_embeddings(empty, model)
    assert embeddings.shape == (0, 11, WIDTH) and timestamps.shape == (0, 11)


@pytest.mark.parametrize(
    ('audio', 'part'),
    [
        (np.zeros(8000, np.float32), 'shape [8000]: must be [n_sounds, n_samples]'),
        (
            np.zeros((2, 0), np.float32),
            'shape [2, 0]: must be [n_sounds, n_samples], with at least one sample',
        ),
        (np.full((1, 8000), np.nan, np.float32), 'is NaN or infinite'),
    ],
)
def test_audio_that_cannot_be_used_is_an_error(model, audio, part):
    for function in (hear.get_scene_embeddings, hear.get_timestamp_embeddings):
        with pytest.raises(UserError) as raised:
            function(audio, model)
        assert part in str(raised.value)


def test_there_is_no_default_model(tmp_path):
    with pytest.raises(UserError) as raised:
        hear.load_model()
    assert 'no default model' in str(raised.value) and 'workdir' in str(raised.value)
    with pytest.raises(UserError) as raised:
        hear.load_model(str(tmp_path))
    assert str(tmp_path) in str(raised.value)


def test_tensors_in_tensors_out(torch, model):
    """Use a module and tensors as the validator does, without gradients and with."""
    assert isinstance(model, torch.nn.Module)
    model.to('cpu')
    audio = noise(2, 17120)
    scenes = hear.get_scene_embeddings(torch.from_numpy(audio), model)
    embeddings, timestamps = hear.get_timestamp_embeddings(
        torch.from_numpy(audio).requires_grad_(), model
    )
    for tensor, shape in (
        (scenes, (2, WIDTH)),
        (embeddings, (2, 22, WIDTH)),
        (timestamps, (2, 22)),
    ):
        assert isinstance(tensor, torch.Tensor)
        assert (
            tensor.dtype == torch.float32
            and tuple(tensor.shape) == shape
            and tensor.device.type == 'cpu'
        )
    np.testing.assert_array_equal(scenes.numpy(), hear.get_scene_embeddings(audio, model))
    for tensor, array in zip(
        (embeddings, timestamps), hear.get_timestamp_embeddings(audio, model), strict=True
    ):
        np.testing.assert_array_equal(tensor.numpy(), array)


def test_without_torch_the_model_is_a_plain_object(folder, monkeypatch):
    # The import of PyTorch fails, as if it were not installed.
    monkeypatch.setitem(sys.modules, 'torch', None)
    model = hear.load_model(folder)
    assert hear.get_scene_embeddings(noise(1, 4000), model).shape == (1, WIDTH)
