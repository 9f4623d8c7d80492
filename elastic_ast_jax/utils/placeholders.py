"""Recognize files that stand in for other files: web pages, pointers, archives.

A failed download leaves the web page of the error under the name of the file. Git LFS and git-annex
leave small pointers until the content is fetched.
"""

__all__ = ['HEAD', 'recognize']

# Bytes at the start of a file that `recognize` needs.
HEAD = 512

_LFS = b'version https://git-lfs.github.com/spec/'
_PAGES = (b'<!doctype html', b'<html', b'<head', b'<body', b'<!--')
_ARCHIVES = {
    b'PK\3\4': 'a ZIP archive',
    b'\x1f\x8b': 'compressed by gzip',
    b'\xfd7zXZ\0': 'compressed by xz',
    b'BZh': 'compressed by bzip2',
    b'7z\xbc\xaf\x27\x1c': 'a 7z archive',
    b'Rar!\x1a\x07': 'a RAR archive',
}


def recognize(head: bytes, kind: str, *, archives: bool = True) -> str | None:
    """Return what a file is in place of its content, and what to do; None for other files.

    Args:
        head: The first `HEAD` bytes of the file, or all of a shorter one.
        kind: What the file should be, with its article: 'a recording'.
        archives: Whether archives are reported. Some formats of weights are ZIP archives.

    Example:
        >>> recognize(b'<html><title>404', 'a recording')
        'is a web page (HTML), not a recording: the download failed'
    """
    if head.startswith(_LFS):
        return 'is a Git LFS pointer: run git lfs pull'
    if _is_annex_pointer(head):
        return 'is a git-annex pointer: run git annex get'
    text = head.removeprefix(b'\xef\xbb\xbf').lstrip().lower()
    if text.startswith(_PAGES) or (text.startswith(b'<?xml') and b'<html' in text):
        return f'is a web page (HTML), not {kind}: the download failed'
    if text.startswith(b'<?xml') and b'<error>' in text:
        return f'is the error message of a server (XML), not {kind}: the download failed'
    if archives:
        for magic, description in _ARCHIVES.items():
            if head.startswith(magic):
                return f'is {description}, not {kind}: unpack it first'
    return None


def _is_annex_pointer(head: bytes) -> bool:
    line = head.split(b'\n', 1)[0].rstrip()
    return line.startswith((b'/annex/objects/', b'../.git/annex/objects/', b'.git/annex/objects/'))
