"""Test how one set of clips is divided into training, validation and evaluation."""

import json
import pathlib

import numpy as np
import pytest
import soundfile

from elastic_ast_jax.config import loading
from elastic_ast_jax.data import splits
from elastic_ast_jax.data.sources.base import DataError, FileSource

RATE = 8000
PARTS = ((0.0, 0.5), (0.5, 1.0))


@pytest.fixture(scope='module')
def manifest(tmp_path_factory):
    """A list of 40 recordings of two clips each, without a column `split`."""
    root, lines = tmp_path_factory.mktemp('data'), []
    for number in range(40):
        soundfile.write(root / f'{number}.wav', np.full(RATE, number / 100), RATE, subtype='FLOAT')
        for start, end in PARTS:
            line = {'audio': f'{number}.wav', 'labels': [f'{number % 2}']}
            lines.append(json.dumps(line | {'start': start, 'end': end}))
    (root / 'all.jsonl').write_text('\n'.join(lines))
    return str(root / 'all.jsonl')


def sources(manifest, **data) -> dict[str, FileSource]:
    config = loading.from_dict(
        {
            'data': {'train': manifest, 'eval': manifest, **data},
            'frontend': {'sample_rate': RATE, 'mel_bins': 64},
        }
    )
    names: tuple[splits.Split, ...] = ('train', 'validation', 'eval')
    opened = {}
    for name in names:
        opened[name] = splits.open_source(config, name)
        assert isinstance(opened[name], FileSource)
    return opened


def test_recordings_are_on_one_side_and_every_clip_is_used(manifest):
    opened = sources(manifest, validation_share=0.3)
    names = {split: {clip.name for clip in source.clips} for split, source in opened.items()}
    assert sum(map(len, names.values())) == len(set.union(*names.values())) == 40
    assert all(len(opened[split]) == 2 * len(names[split]) for split in names)
    assert 0.15 < len(names['validation']) / (40 - len(names['eval'])) < 0.45
    assert len({source.fingerprint for source in opened.values()}) == 3
    assert all(source.classes == ('0', '1') for source in opened.values())


def test_two_spellings_of_a_path_are_one_recording(manifest):
    path = pathlib.Path(manifest)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines[::2]:
        line['audio'] = f'./{line["audio"]}'
    other = path.with_name('spelled.jsonl')
    other.write_text('\n'.join(map(json.dumps, lines)))
    names = [
        {clip.name.removeprefix('./') for clip in source.clips}
        for source in sources(str(other), validation_share=0.3).values()
    ]
    assert sum(map(len, names)) == 40


def test_evaluation_does_not_depend_on_the_validation_share(manifest):
    """Nor do the clips of a smaller validation split: a larger one has more."""
    before, small, large = (sources(manifest, validation_share=share) for share in (0.0, 0.2, 0.5))
    assert before['eval'].keys == small['eval'].keys == large['eval'].keys
    assert set(small['validation'].keys) < set(large['validation'].keys)
    assert before['train'].keys == before['validation'].keys


def test_selected_clips_are_read_as_themselves(manifest):
    source = sources(manifest, validation_share=0.3)['validation']
    for i, clip in enumerate(source.clips):
        samples = source.read(i)
        assert len(samples) == source.samples[i] == RATE // 2
        assert samples[0] == pytest.approx(int(clip.name.removesuffix('.wav')) / 100)
        start, end = next(part for part in PARTS if part[0] == clip.start)
        assert source.native_parts()[i] == (start * RATE, end * RATE, RATE)


def test_groups_are_on_one_side(manifest):
    """Ten groups of four recordings."""
    rule = 'pattern:([0-9])[.]wav'
    opened = sources(manifest, validation_share=0.2, eval_share=0.3, group=rule)
    groups = {
        split: {clip.name.removesuffix('.wav')[-1] for clip in source.clips}
        for split, source in opened.items()
    }
    assert sum(map(len, groups.values())) == len(set.union(*groups.values())) == 10
    assert [len(groups[split]) for split in groups] == [6, 1, 3]
    config = loading.from_dict({'data': {'train': manifest, 'eval': manifest, 'group': rule}})
    assert splits.shared_groups(config, opened['train'], opened['eval']) == []
    assert len(splits.shared_groups(config, opened['train'], opened['train'])) == 6


def test_a_pattern_that_does_not_match_is_an_error(manifest):
    with pytest.raises(DataError, match='80 of 80 clips have no group'):
        sources(manifest, group='pattern:speaker_([0-9])')
    with pytest.raises(DataError, match="belong to one group, 'wav'"):
        sources(manifest, group='pattern:[.](wav)')


def test_a_share_that_leaves_nothing_and_sources_without_files_are_refused(manifest):
    with pytest.raises(DataError, match=r'none of \d+ training clips is left for validation'):
        sources(manifest, validation_share=1e-6)
    config = loading.from_dict({'data': {'source': 'synthetic', 'validation_share': 0.1}})
    with pytest.raises(DataError, match=r'validation_share=0\.1 needs recordings in files'):
        splits.open_source(config, 'train')
