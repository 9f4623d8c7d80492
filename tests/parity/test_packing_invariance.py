"""The packing certificate: a sound model has it, one that leaks or does not listen has not."""

import dataclasses
import json

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
    chosen = untrained.settings(**sections)
    return LoadedModel(chosen, untrained.LABELS, *untrained.fresh(chosen), 0, 'step 0')


def patches(model, counts):
    """Grids of this many columns, of noise."""
    random, frontend = np.random.default_rng(0), model.config.frontend
    return [
        clips.to_patches(
            random.normal(0, 0.5, (16 * n, frontend.mel_bins)).astype(np.float32), frontend
        )
        for n in counts
    ]


def certify(model, counts=COLUMNS, **more):
    found = patches(model, counts)
    return packing_invariance.check_packing(
        model, [f'clip {i}' for i in range(len(found))], found, **more
    )


@pytest.mark.parametrize('sections', [{}, AST], ids=['elastic', 'ast'])
def test_a_model_whose_clips_do_not_touch_has_it(sections):
    made = certify(trained(**sections))
    assert made.passed and not made.failed and made.contrast > 0.01
    kinds = (
        'alone, padded to',
        'random company',
        'rows of',
        'attention: reference',
        'attention: blocked',
    )
    for kind in kinds:
        assert any(name.startswith(kind) for name in made.differences), kind
    for column in made.differences.values():
        assert column.shape == (5,) and (column >= 0).all()
    assert max(column.max() for column in made.differences.values()) > 0  # other sums were computed


def leaking(q, k, v, segment_ids):
    """Attention to the whole row."""
    return interface.reference(q, k, v, jnp.where(segment_ids > 0, 1, 0))


def test_attention_that_leaks_is_found_out():
    made = certify(trained(), attends={'leaking': leaking})
    assert made.failed == ['attention: leaking'] and not made.passed


def test_a_model_that_leaks_fails_wherever_there_is_company():
    model = trained()
    made = certify(
        dataclasses.replace(model, network=model.network.clone(attend=leaking)), (3,), attends={}
    )
    assert not made.passed and {
        f'random company, arrangement {number}' for number in (1, 2, 3)
    } <= set(made.failed)
    assert not any(name.startswith('alone') for name in made.failed)


def test_a_model_that_does_not_listen_has_none(capsys):
    model = trained()
    flat = flatten_dict(model.params, sep='/')
    flat['head/kernel'] = np.zeros_like(flat['head/kernel'])
    made = certify(
        dataclasses.replace(model, params=unflatten_dict(flat, sep='/')), (3, 3), attends={}
    )
    assert not made.failed and not made.tells and not made.passed
    assert packing_invariance.print_report(made, model) == 1
    assert 'do not depend on the input' in capsys.readouterr().out


def cancelling():
    """The model with a bias that takes away nearly all of the first clip's logits, so that what is
    left is coarse.
    """
    model = trained()
    logits = conditions.ModelRunner(model, patches(model, COLUMNS)).alone([0])[0]
    flat = flatten_dict(model.params, sep='/')
    flat['head/bias'] = flat['head/bias'] - np.float32(0.995) * logits
    return dataclasses.replace(model, params=unflatten_dict(flat, sep='/'))


def test_where_rounding_alone_moves_logits_further_that_is_the_bound_and_it_is_said():
    made = certify(cancelling(), attends={})
    assert (
        made.passed
        and max(column.max() for column in made.differences.values()) > packing_invariance.BOUND
    )
    assert packing_invariance.BOUND < made.bounds[0] <= 1e-3
    assert any('float32 does not determine the logits' in note for note in made.notes)
    assert (certify(trained(), attends={}).bounds == packing_invariance.BOUND).all()


def test_attention_that_leaks_is_found_out_there_too():
    assert certify(cancelling(), attends={'leaking': leaking}).failed == ['attention: leaking']


def test_one_clip_is_told_from_noise():
    made = certify(trained(), (3,), attends={})
    assert made.passed and made.contrast > 0.01


def test_many_clips_are_thinned_out_and_it_is_said():
    made = certify(trained(), [1, 2] * 50, attends={})
    assert made.passed and len(made.names) < 100
    assert made.names[0] == 'clip 0' and made.names[-1] == 'clip 99'
    assert any('Of 100 clips' in note for note in made.notes)


def test_without_clips_there_is_nothing_to_try():
    with pytest.raises(packing_invariance.PackingCheckError, match='no clips'):
        certify(trained(), [])


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
    found = json.loads(capsys.readouterr().out)
    assert (
        found['passed']
        and found['clips'][0].endswith('a.wav')
        and found['clips'][1].endswith('b.wav, window 1')
    )
    assert {len(column) for column in found['differences'].values()} == {len(found['clips'])}
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert 'a.wav' in printed and 'all within 1e-05; pass' in printed
    monkeypatch.setattr(packing_invariance, '_MOST', 1)  # of a large folder, not all are read
    assert main([*arguments, '--json']) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found['clips']) == 1 and found['notes'] == [
        'Of 2 recordings, 1 are tried, spread over them.'
    ]
    monkeypatch.undo()
    (tmp_path / 'sounds' / 'c.wav').write_bytes(b'RIFF')
    assert main(arguments) == 1
    assert 'c.wav' in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(arguments[:2])
    assert 'recordings are missing' in capsys.readouterr().err
