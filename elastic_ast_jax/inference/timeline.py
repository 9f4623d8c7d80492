"""Write timelines: JSON and a plot for each recording, named after it."""

import json
import os
from pathlib import Path
from typing import Any

from elastic_ast_jax.inference import plots
from elastic_ast_jax.utils import plotting
from elastic_ast_jax.utils.errors import UserError
from elastic_ast_jax.utils.files import atomic_write

# The most bytes of a file's name without its suffix; file systems allow 255 with it.
_MAX_NAME_BYTES = 200
# Characters that some file systems forbid or treat specially.
_RESERVED = frozenset('/\\:*?"<>|')


class TimelineError(UserError):
    """Reports a folder that timelines cannot be written to."""


class TimelineFolder:
    """A folder of timelines; each recording has its own file names."""

    def __init__(self, folder: str | os.PathLike):
        """Create the folder if it does not exist.

        Raises:
            TimelineError: The folder cannot be written to.
        """
        self.folder = Path(folder)
        self._names: set[str] = set()  # case-folded names of this run's files
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
        """Write NAME.json and NAME.png, and return their paths.

        NAME is the name of the recording without its suffix, with a number if another recording
        has the same name. Files of an earlier run are replaced. The JSON file has all keys of the
        timeline and one window on each line, with the probabilities of all classes in the order of
        `labels`, to four significant digits. An hour of 700 windows and 527 classes takes about
        3 MB.

        Args:
            timeline: Timeline of one recording, from `Predictor.timeline`.

        Raises:
            WriteError: One of the files cannot be written; its old content stays.
        """
        name = self._unique_name(timeline['path'])
        json_file, png_file = self.folder / f'{name}.json', self.folder / f'{name}.png'
        with (
            atomic_write(json_file) as temporary,
            open(temporary, 'w', encoding='utf-8', errors='backslashreplace') as file,
        ):
            settings = {key: value for key, value in timeline.items() if key != 'timeline'}
            head = json.dumps(settings, indent=1, ensure_ascii=False).removesuffix('\n}')
            file.write(f'{head},\n "timeline": [')
            for number, entry in enumerate(timeline['timeline']):
                probabilities = [float(f'{value:.4g}') for value in entry['probabilities'].tolist()]
                line = json.dumps(entry | {'probabilities': probabilities})
                file.write(f'{"," if number else ""}\n  {line}')
            file.write('\n ]\n}\n')
        plotting.save_figure(plots.plot_timeline(timeline), png_file)
        return json_file, png_file

    def _unique_name(self, path: str) -> str:
        """Return a file name that differs from others of this run by more than upper case."""
        base, count = safe_name(path), 1
        name = base
        while name.casefold() in self._names:
            count += 1
            name = f'{base}-{count}'
        self._names.add(name.casefold())
        return name


def safe_name(path: str) -> str:
    """Return the name of a recording, without folders and suffix, as a portable file name."""
    stem = os.path.splitext(os.path.basename(path))[0]
    name = ''.join(
        '_' if letter in _RESERVED or not letter.isprintable() else letter for letter in stem
    )
    name = name.encode('utf-8')[:_MAX_NAME_BYTES].decode('utf-8', errors='ignore').strip('. ')
    return name or 'recording'
