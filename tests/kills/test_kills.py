"""Test a small draw of `python -m tests.kills.run`: kills at random moments, and full disks."""

import pytest

from tests.kills.trials import Trials, draw_kills


@pytest.mark.slow
def test_runs_that_are_killed_end_with_the_same_bits(tmp_path):
    outcomes = []
    assert not Trials(tmp_path, outcomes.append, lives=4).kill_all(draw_kills(8, seed=1))
    assert sum('signal' in outcome for outcome in outcomes) == 8


@pytest.mark.slow
def test_runs_on_a_full_disk_resume_when_there_is_room(tmp_path):
    outcomes = []
    assert not Trials(tmp_path, outcomes.append).fill_disks(3, seed=0)
    assert any(outcome['code'] for outcome in outcomes)
