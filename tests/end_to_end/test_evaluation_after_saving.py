"""Test that nothing that happens in an evaluation costs the epoch before it."""

import json
import shutil

import numpy as np
import pytest
import soundfile

RATE = 8000


@pytest.fixture
def eval_split(recordings, tmp_path):
    """Return a copy of the evaluation split, for a test that damages it."""
    shutil.copytree(recordings.folder / 'test', tmp_path / 'test')
    shutil.copy(recordings.folder / 'test.jsonl', tmp_path)
    return tmp_path / 'test.jsonl'


def test_a_damaged_evaluation_clip_costs_no_epoch(
    eval_split, arguments, command, tmp_path, trained, same_bits, logged
):
    clip, workdir = tmp_path / 'test' / '05.wav', tmp_path / 'run'
    samples, _ = soundfile.read(clip, dtype='float32')
    sound = clip.read_bytes()
    samples[len(samples) // 2] = np.nan
    soundfile.write(clip, samples, RATE, subtype='FLOAT')
    again = arguments(workdir, f'data.eval={eval_split}')

    result = command(*again)
    assert result.code == 1 and '05.wav' in result.err
    assert (workdir / 'checkpoints' / '7').is_dir()
    assert not (workdir / 'checkpoints' / '7' / 'score').exists()
    result = command(*again)  # nothing is trained again
    assert result.code == 1 and 'resuming after step 7' in result.err
    clip.write_bytes(sound)
    result = command(*again)
    assert result.code == 0 and 'resuming after step 7' in result.err
    same_bits(trained, workdir, 21)
    assert logged(workdir) == logged(trained)


def test_two_labels_are_refused_before_the_first_step(eval_split, arguments, command, tmp_path):
    lines = [json.loads(line) for line in eval_split.read_text('utf-8').splitlines()]
    lines[4]['labels'] = ['low', 'middle']
    eval_split.write_text('\n'.join(map(json.dumps, lines)) + '\n')
    result = command(*arguments(tmp_path / 'run', f'data.eval={eval_split}'))
    assert result.code == 1
    assert '04.wav' in result.err and 'train.loss=bce' in result.err
    assert not (tmp_path / 'run' / 'metrics.jsonl').exists()


def test_an_earlier_checkpoint_without_a_score_is_named(workdir, arguments, command):
    shutil.rmtree(workdir / 'checkpoints' / '7' / 'score')
    shutil.rmtree(workdir / 'checkpoints' / '21')
    result = command(*arguments(workdir))
    assert result.code == 0
    assert f'{workdir / "checkpoints" / "7"}: has no score' in result.err
