"""The harness tells results, named errors and failures apart, and stops what exceeds a limit."""

import os
import pathlib
import time

import pytest

from elastic_ast_jax.utils.errors import UserError
from tests.fuzz import byte_damage, runner, text_damage
from tests.fuzz.target import Target, random_of

MiB = 1 << 20


class Misbehaving(Target):
    """Do something else at each index."""

    seconds = 1.0
    mebibytes = 64.0

    def make(self, seed: int, index: int, folder: pathlib.Path) -> pathlib.Path:
        path = folder / 'input'
        path.write_text(str(index))
        return path

    def use(self, path: pathlib.Path) -> str:
        index = int(path.read_text())
        if index == 1:
            raise UserError(f'{path}: is not right: take another')
        if index == 2:
            raise UserError('something is not right')  # without the name of the file
        if index == 3:
            raise KeyError('a defect')
        if index == 4:
            os.abort()
        if index == 5:
            time.sleep(60)
        if index in (6, 7):  # at once, and while the parent looks
            block = bytearray(100 * MiB)
            time.sleep(0 if index == 6 else 60)
            return str(len(block))
        if index == 8:
            os.write(2, b'Traceback (most recent call last):\n  of a thread\n')
        return 'done'


@pytest.fixture(scope='module')
def report(tmp_path_factory) -> tuple[runner.Report, pathlib.Path]:
    keep = tmp_path_factory.mktemp('kept')
    name = 'tests.fuzz.test_harness:Misbehaving'
    return runner.run(name, range(10), seed=3, processes=2, keep=keep), keep


@pytest.mark.parametrize(
    'index, kind, text',
    [
        (0, 'result', 'done'),
        (1, 'error', 'UserError: '),
        (2, 'failure', 'does not name the file'),
        (3, 'failure', "KeyError: 'a defect'"),
        (4, 'failure', 'ended with code -6'),
        (5, 'failure', 'no end after'),
        (6, 'failure', 'MiB'),
        (7, 'failure', 'MiB and was stopped'),
        (8, 'failure', 'of a thread'),
        (9, 'result', 'done'),
    ],
)
def test_every_outcome_has_its_kind(report, index, kind, text):
    outcome = report[0].outcomes[index]
    assert (outcome.index, outcome.kind) == (index, kind)
    assert text in outcome.text


def test_a_failure_is_kept_and_names_the_command_that_repeats_it(report):
    outcomes, keep = report
    failures = [outcome.index for outcome in outcomes.failures]
    assert sorted(path.name for path in keep.iterdir()) == [f'input-{i}' for i in failures]
    assert (keep / 'input-4' / 'input').read_text() == '4'
    summary = outcomes.summary()
    assert '2 results, 1 named errors, 7 failures' in summary
    assert '--- python -m tests.fuzz.test_harness --seed 3 --only 4' in summary


def test_damage_is_a_function_of_seed_and_index():
    content = bytes(range(256)) * 8
    value = {'a': [1, 2.5, {'b': 'c'}], 'd': None}
    draws = []
    for _ in range(2):
        draws.append(
            [
                (
                    byte_damage.damage(content, random_of(seed, i), b'other'),
                    repr(text_damage.damage_json(value, random_of(seed, i))),
                    text_damage.damage_text('a: 1\nb: "2"\n', random_of(seed, i)),
                    text_damage.damage_table([['a', 'b'], ['1', '2']], random_of(seed, i)),
                )
                for seed in (0, 1)
                for i in range(200)
            ]
        )
    assert draws[0] == draws[1]
    for damaged, undamaged in zip(
        zip(*draws[0], strict=True), (content, repr(value), None, None), strict=True
    ):
        assert len(set(map(repr, damaged))) > 100
        assert sum(one == undamaged for one in damaged) < 40
