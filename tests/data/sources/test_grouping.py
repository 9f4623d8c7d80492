"""Test groups of clips: their names, and which of them are held out."""

import json
import logging

import numpy as np
import pytest
import soundfile

from elastic_ast_jax.config import loading
from elastic_ast_jax.data.sources import folders, manifest
from elastic_ast_jax.data.sources.base import DataError, FileClip
from elastic_ast_jax.data.sources.grouping import common_groups, group_names, hold_out

RATE = 8000


def clip(name: str, group: str = '') -> FileClip:
    return FileClip(f'/data/{name}', name, None, None, ('a',), '', group)


def test_a_group_is_the_recording_a_column_or_a_part_of_the_path():
    clips = [clip('a/0_george_1.wav', 'site 1'), clip('./a/1_theo_2.wav', 'site 2')]
    assert group_names(clips, '') == ['a/0_george_1.wav', 'a/1_theo_2.wav']
    assert group_names(clips, 'column:site') == ['site 1', 'site 2']
    assert group_names(clips, r'pattern:.*_(\w+)_\d+') == ['george', 'theo']
    assert group_names(clips, r'pattern:_(?:x|([a-z]+))_') == ['george', 'theo']
    assert common_groups(clips[:1], clips, 'column:site') == ['site 1']
    assert common_groups(clips, clips, '') == []


def test_clips_without_a_group_are_named():
    clips = [clip(f'{n}.wav', '' if n > 2 else 'x') for n in range(30)]
    with pytest.raises(DataError, match=r'27 of 30 clips have no group(.|\n)*3\.wav(.|\n)*12\.wav'):
        group_names(clips, 'column:speaker')
    with pytest.raises(DataError, match=r'30 of 30 clips have no group'):
        group_names(clips, r'pattern:(\d+)_')


def test_a_recording_in_several_groups_is_a_warning(caplog):
    clips = [clip('a.wav', 'x'), clip('a.wav', 'y'), clip('b.wav', 'x')]
    with caplog.at_level(logging.WARNING):
        group_names(clips, 'column:once')
    assert "data.group='column:once': 1 recording with parts in several groups" in caplog.text


@pytest.mark.parametrize('groups', [2, 3, 6, 50, 400])
@pytest.mark.parametrize('share', [0.05, 0.2, 0.5, 0.9])
def test_whole_groups_of_about_a_share_are_held_out(groups, share):
    random = np.random.default_rng(groups)
    names = [f'g{n}' for n in random.integers(groups, size=20 * groups)]
    labels = [('a',)] * len(names)
    held = hold_out(names, labels, share)
    sides = [
        {name for name, is_held in zip(names, held, strict=True) if is_held == side}
        for side in (True, False)
    ]
    assert sides[0] and sides[1] and not sides[0] & sides[1]
    largest = max(names.count(name) for name in set(names)) / len(names)
    assert abs(sum(held) / len(names) - share) <= largest
    assert held == hold_out(names, labels, share)
    order = random.permutation(len(names))
    shuffled = hold_out([names[i] for i in order], labels, share)
    assert [held[i] for i in order] == shuffled


def test_another_salt_is_another_division():
    names = [f'g{n}' for n in range(40)]
    labels = [()] * 40
    assert hold_out(names, labels, 0.5) != hold_out(names, labels, 0.5, 'validation ')


def test_each_class_keeps_a_training_clip_if_that_is_possible():
    """One class is of a single group: this group is not held out."""
    for n in range(20):
        names = [f'{n} {group}' for group in range(5) for _ in range(4)]
        labels = [('rare',) if i == 0 else ('common',) for i in range(20)]
        held = hold_out(names, labels, 0.4)
        assert 4 <= sum(held) <= 12 and not held[0]
    # Each group has a class of its own: one has to be held out.
    names = ['x', 'y', 'z']
    assert sum(hold_out(names, [('x',), ('y',), ('z',)], 0.3)) == 1


def test_one_group_cannot_be_divided():
    with pytest.raises(DataError, match=r"all 3 clips belong to one group, 'x'.*check data\.group"):
        hold_out(['x'] * 3, [()] * 3, 0.2)


@pytest.mark.parametrize(
    ('data', 'problem'),
    [
        ({'group': 'speaker'}, r"data\.group='speaker': write 'column:NAME'"),
        ({'group': 'column: '}, "write 'column:NAME'"),
        ({'group': 'column:labels'}, "the column 'labels' has another meaning"),
        ({'group': 'pattern:('}, r'is no regular expression \('),
        ({'group': 'pattern:abc'}, r'has 0 groups \(\.\.\.\): it must have one'),
        ({'group': 'pattern:(a)(b)'}, 'has 2 groups'),
        ({'group': 'column:x', 'source': 'folders'}, r"is not: write 'pattern:REGEX'"),
        ({'group': 'pattern:(a)', 'source': 'tfds', 'tfds_name': 'x'}, 'needs recordings in files'),
        ({'group': 'pattern:(a)', 'source': 'fsdd'}, "not data.source='fsdd' without data.root"),
        ({'group': 'pattern:(a)', 'source': 'synthetic'}, "not data.source='synthetic'"),
    ],
)
def test_wrong_rules_are_problems_of_the_config(data, problem):
    values = {'train': 'x', 'eval': 'x', **data}
    with pytest.raises(loading.ConfigError, match=problem):
        loading.from_dict({'data': values})


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    """Folders of two classes, and manifests, with six speakers of six recordings each."""
    root, lines = tmp_path_factory.mktemp('grouped'), []
    for number in range(36):
        label, speaker = 'ab'[number % 2], f's{number // 6}'
        (root / label).mkdir(exist_ok=True)
        name = f'{label}/{speaker}_{number}.wav'
        soundfile.write(root / name, np.full(800, number / 100), RATE, subtype='FLOAT')
        lines.append({'audio': name, 'labels': [label], 'speaker': speaker, 'room': number // 12})
    (root / 'all.jsonl').write_text('\n'.join(map(json.dumps, lines)))
    rows = [f'{line["audio"]},{line["labels"][0]},{line["speaker"]},' for line in lines]
    (root / 'all.csv').write_text('\n'.join(['audio,labels,speaker,empty', *rows]))
    return root


def speakers(source) -> set[str]:
    return {key.split('/')[1].split('_')[0] for key in source.keys}


def test_folders_and_manifests_hold_out_whole_groups(root):
    pattern = r'pattern:/(s\d+)_'
    parts = [folders.load(root, RATE, part, 0.3, group=pattern) for part in ('train', 'eval')]
    assert not speakers(parts[0]) & speakers(parts[1])
    assert sum(map(len, parts)) == 36 and 6 <= len(parts[1]) <= 18
    for name, rule in (
        ('all.jsonl', 'column:speaker'),
        ('all.csv', 'column:speaker'),
        ('all.csv', pattern),
    ):
        for part, split in zip(parts, ('train', 'test'), strict=True):
            source = manifest.load(
                root / name, split, RATE, sides=('train', 'test'), eval_share=0.3, group=rule
            )
            assert set(source.keys) == set(part.keys)  # the same groups, the same hashes


def test_a_column_may_hold_numbers_and_is_used(root, caplog):
    with caplog.at_level(logging.WARNING):
        clips, _ = manifest.entries(root / 'all.jsonl', group_column='room')
    assert {clip.group for clip in clips} == {'0', '1', '2'}
    assert "'room'" not in caplog.text and "'speaker'" in caplog.text


@pytest.mark.parametrize('name', ['all.jsonl', 'all.csv'])
def test_a_column_that_is_missing_or_empty_is_an_error(root, name):
    for column in ('nobody', 'empty'):
        with pytest.raises(DataError, match=rf'36 of 36 clips have no group(.|\n)*{name} line'):
            manifest.load(
                root / name,
                'train',
                RATE,
                sides=('train', 'test'),
                eval_share=0.3,
                group=f'column:{column}',
            )


def test_columns_of_similar_names_go_together(tmp_path):
    (tmp_path / 'a.csv').write_text('audio,labels,speaker_1,speaker_2\na.wav,a,x,y\n')
    clips, _ = manifest.entries(tmp_path / 'a.csv', group_column='speaker_2')
    assert clips[0].group == 'y'
    with pytest.raises(DataError, match=r"unknown column 'speaker_1', the nearest .*'speaker_3'"):
        manifest.entries(tmp_path / 'a.csv', group_column='speaker_3')


def test_a_column_with_lists_is_an_error(tmp_path):
    (tmp_path / 'a.jsonl').write_text('{"audio": "a.wav", "labels": ["a"], "who": ["x"]}')
    with pytest.raises(DataError, match=r"line 1: who=\['x'\] must be text or a number"):
        manifest.entries(tmp_path / 'a.jsonl', group_column='who')
