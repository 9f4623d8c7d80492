"""Test runs that end early: they are finished, and a kill changes neither step nor bits."""

import json
import signal

import pytest

from elastic_ast_jax.checkpointing.checkpoints import Checkpoints
from elastic_ast_jax.checkpointing.workdir import Workdir
from elastic_ast_jax.experiments.local_runs import is_finished, total_steps

# No parameter changes, so that no evaluation is better than the first.
STILL = (
    'data.validation_share=0.3',
    'train.epochs=6',
    'train.patience=2',
    'optimizer.learning_rate=1e-30',
)


@pytest.fixture(scope='module')
def ended(arguments, tmp_path_factory):
    from elastic_ast_jax.cli.main import main

    workdir = tmp_path_factory.mktemp('ended') / 'run'
    assert main(arguments(workdir, *STILL)) == 0
    return workdir


def evaluated(lines) -> list[int]:
    return [line['step'] for line in lines if line['kind'] == 'eval']


def test_a_run_that_ended_early_is_finished(ended, arguments, command, logged):
    lines = logged(ended)
    steps = evaluated(lines)
    assert len(steps) == 3 and is_finished(ended) and total_steps(ended) == steps[-1]
    assert lines[-1] == {
        'step': steps[-1],
        'kind': 'stop',
        'evaluations_without_improvement': 2,
    }
    before = {path: path.read_bytes() for path in ended.rglob('*') if path.is_file()}
    again = command(*arguments(ended, *STILL))
    assert again.code == 0 and f'training is finished, {steps[-1]} of ' in again.err
    assert '2 evaluations without a better accuracy (train.patience=2)' in again.err
    assert 'nothing to do' in again.err
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.parametrize('when', ['before the last evaluation', 'in an epoch'])
def test_a_run_that_was_killed_ends_with_the_same_bits(
    when, ended, arguments, command, tmp_path, same_bits, logged, stopped
):
    last = evaluated(logged(ended))[-1]
    at, by = (last, signal.SIGINT) if when.startswith('before') else (last - 2, signal.SIGTERM)
    with stopped(at, by):
        assert command(*arguments(tmp_path / 'run', *STILL)).code in (75, 130)
    assert not is_finished(tmp_path / 'run')
    result = command(*arguments(tmp_path / 'run', *STILL))
    assert result.code == 0 and 'resuming after step' in result.err
    assert f'training is finished, {last} of ' in result.err
    same_bits(ended, tmp_path / 'run', last)
    assert logged(ended) == logged(tmp_path / 'run')
    assert Workdir(ended).score_history() == Workdir(tmp_path / 'run').score_history()


def test_a_kill_between_the_two_scores_changes_nothing(
    ended, arguments, command, tmp_path, same_bits, logged, monkeypatch
):
    """The history has the last score, the checkpoint not yet: it is evaluated again."""
    last, add_score = evaluated(logged(ended))[-1], Checkpoints.add_score

    def stop_at_last(checkpoints, step, score):
        if step == last:
            raise KeyboardInterrupt
        add_score(checkpoints, step, score)

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, 'add_score', stop_at_last)
        assert command(*arguments(tmp_path / 'run', *STILL)).code == 130
    assert Workdir(tmp_path / 'run').score_history().scores[-1][0] == last
    assert not is_finished(tmp_path / 'run')
    result = command(*arguments(tmp_path / 'run', *STILL))
    assert result.code == 0 and f'training is finished, {last} of ' in result.err
    same_bits(ended, tmp_path / 'run', last)
    assert logged(ended) == logged(tmp_path / 'run')


def test_the_verdict_follows_an_early_end(arguments, command, tmp_path):
    result = command(*arguments(tmp_path / 'run', *STILL, 'train.compare_baseline=true'))
    assert result.code == 0 and 'logistic regression' in result.err
    assert result.err.index('training is finished') < result.err.index('logistic regression')
    assert '(the best of its evaluations on these clips, which favors it), logistic' in result.err


def test_a_run_without_patience_gets_it_with_its_scores(arguments, command, tmp_path, logged):
    run, without = tmp_path / 'run', [text for text in STILL if 'patience' not in text]
    short = [text.replace('epochs=6', 'epochs=3') for text in without]
    first = command(*arguments(run, *short, 'train.compare_baseline=true'))
    assert first.code == 0 and 'which favors it' not in first.err  # the last score is compared
    three = [*without, 'train.compare_baseline=true', 'train.patience=3']
    extended = command(*arguments(run, *three), '--extend')
    assert extended.code == 0, extended.err
    steps = evaluated(logged(run))
    assert len(steps) == 4 and is_finished(run) and total_steps(run) == steps[-1]
    assert [step for step, _ in Workdir(run).score_history().scores] == steps


def test_only_a_larger_patience_continues_a_run(arguments, command, tmp_path, logged):
    run = tmp_path / 'run'
    assert command(*arguments(run, *STILL)).code == 0
    last = evaluated(logged(run))[-1]
    other = [text.replace('patience=2', 'patience=3') for text in STILL]
    refused = command(*arguments(run, *other))
    assert refused.code == 1 and 'train.patience: 2 stored, 3 now' in refused.err
    assert '--extend and a larger train.patience' in refused.err
    more = [text.replace('epochs=6', 'epochs=8') for text in STILL]
    refused = command(*arguments(run, *more), '--extend')
    assert refused.code == 1 and 'train.patience=0 if it ended early' in refused.err
    same = command(*arguments(run, *STILL), '--extend')
    assert same.code == 0 and 'nothing to do' in same.err
    continued = command(*arguments(run, *other), '--extend')
    assert continued.code == 0 and f'resuming after step {last}' in continued.err
    assert len(evaluated(logged(run))) == 4
    kinds = [line['kind'] for line in logged(run)]
    assert kinds.count('stop') == 1 and kinds[-1] == 'stop'  # not the end that was lifted
    assert json.loads((run / 'config.json').read_text())['train']['patience'] == 3
