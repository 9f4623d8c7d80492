"""Test how clips are divided into folds."""

import collections
import json
import logging

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import soundfile

from elastic_ast_jax.config import loading
from elastic_ast_jax.data import splits
from elastic_ast_jax.data.folds import fold_numbers
from elastic_ast_jax.data.sources.base import DataError, FileSource

RATE = 8000


def keys(count: int) -> list[str]:
    return [f'{n:04d}.wav' for n in range(count)]


@pytest.mark.parametrize('folds', [2, 5, 10])
def test_each_fold_has_its_share_of_each_class(folds):
    labels = [('abc'[min(n % 7, 2)],) for n in range(200)]
    numbers = fold_numbers(keys(200), keys(200), labels, folds, 0)
    for label, count in collections.Counter(labels).items():
        members = [n for n, other in zip(numbers, labels, strict=True) if other == label]
        counts = np.bincount(members, minlength=folds + 1)[1:]
        assert counts.sum() == count and counts.max() - counts.min() <= 1


@hypothesis.given(st.integers(0, 2**32 - 1), st.integers(2, 6), st.integers(6, 30))
@hypothesis.settings(deadline=None, max_examples=30)
def test_a_group_is_in_one_fold_and_the_order_does_not_count(seed, folds, groups):
    random = np.random.default_rng(seed)
    names = [f'g{n}' for n in random.permutation(np.arange(groups).repeat(3))]
    labels = [('ab'[n],) for n in random.integers(2, size=len(names))]
    numbers = fold_numbers(keys(len(names)), names, labels, folds, seed)
    assert set(numbers) == set(range(1, folds + 1))
    assert len(set(zip(names, numbers.tolist(), strict=True))) == groups
    order = random.permutation(len(names))
    shuffled = fold_numbers(
        [keys(len(names))[i] for i in order],
        [names[i] for i in order],
        [labels[i] for i in order],
        folds,
        seed,
    )
    assert shuffled.tolist() == numbers[order].tolist()


def test_another_seed_is_another_division():
    labels = [('a',)] * 40
    first, second = (fold_numbers(keys(40), keys(40), labels, 4, seed) for seed in (0, 1))
    assert (first != second).any()


def test_a_clip_of_several_labels_counts_as_the_rarest():
    labels = [('common',)] * 30 + [('common', 'rare')] * 5 + [()] * 5
    numbers = fold_numbers(keys(40), keys(40), labels, 5, 0)
    assert sorted(numbers[30:35]) == sorted(numbers[35:]) == [1, 2, 3, 4, 5]


def test_small_classes_are_a_warning(caplog):
    with caplog.at_level(logging.WARNING):
        labels = [('a',)] * 30 + [('tiny',)] * 2
        numbers = fold_numbers(keys(32), keys(32), labels, 4, 7)
    assert set(numbers) == {1, 2, 3, 4} and numbers[30] != numbers[31]
    assert '1 class is in fewer recordings or groups than there are folds' in caplog.text
    assert "'tiny'" in caplog.text
    every = [(f'{n}',) for n in range(8)]
    assert sorted(fold_numbers(keys(8), keys(8), every, 4, 0)) == [1, 1, 2, 2, 3, 3, 4, 4]


def test_more_folds_than_groups_are_refused():
    with pytest.raises(DataError, match=r'data\.folds=4 is more than the 3 groups .*\(a, b, c\)'):
        fold_numbers(keys(6), [*'aabbcc'], [('x',)] * 6, 4, 0)


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    """24 recordings of two parts each, of four speakers; also as folders of classes."""
    root, lines = tmp_path_factory.mktemp('folds'), []
    for number in range(24):
        label = 'ab'[number % 2]
        (root / 'sounds' / label).mkdir(parents=True, exist_ok=True)
        name = f'sounds/{label}/{number}.wav'
        soundfile.write(root / name, np.full(1600, number / 100), RATE, subtype='FLOAT')
        for part in range(2):
            line = {'audio': name, 'labels': [label], 'start': part / 10, 'end': part / 10 + 0.1}
            lines.append(line | {'speaker': f's{number % 4}'})
    for name, chosen in (('all', lines), ('some', lines[:16])):
        (root / f'{name}.jsonl').write_text('\n'.join(map(json.dumps, chosen)))
    for i, line in enumerate(lines):
        line['split'] = ('train', 'train', 'test', 'other')[i // 2 % 4]
    (root / 'splits.jsonl').write_text('\n'.join(map(json.dumps, lines)))
    return root


def opened(root, fold: int, train: str, **data) -> dict[str, FileSource]:
    values = {'folds': 3, 'fold': fold, 'train': str(root / train), **data}
    config = loading.from_dict({'data': values, 'frontend': {'sample_rate': RATE}})
    names: tuple[splits.Split, ...] = ('train', 'validation', 'eval')
    sources = {}
    for name in names:
        source = splits.open_source(config, name)
        assert isinstance(source, FileSource)
        sources[name] = source
    return sources


def names(source: FileSource) -> set[str]:
    return {clip.name for clip in source.clips}


@pytest.mark.parametrize('source', ['manifest', 'folders'])
def test_each_recording_is_evaluated_in_one_fold(root, source):
    train = 'all.jsonl' if source == 'manifest' else 'sounds'
    evaluated = []
    for fold in (1, 2, 3):
        sources = opened(root, fold, train, source=source)
        assert not names(sources['train']) & names(sources['eval'])
        assert len(names(sources['train']) | names(sources['eval'])) == 24
        assert sources['train'].classes == sources['eval'].classes == ('a', 'b')
        assert sources['train'].keys == sources['validation'].keys
        evaluated += sources['eval'].keys
    assert len(evaluated) == len(set(evaluated)) == (48 if source == 'manifest' else 24)


def test_groups_and_validation_share_go_with_folds(root):
    for fold in (1, 2, 3):
        sources = opened(root, fold, 'all.jsonl', group='column:speaker', validation_share=0.3)
        groups = [{clip.group for clip in source.clips} for source in sources.values()]
        assert sum(map(len, groups)) == len(set.union(*groups)) == 4
        assert sum(map(len, sources.values())) == 48


def test_folds_have_a_seed_of_their_own(root):
    first = opened(root, 1, 'all.jsonl')['eval'].keys
    assert opened(root, 1, 'all.jsonl', fold_seed=1)['eval'].keys != first
    config = loading.from_dict(
        {
            'data': {'folds': 3, 'fold': 1, 'train': str(root / 'all.jsonl')},
            'frontend': {'sample_rate': RATE},
            'train': {'seed': 5},
        }
    )
    assert splits.open_source(config, 'eval').keys == first


def test_a_manifest_with_splits_divides_its_training_lines_or_all_of_both(root):
    def clips(train, **data) -> int:
        sources = opened(root, 1, train, **data)
        return len(sources['train']) + len(sources['eval'])

    path = str(root / 'splits.jsonl')
    assert clips('splits.jsonl') == clips('splits.jsonl', eval=path) == 24
    assert clips('splits.jsonl', folds_from='all') == 36
    assert clips('some.jsonl', eval=path) == 16  # another file for evaluation is not read
    with pytest.raises(DataError, match="no line has split 'training'; the splits are: 'other'"):
        clips('splits.jsonl', train_split='training')


def test_fsdd_divides_its_training_clips_or_all(tmp_path):
    for digit in range(10):
        for index in range(10):
            path = tmp_path / f'{digit}_theo_{index}.wav'
            soundfile.write(path, np.full(800, (10 * digit + index) / 100), RATE, subtype='FLOAT')
    for choice, count in (('train', 50), ('all', 100)):
        values = {'source': 'fsdd', 'root': str(tmp_path), 'folds': 5, 'folds_from': choice}
        config = loading.from_dict(
            {'data': values | {'fold': 2}, 'frontend': {'sample_rate': RATE}}
        )
        sizes = [len(splits.open_source(config, split).keys) for split in ('train', 'eval')]
        assert sizes == [count * 4 // 5, count // 5]


@pytest.mark.parametrize(
    ('data', 'problem'),
    [
        ({'fold_seed': 5}, r'data\.fold_seed=5 goes with data\.folds: set data\.folds, or leave'),
        ({'folds': 1, 'fold': 1}, r'data\.folds=1 must be at least 2, or 0'),
        ({'folds': -3}, r'data\.folds=-3 must be at least 2'),
        (
            {'folds': 5},
            r'data\.fold=0 must be from 1 to data\.folds=5; elastic-ast sweep --folds=5',
        ),
        ({'folds': 5, 'fold': 6}, r'data\.fold=6 must be from 1'),
        ({'fold': 2}, r'data\.fold=2 goes with data\.folds'),
        ({'folds_from': 'all'}, r"data\.folds_from='all' goes with data\.folds"),
        ({'folds': 5, 'fold': 1, 'folds_from': 'both'}, "must be one of 'train', 'all'"),
        ({'folds': 5, 'fold': 1, 'folds_from': 'all', 'eval': 'y'}, 'needs both splits in one'),
        ({'folds': 5, 'fold': 1, 'fold_seed': -1}, 'fold_seed=-1 must be from 0'),
        ({'folds': 5, 'fold': 1, 'source': 'tfds', 'tfds_name': 'x'}, "is data.source='tfds'"),
        ({'folds': 5, 'fold': 1, 'source': 'synthetic'}, "is data.source='synthetic'"),
        ({'folds': 5, 'fold': 1, 'source': 'fsdd'}, "is data.source='fsdd' without data.root"),
    ],
)
def test_wrong_folds_are_problems_of_the_config(data, problem):
    values = {'train': 'x', **({} if data.get('folds') else {'eval': 'x'}), **data}
    with pytest.raises(loading.ConfigError, match=problem):
        loading.from_dict({'data': values})
