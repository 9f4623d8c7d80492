"""Timelines as files:

what `Predictor.timeline` yields, as JSON and as a plot, named after the recording.
"""

import json
import os
from pathlib import Path
from typing import Any

from elastic_ast_jax.inference import plots
from elastic_ast_jax.utils import plotting
from elastic_ast_jax.utils.errors import UserError
from elastic_ast_jax.utils.files import replaced

# Bytes of a file's name without its suffix; file systems take 255 with it.
_LONGEST_NAME = 200
# Characters that some file system does not take or gives a meaning.
_RESERVED = frozenset('/\\:*?"<>|')


class TimelineError(UserError):
    """Timelines cannot be written; names the folder."""


class TimelineFolder:
    """A folder of timelines; no recording's files replace those of another."""

    def __init__(self, folder: str | os.PathLike):
        """Makes the folder if there is none.

        Raises:
            TimelineError: It cannot be written to, which is told before anything is computed.
        """
        self.folder = Path(folder)
        self._taken: set[str] = set()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise TimelineError(
                f'{folder}: no folder for timelines ({error.strerror}): choose another'
            ) from error
        if not os.access(self.folder, os.W_OK | os.X_OK):
            raise TimelineError(
                f'{folder}: no permission to write to this folder: change its permissions, or'
                ' choose another'
            )

    def write(self, timeline: dict[str, Any]) -> tuple[Path, Path]:
        """Writes NAME.json and NAME.png, NAME being the recording's without its suffix, with a
        number if it is taken.

        The files of an earlier run are replaced. The JSON holds all keys of the timeline, a window
        on each line, with the probabilities of all classes in the order of `labels`, to four
        significant digits: of 527 classes and an hour's 700 windows these are some 3 MB.

        Args:
            timeline: Of one recording, from `Predictor.timeline`.

        Raises:
            WriteError: One of the files cannot be written; it is as it was then.
        """
        name = self._name(timeline['path'])
        json_file, png_file = self.folder / f'{name}.json', self.folder / f'{name}.png'
        with (
            replaced(json_file) as temporary,
            open(temporary, 'w', encoding='utf-8', errors='backslashreplace') as file,
        ):
            settings = {key: value for key, value in timeline.items() if key != 'timeline'}
            file.write(
                json.dumps(settings, indent=1, ensure_ascii=False).removesuffix('\n}')
                + ',\n "timeline": ['
            )
            for number, entry in enumerate(timeline['timeline']):
                probabilities = [float(f'{value:.4g}') for value in entry['probabilities'].tolist()]
                file.write(
                    (',' if number else '')
                    + '\n  '
                    + json.dumps(entry | {'probabilities': probabilities})
                )
            file.write('\n ]\n}\n')
        plotting.save(plots.plot_timeline(timeline), png_file)
        return json_file, png_file

    def _name(self, path: str) -> str:
        """A name that no file of this run has, whether or not the file system tells capitals from
        small letters.
        """
        wanted, count = safe_name(path), 1
        name = wanted
        while name.casefold() in self._taken:
            count += 1
            name = f'{wanted}-{count}'
        self._taken.add(name.casefold())
        return name


def safe_name(path: str) -> str:
    """The name of a recording without folders and suffix, as a file's name that every file system
    takes.
    """
    stem = os.path.splitext(os.path.basename(path))[0]
    name = ''.join(
        '_' if letter in _RESERVED or not letter.isprintable() else letter for letter in stem
    )
    name = name.encode('utf-8')[:_LONGEST_NAME].decode('utf-8', errors='ignore').strip('. ')
    return name or 'recording'
