"""Recordings of folders: what is hidden, and what does not stop the others."""

import os

import pytest

from elastic_ast_jax.audio import finding
from elastic_ast_jax.audio.errors import AudioError


@pytest.fixture
def folder(tmp_path):
    """A folder as systems leave it, with two recordings that are meant."""
    for name in ('dog/a.wav', 'cat/b.wav', '__MACOSX/dog/._a.wav', 'dog/._a.wav', '.git/c.wav'):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def test_hidden_recordings_are_left_out_and_counted(folder, caplog):
    expected = [f'{folder}/cat/b.wav', f'{folder}/dog/a.wav']
    assert finding.find_recordings([folder]) == list(finding.expand_folders([str(folder)]))
    assert finding.find_recordings([folder]) == expected
    assert caplog.records[0].getMessage() == (
        f'{folder}: 3 hidden files and folders are left out: .git, __MACOSX, dog/._a.wav'
    )


def test_a_hidden_recording_or_folder_by_its_name_is_taken(folder):
    hidden = f'{folder}/dog/._a.wav'
    assert list(finding.expand_folders([hidden, f'{folder}/.git'])) == [
        hidden,
        f'{folder}/.git/c.wav',
    ]


def test_a_folder_of_hidden_recordings_only_says_so(folder):
    with pytest.raises(AudioError, match=r'not hidden, as dog/\._a\.wav are \(suffixes'):
        finding.find_recordings([folder / '__MACOSX'])


def test_what_cannot_be_listed_does_not_stop_the_others(folder, monkeypatch):
    (folder / 'owl').symlink_to(folder / 'nowhere')
    listdir = os.listdir

    def refuse(path):
        if path == f'{folder}/dog':
            raise PermissionError(13, 'Permission denied', path)
        return listdir(path)

    monkeypatch.setattr(os, 'listdir', refuse)  # root may list every folder
    assert list(finding.expand_folders([str(folder), 'b.wav'])) == [
        f'{folder}/cat/b.wav',
        f'{folder}/dog',
        f'{folder}/owl',
        'b.wav',
    ]
    with pytest.raises(AudioError, match='dog: the folder cannot be listed'):
        finding.find_recordings([folder])
