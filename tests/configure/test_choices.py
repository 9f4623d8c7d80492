"""Test which keys follow from a survey."""

import collections
import dataclasses
import re

import numpy as np
import pytest

from elastic_ast_jax.audio.frontend import FrontendSpec
from elastic_ast_jax.config import loading
from elastic_ast_jax.configure.choices import choose
from elastic_ast_jax.configure.findings import loudness, warnings
from elastic_ast_jax.configure.levels import Level
from elastic_ast_jax.configure.spectrum import Band
from elastic_ast_jax.configure.survey import Survey
from elastic_ast_jax.data.epoch_plan import Planner
from elastic_ast_jax.data.sampling import SamplingSpec
from elastic_ast_jax.utils.errors import UserError

USUAL = Survey(
    seconds=np.linspace(0.2, 1.2, 500),
    class_clips={'a': 250, 'b': 250},
    labels=(1, 1),
    label_sets=2,
    eval_clips=100,
    native_rates=(16000, 16000),
    edge=6000.0,
    silent=(),
    duplicates=(),
)


def keys(**changes):
    """Return the chosen values by dotted key, which must be a valid config."""
    choices = choose(dataclasses.replace(USUAL, **changes))
    values = collections.defaultdict(dict, data={'source': 'folders', 'train': 'a', 'eval': 'b'})
    for choice in choices:
        values[choice.section][choice.key] = choice.value
    loading.from_dict(values)
    return {f'{choice.section}.{choice.key}': choice.value for choice in choices}


def reason(key, **changes):
    choices = choose(dataclasses.replace(USUAL, **changes))
    return next(choice.reason for choice in choices if f'{choice.section}.{choice.key}' == key)


@pytest.mark.parametrize(
    ('native', 'edge', 'rate'),
    [
        (8000, 3900, 8000),
        (48000, 3000, 8000),
        (48000, 7000, 16000),
        (48000, 22000, 48000),
        (44100, 21000, 44100),
        (256000, 110000, 256000),
        (256000, 40000, 96000),
        (11025, 5500, 11025),
        (16000, 0, 16000),  # silence
    ],
)
def test_the_sample_rate_keeps_the_energy(native, edge, rate):
    assert keys(native_rates=(native, native), edge=float(edge))['frontend.sample_rate'] == rate
    text = reason('frontend.sample_rate', native_rates=(native, native), edge=float(edge))
    assert ('own' in text) if rate == native else (f'discards what lies above {rate // 2}' in text)


@pytest.mark.parametrize(
    'seconds',
    [
        np.full(500, 1.0),
        np.full(500, 5.0),
        np.linspace(0.15, 2.3, 469),
        np.random.default_rng(0).lognormal(1, 0.8, 3000).clip(0.3, 29),
        np.concatenate([np.full(200, 0.01), np.full(3, 600.0)]),
        np.full(137, 0.4),
    ],
    ids=['equal', 'five seconds', 'digits', 'broad', 'extremes', 'few'],
)
def test_rows_are_full_and_steps_are_many(seconds):
    values = keys(seconds=seconds)
    config = loading.from_dict(
        {
            'data': {'source': 'folders', 'train': 'a', 'eval': 'b'},
            'frontend': {
                key.removeprefix('frontend.'): value
                for key, value in values.items()
                if key.startswith('frontend.')
            },
            'augment': {'ratios': (0.8, 1.0, 1.2), 'token_dropout': 0.1},
        }
    )
    samples = (seconds * config.frontend.sample_rate).astype(np.int64)
    spec = SamplingSpec(config.augment, shuffle=True, too_long='crop')
    tokens, slots = values['packing.tokens'], values['packing.slots']
    planner = Planner([''] * len(samples), samples, config.frontend, spec, 1, tokens, slots)
    plan = planner.epoch(3)
    # At least 99 % in the epoch that chose the row, if it has more than a few rows.
    assert plan.fill(1, tokens) > 0.97
    assert np.diff(plan.rows.offsets).max() < slots
    steps = len(plan.rows) * values['train.epochs']
    assert 450 <= steps <= 4000


@pytest.mark.parametrize(
    ('minutes', 'seconds', 'steps', 'text'),
    [
        (0.5, 0.2, 500, 'the fewest, in about 2 minutes, not 0.5'),
        (2.0, 0.2, 600, 'in about 2 minutes on two processor cores'),
        (10.0, 0.2, 3000, 'in about 10 minutes on two processor cores'),
        (25.0, 0.2, 7500, 'in about 25 minutes on two processor cores'),
        # Steps of about 1,000 tokens.
        (4.0, 1.0, 780, 'in about 4 minutes on two processor cores'),
        (10.0, 1.0, 1950, 'in about 10 minutes on two processor cores'),
    ],
)
def test_steps_follow_from_the_minutes(minutes, seconds, steps, text):
    survey = dataclasses.replace(USUAL, seconds=np.full(500, seconds))
    choices = choose(survey, minutes)
    (epochs,) = (choice for choice in choices if choice.key == 'epochs')
    (number,) = map(int, re.findall(r'about (\d+) steps', epochs.reason))
    assert 0.9 * steps < number < 1.1 * steps and epochs.reason.endswith(text)
    assert minutes != 10 or choices == choose(survey)


def test_long_clips_have_fewer_steps():
    long = dataclasses.replace(USUAL, seconds=np.full(500, 30.0))
    epochs = {
        minutes: next(c for c in choose(long, minutes) if c.key == 'epochs')
        for minutes in (10.0, 40.0, 80.0)
    }
    assert epochs[10].value == 10 and 'the fewest, in about' in epochs[10].reason
    assert epochs[80].value == pytest.approx(2 * epochs[40].value, rel=0.05)
    assert 'in about 80 minutes on two' in epochs[80].reason


def test_recordings_of_several_rates_keep_the_energy_of_the_highest():
    assert keys(native_rates=(8000, 48000), edge=20000.0)['frontend.sample_rate'] == 44100
    text = reason('frontend.sample_rate', native_rates=(8000, 48000), edge=23000.0)
    assert text == "the recordings' own, which have 8000 Hz and more"


def test_rates_below_a_frame_shift_are_refused():
    with pytest.raises(UserError, match='recordings of 100 Hz are too slow'):
        keys(native_rates=(100, 100), edge=40.0)


def test_short_clips_get_more_frames_and_long_ones_windows():
    assert keys()['frontend.shift_ms'] == 5.0
    assert keys(seconds=np.full(500, 4.0))['frontend.shift_ms'] == 10.0
    long = keys(seconds=np.full(50, 600.0))
    assert long['frontend.max_frames'] == 1248 and long['data.too_long'] == 'window'
    text = reason('frontend.max_frames', seconds=np.full(50, 600.0))
    assert 'the longest clip has 600 s' in text


@pytest.mark.parametrize(
    ('labels', 'loss', 'text'),
    [
        ((1, 1), 'cross_entropy', 'one label'),
        ((1, 3), 'bce', 'several labels'),
        ((0, 1), 'bce', 'background'),
    ],
)
def test_labels_decide_the_loss(labels, loss, text):
    assert keys(labels=labels)['train.loss'] == loss
    assert text in reason('train.loss', labels=labels)
    assert ('train.label_smoothing' in keys(labels=labels)) == (loss == 'cross_entropy')


def test_rare_classes_are_sampled_more_often():
    assert 'data.balanced' not in keys()
    assert keys(class_clips={'a': 1, 'b': 1000})['data.balanced']


@pytest.mark.parametrize(
    ('native', 'edge', 'band', 'expected'),
    [
        # rate, f_min, f_max, window, shift, mel bins
        (48000, 8000, Band(3000, 8000), (22050, 2700, 0, 25, 10, 128)),
        (48000, 23000, Band(3000, 8000), (22050, 2700, 0, 25, 10, 128)),  # with noise
        (48000, 23000, Band(100, 2000), (8000, 0, 2200, 25, 10, 64)),
        (48000, 23000, Band(100, 20000), (48000, 0, 0, 25, 10, 128)),
        (48000, 23000, Band(20, 23000), (48000, 0, 0, 25, 10, 128)),
        (256000, 125000, Band(30000, 90000), (256000, 27000, 0, 4, 2, 128)),
        (8000, 3900, Band(4, 200), (1000, 3.6, 220, 200, 50, 64)),
        (2000, 900, Band(20, 40), (1000, 18, 120, 200, 50, 32)),
        (8000, 150, None, (8000, 0, 0, 25, 10, 64)),
        # What the sounds of a rare class need, beyond the energy of nine of ten clips.
        (48000, 6000, Band(3000, 9000), (22050, 2700, 0, 25, 10, 128)),
        (2000, 900, None, (2000, 0, 0, 50, 20, 64)),
    ],
)
def test_a_range_is_chosen_where_it_leaves_out_much(native, edge, band, expected):
    changes = {
        'native_rates': (native, native),
        'edge': float(edge),
        'band': band and Band(*map(float, band)),
        'seconds': np.full(500, 5.0),
    }
    values = {'frontend.f_min': 0.0, 'frontend.f_max': 0.0, 'frontend.window_ms': 25.0} | keys(
        **changes
    )
    names = ('sample_rate', 'f_min', 'f_max', 'window_ms', 'shift_ms', 'mel_bins')
    assert tuple(values[f'frontend.{name}'] for name in names) == expected
    spec = dataclasses.replace(
        FrontendSpec(), **{name: values[f'frontend.{name}'] for name in names}
    )
    assert spec.problems() == []
    assert not (values['frontend.f_min'] or values['frontend.f_max']) or (
        spec.count_empty_filters() == 0
    )


def test_frames_of_other_windows_follow_from_the_lengths_of_clips():
    bats = {'native_rates': (256000, 256000), 'edge': 9e4, 'band': Band(3e4, 9e4)}
    short = keys(**bats, seconds=np.full(50, 0.1))
    assert short['frontend.shift_ms'] == 1.0 and short['augment.ratios'] == (1.0, 2.0)
    long = keys(**bats, seconds=np.full(50, 60.0))
    assert long['frontend.shift_ms'] == 2.0 and long['augment.ratios'] == (1.0, 1.5)
    assert long['frontend.max_frames'] == 1008  # windows of 2 s
    text = reason('frontend.max_frames', **bats, seconds=np.full(50, 60.0))
    assert text == '2 s at the smallest frame shift; the longest clip has 60 s'


def level(rms, clipped=0.0):
    return Level(rms + 6, rms, clipped)


def test_warnings_name_what_is_wrong():
    assert warnings(USUAL) == []
    wrong = dataclasses.replace(
        USUAL,
        seconds=np.full(2, 1.0),
        class_clips={'a': 1, 'b': 1},
        silent=('a/quiet.wav',),
        duplicates=(('a/1.wav', 'b/1.wav'),),
    )
    few, of_class, twice, silent = warnings(wrong)
    assert few.startswith('2 training clips') and 'elastic-ast baseline' in few
    assert of_class == '2 classes have fewer than 5 training clips: a, b'
    assert 'a/1.wav and b/1.wav' in twice and 'a/quiet.wav' in silent


@pytest.mark.parametrize(
    ('changes', 'text'),
    [
        (
            {'class_clips': {'a': 500, 'b': 0}},
            '1 class has no training clip, so that a model cannot learn it: b',
        ),
        (
            {'eval_class_clips': {'a': 0, 'b': 0}},
            '2 classes have no evaluation clip, so that their accuracy is not measured: a, b',
        ),
        (
            {'contradictions': (('a/1.wav', 'b/1.wav'),)},
            '1 training recording has the content of another one, but other labels: a/1.wav and'
            ' b/1.wav',
        ),
        (
            {'clip_levels': {'quiet.wav': level(-70), 'loud.wav': level(-12)}},
            'the loudness of clips differs by 58 dB, from -70 dB of full scale (quiet.wav) to -12'
            ' dB (loud.wav): quiet clips may be little but noise',
        ),
        (
            {'clip_levels': {'a.wav': level(-12, 0.01), 'b.wav': level(-12, 0.0005)}},
            '1 clip is clipped at full scale often, which adds frequencies: a.wav',
        ),
        (
            {'rate_clips': {8000: 20, 48000: 30}},
            'the recordings have several sample rates: 20 clips of 8000 Hz, 30 clips of 48000 Hz.'
            ' What lies above 4000 Hz is missing in some: if classes differ in their rates, a model'
            ' may learn those instead of the sounds',
        ),
        (
            {'seconds': np.array([0.01] * 300 + [600.0])},
            '300 training clips are shorter than a frame of 25 ms, and padded with silence; the'
            ' longest has 600 s',
        ),
    ],
)
def test_a_warning_is_one_line(changes, text):
    assert warnings(dataclasses.replace(USUAL, **changes)) == [text]


def test_usual_loudness_is_no_warning():
    usual = {'a.wav': level(-50), 'b.wav': level(-12, 0.0005)}
    surveyed = dataclasses.replace(USUAL, clip_levels=usual, rate_clips={16000: 500})
    assert warnings(surveyed) == []
    assert loudness(surveyed) == 'loudness: -50 to -12 dB of full scale (RMS), peaks up to -6.0 dB'
    assert loudness(USUAL) == ''
