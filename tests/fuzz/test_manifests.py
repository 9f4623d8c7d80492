"""A small draw of damaged manifests; `python -m tests.fuzz.manifests` takes 2,000."""

from tests.fuzz import runner


def test_damaged_manifests_give_clips_or_a_named_error():
    report = runner.run('tests.fuzz.manifests:Manifests', range(80), processes=1)
    assert not report.failures, report.summary()
    assert report.count('result') > 15 and report.count('error') > 30
