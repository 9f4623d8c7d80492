"""Damage manifests, and open both of their sides as training does.

A result has clips that can be read in full, one name for each class, and classes for each clip.
"""

import csv
import io
import json
import pathlib
import random
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import soundfile

from elastic_ast_jax.data.sources import audioset_json, base, clip_labels, manifest
from elastic_ast_jax.data.sources.class_names import canonical
from tests.fuzz import runner, text_damage
from tests.fuzz.target import Target, random_of

RATE = 8000
SIDES = ('train', 'test')
ROWS: Sequence[dict[str, Any]] = (
    {'audio': 'a.wav', 'labels': ['dog', 'bark'], 'split': 'train'},
    {'audio': 'a.wav', 'labels': ['dog'], 'start': 0.25, 'end': 0.5, 'split': 'test'},
    {'audio': 'b.flac', 'labels': 'cat', 'start': 0.125, 'split': 'train'},
    {'audio': 'b.flac', 'labels': [], 'end': 0.125, 'split': 'train'},
    {'audio': 'tief/ö.wav', 'labels': ['café'], 'split': 'test', 'site': 7},
    {'audio': 'tief/ö.wav', 'labels': ['cat', 'dog'], 'start': 0, 'end': 1, 'split': 'train'},
)
PUBLISHED = {
    'data': [
        {'wav': 'a.wav', 'labels': '/m/1,/m/2'},
        {'wav': 'b.flac', 'labels': '/m/2'},
        {'wav': 'tief/ö.wav', 'labels': '/m/3'},
    ]
}
CLASSES = [['index', 'mid', 'display_name'], ['0', '/m/1', 'dog'], ['1', '/m/2', 'Bark, of a dog']]
CLASSES.append(['2', '/m/3', ''])


class Manifests(Target):
    """JSON Lines, CSV, and now and then the published code's JSON with its CSV of classes."""

    def make(self, seed: int, index: int, folder: pathlib.Path) -> pathlib.Path:
        """Write recordings and a damaged list of them."""
        random = random_of(seed, index)
        (folder / 'tief').mkdir()
        tone = 0.1 * np.sin(np.arange(RATE))
        for name in ('a.wav', 'b.flac', 'tief/ö.wav'):
            soundfile.write(folder / name, tone, RATE)
        make = random.choice((_json_lines, _json_lines, _table, _table, _published))
        return make(random, folder)

    def use(self, path: pathlib.Path) -> str:
        """Open the sides, and read their clips."""
        if path.suffix == '.json':
            labels = path.with_name('classes.csv')
            return _check([audioset_json.load(path, labels, RATE)], 'bce')
        try:
            loads = [manifest.load(path, side, RATE, sides=SIDES) for side in SIDES]
        except base.DataError as error:
            if 'no line has split' not in str(error):
                raise
            loads = [manifest.load(path, None, RATE, 'skip')]
        return _check(loads, 'bce')

    def problem_of(self, error: BaseException, path: pathlib.Path) -> str | None:
        """Return what is wrong with a message, which may name the manifest by its file alone."""
        message = str(error)
        names = (path.name, 'classes.csv')
        # Problems of the splits together name no file, but the split and its clips.
        if not any(name in message for name in (*names, "in split '")):
            return f'the error names no file: {message[:300]}'
        return f'the message has {len(message)} characters' if len(message) > 12_000 else None


def _json_lines(random: random.Random, folder: pathlib.Path) -> pathlib.Path:
    rows: Any = list(ROWS)
    if random.random() < 0.6:
        rows = text_damage.damage_json(rows, random)
    rows = rows if isinstance(rows, list) else [rows]
    text = ''.join(json.dumps(row, ensure_ascii=random.random() < 0.5) + '\n' for row in rows)
    return _write(folder / 'list.jsonl', text, random)


def _table(random: random.Random, folder: pathlib.Path) -> pathlib.Path:
    columns = ['audio', 'labels', 'start', 'end', 'split']
    rows = [columns]
    for row in ROWS:
        labels = [row['labels']] if isinstance(row['labels'], str) else row['labels']
        values = row | {'labels': ';'.join(labels)}
        rows.append([str(values.get(column, '')) for column in columns])
    if random.random() < 0.6:
        rows = text_damage.damage_table(rows, random)
    return _write(folder / 'list.csv', _csv(rows), random)


def _published(random: random.Random, folder: pathlib.Path) -> pathlib.Path:
    classes = text_damage.damage_table(CLASSES, random) if random.random() < 0.3 else CLASSES
    (folder / 'classes.csv').write_bytes(_csv(classes).encode('utf-8', 'surrogatepass'))
    entries = text_damage.damage_json(PUBLISHED, random) if random.random() < 0.6 else PUBLISHED
    return _write(folder / 'list.json', json.dumps(entries), random)


def _csv(rows: Sequence[Sequence[str]]) -> str:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue()


def _write(path: pathlib.Path, text: str, random: random.Random) -> pathlib.Path:
    """Write a list, half of them with damage to their text."""
    is_damaged = random.random() < 0.5
    data = text_damage.damage_text(text, random) if is_damaged else text.encode('utf-8', 'replace')
    path.write_bytes(data)
    return path


def _check(sides: Sequence[base.FileSource], loss: str) -> str:
    """Check what was opened, and describe it."""
    names = clip_labels.label_names(sides[0])
    assert len({canonical(name) for name in names}) == len(names), names
    for source in sides:
        for i, count in enumerate(source.samples.tolist()):
            samples = source.read(i)
            assert len(samples) == count > 0 and np.isfinite(samples).all()
        assert (
            len(clip_labels.targets(source, names, 'any', loss))
            == len(source)
            == len(set(source.keys))
        )
    base.count_shared_clips(sides[0], sides[-1])
    return f'{sum(map(len, sides))} clips of {len(names)} classes'


if __name__ == '__main__':
    sys.exit(runner.main('tests.fuzz.manifests:Manifests', 2000))
