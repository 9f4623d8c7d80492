"""A workdir with a damaged file gets a result or a named error, in bounded time and memory."""

import pytest

from tests.fuzz import runner


def test_damaged_workdirs_are_opened_or_refused():
    report = runner.run('tests.fuzz.configs:OpenedConfigs', range(40), processes=1)
    assert not report.failures, report.summary()
    assert min(report.count('result'), report.count('error')) >= 5


@pytest.mark.slow  # it compiles the programs of six commands
def test_commands_use_damaged_workdirs_or_refuse_them():
    report = runner.run('tests.fuzz.configs:Configs', range(1000), seed=1, processes=2)
    assert not report.failures, report.summary()
    assert min(report.count('result'), report.count('error')) >= 100
