"""The same clips in whatever form they are kept: training does not know the difference."""

import csv
import dataclasses
import json
import pathlib
import shutil

import numpy as np
import pytest
import soundfile
import tensorflow_datasets as tfds

from elastic_ast_jax.cli.main import main
from tests.fixtures.prepared import prepare

RATE = 8000
CLASSES = {
    'high': 2400,
    'low': 300,
    'middle': 900,
}  # in alphabetical order, which that of folders is
CLIPS = {'train': 200, 'test': 12}
STEPS = 20
ONE_EPOCH = ('train.epochs=1', 'train.save_every=0')


@dataclasses.dataclass(frozen=True)
class Forms:
    """A folder with the clips as files (`train/high/000.wav`).

    Overrides name each form of the clips.
    """

    folder: pathlib.Path
    overrides: dict[str, tuple[str, ...]]


@pytest.fixture(scope='module')
def forms(tmp_path_factory) -> Forms:
    folder = tmp_path_factory.mktemp('forms')
    random, clips = np.random.default_rng(0), {}
    for split, number in CLIPS.items():
        clips[split] = {}
        for i in range(number):
            label = list(CLASSES)[i % 3]
            time = np.arange(random.integers(RATE // 10, RATE)) / RATE
            sound = 0.4 * np.sin(2 * np.pi * CLASSES[label] * random.uniform(0.9, 1.1) * time)
            samples = np.round(32768 * (sound + 0.02 * random.standard_normal(len(time)))).astype(
                np.int16
            )
            name = f'{label}/{i:03d}.wav'
            (folder / split / label).mkdir(parents=True, exist_ok=True)
            soundfile.write(folder / split / name, samples, RATE)
            clips[split][name] = samples, label
        # Lists beside the recordings, so that clips have the same names in every form.
        entries = [
            {'wav': name, 'labels': f'/m/{label}'}
            for name, (_, label) in sorted(clips[split].items())
        ]
        (folder / split / 'clips.json').write_text(json.dumps({'data': entries}))
        lines = [
            json.dumps({'audio': name, 'labels': label})
            for name, (_, label) in sorted(clips[split].items())
        ]
        (folder / split / 'clips.jsonl').write_text('\n'.join(lines))
    with open(folder / 'labels.csv', 'w', newline='') as file:
        rows = [(i, f'/m/{name}', name) for i, name in enumerate(CLASSES)]
        csv.writer(file).writerows([('index', 'mid', 'display_name'), *rows])

    audio = {
        'tfds_bytes': tfds.features.Tensor(
            shape=(None,), dtype=np.int16, encoding=tfds.features.Encoding.BYTES
        ),
        'tfds_audio': tfds.features.Audio(sample_rate=RATE),
    }
    for name, feature in audio.items():
        features = {
            'audio': feature,
            'label': tfds.features.ClassLabel(names=list(CLASSES)),
            'file': tfds.features.Text(),
        }
        prepare(
            folder / 'tfds',
            name,
            features,
            {
                split: [
                    {'audio': samples.astype(feature.np_dtype), 'label': label, 'file': file}
                    for file, (samples, label) in files.items()
                ]
                for split, files in clips.items()
            },
        )

    def files(source: str, end: str) -> tuple[str, ...]:
        return (
            f'data.source={source}',
            f'data.train={folder}/train{end}',
            f'data.eval={folder}/test{end}',
        )

    return Forms(
        folder,
        {
            'manifest': files('manifest', '/clips.jsonl'),
            'json': (*files('json', '/clips.json'), f'data.label_csv={folder}/labels.csv'),
            'folders': files('folders', ''),
            **{
                name: (
                    'data.source=tfds',
                    f'data.tfds_name={name}',
                    f'data.tfds_dir={folder}/tfds',
                    'data.tfds_key=file',
                    f'data.tfds_rate={RATE}',
                )
                for name in audio
            },
        },
    )


@pytest.fixture(scope='module')
def from_manifest(forms, arguments, logged, tmp_path_factory) -> list[dict]:
    """What the run on the manifest logged."""
    workdir = tmp_path_factory.mktemp('runs') / 'manifest'
    assert main(arguments(workdir, *ONE_EPOCH, *forms.overrides['manifest'])) == 0
    return logged(workdir)


@pytest.mark.parametrize(
    'form',
    [
        'tfds_bytes',
        *(pytest.param(form, marks=pytest.mark.slow) for form in ('folders', 'json', 'tfds_audio')),
    ],
)
def test_every_form_of_the_clips_gives_the_same_losses_to_the_last_digit(
    forms, from_manifest, form, arguments, command, tmp_path, logged
):
    result = command(*arguments(tmp_path / 'run', *ONE_EPOCH, *forms.overrides[form]))
    assert result.code == 0, result.err
    lines = logged(tmp_path / 'run')
    losses = [line['loss'] for line in lines if line['kind'] == 'train'][:STEPS]
    assert len(set(losses)) == STEPS
    assert losses == [line['loss'] for line in from_manifest if line['kind'] == 'train'][:STEPS]
    assert lines == from_manifest  # and so is everything else, to the evaluation


def test_a_clip_that_is_skipped_is_as_if_it_were_not_there(
    forms, from_manifest, arguments, command, tmp_path, logged, caplog
):
    shutil.copytree(forms.folder / 'train', tmp_path / 'train')
    (tmp_path / 'train' / 'low' / 'broken.wav').write_bytes(b'RIFF')
    overrides = [*ONE_EPOCH, *forms.overrides['folders'], f'data.train={tmp_path / "train"}']
    refused = command(*arguments(tmp_path / 'run', *overrides))
    assert refused.code == 1 and 'broken.wav' in refused.err
    assert command(*arguments(tmp_path / 'other', *overrides, 'data.on_bad_audio=skip')).code == 0
    assert '1 of 201 clips are skipped' in caplog.text and 'broken.wav' in caplog.text
    assert logged(tmp_path / 'other') == from_manifest
