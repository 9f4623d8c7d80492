"""Small trainings give the numbers that were recorded at commit 508c900.

    python tests/regression/compare.py --record tests/regression/recorded_508c900.json NUMBERS.npz

records the numbers of a file that `drive` has written. Record anew only with a change that is
meant to change numbers.
"""

import json
import os
import sys
from pathlib import Path

import pytest

from tests.regression import compare, drive

HERE = Path(__file__).parent
# Other processors round otherwise: relative to the largest value of an array.
TOLERANCE = 1e-5


@pytest.fixture(scope='module')
def checkout() -> drive.Checkout:
    return drive.Checkout(HERE.parents[1], sys.executable)


@pytest.fixture(scope='module')
def recorded() -> dict:
    return json.loads((HERE / 'recorded_508c900.json').read_text('utf-8'))


@pytest.fixture(scope='module')
def trained(checkout, tmp_path_factory) -> dict:
    """Return the numbers of short runs by scenario. The quick start is left to the slow test."""
    scenarios = {name: drive.SCENARIOS[name] for name in ('manifest', 'mixup', 'epic', 'ast')}
    return drive.train_scenarios(scenarios, checkout, tmp_path_factory.mktemp('trained'))


def check(name: str, numbers: dict, recorded: dict, short: bool = False) -> None:
    now = compare.record({f'{name}/{key}': value for key, value in numbers.items()})
    before = {key: value for key, value in recorded.items() if key.startswith(f'{name}/')}
    if short:
        before = {key: value for key, value in before.items() if key in now}
    kinds = {'plan', 'losses', 'evaluation', 'prediction', 'timeline'}
    assert {key.split('/')[1] for key in now} >= kinds
    assert not compare.differences(before, now, TOLERANCE)


@pytest.mark.parametrize('name', ['manifest', 'mixup', 'epic', 'ast'])
def test_training_and_use(name, trained, recorded):
    check(name, trained[name], recorded, short=True)


@pytest.mark.slow
@pytest.mark.parametrize('name', [name for name in drive.SCENARIOS if name != 'fsdd'])
def test_every_command(name, checkout, tmp_path, recorded):
    numbers = drive.run_scenario(drive.SCENARIOS[name], checkout, tmp_path, in_process=True)
    check(name, numbers, recorded)


@pytest.mark.skipif(
    'FSDD' not in os.environ, reason='set FSDD to the folder of the FSDD recordings'
)
def test_real_speech(checkout, tmp_path, recorded):
    numbers = drive.train_scenarios({'fsdd': drive.SCENARIOS['fsdd']}, checkout, tmp_path)
    check('fsdd', numbers['fsdd'], recorded, short=True)


def test_a_changed_number_is_a_difference(recorded):
    name = 'manifest/losses/loss'
    changed = recorded[name] | {'values': [1.001 * value for value in recorded[name]['values']]}
    assert not compare.differences(recorded, recorded, TOLERANCE)
    assert len(compare.differences(recorded, recorded | {name: changed}, TOLERANCE)) == 1
    assert compare.differences(
        recorded, {key: recorded[key] for key in recorded if key != name}, TOLERANCE
    )
    assert compare.differences(
        recorded, recorded | {'manifest/plan/0/clip': 'another hash'}, TOLERANCE
    )
