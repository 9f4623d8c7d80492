"""Explanations: attention that sums to 1, at the right position of the plot."""

import sys

import jax
import numpy as np
import pytest
import soundfile
from matplotlib.collections import QuadMesh
from matplotlib.patches import StepPatch

from elastic_ast_jax.audio import fbank
from elastic_ast_jax.audio.frontend import FrontendSpec
from elastic_ast_jax.checkpointing.load_model import LoadedModel
from elastic_ast_jax.cli import predict
from elastic_ast_jax.cli.main import main
from elastic_ast_jax.inference import embeddings, explanation, plots
from elastic_ast_jax.inference.explanation import ExplanationError
from elastic_ast_jax.inference.predictor import Predictor
from elastic_ast_jax.utils.files import WriteError
from tests.fixtures import untrained

RATE = 16000
# The patch that the model `attentive` attends to: mel bins 16 to 31, frames 64 to 79.
BAND, PATCH = 1, 4


@pytest.fixture(scope='module')
def model():
    return untrained.predictor()


@pytest.fixture(scope='module')
def attentive():
    """Return a model whose tokens are their positions, and whose pooling selects one patch."""
    config = untrained.settings()
    network, params = untrained.fresh(config)
    params = jax.tree.map(np.zeros_like, params)
    params['positions']['freq'][BAND, 0] = params['positions']['time'][PATCH, 1] = 1.0
    params['encoder']['norm']['scale'][:] = params['norm_head']['scale'][:] = 1.0
    params['pool']['key']['kernel'][:2, :, 0] = 100.0  # either alone is not enough
    params['pool']['to_query']['bias'][:, 0] = 1.0
    params['head']['bias'][:] = [0.0, 2.0, 1.0]
    return Predictor(LoadedModel(config, untrained.LABELS, network, params, 0, 'step 0'))


def recording(path, seconds, seed=0):
    samples = round(seconds * RATE)
    noise = 0.1 * np.random.default_rng(seed).standard_normal(samples)
    soundfile.write(path, noise + 0.3 * np.sin(2 * np.pi * 440 * np.arange(samples) / RATE), RATE)
    return path


@pytest.mark.parametrize('seconds', [0.001, 0.1, 0.7, 0.95, 1.2, 3.21, 20.0])
def test_shares_sum_to_one_at_every_length(model, tmp_path, seconds):
    explained = explanation.explain(model, recording(tmp_path / 'clip.wav', seconds))
    assert explained.attention.sum() == pytest.approx(1)
    assert (explained.attention >= 0).all()
    assert explained.attention.shape == (len(explained.patch_edges) - 1, 2)
    assert explained.log_mel.shape == (len(explained.frame_edges) - 1, 32)
    assert np.isfinite(explained.log_mel[0]).all()
    assert explained.seconds == pytest.approx(seconds)
    assert (
        explained.patch_edges[-1] > explained.seconds - 0.17
        and explained.frame_edges[0] == explained.patch_edges[0]
    )


@pytest.mark.parametrize('seconds', [0.5, 3.21])
def test_the_classes_are_those_of_prediction(model, tmp_path, seconds):
    path = recording(tmp_path / 'clip.wav', seconds)
    explained = explanation.explain(model, path, top_k=2)
    (result,) = model.predict([path], top_k=2)
    assert [label for label, _ in explained.predictions] == [
        entry['label'] for entry in result['predictions']
    ]
    for (_, probability), entry in zip(explained.predictions, result['predictions'], strict=True):
        assert probability == pytest.approx(entry['probability'], abs=1e-6)
    assert explained.windows == result.get('windows', 1)


def test_the_patch_with_the_attention_is_marked(attentive, tmp_path):
    explained = explanation.explain(attentive, recording(tmp_path / 'clip.wav', 0.9))
    assert explained.attention[PATCH, BAND] == pytest.approx(1, abs=1e-6)
    middle = embeddings.step_times(attentive.config.frontend, PATCH + 1)[-1] / 1000
    assert explained.patch_edges[PATCH : PATCH + 2].mean() == pytest.approx(middle)

    hertz = fbank.center_frequencies(attentive.config.frontend)
    figure = plots.plot_explanation(explained, hertz, 'clip.wav', 'step 0', averages=False)
    picture = figure.axes[0]
    mesh = picture.collections[-1]
    assert isinstance(mesh, QuadMesh)
    drawn = np.asarray(mesh.get_array())
    band, patch = np.unravel_index(drawn.argmax(), drawn.shape)
    corners = np.asarray(mesh.get_coordinates())
    (left, low), (right, high) = corners[band, patch], corners[band + 1, patch + 1]
    assert left < middle < right and right - left == pytest.approx(0.16)
    # The upper half of the mel bins: on the axis, the marks of these frequencies are within.
    marks = {
        int(label.get_text()): position
        for position, label in zip(picture.get_yticks(), picture.get_yticklabels(), strict=True)
    }
    inside = [mark for mark, position in marks.items() if low <= position <= high]
    assert inside == [mark for mark in marks if hertz[15] < mark < hertz[-1]] and 5000 in inside
    # Where attention is at most uniform, there is no color over the spectrogram.
    figure.draw_without_rendering()
    opacity = np.asarray(mesh.cmap(mesh.norm(drawn)))[..., 3]
    assert np.count_nonzero(opacity) == 1


def test_windows_follow_one_another(attentive, tmp_path):
    """Without overlap, the fifth patch of each window of 96 frames has half of the attention."""
    explained = explanation.explain(
        attentive, recording(tmp_path / 'clip.wav', 2 * 0.975), overlap=0.0
    )
    assert explained.windows == 2
    middles = (explained.patch_edges[1:] + explained.patch_edges[:-1]) / 2
    attention = explained.attention[:, BAND]
    assert attention.sum() == pytest.approx(1)
    first, second = attention[middles < 0.975], attention[middles > 0.975]
    assert first.sum() == pytest.approx(0.5) and first.argmax() == PATCH
    # A window begins at sample 15600, between frames 97 and 98; its patch is spread over the
    # columns beside.
    assert second.sum() == pytest.approx(0.5)
    assert (middles[middles > 0.975] * second).sum() / second.sum() == pytest.approx(
        0.975 + 0.7275, abs=0.02
    )


@pytest.mark.parametrize('seconds', [0.9, 3.21, 20.0])
def test_a_model_that_averages_has_uniform_attention(tmp_path, seconds):
    """Also where two windows overlap, which counts twice for the result."""
    model = untrained.predictor(model={'pool': 'mean'})
    explained = explanation.explain(model, recording(tmp_path / 'clip.wav', seconds), overlap=0.6)
    assert explained.uniform.sum() == pytest.approx(1)
    np.testing.assert_allclose(explained.attention, explained.uniform, rtol=1e-4, atol=1e-9)
    figure = plots.plot_explanation(
        explained,
        fbank.center_frequencies(model.config.frontend),
        'clip.wav',
        'step 0',
        averages=True,
    )
    (stairs,) = figure.axes[1].patches
    assert isinstance(stairs, StepPatch)
    course, _, _ = stairs.get_data()
    np.testing.assert_allclose(course, 1, rtol=1e-4)
    assert (explained.windows > 1) == (seconds > 1)


@pytest.mark.parametrize(
    ('seconds', 'label', 'mark'), [(45.0, 'time [s]', '45'), (65.0, 'time', '1:00')]
)
def test_times_are_seconds_up_to_a_minute(model, tmp_path, seconds, label, mark):
    explained = explanation.explain(model, recording(tmp_path / 'clip.wav', seconds), overlap=0.0)
    picture = plots.plot_explanation(
        explained,
        fbank.center_frequencies(model.config.frontend),
        'clip.wav',
        'step 0',
        averages=False,
    ).axes[0]
    assert picture.get_xlabel() == label
    assert picture.get_xticklabels()[-1].get_text() == mark
    assert picture.get_xlim() == pytest.approx((0, seconds), abs=0.2)


def test_progress_grows_to_the_end(model, tmp_path):
    calls = []
    explanation.explain(
        model, recording(tmp_path / 'clip.wav', 20.0), progress=lambda *state: calls.append(state)
    )
    assert {(name, seconds) for name, _, seconds in calls} == {(str(tmp_path / 'clip.wav'), 20.0)}
    assert len(calls) > 20 and max(result for _, result, _ in calls) == 20.0


def test_long_recordings_have_no_more_columns_than_can_be_drawn(model, tmp_path):
    explained = explanation.explain(model, recording(tmp_path / 'clip.wav', 45.0))
    assert len(explained.log_mel) <= 2000
    assert explained.frame_edges[-1] == pytest.approx(45, abs=0.2) and explained.patch_edges[
        -1
    ] == pytest.approx(45, abs=0.2)
    assert explained.attention.sum() == pytest.approx(1)


def test_the_title_names_a_model_that_averages(tmp_path):
    model = untrained.predictor(model={'pool': 'mean'})
    explained = explanation.explain(model, recording(tmp_path / 'clip.wav', 0.6))
    np.testing.assert_allclose(explained.attention, 1 / explained.attention.size, rtol=1e-5)
    figure = plots.plot_explanation(
        explained,
        fbank.center_frequencies(model.config.frontend),
        'clip.wav',
        'step 0',
        averages=True,
    )
    assert 'averages over all patches' in figure.get_suptitle()


@pytest.mark.parametrize('name', ['out.png', 'out.PDF', 'out.svg', 'out.jpg'])
def test_every_format_that_is_named(model, tmp_path, name):
    """With a name of the recording that is no mathematics, and silence."""
    path = tmp_path / 'a $x_1$ $ name.wav'
    soundfile.write(path, np.zeros(4000), RATE)
    predict.draw_explanation(model, path, tmp_path / name, top_k=50)
    assert (tmp_path / name).stat().st_size > 5000


@pytest.mark.parametrize(
    ('name', 'part'),
    [
        ('out.gif', 'one of .png .jpg .jpeg .pdf .svg'),
        ('out', 'one of .png'),
        ('missing/out.png', 'there is no folder'),
        ('folder.png', 'is a folder'),
    ],
)
def test_files_that_cannot_be_drawn_are_errors_before_the_model_runs(tmp_path, name, part):
    (tmp_path / 'folder.png').mkdir()
    with pytest.raises(ExplanationError) as raised:
        explanation.check_file(tmp_path / name)
    assert part in str(raised.value) and str(tmp_path / name) in str(raised.value)


def test_the_command_draws_and_checks_names_first(tmp_path, capsys):
    untrained.workdir(tmp_path / 'run')
    path = str(recording(tmp_path / 'clip.wav', 0.6))
    assert (
        main(['predict', str(tmp_path / 'run'), path, '--explain', str(tmp_path / 'out.png')]) == 0
    )
    assert (tmp_path / 'out.png').read_bytes()[:4] == b'\x89PNG'
    assert capsys.readouterr().out.startswith(f'{path}  (0.60 s)\n')
    assert main(['predict', 'no workdir', path, '--explain', str(tmp_path / 'out.txt')]) == 1
    result = capsys.readouterr()
    assert f'--explain={tmp_path}/out.txt' in result.err and not result.out


def test_a_recording_that_cannot_be_used(model, tmp_path):
    with pytest.raises(ExplanationError, match='no such file'):
        predict.draw_explanation(model, tmp_path / 'missing.wav', tmp_path / 'out.png')
    assert not (tmp_path / 'out.png').exists()


@pytest.mark.skipif(not sys.platform.startswith('linux'), reason='sizes are limited as Linux does')
@pytest.mark.parametrize('name', ['out.png', 'out.jpg', 'out.svg', 'out.pdf', 'out.webp'])
def test_a_full_disk_leaves_no_half_drawing(model, tmp_path, name, little_room):
    path = recording(tmp_path / 'clip.wav', 0.5)
    with little_room(2000), pytest.raises(WriteError) as raised:
        predict.draw_explanation(model, path, tmp_path / name)
    assert str(raised.value).startswith(
        f'{tmp_path / name}: cannot be written (File too large): make room on that disk'
    )
    assert list(tmp_path.iterdir()) == [path]


def test_centers_of_mel_filters_are_their_peaks():
    """Where filters are wide enough for a bin of the spectrum to lie near their peak."""
    for frontend in (
        untrained.settings().frontend,
        untrained.settings(frontend={'kind': 'librosa', 'fft': 2048}).frontend,
        FrontendSpec(sample_rate=32000, f_min=3000.0, f_max=9000.0),
    ):
        filters, hertz = fbank.filters(frontend), fbank.center_frequencies(frontend)
        peaks = filters.argmax(axis=0) * frontend.sample_rate / frontend.fft_length
        apart = frontend.sample_rate / frontend.fft_length
        assert (np.abs(peaks - hertz)[8:] <= apart).all()


@pytest.mark.parametrize(
    ('frontend', 'marks'),
    [
        (FrontendSpec(), ['50', '200', '500', '1000', '2000', '5000']),
        (FrontendSpec(sample_rate=22050, f_min=2600.0, f_max=9000.0), ['3000', '4000', '5000']),
        (
            FrontendSpec(sample_rate=256_000, window_ms=4.0, f_min=15e3, f_max=120e3),
            ['20000', '50000', '100000'],
        ),
        (
            FrontendSpec(sample_rate=1000, window_ms=250.0, mel_bins=64, f_min=8.0, f_max=250.0),
            ['20', '50', '100', '200'],
        ),
    ],
)
def test_frequencies_are_marked_where_they_are(frontend, marks):
    hertz = fbank.center_frequencies(frontend)
    positions, labels = plots._hertz_ticks(hertz)
    assert set(marks) <= set(labels)
    for position, label in zip(positions, labels, strict=True):
        bin_centers = np.arange(len(hertz)) + 0.5
        assert np.interp(position, bin_centers, hertz) == pytest.approx(float(label))
