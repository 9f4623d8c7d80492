"""Test that a workdir that goes away while it is used ends training with a plain error."""

import shutil

import pytest

from elastic_ast_jax.training import metrics_log


@pytest.mark.parametrize(
    'way, moment',
    [
        pytest.param('removed', (2, 'train'), id='before a checkpoint'),
        # The run that resumes waits for the last sign of life of the one that lost its workdir.
        pytest.param('renamed', (7, 'eval'), id='before a score', marks=pytest.mark.slow),
    ],
)
def test_a_workdir_that_goes_away_is_named(arguments, command, tmp_path, monkeypatch, way, moment):
    workdir, write = tmp_path / 'run', metrics_log.MetricsLog.write

    def write_and_remove(log, at, kind, values):
        write(log, at, kind, values)
        if (at, kind) == moment:
            workdir.rename(tmp_path / 'elsewhere')
            if way == 'removed':
                shutil.rmtree(tmp_path / 'elsewhere')

    monkeypatch.setattr(metrics_log.MetricsLog, 'write', write_and_remove)
    result = command(*arguments(workdir))
    assert result.code == 1
    assert f'elastic-ast train: {workdir}: was removed or renamed during the training' in result.err
    assert 'Traceback' not in result.err
    assert not workdir.exists()
    if way == 'renamed':
        monkeypatch.undo()
        (tmp_path / 'elsewhere').rename(workdir)
        assert command(*arguments(workdir)).code == 0
