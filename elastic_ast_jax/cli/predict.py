"""`elastic-ast predict`: classify recordings and folders of recordings with a trained model."""

import argparse
import dataclasses
import itertools
import json
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from elastic_ast_jax.cli.commands import add_checkpoint, add_inputs
from elastic_ast_jax.cli.output import escape_undecodable_names, print_checkpoint
from elastic_ast_jax.cli.types import local_path, positive_int, seconds, share
from elastic_ast_jax.utils.errors import UserError
from elastic_ast_jax.utils.progress import RecordingProgress
from elastic_ast_jax.utils.text import format_seconds, printable

if TYPE_CHECKING:
    import elastic_ast_jax.inference.predictor

# Entries of a result that are printed if its timeline is written to a file.
_SUMMARY_KEYS = ('path', 'seconds', 'predictions', 'windows')


class ExplainError(UserError):
    """Report that `--explain` does not go with the other arguments."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """The recordings, and what is printed, written and drawn of each."""

    workdir: str
    inputs: Sequence[str]
    top_k: int = 5
    json: bool = False
    timeline: str | None = None
    window: float | None = None
    overlap: float | None = None
    budget_tokens: int | None = None
    explain: str | None = None
    checkpoint: str = 'latest'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument('workdir', help='workdir of a training run')
    add_inputs(parser)
    parser.add_argument(
        '--top_k', type=positive_int, help='number of classes that are printed (default 5)'
    )
    parser.add_argument('--json', action='store_true', help='print JSON Lines')
    parser.add_argument(
        '--timeline',
        type=local_path,
        metavar='FOLDER',
        help='write the classes over time of each recording: JSON and a plot',
    )
    parser.add_argument(
        '--window',
        type=seconds,
        metavar='SECONDS',
        help='split recordings into windows of this length (default: only recordings that are too'
        ' long for the model, into the longest possible windows)',
    )
    parser.add_argument(
        '--overlap',
        type=share,
        metavar='SHARE',
        help='share of a window that the next one repeats (default: data.overlap of the training'
        ' config)',
    )
    parser.add_argument(
        '--budget_tokens',
        type=positive_int,
        metavar='N',
        help='use at most N tokens for a recording, or window, with the best setting that'
        ' evaluate --sweep=budget measured',
    )
    parser.add_argument(
        '--explain',
        type=local_path,
        metavar='FILE.png',
        help='draw which parts of one recording the model attended to',
    )
    add_checkpoint(parser)


def run(options: Options) -> int:
    """Print predictions, one input after another: a table, or JSON Lines.

    Returns:
        The exit code: 1 if an input could not be used. The other inputs are classified all the
        same.

    Raises:
        BudgetError, ExplainError, ExplanationError, TimelineError, WindowError: An option is not
            possible. Nothing was computed.
        WriteError: A timeline or the explanation cannot be written.
    """
    from elastic_ast_jax.audio.reading import expand_folders
    from elastic_ast_jax.inference import explanation
    from elastic_ast_jax.inference.predictor import load
    from elastic_ast_jax.inference.timeline import TimelineFolder
    from elastic_ast_jax.utils import jax_cache

    escape_undecodable_names()
    paths: Iterable[str] = expand_folders(options.inputs)
    if options.explain is not None:
        explanation.check_file(options.explain)
        paths = _single_path(paths, options)
    folder = None if options.timeline is None else TimelineFolder(options.timeline)
    jax_cache.use_compilation_cache()
    model = load(options.workdir, options.checkpoint)
    print_checkpoint(model, options.workdir, options.checkpoint)
    if options.budget_tokens is not None:
        _print_budget(model, options.workdir, options.budget_tokens)
    if options.explain is not None:
        explanation.check_model(model)
    failed = False
    predict = model.stream if folder is None else model.timeline
    with RecordingProgress() as waiting:
        for result in predict(
            paths,
            top_k=options.top_k,
            window=options.window,
            overlap=options.overlap,
            progress=waiting.show,
            budget_tokens=options.budget_tokens,
        ):
            failed |= 'error' in result
            if folder is not None and 'error' not in result:
                file = str(folder.write(result)[0])
                result = {key: result[key] for key in _SUMMARY_KEYS if key in result}
                result['timeline'] = file
            waiting.clear()
            text = json.dumps(result, ensure_ascii=False) if options.json else _table(result)
            print(text, flush=True)
            waiting.finish_recording()
    if options.explain is not None and not failed:
        with RecordingProgress() as waiting:
            draw_explanation(
                model,
                next(iter(paths)),
                options.explain,
                top_k=options.top_k,
                window=options.window,
                overlap=options.overlap,
                progress=waiting.show,
            )
    return 1 if failed else 0


def _single_path(paths: Iterable[str], options: Options) -> list[str]:
    """Return the path of the recording that is drawn.

    Raises:
        ExplainError: There are several recordings, or the other options exclude `--explain`.
    """
    if options.budget_tokens is not None:
        raise ExplainError('--explain draws the whole of a recording: leave --budget_tokens out')
    first_paths = list(itertools.islice(paths, 2))
    if len(first_paths) > 1:
        raise ExplainError(
            f'--explain={options.explain} draws one recording, and there are more,'
            f' {first_paths[0]} and {first_paths[1]} among them: name one'
        )
    return first_paths


def _print_budget(
    model: 'elastic_ast_jax.inference.predictor.Predictor', workdir: str, budget_tokens: int
) -> None:
    """Print to standard error how the budget is kept, and the score that was measured with it."""
    from elastic_ast_jax.evaluation.sweep_axes import METRICS, format_metric

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        budgets = model.budgets()
    best, metric = budgets.best(budget_tokens), METRICS.get(budgets.metric, budgets.metric)
    clips = (
        'on clips that the choice did not see'
        if best.unseen
        else 'on the clips that it was chosen on'
    )
    score = format_metric(budgets.metric, best.heldout_score)
    overrides = f' (with {", ".join(budgets.overrides)})' if budgets.overrides else ''
    summary = (
        f'{workdir}: at most {best.reduction.tokens} tokens,'
        f' {best.reduction.describe(model.config.frontend)}: in evaluation{overrides} {metric}'
        f' {score} {clips}, {best.latency_ms:.3g} ms a clip'
    )
    for line in (summary, *(f'warning: {warning.message}' for warning in caught)):
        print(printable(line), file=sys.stderr)


def _table(result: dict[str, Any]) -> str:
    """Return the result of a recording as lines of text."""
    if 'error' in result:
        return f'{printable(result["path"])}\n  error: {printable(result["error"])}'
    windows = f', {result["windows"]} windows' if 'windows' in result else ''
    lines = [f'{printable(result["path"])}  ({format_seconds(result["seconds"])}{windows})']
    lines += [
        f'  {100 * entry["probability"]:6.2f} %  {printable(entry["label"])}'
        for entry in result['predictions']
    ]
    if 'timeline' in result:
        lines.append(f'  timeline: {printable(result["timeline"])}')
    return '\n'.join(lines)


def draw_explanation(
    model: 'elastic_ast_jax.inference.predictor.Predictor',
    path: str | os.PathLike,
    file: str | os.PathLike,
    *,
    top_k: int = 5,
    window: float | None = None,
    overlap: float | None = None,
    progress: Callable[[str, float, float], None] | None = None,
) -> None:
    """Draw which parts of a recording a model attended to.

    Args:
        model: The model.
        path: The recording.
        file: The image; its suffix is the format.
        top_k: Number of classes that are shown.
        window: See `Predictor.predict`.
        overlap: See `Predictor.predict`.
        progress: Called from time to time.

    Raises:
        ExplanationError: See `check_file` and `check_model`; or the recording cannot be used.
        WriteError: The file cannot be written.
    """
    from elastic_ast_jax.audio import fbank
    from elastic_ast_jax.inference import explanation, plots
    from elastic_ast_jax.utils import plotting

    explanation.check_file(file)
    explanation.check_model(model)
    explained = explanation.explain(model, path, top_k, window, overlap, progress)
    averages = model.config.model.pool == 'mean'
    figure = plots.plot_explanation(
        explained,
        fbank.center_frequencies(model.config.frontend),
        os.fspath(path),
        model.description,
        averages=averages,
    )
    plotting.save_figure(figure, file)
