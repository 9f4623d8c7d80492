"""The parity report: all comparisons are present and pass, and wrong values fail by name."""

import contextlib
import copy
import dataclasses
import io
import json

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from elastic_ast_jax.cli.main import main
from elastic_ast_jax.models.attention import interface
from elastic_ast_jax.packing.batch import validate
from elastic_ast_jax.parity import (
    ast,
    elastic_ast,
    fbank,
    numpy_reference,
    reference,
    report,
    training,
)
from elastic_ast_jax.parity.comparison import Comparison
from elastic_ast_jax.parity.report import Report
from elastic_ast_jax.pretrained import elastic_ast_torch

NAMES = list(elastic_ast.TITLES)
STAGES = [
    'embedding, against float64',
    'output of the encoder, against float64',
    'pooled vector, against float64',
    'logits, against float64',
]
LOGITS = ['logits, packed', 'logits, each clip alone']


@pytest.fixture(scope='module')
def json_report():
    """Return the exit code and the output of `elastic-ast parity --json`."""
    with contextlib.redirect_stdout(io.StringIO()) as out:
        code = main(['parity', '--json'])
    return code, json.loads(out.getvalue())


@pytest.fixture(scope='module')
def cases():
    """Load the stored networks with the reference attention; all tests share compilations."""
    return {name: elastic_ast.load_case(name, interface.reference) for name in NAMES}


def failed(comparisons):
    return [comparison.quantity for comparison in comparisons if not comparison.passed]


# The report of this package


@pytest.mark.slow
def test_all_rows_pass(json_report):
    code, output = json_report
    assert (code, output['passed']) == (0, True)
    assert [row['what'] for row in output['rows'] if not row['passed']] == []
    assert 'float32 on cpu' in output['where']


@pytest.mark.slow
@pytest.mark.parametrize('name', NAMES)
def test_everything_is_compared(json_report, cases, name):
    rows = [
        row['what'] for row in json_report[1]['rows'] if row['model'] == elastic_ast.TITLES[name]
    ]
    assert len(rows) == len(set(rows))
    expected = [*STAGES, 'logits of float64, against PyTorch', *LOGITS, 'loss']
    expected += [
        f'gradient of {row.source}'
        for row in elastic_ast_torch.tensor_mappings(cases[name].layout)
        if row.targets
    ]
    expected += [f'loss of step {step}' for step in range(1, 21)]
    assert rows[: len(expected)] == expected
    after = rows[len(expected) :]
    assert after and all(what.startswith('logits after 20 steps') for what in after)


@pytest.mark.slow
def test_bounds_are_the_documented_bounds(json_report):
    promised = {'gradient': 1e-4, 'loss': 1e-4, 'logits': 1e-4, 'features': 2e-3}
    for row in json_report[1]['rows']:
        kind = row['what'].split()[0]
        if kind in promised and 'after' not in row['what']:
            assert row['bound'] <= promised[kind], row
        assert row['counts'] == ('relative' if kind == 'gradient' else 'absolute')
    # Twenty steps later float32 does not determine every logit; those that it does are most.
    after = [row for row in json_report[1]['rows'] if row['what'].startswith('logits after')]
    assert sum(row['bound'] == 1e-3 for row in after) == len(NAMES)
    assert len(after) - len(NAMES) <= 4
    assert all(row['bound'] < 0.1 for row in after)


@pytest.mark.slow
def test_ast_and_the_features_are_compared(json_report):
    rows = [
        (row['model'], row['what'])
        for row in json_report[1]['rows']
        if row['model'] not in elastic_ast.TITLES.values()
    ]
    assert rows == [
        *(
            (title, what)
            for title in ast.TITLES.values()
            for what in ('features of a short clip', 'features of a long clip', 'logits')
        ),
        *(
            ('Kaldi features', f'log-mel at 12 settings, {what}')
            for what in ('bins above -12', 'all bins', 'median')
        ),
    ]


@pytest.mark.slow
def test_a_note_lists_first_steps_that_rounding_decides(json_report):
    """With mean pooling there is nothing of the kind."""
    first = [note for note in json_report[1]['notes'] if "Adam's first step" in note]
    assert len(first) == 1 and first[0].startswith(elastic_ast.TITLES['elasticast_tiny'])
    assert 'attn_pool_queries[21]' in first[0] and 'of 80791 elements' in first[0]


@pytest.mark.parametrize('name', NAMES)
def test_another_attention_gives_the_same(cases, name):
    """The command takes what `auto` chooses on this machine; this is the plain one."""
    assert failed(elastic_ast.compare_forward(cases[name])) == []


@pytest.mark.parametrize('name', NAMES)
def test_the_batch_and_the_parameters_are_those_of_training(cases, name):
    case = cases[name]
    validate(case.batch, case.shape, case.layout.grid)
    params = jax.eval_shape(case.network.init, jax.random.key(0), case.shape.abstract())['params']
    assert jax.tree.map(np.shape, params) == jax.tree.map(np.shape, case.params)


# Wrong values


def with_parameter(case, name, change):
    flat = flatten_dict(case.params, sep='/')
    assert name in flat
    return dataclasses.replace(
        case, params=unflatten_dict(flat | {name: change(flat[name])}, sep='/')
    )


@pytest.mark.parametrize(
    'name, parameter, passing',
    [
        ('elasticast_tiny', 'head/bias', 3),
        ('elasticast_tiny', 'pool/query', 2),
        ('elasticast_tiny_avgpool', 'norm_head/scale', 2),
        ('elasticast_tiny_avgpool', 'encoder/blocks/mlp/up/bias', 1),
        ('elasticast_tiny', 'positions/time', 0),
    ],
)
def test_a_parameter_that_is_a_little_off_fails_from_there_on(cases, name, parameter, passing):
    def off(x):
        """Not the same everywhere, as a norm ignores that."""
        return x + np.float32(2e-3) * (-1) ** np.arange(x.shape[-1], dtype=np.float32)

    rows = elastic_ast.compare_forward(with_parameter(cases[name], parameter, off))
    assert failed(rows) == STAGES[passing:] + LOGITS


@pytest.mark.parametrize(
    'name, change',
    [
        ('heads in another order', lambda x: x[:, :, ::-1]),
        ('keys of the other block', lambda x: x[::-1]),
    ],
)
def test_weights_in_the_wrong_place_fail(cases, name, change):
    rows = elastic_ast.compare_forward(
        with_parameter(cases['elasticast_tiny'], 'encoder/blocks/attention/key/kernel', change)
    )
    assert failed(rows) == STAGES[1:] + LOGITS


def test_scaled_attention_fails(cases):
    case = cases['elasticast_tiny_avgpool']
    rows = elastic_ast.compare_forward(
        dataclasses.replace(case, network=case.network.clone(scaled=True))
    )
    assert failed(rows) == STAGES[1:] + LOGITS


def test_an_attention_that_leaks_fails_packed_and_not_alone(cases):
    def everywhere(q, k, v, segment_ids):
        return interface.reference(q, k, v, (segment_ids > 0).astype(segment_ids.dtype))

    case = cases['elasticast_tiny']
    rows = elastic_ast.compare_forward(
        dataclasses.replace(case, network=case.network.clone(attend=everywhere))
    )
    assert failed(rows) == [*STAGES[1:], 'logits, packed']


@pytest.mark.slow
def test_other_gradients_losses_and_results_fail_by_name(cases):
    """Reference values that are twice their bound away from the right ones."""
    case = cases['elasticast_tiny_avgpool']
    arrays = dict(case.reference.arrays)
    tensor = arrays['grads/norm.weight']
    arrays['grads/norm.weight'] = tensor * np.float32(1 + 2 * training.GRADIENT)
    arrays['loss'] = np.asarray(arrays['loss'] + np.float32(2 * training.LOSS))
    arrays['train_losses'] = arrays['train_losses'] + np.where(
        np.arange(20) == 6, 2 * training.STEP_LOSS, 0
    ).astype(np.float32)
    arrays['logits_after'] = arrays['logits_after'].copy()
    arrays['logits_after'][2, 3] += 2 * training.LOGITS_AFTER
    other = dataclasses.replace(case, reference=dataclasses.replace(case.reference, arrays=arrays))
    rows, _ = training.compare_training(other, training.TrainingSteps(case))
    assert failed(rows) == [
        'loss',
        'gradient of norm.weight',
        'loss of step 7',
        'logits after 20 steps',
    ]


def test_other_features_fail():
    stored = reference.load('ast_hf_stride10')
    converted = ast.convert(stored)
    frontend = dataclasses.replace(converted.frontend, mean=converted.frontend.mean + 0.1)
    off = converted._replace(frontend=frontend)
    assert failed(ast.compare_features('', stored, off)) == [
        'features of a short clip',
        'features of a long clip',
    ]
    meta = copy.deepcopy(stored.meta)
    meta['config']['layer_norm_eps'] = 1e-2
    off = ast.convert(dataclasses.replace(stored, meta=meta))
    assert failed(ast.compare_logits('', stored, off, interface.reference)) == ['logits']


@pytest.mark.parametrize(
    'quiet, loud, wrong',
    [(0.01, 1e-3, []), (0.01, 3e-3, ['bins above -12']), (0.03, 1e-3, ['all bins'])],
)
def test_log_mels_may_differ_more_where_they_are_quiet(quiet, loud, wrong):
    expected = np.linspace(-15.9, -2.0, 500, dtype=np.float32).reshape(5, 100)
    computed = expected.copy()
    computed[0, 0] += quiet
    computed[4, 50] += loud
    rows = fbank.compare_log_mels('', 'x', [expected, computed], [expected, expected])
    assert failed(rows) == [f'x, {what}' for what in wrong]
    shifted = fbank.compare_log_mels(
        '', 'x', [expected, expected + np.float32(1e-3)], [expected, expected]
    )
    assert failed(shifted) == ['x, median']  # of the worse one


def test_derivatives_of_the_numpy_reference_are_gradients(cases):
    case = cases['elasticast_tiny_avgpool']

    def loss(weights):
        logits = [
            numpy_reference.forward(weights, clip, case.layout.size.heads, case.layout.pool).logits
            for clip in case.clips
        ]
        return numpy_reference.loss(logits, case.reference['labels'], case.reference.meta['loss'])

    weights, gradients = case.reference.part('weights/'), case.reference.part('grads/')
    for name in ('head.weight', 'blocks.modules_list.0.attn.to_q.weight'):
        index = tuple(
            int(i)
            for i in np.unravel_index(np.abs(gradients[name]).argmax(), gradients[name].shape)
        )
        assert numpy_reference.derivative(loss, weights, name, index) == pytest.approx(
            float(gradients[name][index]), rel=1e-4
        )


# Printed reports


def rows_of(absolute):
    return Report(
        (
            Comparison('a model', 'one', 1e-6, 2e-6, 1e-4),
            Comparison('a model', 'two', absolute, 2e-6, 1e-4, 'absolute'),
            Comparison('another', 'three', 5.0, 2e-6, 1e-4, 'relative'),
        ),
        ('A note.',),
    )


def test_a_table_names_failures_and_the_exit_code_is_1(capsys):
    assert report.print_report(rows_of(3e-4)) == 1
    out = capsys.readouterr().out
    (line,) = [line for line in out.splitlines() if line.startswith('two')]
    assert line.split() == ['two', '3.0e-04', '2.0e-06', '1.0e-04', 'FAIL']
    assert '1 of 3 rows fail:\n  a model: two\n' in out and 'A note.' in out


def test_a_table_without_failures_and_the_exit_code_is_0(capsys):
    assert report.print_report(rows_of(1e-5)) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].endswith('3 rows, all pass') and not any('FAIL' in line for line in lines)
    assert [line.split()[:2] for line in lines if 'relative  bound' in line] == [
        ['a', 'model'],
        ['another', 'absolute'],
    ]


def test_numbers_that_json_lacks_are_null(capsys):
    assert report.print_report(rows_of(float('nan')), as_json=True) == 1
    output = json.loads(capsys.readouterr().out)
    assert [row['passed'] for row in output['rows']] == [True, False, True] and output['rows'][1][
        'absolute'
    ] is None
