"""`elastic-ast plan`: what it prints is what training will do, and its advice is good."""

import re
from pathlib import Path

import numpy as np
import pytest

from elastic_ast_jax import plan
from elastic_ast_jax.config import ConfigError, load
from elastic_ast_jax.data import splits
from elastic_ast_jax.data.draws import DrawSpec
from elastic_ast_jax.data.plan import PlanError, Planner
from elastic_ast_jax.lengths import FrontendSpec

QUICKSTART = str(Path(__file__).parents[1] / 'configs' / 'quickstart.py')
FRONTEND = FrontendSpec(max_frames=2048)  # 8 mel patches


def config(*overrides):
    return load(QUICKSTART, ['data.synthetic_train=600', 'data.synthetic_eval=80', *overrides])


def printed(capsys, *overrides):
    """The text for each split."""
    plan.run(config(*overrides))
    training, evaluation = capsys.readouterr().out.split('eval: ')
    return {'train': training.removeprefix('train: '), 'eval': evaluation}


def number(text, pattern):
    found = re.findall(pattern, text)
    assert len(found) == 1, (pattern, text)
    return float(found[0])


def planner_of(columns, tokens, slots, **spec):
    """A planner of clips with this many columns of 8 patches."""
    samples = FRONTEND.samples_for(16 * np.asarray(columns), FRONTEND.shift())
    return Planner([f'{i}.wav' for i in range(len(samples))], samples, FRONTEND, DrawSpec(**spec), 0, tokens, slots)


def advice(columns, tokens, slots, **spec):
    planner = planner_of(columns, tokens, slots, **spec)
    return plan.advise(planner.epoch(0), planner, rows_per_step=8)


# What is printed


@pytest.mark.parametrize('split, clips', [('train', 600), ('eval', 80)])
def test_the_numbers_are_those_of_the_first_epoch(capsys, split, clips):
    text, chosen = printed(capsys)[split], config()
    source = splits.open_source(chosen, split)
    planner = splits.planner(chosen, source) if split == 'train' else splits.evaluation(chosen, source)[1]
    epoch = planner.epoch(0)
    sizes = [int(epoch.draws.kept[row].sum()) for row in epoch.rows]
    counts = [len(row) for row in epoch.rows]
    assert text.startswith(f'{clips} clips, {sum(sizes)} tokens, {sum(sizes) / clips:.1f} a clip\n')
    assert f'{len(sizes)} of 256 tokens and 32 slots, 8 a step' in text
    counted = sizes[: (len(sizes) - 1) // 8 * 8] or sizes
    assert number(text, r'fill +([\d.]+) %') == pytest.approx(100 * sum(counted) / (256 * len(counted)), abs=0.005)
    assert number(text, r'clips a row +mean ([\d.]+)') == pytest.approx(clips / len(sizes), abs=0.05)
    assert number(text, r'p99 (\d+)') == round(np.percentile(counts, 99))
    assert number(text, r'max (\d+)') == max(counts)
    longest = int(np.argmax(source.samples))
    assert re.search(f'longest clip +{source.keys[longest]}: {source.samples[longest] / 8000:.2f} s, ', text)
    assert re.search(r'planned in +\d+\.\d\d s', text)
    assert 'cropped' not in text


def test_steps_are_those_of_training(capsys):
    text, chosen = printed(capsys)['train'], config()
    rows = len(splits.planner(chosen, splits.open_source(chosen, 'train')).epoch(0).rows)
    assert number(text, r'steps +(\d+) an epoch') == -(-rows // 8)
    epochs = chosen.train.epochs
    assert number(text, rf'about (\d+) in {epochs} epochs') == epochs * -(-rows // 8)


def test_evaluation_in_windows_is_planned_in_windows(capsys):
    cropped, chosen = printed(capsys, 'frontend.max_frames=256', 'data.too_long=window'), config('frontend.max_frames=256')
    frames = chosen.frontend.frames(splits.open_source(chosen, 'eval').samples, chosen.frontend.shift())
    assert (frames > 256).any()
    assert number(cropped['eval'], r'^(\d+) clips') > len(frames)
    assert 'cropped' not in cropped['eval'] and 'cropped' in cropped['train']


def test_cropped_clips_are_counted(capsys):
    text = printed(capsys, 'frontend.max_frames=256', 'data.too_long=crop', 'augment.ratios=1')
    chosen = config('frontend.max_frames=256')
    for split in ('train', 'eval'):
        source = splits.open_source(chosen, split)
        # 256 frames and 16 columns: what fills no more than these columns is whole.
        frames = chosen.frontend.frames(source.samples, chosen.frontend.shift())
        count = int((-(-frames // 16) > 16).sum())
        assert 0 < count == number(text[split], r'cropped +(\d+) clips to 256 frames')


def test_no_advice_where_rows_are_full(capsys):
    assert 'none: rows are well filled' in printed(capsys)['train']


def test_advice_is_shown(capsys):
    text = printed(capsys, 'packing.slots=2')['train']
    assert re.search(r'advice +rows run out of slots: raise packing.slots to 4', text)


# What does not fit


def test_a_clip_that_is_too_long_is_named_with_a_way_out(capsys):
    with pytest.raises(PlanError) as caught:
        plan.run(config('frontend.max_frames=512'))
    message = str(caught.value)
    chosen = config()
    source = splits.open_source(chosen, 'train')
    assert source.keys[int(np.argmax(source.samples))] in message
    assert 'are longer than frontend.max_frames=512' in message and "data.too_long='crop'" in message
    enough = re.search(r'raise frontend.max_frames to (\d+)', message)[1]
    plan.run(config(f'frontend.max_frames={enough}'))  # the advice holds
    plan.run(config('frontend.max_frames=512', 'data.too_long=crop'))


def test_a_row_that_is_too_short_for_the_longest_clip_is_a_config_error():
    with pytest.raises(ConfigError, match='frontend.max_frames=1008 needs .*=252 tokens, but packing.tokens=128'):
        plan.run(config('packing.tokens=128'))


# Advice


def test_a_better_length_for_clips_that_are_all_alike():
    """Clips of 512 tokens, of which token dropout leaves 460: four of them fill 2048 to 90 %."""
    columns = np.full(2000, 64)
    planner = planner_of(columns, 2048, 32, token_dropout=0.1)
    assert planner.epoch(0).fill(8, 2048) == pytest.approx(4 * 460 / 2048)
    text = advice(columns, 2048, 32, token_dropout=0.1)
    tokens, promised = re.fullmatch(r'packing.tokens=(\d+) would be ([\d.]+) % full', text).groups()
    better = planner_of(columns, int(tokens), 32, token_dropout=0.1)
    assert better.epoch(0).fill(8, int(tokens)) == pytest.approx(float(promised) / 100, abs=1e-3)
    assert float(promised) >= 99.5
    assert advice(columns, int(tokens), 32, token_dropout=0.1) == ''


def test_more_slots_where_rows_run_out_of_them():
    columns = np.random.default_rng(0).integers(1, 5, 4000)  # 8 to 32 tokens
    assert advice(columns, 2048, 32) == 'rows run out of slots: raise packing.slots to 64, or lower packing.tokens'
    assert advice(columns, 2048, 64).startswith('rows run out of slots: raise packing.slots to 128')
    assert advice(columns, 2048, 128) == ''


def test_clips_that_no_length_suits_are_said_to_be_so():
    columns = np.full(2000, 126)  # 1008 tokens: of 1024, 2048, 3072, ... 98.4 %
    assert 'rows are 98.44 % full and no other length near is better' in advice(columns, 2048, 32)


@pytest.mark.parametrize('tokens', [1100, 1500, 2000])
def test_advice_never_makes_a_row_too_short_for_a_clip_that_may_come(tokens):
    """Rows of 960 tokens would be full of clips of 320, but the frontend has positions for clips of 1024."""
    text = advice(np.full(500, 40), tokens, 32)
    assert int(re.match(r'packing.tokens=(\d+)', text)[1]) >= 1024
