"""Read every recording below a folder by this reader, by libsndfile and by ffmpeg, and compare.

    python -m tests.audio.audit FOLDER --csv=formats.csv --jsonl=recordings.jsonl

All decode at the native rate of the recording. Lossless formats must give equal samples. Lossy
ones must correlate by 0.999 or more at the best alignment within 2304 samples. The table counts,
for each format, which of the other two programs a deviating waveform follows. Each refusal is
listed with its reason. Links and copies of a recording count once. ffmpeg decodes Opus by libopus,
since its own decoder is wrong at low bitrates.

This needs ffmpeg (Debian package `ffmpeg`).
"""

import argparse
import collections
import concurrent.futures
import contextlib
import csv
import dataclasses
import hashlib
import json
import logging
import multiprocessing
import os
import sys
from collections.abc import Iterator, Set

from elastic_ast_jax.audio import finding, oddities, reading
from tests.audio import judges

__all__ = ['COLUMNS', 'Verdict', 'judge', 'recordings_below', 'table']

# Recordings that libsndfile does not read at all. Each must be refused with advice.
_OTHER_SUFFIXES = frozenset(
    f'.{name}'
    for name in (
        *('3gp', 'aac', 'ac3', 'alaw', 'amr', 'ape', 'dsf', 'dts', 'g722', 'gsm', 'm4a', 'm4b'),
        *('mka', 'mp2', 'mp4', 'mpc', 'sln', 'spx', 'tta', 'ulaw', 'weba', 'webm', 'wma', 'wv'),
    )
)
_LOSSLESS = ('pcm_', 'flac', 'alac', 'wavpack', 'tta', 'ape', 'float', 'double', 'ulaw', 'dpcm')
# All Opus is of this rate. libsndfile also decodes it at lower rates, late by parts of a sample.
_OPUS_RATE = 48000
# Outcomes, in the order of the columns.
COLUMNS = {
    'equal': 'equal',
    'follows ffmpeg': 'deviating, as ffmpeg',
    'follows libsndfile': 'deviating, as libsndfile',
    'follows neither': 'deviating from both',
    'ffmpeg cannot': 'read, ffmpeg reports errors',
    'refused': 'refused, ffmpeg reads',
    'refused by both': 'refused by both',
    'failed': 'failed',
}


@dataclasses.dataclass(frozen=True)
class Verdict:
    """Hold what the three programs make of a recording.

    Attributes:
        path: The recording, relative to the folder.
        format: Container and encoding, by ffmpeg, or by libsndfile if ffmpeg knows neither.
        outcome: One of `COLUMNS`.
        reason: Error, or differences of the waveforms.
        warnings: What this reader warns of.
        ffmpeg_errors: What ffmpeg reports.
        seconds: Duration by this reader, else by ffmpeg.
    """

    path: str
    format: str
    outcome: str
    reason: str
    warnings: list[str]
    ffmpeg_errors: str
    seconds: float


def recordings_below(folder: str) -> Iterator[str]:
    """Yield the files below a folder that have a suffix of recordings, each content once."""
    contents = set()
    for parent, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            path = os.path.join(parent, name)
            suffix = os.path.splitext(name)[1].lower()
            if suffix not in finding._SUFFIXES | _OTHER_SUFFIXES or os.path.islink(path):
                continue
            with open(path, 'rb') as file:
                digest = hashlib.file_digest(file, 'sha256').digest()
            if digest not in contents:
                contents.add(digest)
                yield path


def judge(path: str, folder: str) -> Verdict:
    """Return what the three programs make of a recording below a folder."""
    with _warnings() as warnings:
        samples, rate, error, outcome = None, None, '', ''
        try:
            rate = reading.read_header(path).sample_rate
            samples = reading.read(path, rate)
        except reading.AudioError as refusal:
            outcome, error = 'refused', str(refusal).removeprefix(f'{path}: ')
        except Exception as defect:
            outcome, error = 'failed', repr(defect)
    ffmpeg = judges.decode_by_ffmpeg(path, rate if samples is not None else None)
    if samples is not None and ffmpeg.codec == 'opus':
        rate = _OPUS_RATE
        samples = reading.read(path, rate)
        ffmpeg = judges.decode_by_ffmpeg(path, rate, 'libopus')
    libsndfile = judges.decode_by_libsndfile(path, rate)
    names = (ffmpeg.container, ffmpeg.codec)
    if not all(names):
        names = (libsndfile.container, libsndfile.codec)
    if samples is not None:
        lossless = names[1].startswith(_LOSSLESS)
        outcome, error = _compared(samples, ffmpeg, libsndfile, lossless=lossless)
    elif outcome == 'refused' and (ffmpeg.samples is None or ffmpeg.errors):
        outcome = 'refused by both'
    seconds = len(samples) / rate if samples is not None and rate else 0.0
    if not seconds and ffmpeg.samples is not None:
        seconds = len(ffmpeg.samples) / ffmpeg.sample_rate
    return Verdict(
        os.path.relpath(path, folder),
        ' '.join(names).strip() or f'unknown ({os.path.splitext(path)[1]})',
        outcome,
        error,
        [text.removeprefix(f'{path}: ') for text in warnings],
        ffmpeg.errors,
        round(seconds, 3),
    )


def _compared(
    samples, ffmpeg: judges.Decoded, libsndfile: judges.Decoded, *, lossless: bool
) -> tuple[str, str]:
    """Return outcome and differences of a recording that this reader reads."""
    others = {'ffmpeg': ffmpeg, 'libsndfile': libsndfile}
    comparisons = {
        name: judges.compare(samples, other.samples, lossless=lossless)
        for name, other in others.items()
        if other.samples is not None
    }
    differences = '; '.join(
        [f'{name}: {result}' for name, result in comparisons.items() if not result.close]
        + [f'{name}: {other.errors}' for name, other in others.items() if other.samples is None]
    )
    close = [name for name, result in comparisons.items() if result.close]
    if len(close) == 2:
        return 'equal', ''
    if 'ffmpeg' in close:
        return 'follows ffmpeg', differences
    if ffmpeg.samples is None or ffmpeg.errors:
        return 'ffmpeg cannot', f'{differences}; ffmpeg: {ffmpeg.errors}'
    return ('follows libsndfile' if close else 'follows neither'), differences


class _warnings(logging.Handler):  # noqa: N801  used as a function
    """Collect what is logged as a warning while a block runs."""

    def __init__(self):
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())

    def __enter__(self) -> list[str]:
        logging.getLogger().addHandler(self)
        return self.messages

    def __exit__(self, *_) -> None:
        logging.getLogger().removeHandler(self)
        # Forget the kinds of oddities, so that each recording gets its own warning.
        oddities.log_summary()


def table(verdicts: list[Verdict]) -> list[list[str]]:
    """Return the rows of the table: a header, a row for each format, and the sum."""
    formats = collections.defaultdict(list)
    for verdict in verdicts:
        formats[verdict.format].append(verdict)
    rows = [['format', 'recordings', *COLUMNS.values(), 'warned', 'hours']]
    ordered = sorted(formats.items(), key=lambda item: (-len(item[1]), item[0]))
    for name, members in [*ordered, ('all', verdicts)]:
        counts = collections.Counter(verdict.outcome for verdict in members)
        warned = sum(bool(verdict.warnings) for verdict in members)
        hours = sum(verdict.seconds for verdict in members) / 3600
        cells = [len(members), *(counts[key] for key in COLUMNS), warned]
        rows.append([name, *map(str, cells), f'{hours:.2f}'])
    return rows


def judge_all(folder: str, processes: int, judged: Set[str] = frozenset()) -> Iterator[Verdict]:
    """Yield the verdict on each recording below a folder that is not judged yet, sorted."""
    context = multiprocessing.get_context('spawn')
    with concurrent.futures.ProcessPoolExecutor(processes, context) as pool:
        paths = [
            path for path in recordings_below(folder) if os.path.relpath(path, folder) not in judged
        ]
        yield from pool.map(judge, paths, [folder] * len(paths), chunksize=4)


def _stored(path: str | None) -> list[Verdict]:
    """Return the verdicts of an earlier run that was stopped."""
    if not path or not os.path.exists(path):
        return []
    with open(path, encoding='utf-8') as file:
        return [Verdict(**json.loads(line)) for line in file]


def main(argv: list[str] | None = None) -> int:
    """Audit a folder; return 1 if the reader fails or refuses what ffmpeg reads, else 0."""
    parser = argparse.ArgumentParser(prog='python -m tests.audio.audit')
    parser.add_argument('folder', help='recordings, also in subfolders')
    parser.add_argument('--csv', help='file that receives the table')
    parser.add_argument(
        '--jsonl',
        help='file that receives a line for each recording; an audit that stopped resumes with it',
    )
    parser.add_argument('--processes', type=int, default=2, help='(default: 2)')
    options = parser.parse_args(argv)
    verdicts = _stored(options.jsonl)
    judged = {verdict.path for verdict in verdicts}
    with contextlib.ExitStack() as stack:
        lines = options.jsonl and stack.enter_context(open(options.jsonl, 'a', 1, 'utf-8'))
        for verdict in judge_all(options.folder, options.processes, judged):
            verdicts.append(verdict)
            if lines:
                lines.write(json.dumps(dataclasses.asdict(verdict), ensure_ascii=False) + '\n')
    rows = table(verdicts)
    if options.csv:
        with open(options.csv, 'w', encoding='utf-8', newline='') as file:
            csv.writer(file, lineterminator='\n').writerows(rows)
    for row in rows:
        print(' | '.join(row))
    for verdict in verdicts:
        if verdict.outcome != 'equal':
            print(f'{verdict.outcome}: {verdict.path} ({verdict.format}): {verdict.reason}')
    return int(any(verdict.outcome in ('refused', 'failed') for verdict in verdicts))


if __name__ == '__main__':
    sys.exit(main())
