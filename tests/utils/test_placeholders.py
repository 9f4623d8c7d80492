import numpy as np
import pytest

from elastic_ast_jax.pretrained import state_dict
from elastic_ast_jax.utils.placeholders import recognize

POINTER = b'version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n'
PAGE = b'\xef\xbb\xbf\n <!DOCTYPE html>\n<html><body>404 Not Found</body></html>'


@pytest.mark.parametrize(
    ('head', 'message'),
    [
        (POINTER, 'is a Git LFS pointer: run git lfs pull'),
        (b'/annex/objects/MD5E-s1--0.wav\n', 'is a git-annex pointer: run git annex get'),
        (PAGE, 'is a web page (HTML), not a list: the download failed'),
        (b'<?xml version="1.0"?><html>', 'is a web page (HTML), not a list: the download failed'),
        (
            b"<?xml version='1.0'?><Error><Code>NoSuchKey</Code></Error>",
            'is the error message of a server (XML), not a list: the download failed',
        ),
        (b'PK\3\4', 'is a ZIP archive, not a list: unpack it first'),
    ],
)
def test_files_in_the_place_of_others_are_recognized(head, message):
    assert recognize(head, 'a list') == message


@pytest.mark.parametrize(
    'head', [b'', b'RIFF', b'{"audio": "a.wav"}', b'audio,labels\n', b'<', b'version 2\n']
)
def test_other_files_are_not(head):
    assert recognize(head, 'a list') is None


@pytest.mark.parametrize('suffix', ['.pth', '.safetensors', '.npz'])
def test_weights_that_were_not_fetched_are_named(tmp_path, suffix):
    path = tmp_path / f'weights{suffix}'
    for content, message in ((POINTER, 'run git lfs pull'), (PAGE, r'is a web page \(HTML\), not')):
        path.write_bytes(content)
        with pytest.raises(state_dict.TensorFileError, match=message):
            state_dict.read(path)
    np.savez(tmp_path / 'whole.npz', a=np.zeros(3, np.float32))  # a ZIP archive
    assert list(state_dict.read(tmp_path / 'whole.npz').tensors) == ['a']
