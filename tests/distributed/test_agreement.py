"""Test that processes that would do different things are named before the first step.

Threads stand for processes here. `tests/end_to_end/test_hosts.py` runs real ones.
"""

import dataclasses
import json
import threading
from typing import Any

import numpy as np
import pytest
import soundfile

from elastic_ast_jax.config.schema import Config, Data
from elastic_ast_jax.data.sources import manifest
from elastic_ast_jax.distributed import process_view
from elastic_ast_jax.distributed.agreement import DisagreementError, Section, check

CONFIG = Config(data=Data(source='synthetic'))


def compare(*views) -> Any:
    """Compare the views of some processes; return the message that all get, or None."""
    count = len(views)
    barrier, values = threading.Barrier(count), [None] * count
    messages: list[str | None] = ['did not end'] * count

    def run(number):
        def gather(value):
            values[number] = value
            barrier.wait(10)
            gathered = list(values)
            barrier.wait(10)
            return gathered

        messages[number] = None
        try:
            check(views[number], gather)
        except DisagreementError as error:
            messages[number] = str(error)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(messages)) == 1, messages
    return messages[0]


def lines(texts) -> list[Section]:
    return [Section.of('lines', texts)]


def numbered(count) -> list[str]:
    return [f'line {i}' for i in range(count)]


def test_equal_views_pass():
    assert compare(*map(process_view.settings_sections, [CONFIG] * 3)) is None
    assert compare(lines([]), lines([])) is None


@pytest.mark.parametrize('count', [1, 2, 63, 64, 65, 5000])
@pytest.mark.parametrize('place', [0.0, 0.5, 1.0])
def test_the_first_line_that_differs_is_named(count, place):
    other, number = numbered(count), round(place * (count - 1))
    other[number] += ' changed'
    message = compare(lines(numbered(count)), lines(other))
    assert 'process 1 (' in message and f'has line {number} changed, where' in message
    assert f'has line {number}: start all processes with the same' in message


@pytest.mark.parametrize('count', [0, 1, 64, 200])
def test_a_line_that_one_process_lacks_is_named(count):
    message = compare(lines(numbered(count + 1)), lines(numbered(count)))
    assert 'has nothing, where' in message and f'has line {count}: start' in message


def test_of_several_processes_the_one_that_differs_is_named():
    message = compare(lines(['b']), lines(['a']), lines(['a']))
    assert 'process 0 (' in message and 'has b, where process 1 (' in message


def test_long_lines_are_shown_where_they_differ():
    message = compare(lines(['x' * 900 + 'a']), lines(['x' * 900 + 'b']))
    assert 'xa: start' in message and 'xb, where' in message and len(message) < 500


# Whatever changes the steps or the numbers of a run.


@pytest.mark.parametrize(
    'section, values',
    [
        ('frontend', {'mean': -3.0}),
        ('augment', {'token_dropout': 0.3}),
        ('train', {'epochs': 41}),
        ('train', {'save_every': 7}),
        ('mesh', {'fsdp': 2}),
        ('data', {'held_out': ('jackson',)}),
    ],
)
def test_a_config_that_differs_is_named_by_its_key(section, values):
    changed = dataclasses.replace(getattr(CONFIG, section), **values)
    other = dataclasses.replace(CONFIG, **{section: changed})
    message = compare(*map(process_view.settings_sections, (CONFIG, other)))
    ((key, value),) = values.items()
    assert 'differ in the config: process 1 (' in message
    assert f'has {section}.{key}={value!r}, where' in message


def test_paths_may_differ():
    data = dataclasses.replace(CONFIG.data, root='/mnt/data', num_workers=3)
    other = dataclasses.replace(CONFIG, data=data)
    assert compare(*map(process_view.settings_sections, (CONFIG, other))) is None


def test_packages_that_differ_are_named(monkeypatch):
    before = list(process_view.settings_sections(CONFIG))
    monkeypatch.setattr(process_view.importlib.metadata, 'version', lambda name: f'9 of {name}')
    message = compare(before, process_view.settings_sections(CONFIG))
    assert 'differ in the packages: ' in message and 'has jax 9 of jax, where' in message


LABELS = {'a.wav': 'cat', 'b.wav': 'dog', 'c.wav': 'cat'}


@pytest.fixture
def view(tmp_path):
    """Return a function that writes recordings and their manifest as a host has them, and opens it.

    Each call is another host.
    """
    hosts = iter('xyz')

    def opened(labels=LABELS, samples=400, subtype='PCM_16'):
        folder = tmp_path / next(hosts)
        folder.mkdir()
        for name in labels:
            soundfile.write(folder / name, np.zeros(samples), 8000, subtype)
        entries = [{'audio': name, 'labels': [label]} for name, label in labels.items()]
        text = '\n'.join(map(json.dumps, entries))
        (folder / 'train.jsonl').write_text(text)
        source = manifest.load(folder / 'train.jsonl', None, 8000)
        return list(process_view.data_sections('training', source, ['fingerprint 1']))

    return opened


def test_equal_data_in_other_folders_pass(view):
    assert compare(view(), view()) is None


@pytest.mark.parametrize(
    'change, words',
    [
        ({'labels': LABELS | {'b.wav': 'owl'}}, ['training clips', 'b.wav', 'owl', 'dog']),
        ({'labels': {'a.wav': 'cat', 'b.wav': 'dog'}}, ['training clips', 'nothing', 'c.wav']),
        (
            {'labels': {'a.wav': 'cat', 'x.wav': 'dog', 'c.wav': 'cat'}},
            ['training clips', 'x.wav', 'b.wav'],
        ),
        ({'samples': 401}, ['training clips', 'a.wav: 401 samples', 'a.wav: 400 samples']),
        # The same lengths in files of other sizes.
        ({'subtype': 'PCM_24'}, ['files of training', 'a.wav: 1244 bytes', 'a.wav: 844 bytes']),
    ],
)
def test_data_that_differ_are_named_by_their_line(view, change, words):
    message = compare(view(), view(**change))
    for word in words:
        assert word in message


def test_a_plan_that_differs_is_named(view):
    source_view = view()
    other = [*source_view[:-1], Section.of('plan of training', ['fingerprint 2'])]
    message = compare(source_view, other)
    assert 'plan of training: ' in message and 'fingerprint 2' in message


def test_weights_that_differ_are_named_by_their_file(tmp_path):
    for host, size in (('x', 3), ('y', 4)):
        (tmp_path / host).mkdir()
        (tmp_path / host / 'model.safetensors').write_bytes(b'a' * size)
    message = compare(*(process_view.weights_sections(str(tmp_path / host)) for host in ('x', 'y')))
    assert 'init.from' in message and 'model.safetensors: 4 bytes' in message
    for host in ('x', 'y'):
        file = tmp_path / host / 'model.safetensors'
        assert next(process_view.weights_sections(str(file))).lines()[0].startswith(file.name)
