"""Test recipes: variants load, fill their batches and make models; numbers are the paper's."""

import importlib.util
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from elastic_ast_jax.config.loading import ConfigError, load
from elastic_ast_jax.config.schema import Packing
from elastic_ast_jax.config.variants import (
    Bin,
    RecipeError,
    Variant,
    exponential_bins,
    length_bins,
    parse_variant,
    sample_lengths,
)
from elastic_ast_jax.data import splits
from elastic_ast_jax.data.sources import length_histogram
from elastic_ast_jax.data.sources.base import DataError, Source
from elastic_ast_jax.data.sources.length_histogram import Histogram, HistogramError, HistogramSource
from elastic_ast_jax.models import factory
from elastic_ast_jax.models.attention import registry

CONFIGS = Path(__file__).parents[2] / 'configs'
SHIFTS = [f'ast,shift={shift}' for shift in (10, 20, 30, 40)]
FRAMES = [f'ast,frames={frames}' for frames in (400, 1024, 1600)]
VARIANTS = {
    'audioset': ['', 'published', 'ast', 'ast,shift=20,epochs=5', *SHIFTS, 'ast,published'],
    'vggsound': ['', 'published', 'ast', *SHIFTS, 'ast,published'],
    'voxceleb': ['', 'prefixes', 'published', 'ast', *FRAMES, 'ast,published'],
    'epic_sounds': ['', 'published', 'quality', 'ast', *FRAMES, 'ast,published'],
    'speech_commands': ['', 'ast'],
    'esc50': ['', 'fold=5', 'ast', 'ast,fold=2'],
    'fsdd': ['', 'elastic_ast', 'ast'],
    'fsdd_speakers': [
        '',
        'prefixes',
        'resolutions',
        'ast',
        'ast,frames=64',
        'ast,shift=10',
        'ast,shift=20',
        'ast_resolutions',
    ],
    'amazon_queen': ['', 'resolutions', 'ast', 'ast,frames=160', 'ast,shift=20', 'ast,shift=40'],
}
EVERY = [(name, text) for name, texts in VARIANTS.items() for text in texts]
PAPER = ('audioset', 'vggsound', 'voxceleb', 'epic_sounds')


def spec(name, text=''):
    path = str(CONFIGS / f'{name}.py')
    return f'{path}:{text}' if text else path


def config_of(name, text='', *overrides):
    return load(spec(name, text), overrides, complete=False)


def module(name):
    module_spec = importlib.util.spec_from_file_location(name, CONFIGS / f'{name}.py')
    assert module_spec and module_spec.loader
    loaded = importlib.util.module_from_spec(module_spec)
    module_spec.loader.exec_module(loaded)
    return loaded


def histogram_of(name, text=''):
    histogram = length_histogram.from_recipe(spec(name, text))
    assert histogram
    return histogram


def fewer(histogram, clips=12_000):
    """Return a histogram of fewer clips, which is planned sooner."""
    return histogram._replace(
        train=tuple(length_bins(clips, histogram.train)),
        eval=tuple(length_bins(clips, histogram.eval)),
    )


# Every variant


@pytest.mark.parametrize('name, text', EVERY)
def test_batches_are_full_and_have_the_clips_of_the_recipe(name, text):
    config = config_of(name, text, 'data.balanced=false')
    rate, histogram = (
        config.frontend.sample_rate,
        fewer(histogram_of(name, text)),
    )
    planner = splits.make_train_planner(config, HistogramSource(histogram, 'train', rate, 0))
    plan = planner.epoch(0)
    assert plan.fill(config.packing.rows, config.packing.tokens) > 0.95
    recipe = (CONFIGS / f'{name}.py').read_text()
    (expected,) = map(float, re.findall(r'# ([\d.]+) clips a step', recipe))
    (baseline,) = {int(clips) for clips in re.findall(r'\bclips=(\d+)', recipe)}
    clips = config.packing.rows * len(plan.clips.tokens) / len(plan.rows)
    if config.model.kind == 'ast':
        # The last row of an epoch may have fewer.
        assert baseline * (1 - 1 / len(plan.rows)) < clips <= baseline
    elif text in ('prefixes', 'resolutions', 'quality'):
        assert clips == pytest.approx(expected, rel=0.1)
    else:  # 'published' drops the frames of partial patches, on VoxCeleb
        assert clips == pytest.approx(expected, abs=0.5 if text == 'published' else 0.02 * expected)
    if name in PAPER:
        assert 11.5 < clips < 13
    source, evaluation = splits.make_eval_planner(
        config, HistogramSource(histogram, 'eval', rate, 0)
    )
    assert len(evaluation.epoch(0).clips.tokens) == len(source.keys) == 12_000


@pytest.mark.parametrize('name, text', EVERY)
def test_every_variant_makes_a_model(name, text):
    """Check shapes only. A loop over the blocks has the same parameters and is traced sooner."""
    config = config_of(name, text, 'model.scan=true')
    classes = histogram_of(name, text).classes
    shape = factory.batch_shape(config, classes)
    network = factory.make_model(config, classes, registry.make('reference'), jnp.bfloat16)
    params = jax.eval_shape(lambda: factory.init_params(network, shape, 0))
    logits = jax.eval_shape(
        lambda params, batch: network.apply({'params': params}, batch), params, shape.abstract()
    )
    assert logits.shape == (config.packing.rows, config.packing.slots, classes)
    if config.model.size == 'B':
        assert 84e6 < sum(leaf.size for leaf in jax.tree.leaves(params)) < 92e6  # ViT-B


@pytest.mark.parametrize(
    'name, text, frames, shift_ms, partial, ratios, rows, tokens, slots',
    [
        ('amazon_queen', 'ast,frames=160,shift=30', 64, 30.0, 'pad', 1, 4, 256, 16),
        ('amazon_queen', 'ast,frames=256,shift=40', 64, 40.0, 'pad', 1, 4, 256, 16),
        ('amazon_queen', 'ast,frames=480,shift=10', 480, 10.0, 'pad', 1, 4, 1920, 16),
        ('amazon_queen', 'ast,frames=480,shift=20', 240, 20.0, 'pad', 1, 4, 960, 16),
        ('audioset', 'ast', 1024, 10.0, 'zero', 1, 12, 512, 1),
        ('audioset', 'ast,shift=10', 1024, 10.0, 'zero', 1, 12, 512, 1),
        ('audioset', 'ast,shift=20', 512, 20.0, 'zero', 1, 12, 256, 1),
        ('audioset', 'ast,shift=20,epochs=5', 512, 20.0, 'zero', 1, 12, 256, 1),
        ('audioset', 'ast,shift=30', 336, 30.0, 'zero', 1, 12, 168, 1),
        ('audioset', 'ast,shift=40', 256, 40.0, 'zero', 1, 12, 128, 1),
        ('epic_sounds', 'ast', 1024, 5.0, 'edge', 1, 12, 512, 1),
        ('epic_sounds', 'ast,frames=1024', 1024, 5.0, 'edge', 1, 12, 512, 1),
        ('epic_sounds', 'ast,frames=1600', 1600, 5.0, 'edge', 1, 12, 800, 1),
        ('epic_sounds', 'ast,frames=400', 400, 5.0, 'edge', 1, 12, 200, 1),
        ('esc50', 'ast', 512, 10.0, 'zero', 1, 6, 2048, 8),
        ('esc50', 'ast,fold=2', 512, 10.0, 'zero', 1, 6, 2048, 8),
        ('fsdd', 'ast', 128, 5.0, 'pad', 3, 4, 800, 25),
        ('fsdd_speakers', 'ast,frames=128,shift=10', 64, 10.0, 'pad', 1, 2, 528, 33),
        ('fsdd_speakers', 'ast,frames=128,shift=20', 32, 20.0, 'pad', 1, 2, 264, 33),
        ('fsdd_speakers', 'ast,frames=64,shift=5', 64, 5.0, 'pad', 1, 2, 528, 33),
        ('fsdd_speakers', 'ast,frames=80,shift=15', 32, 15.0, 'pad', 1, 2, 264, 33),
        ('fsdd_speakers', 'ast_resolutions', 128, 5.0, 'pad', 16, 2, 1056, 33),
        ('speech_commands', 'ast', 112, 10.0, 'zero', 1, 4, 1792, 32),
        ('vggsound', 'ast', 1024, 10.0, 'zero', 1, 12, 512, 1),
        ('vggsound', 'ast,shift=10', 1024, 10.0, 'zero', 1, 12, 512, 1),
        ('vggsound', 'ast,shift=20', 512, 20.0, 'zero', 1, 12, 256, 1),
        ('vggsound', 'ast,shift=30', 336, 30.0, 'zero', 1, 12, 168, 1),
        ('vggsound', 'ast,shift=40', 256, 40.0, 'zero', 1, 12, 128, 1),
        ('voxceleb', 'ast', 1024, 10.0, 'zero', 1, 12, 512, 1),
        ('voxceleb', 'ast,frames=1024', 1024, 10.0, 'zero', 1, 12, 512, 1),
        ('voxceleb', 'ast,frames=1600', 1600, 10.0, 'zero', 1, 12, 800, 1),
        ('voxceleb', 'ast,frames=400', 400, 10.0, 'zero', 1, 12, 200, 1),
    ],
)
def test_the_baselines_keys_follow_from_its_length(
    name, text, frames, shift_ms, partial, ratios, rows, tokens, slots
):
    config = config_of(name, text)
    assert (config.model.kind, config.data.too_long) == ('ast', 'crop')
    assert config.frontend.min_frames == config.frontend.max_frames == frames
    assert (config.frontend.shift_ms, config.frontend.partial) == (shift_ms, partial)
    assert (config.augment.token_dropout, len(config.augment.ratios)) == (0, ratios)
    assert ratios > 1 or config.augment.ratios == (1.0,)
    assert config.packing == Packing(rows, tokens, slots)


@pytest.mark.parametrize('name', VARIANTS)
def test_without_a_variant_a_recipe_is_elastic_ast(name):
    assert config_of(name) == config_of(name, 'elastic_ast')
    assert config_of(name).model.kind == 'elastic_ast'
    assert config_of(name, 'ast').model.kind == 'ast'


# The paper's numbers


@pytest.mark.parametrize(
    'name, classes, loss, epochs, decay, statistics, frames',
    [
        ('audioset', 527, 'bce', 15, (2, 0.5), (-4.414, 4.905), 1024),
        ('vggsound', 309, 'bce', 40, (10, 0.75), (-5.08, 4.453), 1024),
        ('voxceleb', 1251, 'cross_entropy', 40, (5, 0.75), (-5.842545, 3.88305), 3072),
        ('epic_sounds', 44, 'cross_entropy', 30, None, (0.0, 0.5), 3072),
    ],
)
def test_hyperparameters_are_the_papers(name, classes, loss, epochs, decay, statistics, frames):
    for text in ('', 'published', 'ast'):
        config = config_of(name, text)
        optimizer, augment, front = config.optimizer, config.augment, config.frontend
        assert (config.model.size, config.train.loss) == ('B', loss)
        assert config.train.epochs == epochs
        assert (front.mean, front.std) == statistics
        assert front.max_frames == (1024 if text == 'ast' else frames)
        assert (optimizer.learning_rate, optimizer.clip_norm) == (1e-5, 0)
        if decay:
            assert (optimizer.kind, optimizer.b1, optimizer.b2, optimizer.weight_decay) == (
                'adam_l2',
                0.95,
                0.999,
                5e-7,
            )
            assert (optimizer.schedule, optimizer.decay_from, optimizer.decay_factor) == (
                'published',
                *decay,
            )
        else:
            assert (optimizer.kind, optimizer.b1, optimizer.b2, optimizer.weight_decay) == (
                'adamw',
                0.9,
                0.999,
                1e-4,
            )
            assert (optimizer.schedule, optimizer.warmup_epochs) == ('constant', 2)
        assert (augment.freq_mask, augment.time_mask) == (48, 0.1875)
        assert augment.token_dropout == (0 if text == 'ast' else 0.1)
        assert augment.mixup == (0.5 if name == 'audioset' else 0) and config.data.balanced == (
            name == 'audioset'
        )
        assert (config.model.scaled, config.init.published_quirks) == (
            text != 'published',
            text == 'published',
        )
    assert histogram_of(name).classes == classes


@pytest.mark.parametrize(
    'name, text, values',
    [
        # egs/voxceleb/AST-SSAST.sh
        (
            'voxceleb',
            'ast,published',
            {
                'train.epochs': 30,
                'frontend.mean': -4.553,
                'frontend.std': 4.1933,
                'frontend.partial': 'repeat',
                'frontend.min_frames': 1024,
                'model.prefix_tokens': 1,
                'optimizer.decay_from': 5,
            },
        ),
        # egs/voxceleb/ElasticAST.sh
        (
            'voxceleb',
            'published',
            {'train.epochs': 40, 'frontend.mean': -5.842545, 'frontend.partial': 'floor'},
        ),
        # egs/audioset/AST.sh
        (
            'audioset',
            'ast,published',
            {
                'train.epochs': 5,
                'frontend.mean': -4.4050345,
                'frontend.std': 4.9021754,
                'frontend.partial': 'repeat',
                'model.prefix_tokens': 1,
                'augment.mixup': 0.5,
                'data.balanced': True,
            },
        ),
        # egs/audioset/ElasticAST.sh
        (
            'audioset',
            'published',
            {'train.epochs': 15, 'frontend.partial': 'zero', 'frontend.fixed_frames': 1024},
        ),
        # egs/vggsound/AST.sh
        (
            'vggsound',
            'ast,published',
            {
                'train.epochs': 40,
                'frontend.mean': -5.08,
                'frontend.partial': 'repeat',
                'model.prefix_tokens': 1,
                'train.metric': 'accuracy',
            },
        ),
        # egs/vggsound/ElasticAST.sh
        (
            'vggsound',
            'published',
            {'train.epochs': 40, 'frontend.partial': 'zero', 'frontend.fixed_frames': 1024},
        ),
        # egs/epic-sound/AST-epic-sound.sh and src/train_AST-epic-sound.py
        (
            'epic_sounds',
            'ast,published',
            {
                'train.epochs': 30,
                'optimizer.learning_rate': 1e-4,
                'optimizer.decay_all': True,
                'optimizer.warmup_start': 0.01,
                'augment.cut_seconds': 0.0,
                'augment.crop_seconds': 10.0,
                'model.prefix_tokens': 1,
            },
        ),
        # egs/epic-sound/ElasticAST.sh and src/train_ElasticAST-epic.py
        (
            'epic_sounds',
            'published',
            {
                'optimizer.learning_rate': 1e-5,
                'optimizer.decay_all': True,
                'optimizer.warmup_start': 0.01,
                'augment.cut_seconds': 0.0,
                'frontend.partial': 'edge',
            },
        ),
        (
            'epic_sounds',
            'quality',
            {
                'augment.ratios': (1.0, 2.0, 3.0, 4.0),
                'frontend.kind': 'kaldi',
                'frontend.mean': -8.660809,
                'frontend.fixed_frames': 3072,
            },
        ),
    ],
)
def test_published_variants_have_the_values_of_the_scripts(name, text, values):
    flat = config_of(name, text).flat()
    assert {key: flat[key] for key in values} == values


@pytest.mark.parametrize('name', ['audioset', 'vggsound'])
def test_resolutions_are_the_papers(name):
    assert np.allclose(config_of(name).augment.ratios, np.arange(1.0, 4.1, 0.2))
    lengths = {}
    for text in SHIFTS:
        config = config_of(name, text)
        front, ratio = config.frontend, config.frontend.shift_ms / 10
        assert config.augment.ratios == (1.0,)
        assert front.max_frames == front.min_frames == int(1024 / ratio) // 16 * 16
        # A clip of 10 s fills all of it, or all but one column.
        assert front.max_time_patches - front.frames(160_000, front.shift()) / 16 < 2
        lengths[front.shift_ms] = front.max_frames
    assert lengths == {10.0: 1024, 20.0: 512, 30.0: 336, 40.0: 256}


def test_published_variants_require_weights():
    for name in PAPER:
        with pytest.raises(ConfigError, match=r'--config\.init\.from=PATH'):
            load(spec(name, 'published'))


def test_each_fold_is_held_out_in_turn():
    folds = {f'fold{i}' for i in range(1, 6)}
    for i in range(1, 6):
        data = config_of('esc50', f'fold={i}').data
        assert data.eval_split == f'fold{i}' and set(data.train_split.split('+')) == folds - {
            f'fold{i}'
        }
    runs = list(module('esc50').sweep())
    assert [
        load(spec('esc50'), [f'{key}={value}' for key, value in run.items()]).data for run in runs
    ] == [config_of('esc50', f'fold={i}').data for i in range(1, 6)]


# Variants


CHOICES = {
    'elastic_ast': {},
    'published': {},
    'ast': {'frames': (1024, 400, 1600), 'fold': (1, 2)},
    'quality': {},
    'ast,quality': {'frames': (1024, 400)},
}


@pytest.mark.parametrize(
    'text, name, values',
    [
        ('', 'elastic_ast', {}),
        ('published', 'published', {}),
        ('ast', 'ast', {'frames': 1024, 'fold': 1}),
        ('ast,frames=400', 'ast', {'frames': 400, 'fold': 1}),
        ('fold=2,ast', 'ast', {'frames': 1024, 'fold': 2}),
        ('quality', 'quality', {}),
        ('ast,quality', 'ast,quality', {'frames': 1024}),
        ('quality,frames=400,ast', 'ast,quality', {'frames': 400}),
    ],
)
def test_a_variant_has_a_name_and_values(text, name, values):
    assert parse_variant(text, CHOICES) == Variant(name, values)


@pytest.mark.parametrize(
    'text, messages',
    [
        (
            'asst',
            [
                "'asst' must be 'elastic_ast', 'published', 'ast' or 'quality'",
                "did you mean 'ast'?",
            ],
        ),
        ('ast,frames=401', ['frames=401 must be 400, 1024 or 1600']),
        ('ast,frames=', ['frames= must be 400, 1024 or 1600']),
        ('ast,frames=+400', ['frames=+400 must be']),
        ('ast,frame=400', ["frame=400: 'ast' takes frames or fold"]),
        ('frames=400', ["frames=400 goes with 'ast' or 'ast,quality' only"]),
        ('fold=1', ["fold=1 goes with 'ast' only"]),
        ('published,frames=400', ["frames=400 goes with 'ast' or 'ast,quality' only"]),
        ('published,x=1', ["x=1: 'published' takes no key"]),
        ('published,ast', ["'published' and 'ast' exclude each other"]),
        ('ast,frames=400,frames=1024', ['frames is given twice']),
        ('ast,', ["'' must be"]),
        ('nothing,frames=3', ["'nothing' must be 'elastic_ast'", "frames=3 goes with 'ast'"]),
        (
            'asst,frames=3,fold=9',
            ["did you mean 'ast'?", 'frames=3 must be 400, 1024 or 1600', 'fold=9 must be 1 or 2'],
        ),
    ],
)
def test_wrong_variants_are_refused_with_all_problems(text, messages):
    with pytest.raises(RecipeError) as caught:
        parse_variant(text, CHOICES)
    for message in messages:
        assert message in str(caught.value)


def test_the_command_line_names_the_recipe_and_the_problem():
    with pytest.raises(
        ConfigError,
        match=r'voxceleb\.py.* fails: RecipeError: frames=401 must be 400, 1024 or 1600',
    ):
        load(spec('voxceleb', 'ast,frames=401'))
    with pytest.raises(
        ConfigError, match=r'audioset\.py.* fails: RecipeError: shift=25 must be 10, 20, 30 or 40'
    ):
        load(spec('audioset', 'ast,shift=25'))
    with pytest.raises(
        ConfigError, match=r'esc50\.py.* fails: RecipeError: fold=6 must be 1, 2, 3, 4 or 5'
    ):
        load(spec('esc50', 'fold=6'))


# Histograms


@pytest.mark.parametrize(
    'name, train, evaluation, range_',
    [
        ('audioset', 2_065_161, 20_383, (10, 10)),
        ('vggsound', 183_727, 15_446, (10, 10)),
        ('voxceleb', 138_361, 8_251, (4, 145)),
        ('epic_sounds', 60_055, 8_035, (0.1, 1000)),
        ('speech_commands', 84_843, 11_005, (0.2, 1)),
        ('esc50', 1600, 400, (5, 5)),
    ],
)
def test_the_histograms_have_the_clips_of_the_data_sets(name, train, evaluation, range_):
    histogram = histogram_of(name, 'ast')
    assert [sum(bin_.clips for bin_ in bins) for bins in (histogram.train, histogram.eval)] == [
        train,
        evaluation,
    ]
    for bin_ in histogram.train + histogram.eval:
        assert range_[0] <= bin_.start <= bin_.end <= range_[1]


def test_a_recipe_without_lengths_has_none():
    assert length_histogram.from_recipe(spec('quickstart')) is None


def test_an_exponential_distribution_has_its_mean_and_range():
    bins = exponential_bins(100_000, shortest=4.0, mean=8.2, longest=145.0)
    assert sum(bin_.clips for bin_ in bins) == 100_000
    assert bins[0].start == 4 and bins[-1].end <= 145
    source = HistogramSource(Histogram(2, tuple(bins), tuple(bins)), 'train', 1000, 0)
    assert source.samples.mean() / 1000 == pytest.approx(8.2, rel=0.01)
    # Half of what is above the shortest is below mean * log(2).
    assert np.median(source.samples) / 1000 == pytest.approx(4 + 4.2 * np.log(2), rel=0.01)


def test_sampled_lengths_follow_the_bins():
    bins = [Bin(0.5, 0.5, 100), Bin(1.0, 3.0, 300)]
    seconds = sample_lengths(bins, 20_000, np.random.default_rng(0))
    assert (seconds == 0.5).mean() == pytest.approx(0.25, abs=0.02)
    wide = seconds[seconds != 0.5]
    assert 1 <= wide.min() < 1.01 and 2.99 < wide.max() <= 3
    assert wide.mean() == pytest.approx(2, abs=0.02)


def test_shares_are_relative_and_lose_no_clip():
    assert length_bins(7, [(1.0, 2.0, 1), (2.0, 3.0, 1), (3.0, 4.0, 1)]) == [
        Bin(1, 2, 2),
        Bin(2, 3, 3),
        Bin(3, 4, 2),
    ]
    assert length_bins(2, [(1.0, 2.0, 0.98), (2.0, 3.0, 0.02)]) == [Bin(1, 2, 2)]


BINS = Histogram(3, (Bin(0.5, 0.5, 5), Bin(1.0, 2.0, 300)), (Bin(1.0, 2.0, 305),))


def test_lengths_are_drawn_within_their_bins_and_depend_on_the_seed_alone():
    source, repeated, reseeded = (HistogramSource(BINS, 'train', 1000, seed) for seed in (1, 1, 2))
    assert (
        isinstance(source, Source)
        and len(source) == len(source.keys) == len(set(source.keys)) == len(source.labels) == 305
    )
    assert (source.samples == 500).sum() == 5 and (
        (source.samples >= 1000) & (source.samples <= 2000)
    ).sum() == 300
    np.testing.assert_array_equal(source.samples, repeated.samples)
    assert sorted(source.samples) != sorted(reseeded.samples)
    assert source.fingerprint == repeated.fingerprint != reseeded.fingerprint
    assert (np.diff(source.samples) < 0).any()  # not in the order of the bins
    assert set(source.samples) != set(HistogramSource(BINS, 'eval', 1000, 1).samples)
    assert source.classes and len(source.classes) == 3


def test_clips_of_a_histogram_cannot_be_read():
    with pytest.raises(DataError, match='clip 7: its length is drawn from a histogram'):
        HistogramSource(BINS, 'train', 1000, 0).read(7)


GOOD = {'classes': 2, 'train': [(1.0, 2.0, 3)], 'eval': [(1, 1, 1)]}


@pytest.mark.parametrize(
    'value, messages',
    [
        ([1.0], ['returns a value of type list', "{'classes': 50"]),
        ({'train': []}, ["returns the keys 'train'"]),
        (GOOD | {'test': []}, ["'test'"]),
        (GOOD | {'classes': 0}, ['classes=0 must be a positive whole number']),
        (GOOD | {'classes': True}, ['classes=True']),
        (GOOD | {'train': []}, ['train must be a list of bins, not []']),
        (GOOD | {'eval': 'abc'}, ["eval must be a list of bins, not 'abc'"]),
        (
            GOOD | {'train': [(1, 2)]},
            ['train bin 0: (1, 2) must be (from seconds, to seconds, clips)'],
        ),
        (
            GOOD | {'train': [(1, 2, 3), (2, 1, 3)], 'classes': -1},
            ['classes=-1', 'train bin 1: (2, 1, 3)'],
        ),
        (GOOD | {'eval': [(0, 1, 3)]}, ['eval bin 0']),
        (GOOD | {'eval': [(1, 2, 0.5)]}, ['eval bin 0']),
        (GOOD | {'eval': [(1, float('inf'), 5)]}, ['eval bin 0']),
        (GOOD | {'eval': [(float('nan'), 2.0, 5)]}, ['eval bin 0']),
        (GOOD | {'eval': [('1', 2.0, 5)]}, ['eval bin 0']),
        (GOOD | {'eval': [(2, 1, 1)] * 14}, ['eval bin 9', 'and 4 more']),
    ],
)
def test_lengths_of_another_form_are_refused(value, messages):
    with pytest.raises(HistogramError) as caught:
        length_histogram.validate(value, 'recipe.py')
    for message in ('recipe.py: lengths()', *messages):
        assert message in str(caught.value)


def test_lengths_of_the_right_form_are_accepted():
    assert length_histogram.validate(GOOD, 'recipe.py') == Histogram(
        2, (Bin(1.0, 2.0, 3),), (Bin(1.0, 1.0, 1),)
    )
