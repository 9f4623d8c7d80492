"""Check that stored hashes stay readable.

The literals were computed at commit 508c900, with its names of classes and fields.
"""

import json
import pathlib

import numpy as np
import pytest

from elastic_ast_jax.audio import fbank
from elastic_ast_jax.audio.frontend import FrontendSpec
from elastic_ast_jax.audio.windows import Windows
from elastic_ast_jax.data.epoch_plan import Planner
from elastic_ast_jax.data.prepare import lists, shards
from elastic_ast_jax.data.sources import base, synthetic, tfds_reader, windowed
from elastic_ast_jax.data.sources.base import FileClip
from elastic_ast_jax.data.sources.tfds_builder import Features
from elastic_ast_jax.utils.hashing import mapping_hash
from tests.data.specs import sampling_spec

RECORDED = json.loads(
    (pathlib.Path(__file__).parent / 'fixtures' / 'hashes_508c900.json').read_text('utf-8')
)


def recorded(content):
    cases = [(entry['inputs'], entry['hash']) for entry in RECORDED if entry['what'] == content]
    assert cases
    return pytest.mark.parametrize(('inputs', 'expected'), cases)


def frontend(inputs):
    return FrontendSpec(**inputs['frontend'])


def planner(inputs, **changed):
    values = inputs['spec'] | {'ratios': tuple(inputs['spec']['ratios'])}
    values = {name: value for name, value in values.items() if name != 'saving'} | changed
    samples = np.array([16000])
    return Planner(
        ['a'],
        samples,
        frontend(inputs),
        sampling_spec(**values),
        inputs['seed'],
        inputs['tokens'],
        inputs['slots'],
    )


@recorded('Planner.fingerprint')
def test_plans_recognize_the_fingerprint_of_version_1(inputs, expected):
    plans = planner(inputs)
    assert plans.recognizes(expected, inputs['data'])
    assert not plans.recognizes(expected, inputs['data'] + '0')
    assert not planner(inputs, mixup_beta=3.5).recognizes(expected, inputs['data'])


def test_fingerprints_of_plans_differ_where_those_of_version_1_do():
    entries = [entry for entry in RECORDED if entry['what'] == 'Planner.fingerprint']
    new = [planner(entry['inputs']).fingerprint(entry['inputs']['data']) for entry in entries]
    assert len(set(new)) == len({entry['hash'] for entry in entries}) == len(entries)
    assert all(plan == plan.lower() and len(plan) == 16 for plan in new)


def test_the_fingerprint_of_version_2_is_recorded():
    entry = next(entry for entry in RECORDED if entry['what'] == 'Planner.fingerprint')
    assert planner(entry['inputs']).fingerprint('0123abcd') == 'ae2c9b6dd1b047bb'


@recorded('fbank.fingerprint(spec).spec')
def test_fingerprints_of_frontends(inputs, expected):
    assert fbank.fingerprint(frontend(inputs)).spec == expected


@recorded('WindowSource.fingerprint')
def test_fingerprints_of_windows(inputs, expected):
    source = synthetic.SyntheticSource('test', 1, 0, 8000)
    source.fingerprint = inputs['source_fingerprint']
    length, hop, whole = (inputs['windows'][name] for name in ('length', 'hop', 'whole'))
    windows = Windows(length=length, hop=hop, max_unsplit=whole)
    assert windowed.WindowSource(source, windows).fingerprint == expected


def clips(inputs):
    return [
        (key, FileClip(labels=tuple(values.pop('labels')), origin=values.pop('where'), **values))
        for key, values in ((key, dict(values)) for key, values in inputs['clips'])
    ]


@recorded('Shard.stamp')
def test_shards_recognize_the_stamp_of_version_1(inputs, expected):
    form = shards.ClipFormat(
        inputs['form']['rate'], tuple(inputs['form']['classes']), inputs['form']['several']
    )
    shard = shards.Shard(inputs['path'], tuple(clips(inputs)))
    assert shard.recognizes(expected, form) and shard.recognizes(shard.stamp(form), form)
    other = shards.ClipFormat(form.sample_rate + 1, form.classes, form.multi_label)
    assert not shard.recognizes(expected, other) and shard.stamp(form) != shard.stamp(other)


@recorded('lists.Layout.stamp')
def test_lists_recognize_the_stamp_of_version_1(inputs, expected):
    split = inputs['split']
    layout = lists.Layout(tuple(inputs['classes']), {split: dict(clips(inputs))})
    assert layout.recognizes(expected, split) and layout.recognizes(layout.stamp(split), split)
    other = lists.Layout((*layout.classes, 'more'), layout.splits)
    assert not other.recognizes(expected, split) and layout.stamp(split) != other.stamp(split)


@recorded('sources.fingerprint')
def test_fingerprints_of_sources(inputs, expected):
    labels = [tuple(names) for names in inputs['labels']]
    assert (
        base.fingerprint(
            inputs['keys'], np.array(inputs['samples'], np.int64), labels, inputs['rate']
        )
        == expected
    )


@recorded('SyntheticSource.fingerprint')
def test_fingerprints_of_synthetic_data(inputs, expected):
    source = synthetic.SyntheticSource(
        inputs['split'], inputs['clips'], inputs['seed'], inputs['rate']
    )
    assert source.fingerprint == expected


@recorded('tfds._Reader._stamp')
def test_stamps_of_tfds_caches(inputs, expected, monkeypatch):
    class Schema:
        def __repr__(self):
            return inputs['whole']

    reader = object.__new__(tfds_reader.Reader)
    names = dict(inputs['names'])
    names['sample_rate'] = names.pop('rate')
    reader._names = Features(**names)
    reader.sample_rate = inputs['rate']
    monkeypatch.setattr(reader, '_features', Schema(), raising=False)
    reader.classes = inputs['classes'] and tuple(inputs['classes'])
    monkeypatch.setattr(reader, '_file_stamps', lambda: [tuple(stamp) for stamp in inputs['files']])
    assert reader._stamp_of_version_1() == expected


def test_a_mapping_is_hashed_by_names_and_not_by_their_order():
    assert mapping_hash('a', 1, {'x': 1, 'y': 2.5}) == mapping_hash('a', 1, {'y': 2.5, 'x': 1})
    changed_hashes = [
        ('b', 1, {'x': 1}),
        ('a', 2, {'x': 1}),
        ('a', 1, {'x': 1.0}),
        ('a', 1, {'z': 1}),
        ('a', 1, {}),
    ]
    assert len({mapping_hash(*other) for other in [('a', 1, {'x': 1}), *changed_hashes]}) == 6
