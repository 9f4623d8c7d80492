"""Damaged weights end in a result or a named error; `python -m tests.fuzz.weights` draws more."""

from tests.fuzz import runner


def test_damaged_weights_are_used_or_refused_by_name():
    report = runner.run('tests.fuzz.weights:Weights', range(60), processes=1)
    assert not report.failures, report.summary()
    assert report.count('result') >= 5 and report.count('error') >= 20
