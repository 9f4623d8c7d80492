"""Test `elastic-ast plan`: it reports what training does, with data or without, and advises."""

import re
from pathlib import Path

import numpy as np
import pytest

from elastic_ast_jax.audio.frontend import FrontendSpec
from elastic_ast_jax.cli.main import main
from elastic_ast_jax.config.loading import ConfigError, load
from elastic_ast_jax.data import splits
from elastic_ast_jax.data.epoch_plan import PlanError, Planner
from elastic_ast_jax.data.sources.base import DataError
from elastic_ast_jax.data.sources.length_histogram import HistogramError
from elastic_ast_jax.perf import plan_report as plan
from elastic_ast_jax.perf.topologies import TopologyError
from tests.data.specs import sampling_spec

QUICKSTART = str(Path(__file__).parents[2] / 'configs' / 'quickstart.py')
FRONTEND = FrontendSpec(max_frames=2048)  # 8 mel patches


def config(*overrides):
    return load(QUICKSTART, ['data.synthetic_train=600', 'data.synthetic_eval=80', *overrides])


def printed(capsys, *overrides):
    """The text for each split."""
    plan.run(config(*overrides))
    training, evaluation = capsys.readouterr().out.split('eval: ')
    return {'train': training.removeprefix('train: '), 'eval': evaluation}


def number(text, pattern):
    match = re.findall(pattern, text)
    assert len(match) == 1, (pattern, text)
    return float(match[0])


def planner_of(columns, tokens, slots, **spec):
    """Return a planner of clips with this many columns of 8 patches."""
    samples = FRONTEND.samples_for(16 * np.asarray(columns), FRONTEND.shift())
    return Planner(
        [f'{i}.wav' for i in range(len(samples))],
        samples,
        FRONTEND,
        sampling_spec(**spec),
        0,
        tokens,
        slots,
    )


def advice(columns, tokens, slots, **spec):
    planner = planner_of(columns, tokens, slots, **spec)
    return plan.advise(planner.epoch(0), planner, rows_per_step=8)


# What is printed


@pytest.mark.parametrize('split, clips', [('train', 600), ('eval', 80)])
def test_the_numbers_are_those_of_the_first_epoch(capsys, split, clips):
    text, settings = printed(capsys)[split], config()
    source = splits.open_source(settings, split)
    planner = (
        splits.make_train_planner(settings, source)
        if split == 'train'
        else splits.make_eval_planner(settings, source)[1]
    )
    epoch = planner.epoch(0)
    sizes = [int(epoch.clips.tokens[row].sum()) for row in epoch.rows]
    counts = [len(row) for row in epoch.rows]
    assert text.startswith(f'{clips} clips, {sum(sizes)} tokens, {sum(sizes) / clips:.1f} a clip\n')
    assert f'{len(sizes)} of 256 tokens and 32 slots, 8 a step' in text
    counted = sizes[: (len(sizes) - 1) // 8 * 8] or sizes
    assert number(text, r'fill +([\d.]+) %') == pytest.approx(
        100 * sum(counted) / (256 * len(counted)), abs=0.005
    )
    assert number(text, r'clips a row +mean ([\d.]+)') == pytest.approx(
        clips / len(sizes), abs=0.05
    )
    assert number(text, r'p99 (\d+)') == round(np.percentile(counts, 99))
    assert number(text, r'max (\d+)') == max(counts)
    longest = int(np.argmax(source.samples))
    assert re.search(
        f'longest clip +{source.keys[longest]}: {source.samples[longest] / 8000:.2f} s, ', text
    )
    assert re.search(r'planned in +\d+\.\d\d s', text)
    assert 'cropped' not in text


def test_steps_are_those_of_training(capsys):
    text, settings = printed(capsys)['train'], config()
    rows = len(
        splits.make_train_planner(settings, splits.open_source(settings, 'train')).epoch(0).rows
    )
    assert number(text, r'steps +(\d+) an epoch') == -(-rows // 8)
    epochs = settings.train.epochs
    assert number(text, rf'about (\d+) in {epochs} epochs') == epochs * -(-rows // 8)


def test_evaluation_in_windows_is_planned_in_windows(capsys):
    cropped, settings = (
        printed(capsys, 'frontend.max_frames=256', 'data.too_long=window'),
        config('frontend.max_frames=256'),
    )
    frames = settings.frontend.frames(
        splits.open_source(settings, 'eval').samples, settings.frontend.shift()
    )
    assert (frames > 256).any()
    assert number(cropped['eval'], r'^(\d+) clips') > len(frames)
    assert 'cropped' not in cropped['eval'] and 'cropped' in cropped['train']


def test_cropped_clips_are_counted(capsys):
    text = printed(capsys, 'frontend.max_frames=256', 'data.too_long=crop', 'augment.ratios=1')
    settings = config('frontend.max_frames=256')
    for split in ('train', 'eval'):
        source = splits.open_source(settings, split)
        # 256 frames and 16 columns: what fills no more than these columns is whole.
        frames = settings.frontend.frames(source.samples, settings.frontend.shift())
        count = int((-(-frames // 16) > 16).sum())
        assert 0 < count == number(text[split], r'cropped +(\d+) clips to 256 frames')


def test_no_advice_where_rows_are_full(capsys):
    assert 'none: rows are well filled' in printed(capsys)['train']


def test_advice_is_shown(capsys):
    text = printed(capsys, 'packing.slots=2')['train']
    assert re.search(r'advice +rows run out of slots: raise packing.slots to 4', text)


def test_flops_are_those_of_the_clips_that_are_planned(capsys):
    """The formula of `flops` by hand, three times: 3 blocks of width 96, patches of 256 values."""
    text, settings = printed(capsys)['train'], config()
    source = splits.open_source(settings, 'train')
    epoch = splits.make_train_planner(settings, source).epoch(0)
    n, width, depth, patch = epoch.clips.tokens.astype(float), 96, 3, 256
    classes = len({label for labels in source.labels for label in labels})
    forward = n * (2 * patch * width + 24 * depth * width**2) + 4 * depth * n**2 * width
    forward += n * (4 * width**2 + 4 * width) + 2 * width**2 + 2 * width * classes
    steps = -(-len(epoch.rows) // 8)
    assert number(text, r'FLOPs +([\d.e-]+) T a step') == pytest.approx(
        3 * forward.sum() / steps / 1e12, rel=1e-3
    )
    total = number(text, rf'about ([\d.e+]+) in {settings.train.epochs} epochs\n +(?:advice)')
    assert total == pytest.approx(3 * forward.sum() * settings.train.epochs, rel=5e-3)
    assert number(text, r'clips a step +([\d.]+)') == pytest.approx(
        8 * 600 / len(epoch.rows), abs=0.05
    )


@pytest.mark.parametrize(
    'topology, chips, peak', [('v5e:2x4', 8, 197e12), ('v5p:2x2x1', 4, 459e12)]
)
def test_hours_are_flops_by_the_peak_and_its_share(capsys, topology, chips, peak):
    plan.run(config(), topology=topology, utilization=0.25)
    text = capsys.readouterr().out.split('eval: ')[0]
    total = number(text, r'T a step, about ([\d.e+]+) in')
    hours = total / (0.25 * peak) / 3600
    line = re.search(
        rf'{topology} +([\d.e-]+) chip-hours at 25 % of the peak of {peak / 1e12:g} TFLOP/s, '
        rf'([\d.e-]+) h on {chips} chips\n',
        text,
    )
    assert line is not None
    assert [float(x) for x in line.groups()] == pytest.approx([hours, hours / chips], rel=0.01)


def test_chips_without_a_row_are_reported(capsys):
    plan.run(config(), topology='v5e:4x4')
    assert (
        '16 chips, which takes a multiple of 16 rows a step: packing.rows=8 cannot be'
        in capsys.readouterr().out
    )
    plan.run(config('mesh.tensor=2'), topology='v5e:4x4')
    assert 'cannot be divided' not in capsys.readouterr().out


# Without the data


RECIPE = """
from ml_collections import ConfigDict


def get_config():
    config = ConfigDict()
    config.data = dict(source='manifest', train='missing.jsonl', eval='missing.jsonl')
    config.frontend = dict(max_frames=512)
    config.packing = dict(rows=4, tokens=512, slots=32)
    config.model = dict(size='Mi')
    config.train = dict(epochs=3)
    return config


def lengths():
    return {'classes': 3, 'train': [(0.5, 2.0, 900), (4.0, 4.0, 100)], 'eval': [(1.0, 1.0, 50)]}
"""


@pytest.fixture
def recipe(tmp_path):
    """`recipe(text)` writes a config file."""

    def written(text=RECIPE):
        (tmp_path / 'recipe.py').write_text(text)
        return str(tmp_path / 'recipe.py')

    return written


def test_a_plan_without_data_names_the_source_of_its_lengths(capsys, recipe):
    plan.run(load(recipe()), recipe=recipe())
    text = capsys.readouterr().out
    drawn = (
        r'lengths: drawn from the histogram of .*recipe.py with seed 0, as the data cannot be'
        r' opened \(.*missing.jsonl'
    )
    assert re.match(drawn, text)
    assert 'train: 1000 clips, ' in text and 'eval: 50 clips, ' in text
    assert re.search(r'longest clip +clip \d+: 4.00 s, 398 frames, 200 tokens', text)


def test_lengths_without_the_data_depend_on_the_seed_alone(capsys, recipe):
    def text(*overrides):
        plan.run(load(recipe(), overrides), recipe=recipe(), lengths='recipe')
        return re.sub('planned in.*', '', capsys.readouterr().out)

    assert text() == text() and '--lengths=recipe' in text()
    assert text('train.seed=1').splitlines()[1:] != text().splitlines()[1:]


def test_balanced_draws_are_planned_without_labels(capsys, recipe):
    plan.run(load(recipe(), ['data.balanced=true']), recipe=recipe())
    assert 'train: 1000 clips, ' in capsys.readouterr().out


def test_available_data_come_first(capsys):
    plan.run(config(), recipe=QUICKSTART)
    assert capsys.readouterr().out.startswith('train: 600 clips')


def test_lengths_of_the_data_need_the_data(recipe):
    with pytest.raises(DataError, match=r'missing.jsonl'):
        plan.run(load(recipe()), recipe=recipe(), lengths='data')


def test_without_data_and_lengths_the_error_is_about_the_data(recipe):
    path = recipe(RECIPE.partition('def lengths')[0])
    with pytest.raises(DataError, match=r'missing.jsonl'):
        plan.run(load(path), recipe=path)
    with pytest.raises(
        HistogramError, match=r'--lengths=recipe: .*recipe.py has no function lengths\(\)'
    ):
        plan.run(load(path), recipe=path, lengths='recipe')


def test_lengths_of_another_form_are_named(recipe):
    path = recipe(RECIPE.replace("'eval': [(1.0, 1.0, 50)]", "'eval': [(1.0, 50)]"))
    with pytest.raises(HistogramError, match=r'eval bin 0: \(1.0, 50\) must be'):
        plan.run(load(path), recipe=path, lengths='recipe')


def test_a_clip_of_a_histogram_that_does_not_fit_is_refused(recipe):
    with pytest.raises(PlanError, match=r'clips are longer than frontend.max_frames=256'):
        plan.run(load(recipe(), ['frontend.max_frames=256']), recipe=recipe(), lengths='recipe')


@pytest.mark.parametrize(
    'arguments, message',
    [
        (['--topology=v7:2x2'], "--topology='v7:2x2' must be a generation"),
        (['--topology=v5e:2x4', '--utilization=0'], "'0' must be a number above 0 and at most 1"),
        (
            ['--topology=v5e:2x4', '--utilization=1.01'],
            "'1.01' must be a number above 0 and at most 1",
        ),
        (['--utilization=0.5'], 'name them with --topology'),
        (['--lengths=audioset'], "invalid choice: 'audioset'"),
    ],
)
def test_the_command_refuses_wrong_topologies_and_shares(capsys, recipe, arguments, message):
    try:
        code = main(['plan', f'--config={recipe()}', *arguments])
    except SystemExit as error:
        code = error.code
    assert code and message in capsys.readouterr().err


def test_the_command_plans_without_the_data(capsys, recipe):
    assert main(['plan', f'--config={recipe()}', '--topology=v5e:2x2']) == 0
    text = capsys.readouterr().out
    assert text.startswith('lengths: drawn') and ' 40 % of the peak of 197 TFLOP/s' in text


@pytest.mark.parametrize(
    'name, reason',
    [
        ('amazon_queen.py', 'data.train is empty: give a manifest'),
        ('esc50.py:fold=5', "TensorFlow Datasets .*'esc50'"),
    ],
)
def test_a_recipe_is_planned_as_it_is_without_data(capsys, name, reason):
    assert main(['plan', f'--config={Path(QUICKSTART).with_name(name)}']) == 0
    assert re.match(
        rf'lengths: drawn .*, as the data cannot be opened \({reason}', capsys.readouterr().out
    )


def test_published_quirks_are_planned_without_the_weights_that_they_are_about(capsys):
    quirks = ('--config.init.published_quirks=true', '--config.model.scaled=false')
    assert main(['plan', f'--config={QUICKSTART}', *quirks]) == 0
    assert capsys.readouterr().out.startswith('train: ')


def test_a_config_without_data_and_lengths_gets_advice(capsys):
    assert main(['plan', f'--config={Path(QUICKSTART).with_name("manifest.py")}']) == 1
    message = capsys.readouterr().err
    assert (
        'data.train is empty: give a manifest with --config.data.train=' in message
        and 'data.eval is empty' in message
    )


def test_a_topology_is_refused_before_anything_is_planned(capsys, recipe):
    with pytest.raises(TopologyError, match='along 2 axes'):
        plan.run(load(recipe()), recipe=recipe(), topology='v5e:2x2x2')
    assert not capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.alone
def test_two_million_clips_are_planned_within_a_minute(capsys):
    path = str(Path(QUICKSTART).with_name('audioset.py'))
    plan.run(load(path), recipe=path, lengths='recipe')
    assert number(capsys.readouterr().out.split('eval: ')[0], r'planned in +([\d.]+) s') < 60


# What does not fit


def test_a_clip_that_is_too_long_is_named_with_a_way_out(capsys):
    with pytest.raises(PlanError) as caught:
        plan.run(config('frontend.max_frames=512'))
    message = str(caught.value)
    settings = config()
    source = splits.open_source(settings, 'train')
    assert source.keys[int(np.argmax(source.samples))] in message
    assert (
        'are longer than frontend.max_frames=512' in message and "data.too_long='crop'" in message
    )
    enough = re.search(r'raise frontend.max_frames to (\d+)', message)
    assert enough is not None
    plan.run(config(f'frontend.max_frames={enough[1]}'))  # the advice holds
    plan.run(config('frontend.max_frames=512', 'data.too_long=crop'))


def test_a_row_that_is_too_short_for_the_longest_clip_is_a_config_error():
    with pytest.raises(
        ConfigError, match=r'frontend.max_frames=1008 needs .*=252 tokens, but packing.tokens=128'
    ):
        plan.run(config('packing.tokens=128'))


# Advice


def test_a_better_length_is_advised_for_equal_clips():
    """Clips of 512 tokens, of which token dropout leaves 460: four of them fill 2048 to 90 %."""
    columns = np.full(2000, 64)
    planner = planner_of(columns, 2048, 32, token_dropout=0.1)
    assert planner.epoch(0).fill(8, 2048) == pytest.approx(4 * 460 / 2048)
    text = advice(columns, 2048, 32, token_dropout=0.1)
    match = re.fullmatch(r'packing.tokens=(\d+) would be ([\d.]+) % full', text)
    assert match is not None
    tokens, promised = match.groups()
    better = planner_of(columns, int(tokens), 32, token_dropout=0.1)
    assert better.epoch(0).fill(8, int(tokens)) == pytest.approx(float(promised) / 100, abs=1e-3)
    assert float(promised) >= 99.5
    assert advice(columns, int(tokens), 32, token_dropout=0.1) == ''


def test_more_slots_are_advised():
    columns = np.random.default_rng(0).integers(1, 5, 4000)  # 8 to 32 tokens
    assert (
        advice(columns, 2048, 32)
        == 'rows run out of slots: raise packing.slots to 64, or lower packing.tokens'
    )
    assert advice(columns, 2048, 64).startswith('rows run out of slots: raise packing.slots to 128')
    assert advice(columns, 2048, 128) == ''


def test_clips_that_no_length_suits_are_reported():
    columns = np.full(2000, 126)  # 1008 tokens: of 1024, 2048, 3072, ... 98.4 %
    assert 'rows are 98.44 % full and no other length near is better' in advice(columns, 2048, 32)


@pytest.mark.parametrize('tokens', [1100, 1500, 2000])
def test_advice_never_makes_a_row_too_short_for_a_clip(tokens):
    """Rows of 960 tokens would be full of clips of 320 tokens.

    But the frontend has positions for clips of 1024.
    """
    text = advice(np.full(500, 40), tokens, 32)
    match = re.match(r'packing.tokens=(\d+)', text)
    assert match is not None and int(match[1]) >= 1024
