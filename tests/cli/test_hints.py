"""Arguments that are not accepted come with what they were meant to be."""

import pytest

from elastic_ast_jax.cli.main import main

TRAIN = ['train', '--config=quickstart', '--workdir=W']


@pytest.mark.parametrize(
    'words, hint',
    [
        (
            [*TRAIN, '--config.train.epochs', '3'],
            '--config.train.epochs 3 is written --config.train.epochs=3',
        ),
        ([*TRAIN, '--train.epochs=3'], '--train.epochs=3 is written --config.train.epochs=3'),
        ([*TRAIN, 'config.train.epochs=3'], 'is written --config.train.epochs=3'),
        (
            [*TRAIN, '--optimizer.learning-rate=1'],
            'is written --config.optimizer.learning_rate=1',
        ),
        (['predict', 'W', 'a.wav', '--top-k', '3'], '--top-k is written --top_k'),
        (['predict', 'W', 'a.wav', '--top-k=3'], '--top-k=3 is written --top_k=3'),
        (['predict', 'W', 'a.wav', '--topk=3'], '--topk=3 is written --top_k=3'),
        (
            ['prepare', 'esc50', '--manual_dir=A', '--manual-dir=A', '--out=B'],
            '--manual_dir=A is written --manual-dir=A',
        ),
        (['evaluate', '--workdir=W', '--chekpoint=best'], 'is written --checkpoint=best'),
    ],
)
def test_the_form_that_was_meant_is_shown(words, hint, capsys):
    with pytest.raises(SystemExit) as exit_info:
        main(words)
    assert exit_info.value.code == 2
    assert hint in capsys.readouterr().err.replace('\n', ' ')


def test_no_hint_without_a_near_option(capsys):
    with pytest.raises(SystemExit):
        main([*TRAIN, '--zzz=3', 'word'])
    assert capsys.readouterr().err.endswith('unrecognized arguments: --zzz=3 word\n')
