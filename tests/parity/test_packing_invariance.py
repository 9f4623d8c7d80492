"""Packing invariance: sound models pass; models that leak or ignore their input fail."""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest
import soundfile
from flax.traverse_util import flatten_dict, unflatten_dict

from elastic_ast_jax.checkpointing.load_model import LoadedModel
from elastic_ast_jax.cli.main import main
from elastic_ast_jax.inference import clips
from elastic_ast_jax.models.attention import interface
from elastic_ast_jax.parity import conditions, packing_invariance
from tests.fixtures import untrained

COLUMNS = (1, 3, 6, 2, 3)
AST = {
    'model': {'kind': 'ast', 'stride': (10, 10)},
    'augment': {'token_dropout': 0.0},
    'frontend': {'min_frames': 96},
    'packing': {'tokens': 24, 'slots': 2},
}


def trained(**sections):
    config = untrained.settings(**sections)
    return LoadedModel(config, untrained.LABELS, *untrained.fresh(config), 0, 'step 0')


def patches(model, counts):
    """Return grids of noise with these numbers of columns."""
    random, frontend = np.random.default_rng(0), model.config.frontend
    return [
        clips.to_patches(
            random.normal(0, 0.5, (16 * n, frontend.mel_bins)).astype(np.float32), frontend
        )
        for n in counts
    ]


def check(model, counts=COLUMNS, **more):
    clip_patches = patches(model, counts)
    names = [f'clip {i}' for i in range(len(clip_patches))]
    return packing_invariance.check_packing(model, names, clip_patches, **more)


@pytest.mark.parametrize(
    'sections',
    [pytest.param({}, id='elastic'), pytest.param(AST, id='ast', marks=pytest.mark.slow)],
)
def test_a_model_without_leaks_passes(sections):
    report = check(trained(**sections))
    assert report.passed and not report.failed and report.contrast > 0.01
    kinds = (
        'alone, padded to',
        'random company',
        'rows of',
        'attention: reference',
        'attention: blocked',
    )
    for kind in kinds:
        assert any(name.startswith(kind) for name in report.differences), kind
    for column in report.differences.values():
        assert column.shape == (5,) and (column >= 0).all()
    assert (
        max(column.max() for column in report.differences.values()) > 0
    )  # other sums were computed


def leaking(q, k, v, segment_ids):
    """Attend to the whole row."""
    return interface.reference(q, k, v, jnp.where(segment_ids > 0, 1, 0))


def test_attention_that_leaks_fails():
    report = check(trained(), attends={'leaking': leaking})
    assert report.failed == ['attention: leaking'] and not report.passed


def test_a_model_that_leaks_fails_wherever_clips_share_a_row():
    model = trained()
    report = check(
        dataclasses.replace(model, network=model.network.clone(attend=leaking)), (3,), attends={}
    )
    assert not report.passed and {
        f'random company, arrangement {number}' for number in (1, 2, 3)
    } <= set(report.failed)
    assert not any(name.startswith('alone') for name in report.failed)


def test_a_model_that_ignores_its_input_fails(capsys):
    model = trained()
    flat = dict(flatten_dict(model.params, sep='/'))
    flat['head/kernel'] = np.zeros_like(flat['head/kernel'])
    report = check(
        dataclasses.replace(model, params=unflatten_dict(flat, sep='/')), (3, 3), attends={}
    )
    assert not report.failed and not report.depends_on_input and not report.passed
    assert packing_invariance.print_report(report, model) == 1
    assert 'do not depend on the input' in capsys.readouterr().out


def cancelling():
    """Return a model whose bias cancels nearly all of the first clip's logits.

    The remaining logits are coarse.
    """
    model = trained()
    logits = conditions.ModelRunner(model, patches(model, COLUMNS)).logits_alone([0])[0]
    flat = flatten_dict(model.params, sep='/')
    flat['head/bias'] = flat['head/bias'] - np.float32(0.995) * logits
    return dataclasses.replace(model, params=unflatten_dict(flat, sep='/'))


def test_rounding_that_moves_logits_further_sets_the_bound_with_a_note():
    report = check(cancelling(), attends={})
    assert (
        report.passed
        and max(column.max() for column in report.differences.values()) > packing_invariance.BOUND
    )
    assert packing_invariance.BOUND < report.bounds[0] <= 1e-3
    assert any('float32 does not determine the logits' in note for note in report.notes)
    assert (check(trained(), attends={}).bounds == packing_invariance.BOUND).all()


def test_attention_that_leaks_fails_with_loose_bounds():
    assert check(cancelling(), attends={'leaking': leaking}).failed == ['attention: leaking']


def test_a_single_clip_is_compared_with_noise():
    report = check(trained(), (3,), attends={})
    assert report.passed and report.contrast > 0.01


def test_many_clips_are_sampled_with_a_note():
    report = check(trained(), [1, 2] * 50, attends={})
    assert report.passed and len(report.names) < 100
    assert report.names[0] == 'clip 0' and report.names[-1] == 'clip 99'
    assert any('Of 100 clips' in note for note in report.notes)


def test_no_clips_are_an_error():
    with pytest.raises(packing_invariance.PackingCheckError, match='no clips'):
        check(trained(), [])


DEVICES = """
import jax
jax.config.update('jax_num_cpu_devices', 2)
from tests.parity.test_packing_invariance import check, trained
report = check(trained(), (3, 2), attends={})
assert report.passed, report
print(report.differences['2 devices'].max())
"""


@pytest.mark.slow
def test_clips_on_several_devices():
    """Run in another process, as JAX fixes the number of devices at its first use."""
    root = pathlib.Path(__file__).parents[2]
    environment = os.environ | {'JAX_PLATFORMS': 'cpu', 'PYTHONPATH': str(root)}
    result = subprocess.run(
        [sys.executable, '-c', DEVICES],
        capture_output=True,
        text=True,
        cwd=root,
        env=environment,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert float(result.stdout) <= packing_invariance.BOUND


@pytest.mark.slow
def test_the_command(tmp_path, capsys, monkeypatch):
    untrained.workdir(tmp_path / 'run')
    random = np.random.default_rng(0)
    (tmp_path / 'sounds').mkdir()
    for name, samples in (('a', 4000), ('b', 60_000)):  # the second is cut into windows
        soundfile.write(
            tmp_path / 'sounds' / f'{name}.wav', random.uniform(-0.5, 0.5, samples), 16000
        )
    arguments = ['parity', str(tmp_path / 'run'), str(tmp_path / 'sounds')]
    assert main([*arguments, '--json']) == 0
    output = json.loads(capsys.readouterr().out)
    assert (
        output['passed']
        and output['clips'][0].endswith('a.wav')
        and output['clips'][1].endswith('b.wav, window 1')
    )
    assert {len(column) for column in output['differences'].values()} == {len(output['clips'])}
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert 'a.wav' in printed and 'all within 1e-05; pass' in printed
    monkeypatch.setattr(packing_invariance, '_MAX_CLIPS', 1)  # of a large folder, not all are read
    assert main([*arguments, '--json']) == 0
    output = json.loads(capsys.readouterr().out)
    assert len(output['clips']) == 1 and output['notes'] == [
        'Of 2 recordings, 1 are checked, sampled evenly.'
    ]
    monkeypatch.undo()
    (tmp_path / 'sounds' / 'c.wav').write_bytes(b'RIFF')
    assert main(arguments) == 1
    assert 'c.wav' in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(arguments[:2])
    assert 'recordings are missing' in capsys.readouterr().err
