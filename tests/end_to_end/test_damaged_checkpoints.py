"""Test that commands notice a flipped bit in a checkpoint, and what they do then."""

import pytest

from tests.checkpointing import flip_bits

LAST, BEFORE = 21, 18


@pytest.fixture
def damaged(workdir):
    """Return a copy of a finished run, with a flipped bit in the values of its last parameters."""
    checkpoint = workdir / 'checkpoints' / str(LAST)
    files = [file for file in checkpoint.glob('params/ocdbt.*/d/*') if file.is_file()]
    file = max(files, key=lambda file: file.stat().st_size)
    flip_bits.flip_bit(file, file.stat().st_size // 2, 6)
    return workdir


def test_a_chosen_checkpoint_is_refused(damaged, recordings, command):
    for selection in (str(LAST), 'average', 'average:1'):
        result = command('predict', damaged, recordings.test_files[0], f'--checkpoint={selection}')
        assert result.code == 1 and 'is damaged' in result.err, result.err


@pytest.mark.slow
def test_every_reader_refuses_it_or_uses_the_one_before(
    damaged, recordings, command, caplog, tmp_path
):
    readers = (
        ['evaluate', f'--workdir={damaged}'],
        ['predict', damaged, recordings.test_files[0]],
        ['embed', damaged, recordings.test_files[0], f'--out={tmp_path / "x.npz"}'],
    )
    for words in readers:
        caplog.clear()
        assert command(*words, f'--checkpoint={LAST}').code == 1
        assert command(*words).code == 0
        assert f'{damaged / "checkpoints" / str(LAST)} is incomplete' in caplog.text
        assert f'using the one before, {BEFORE}' in caplog.text


@pytest.mark.slow
def test_training_repeats_the_lost_steps(damaged, trained, arguments, command, caplog, same_bits):
    result = command(*arguments(damaged))
    assert result.code == 0 and f'resuming after step {BEFORE}' in result.err
    assert f'using the one before, {BEFORE}' in caplog.text
    same_bits(trained, damaged, LAST)
