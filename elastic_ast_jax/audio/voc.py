"""Join the blocks of a VOC file.

Creative's VOC may divide the samples into blocks, as ffmpeg does at every 4096 bytes. libsndfile
takes the bytes between two blocks of 16 bits for samples, and refuses blocks of 8 bits.
"""

from elastic_ast_jax.audio.inspection import Inspection, Link, Read
from elastic_ast_jax.audio.spliced import Piece

__all__ = ['MAGIC', 'inspect']

MAGIC = b'Creative Voice '
_END, _SOUND, _CONTINUATION, _MARKER, _TEXT, _EXTENSION, _NEW_SOUND = 0, 1, 2, 4, 5, 8, 9
# Bytes of a block in front of the samples, which all blocks of a sound share.
_FORMAT_BYTES = {_SOUND: 2, _NEW_SOUND: 12, _CONTINUATION: 0}
# sox notes eight bytes too little for its only block; the last one ends the file.
_LEFT = 9
_MAX_BLOCKS = 10_000
_MAX_LENGTH = (1 << 24) - 1
_PROBLEM = 'is a VOC file of {}, which libsndfile cannot read: convert it, for example with sox'


def inspect(read: Read, start: int, size: int) -> Inspection:
    """Return the samples of a VOC file of several blocks as one block.

    The result is empty for a file of one block, which libsndfile reads.

    Args:
        read: Reads the recording.
        start: Position of the file in front of which tags may stand.
        size: Size of the file.
    """
    first = start + int.from_bytes(read(start + 20, 2), 'little')
    position, kind, form, extension, pieces = first, None, b'', b'', []
    for _ in range(_MAX_BLOCKS):
        head = read(position, 4)
        if not head or head[0] == _END or (len(pieces) == 1 and size - position <= _LEFT):
            break
        block, end = head[0], position + 4 + int.from_bytes(head[1:], 'little')
        if block in _FORMAT_BYTES:
            begin = position + 4 + _FORMAT_BYTES[block]
            block_form = read(position + 4, _FORMAT_BYTES[block])
            if (block == _CONTINUATION and kind is None) or len(head) < 4:
                return Inspection()
            if block != _CONTINUATION and kind is None:
                kind, form = block, block_form
            if block != _CONTINUATION and (block, block_form) != (kind, form):
                return Inspection(_PROBLEM.format('sounds of several formats'))
            if begin <= end:
                pieces.append((begin, end))
        elif block == _EXTENSION and (kind is None or read(position, 8) == extension):
            extension = read(position, 8)
        elif block not in (_MARKER, _TEXT):
            # Silence and repetitions: a file of one block and such is refused by libsndfile.
            return Inspection()
        position = end
    else:
        return Inspection(_PROBLEM.format(f'{_MAX_BLOCKS} blocks or more'))
    if kind is None or len(pieces) < 2:
        return Inspection()
    return _joined(start, size, kind, form, extension, pieces)


def _joined(
    start: int,
    size: int,
    kind: int,
    form: bytes,
    extension: bytes,
    pieces: list[tuple[int, int]],
) -> Inspection:
    """Return the inspection of a file whose samples are in several pieces."""
    if pieces[-1][1] > size:
        return Inspection.truncated(
            f'its last block promises {pieces[-1][1] - pieces[-1][0]} bytes of samples and'
            f' {max(0, size - pieces[-1][0])} are present'
        )
    length = len(form) + sum(end - begin for begin, end in pieces)
    if length > _MAX_LENGTH:
        return Inspection(_PROBLEM.format('several blocks with more than 16 MiB'))
    header: Piece = bytes((kind,)) + length.to_bytes(3, 'little') + form
    begin = (start, start + 26)
    return Inspection(links=(Link((begin, extension + header, *pieces, bytes((_END,)))),))
