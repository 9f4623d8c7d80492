"""Data sets as their owners hand them out, with a few tones in place of the recordings.

Each has twelve clips or more to train on and four to evaluate on, of three classes, one recording
that is missing, and one that is broken; EPIC-SOUNDS, whose recordings have many clips each, also a
clip past the end of one.
"""

import csv
import dataclasses
import json
import os
import pathlib
from collections.abc import Callable, Iterable

import numpy as np
import soundfile

RATE = 16000
TRAINED, EVALUATED = 12, 4  # clips that can be used


@dataclasses.dataclass
class Miniature:
    """A data set and what must become of it.

    Attributes:
        command: What is prepared, for `elastic-ast prepare`.
        folder: Of the data set.
        name: Under which it is prepared.
        train, evaluate: Splits.
        clips: Samples and labels of each split's clips by their keys.
        left_out: Split, reason and key of what cannot be used.
        rate: Sample rate in Hz.
    """

    command: list[str]
    folder: pathlib.Path
    name: str
    train: str
    evaluate: str
    clips: dict[str, dict[str, tuple[np.ndarray, tuple[str, ...]]]] = dataclasses.field(
        default_factory=dict
    )
    left_out: set[tuple[str, str, str]] = dataclasses.field(default_factory=set)
    rate: int = RATE

    def add(self, split: str, key: str, path: str, *labels: str, number: int) -> None:
        """A clip in a recording of its own."""
        self.clips.setdefault(split, {})[key] = write(self.folder / path, number, self.rate), labels

    def broken(self, split: str, key: str, path: str) -> None:
        """A clip whose recording is cut short."""
        write(self.folder / path, 99, self.rate)
        os.truncate(self.folder / path, 30)
        self.left_out.add((split, 'broken', key))

    def missing(self, split: str, key: str) -> None:
        """A clip that is listed only."""
        self.left_out.add((split, 'missing', key))


def tone(number: int, rate: int = RATE) -> np.ndarray:
    """Samples of clip `number`: of its own length, with values that no other clip has."""
    samples = (45 + number % 3) * rate // 100
    noise = np.random.default_rng(number).integers(-500, 500, samples)
    return (
        9000 * np.sin(2 * np.pi * 300 * 3 ** (number % 3) * np.arange(samples) / rate) + noise
    ).astype(np.int16)


def write(path: pathlib.Path, number: int, rate: int) -> np.ndarray:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, tone(number, rate), rate)
    return tone(number, rate)


def write_csv(path: pathlib.Path, rows: Iterable[Iterable], columns: str = '') -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, 'w', newline='') as file:
        table = csv.writer(file)
        table.writerows([columns.split(',')] * bool(columns) + list(rows))


def audioset(folder: pathlib.Path) -> Miniature:
    made = Miniature(
        ['audioset', f'--manual-dir={folder}'], folder, 'audioset', 'balanced+unbalanced', 'eval'
    )
    mids, names = (
        ('/m/09x0r', '/t/dd00005', '/m/03qc9zr'),
        ('Speech', 'Child speech, kid speaking', 'Screaming'),
    )
    write_csv(
        folder / 'class_labels_indices.csv',
        zip(range(3), mids, names, strict=True),
        'index,mid,display_name',
    )
    # Every way in which the parts are named.
    forms = (
        '{id}.wav',
        'Y{id}.wav',
        '{id}_{start}.flac',
        'part1/{id}_{start}000.wav',
        '{id}_{start}.000_{stop}.000.wav',
        'part2/Y{id}.flac',
    )
    lists = {
        'balanced': 'balanced_train_segments',
        'unbalanced': 'unbalanced_train_segments',
        'eval': 'eval_segments',
    }
    number = 0
    for split, listed in lists.items():
        lines = [
            '# Segments csv created Sun Mar  5 10:54:25 2017',
            '# num_ytids=7, num_segs=7, num_unique_labels=3',
            '# YTID, start_seconds, end_seconds, positive_labels',
        ]
        for i in range(EVALUATED if split == 'eval' else TRAINED // 2):
            video, start, labels = (
                f'-{split[:3]}_Y{i}0-4g'[:11],
                10 * i + 30,
                sorted({number % 3, (number + i) % 3}),
            )
            path = forms[i].format(id=video, start=start, stop=start + 10)
            made.add(
                split,
                f'{video}_{start}',
                f'audio/{listed}/{path}',
                *(names[label] for label in labels),
                number=number,
            )
            lines.append(
                f'{video}, {start}.000, {start + 10}.000,'
                f' "{",".join(mids[label] for label in labels)}"'
            )
            number += 1
        if split == 'balanced':
            made.broken(split, '--PJHxphWEs_30', f'audio/{listed}/--PJHxphWEs.wav')
            lines.append('--PJHxphWEs, 30.000, 40.000, "/m/09x0r,/t/dd00005"')
        if split == 'unbalanced':
            made.missing(split, '---1_cCGK4M_0.5')
            lines.append('---1_cCGK4M, 0.500, 10.500, "/m/09x0r"')
        (folder / f'{listed}.csv').write_text('\n'.join(lines) + '\n')
    return made


def vggsound(folder: pathlib.Path) -> Miniature:
    made = Miniature(['vggsound', f'--manual-dir={folder}'], folder, 'vggsound', 'train', 'test')
    names = ('people marching', 'dog barking', 'playing violin, fiddle')
    rows = []
    for i in range(TRAINED + EVALUATED):
        split = 'train' if i < TRAINED else 'test'
        video, start = f'---g-f_I2{i // 2:02d}', 30 * (i % 2)  # two parts of each video
        suffix = 'flac' if i % 5 == 0 else 'wav'
        key = f'{video}_{start:06d}'
        made.add(split, key, f'audio/{"more/" * (i % 2)}{key}.{suffix}', names[i % 3], number=i)
        rows.append((video, start, names[i % 3], split))
    made.broken('train', '--0PQM4-hqg_000030', 'audio/--0PQM4-hqg_000030.wav')
    made.missing('test', '--0PQM4-hqg_000130')
    rows += [('--0PQM4-hqg', 30, names[0], 'train'), ('--0PQM4-hqg', 130, names[1], 'test')]
    write_csv(folder / 'vggsound.csv', rows)
    return made


def voxceleb1(folder: pathlib.Path) -> Miniature:
    made = Miniature(['voxceleb1', f'--manual-dir={folder}'], folder, 'voxceleb1', 'train', 'test')
    lines = []
    for i in range(TRAINED + 2 * EVALUATED):
        split, number = (
            ('train', 1)
            if i < TRAINED
            else ('validation', 2)
            if i < TRAINED + EVALUATED
            else ('test', 3)
        )
        speaker = f'id1000{i % 3 + 1}'
        tree = 'test/wav' if i % 3 == 2 else 'dev/wav'  # unpacked to two trees
        key = f'{speaker}/1zcIwhmdeo4/{i:05d}.wav'
        made.add(split, key, f'{tree}/{key}', speaker, number=i)
        lines.append(f'{number} {key}')
    made.broken(
        'validation', 'id10001/7gWzIy6yIIk/00001.wav', 'dev/wav/id10001/7gWzIy6yIIk/00001.wav'
    )
    made.missing('train', 'id10003/7gWzIy6yIIk/00002.wav')
    lines += ['2 id10001/7gWzIy6yIIk/00001.wav', '1 id10003/7gWzIy6yIIk/00002.wav']
    (folder / 'iden_split.txt').write_text('\n'.join(lines) + '\n')
    return made


def epic_sounds(folder: pathlib.Path) -> Miniature:
    made = Miniature(
        ['epic_sounds', f'--manual-dir={folder}'],
        folder,
        'epic_sounds',
        'train',
        'validation',
        rate=24000,
    )
    columns = (
        'annotation_id,participant_id,video_id,start_timestamp,stop_timestamp,start_sample,stop_sample,description,'
        'class,class_id'
    )
    names = ('rustle', 'metal-only collision', 'open / close')
    recordings = {
        'train': ('P01_01', 'audio/P01_01.wav'),
        'validation': ('P02_101', 'audio/P02/P02_101.flac'),
    }
    for split, (video, path) in recordings.items():
        rows, pieces, place = [], [], 0
        for i in range(TRAINED if split == 'train' else EVALUATED):
            samples, gap = tone(i, made.rate), np.full(1000 + i, -20000, np.int16)
            start, stop = place + len(gap), place + len(gap) + len(samples)
            times = [f'00:00:{sample / made.rate:06.3f}' for sample in (start, stop)]
            rows.append(
                (
                    f'{video}_{i}',
                    video[:3],
                    video,
                    *times,
                    start,
                    stop,
                    'a pan, a lid',
                    names[i % 3],
                    i % 3,
                )
            )
            made.clips.setdefault(split, {})[f'{video}_{i}'] = samples, (names[i % 3],)
            pieces += [gap, samples]
            place = stop
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(folder / path, np.concatenate(pieces), made.rate)
        if split == 'train':
            rows.append(
                (
                    f'{video}_12',
                    'P01',
                    video,
                    '00:10:00.000',
                    '00:10:01.000',
                    14400000,
                    14424000,
                    'beep',
                    'rustle',
                    0,
                )
            )
            made.left_out.add((split, 'broken', f'{video}_12'))  # past the end of the recording
            rows.append(
                (
                    'P03_02_0',
                    'P03',
                    'P03_02',
                    '00:00:00.000',
                    '00:00:01.000',
                    0,
                    24000,
                    'beep',
                    'rustle',
                    0,
                )
            )
            made.missing(split, 'P03_02_0')
            for i in range(2):  # two parts of a recording that is cut short
                rows.append(
                    (
                        f'P03_03_{i}',
                        'P03',
                        'P03_03',
                        '00:00:00.000',
                        '00:00:00.100',
                        0,
                        2400,
                        'beep',
                        'rustle',
                        0,
                    )
                )
                made.broken(split, f'P03_03_{i}', 'audio/P03/P03_03.wav')
        write_csv(folder / f'EPIC_Sounds_{split}.csv', rows, columns)
    return made


def speech_commands(folder: pathlib.Path) -> Miniature:
    made = Miniature(
        ['speech_commands', f'--manual-dir={folder}'], folder, 'speech_commands_v2', 'train', 'test'
    )
    lists = {'validation': [], 'test': []}
    for i in range(TRAINED + 2 * EVALUATED):
        split = 'train' if i < TRAINED else 'validation' if i < TRAINED + EVALUATED else 'test'
        key = f'{("bed", "yes", "wow")[i % 3]}/0017648{i % 10}_nohash_{i}.wav'
        made.add(split, key, key, key[:3], number=i)
        lists.get(split, []).append(key)
    write(folder / '_background_noise_' / 'doing_the_dishes.wav', 0, RATE)
    (folder / 'README.md').write_text('Speech Commands Data Set v0.02')
    made.broken('train', 'bed/00f0204f_nohash_0.wav', 'bed/00f0204f_nohash_0.wav')
    made.missing('test', 'wow/01648c51_nohash_0.wav')
    lists['test'].append('wow/01648c51_nohash_0.wav')
    for split, name in (('validation', 'validation_list.txt'), ('test', 'testing_list.txt')):
        (folder / name).write_text('\n'.join(lists[split]) + '\n')
    return made


def esc50(folder: pathlib.Path) -> Miniature:
    made = Miniature(
        ['esc50', f'--manual-dir={folder}'], folder, 'esc50', 'fold1+fold2+fold3+fold4', 'fold5'
    )
    names, rows = ('dog', 'rooster', 'sea_waves'), []
    for i in range(TRAINED + EVALUATED):
        fold = i % 4 + 1 if i < TRAINED else 5
        key = f'{fold}-10003{i}-A-{i % 3}.wav'
        made.add(f'fold{fold}', key, f'audio/{key}', names[i % 3], number=i)
        rows.append((key, fold, i % 3, names[i % 3], i % 3 == 0, f'10003{i}', 'A'))
    made.broken('fold2', '2-200000-A-0.wav', 'audio/2-200000-A-0.wav')
    made.missing('fold5', '5-500000-B-1.wav')
    rows += [
        ('2-200000-A-0.wav', 2, 0, 'dog', True, 200000, 'A'),
        ('5-500000-B-1.wav', 5, 1, 'rooster', False, 500000, 'B'),
    ]
    write_csv(
        folder / 'meta' / 'esc50.csv', rows, 'filename,fold,target,category,esc10,src_file,take'
    )
    return made


def manifest(folder: pathlib.Path) -> Miniature:
    made = Miniature(
        ['manifest', f'{folder}/My sounds.jsonl'], folder, 'my_sounds', 'train', 'test'
    )
    lines, names = [], ('low', 'middle', 'très haut')
    for i in range(TRAINED + EVALUATED):
        split, labels = ('train' if i < TRAINED else 'test'), names[i % 3 :][: 1 + i % 2]
        made.add(split, f'{i}.wav', f'{i}.wav', *labels, number=i)
        lines.append({'audio': f'{i}.wav', 'labels': labels, 'split': split})
    whole = tone(0)
    made.clips['train']['0.wav[0.1:0.2]'] = whole[1600:3200], ('low',)
    lines.append({'audio': '0.wav', 'labels': ['low'], 'start': 0.1, 'end': 0.2, 'split': 'train'})
    made.broken('train', 'broken.wav', 'broken.wav')
    made.missing('test', 'missing.wav')
    lines.append({'audio': 'broken.wav', 'labels': ['low'], 'split': 'train'})
    lines.append({'audio': 'missing.wav', 'labels': [], 'split': 'test'})
    (folder / 'My sounds.jsonl').write_text(''.join(json.dumps(line) + '\n' for line in lines))
    return made


MAKERS: tuple[Callable[[pathlib.Path], Miniature], ...] = (
    audioset,
    vggsound,
    voxceleb1,
    epic_sounds,
    speech_commands,
    esc50,
    manifest,
)
