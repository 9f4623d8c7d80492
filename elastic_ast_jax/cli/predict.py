"""`elastic-ast predict`: classifies recordings and folders of recordings with a trained model."""

import io
import itertools
import json
import os
import sys
import warnings
from collections.abc import Iterable, Iterator
from typing import Any

from elastic_ast_jax.audio import fbank
from elastic_ast_jax.audio.reading import expand
from elastic_ast_jax.evaluation.sweep_axes import METRICS, format_metric
from elastic_ast_jax.inference import explanation, plots
from elastic_ast_jax.inference.explanation import check_file, check_model, explain
from elastic_ast_jax.inference.predictor import Predictor, Progress, load
from elastic_ast_jax.inference.timeline import TimelineFolder
from elastic_ast_jax.utils import jax_cache, plotting
from elastic_ast_jax.utils.errors import UserError
from elastic_ast_jax.utils.progress import Waiting
from elastic_ast_jax.utils.text import in_seconds, printable


class ExplainError(UserError):
    """`--explain` with other than one recording."""


def run(
    workdir: str,
    inputs: Iterable[str],
    top_k: int = 5,
    as_json: bool = False,
    checkpoint: str = 'latest',
    timeline: str | None = None,
    window: float | None = None,
    overlap: float | None = None,
    explain: str | None = None,
    budget_tokens: int | None = None,
) -> int:
    """Prints predictions, one input after another: a table, or JSON Lines.

    Args:
        workdir: Of a training run.
        inputs: Recordings, and folders of recordings.
        top_k: Classes shown for each.
        as_json: Print JSON Lines.
        checkpoint: See `predictor.load`.
        timeline: Folder for a JSON file and a plot of each recording; what is printed then names
        the JSON file too.
        window, overlap: Seconds of a window and the share that the next one repeats; see
        `Predictor.predict`.
        explain: File for a plot of what the model listened to, in the one recording given.
        budget_tokens: The most tokens that a recording, or window, may cost; see
        `Predictor.budget`.

    Returns:
        The exit code: 1 if an input could not be used; the others are classified all the same.

    Raises:
        BudgetError, ExplainError, ExplanationError, TimelineError, WindowError: Something asked for
            is not possible; told before anything is computed.
        WriteError: A timeline or the explanation cannot be written.
    """
    # A file name may hold bytes that are no text; they are shown escaped.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors='backslashreplace')
    paths = expand(inputs)
    if explain is not None:
        explanation.check_file(explain)
        if budget_tokens is not None:
            raise ExplainError(
                '--explain draws what the model hears in all of a recording: leave'
                ' --budget_tokens out'
            )
        paths = _only_one(paths, explain)
    folder = None if timeline is None else TimelineFolder(timeline)
    jax_cache.use_compilation_cache()
    model = load(workdir, checkpoint)
    if checkpoint != 'latest' or model.description != f'step {model.step}':
        print(f'{printable(workdir)}: parameters of {model.description}', file=sys.stderr)
    if budget_tokens is not None:
        _print_reduction(model, workdir, budget_tokens)
    if explain is not None:
        explanation.check_model(model)
    failed = False
    predict = model.stream if folder is None else model.timeline
    with Waiting() as waiting:
        for result in predict(paths, top_k, window, overlap, waiting.show, budget_tokens):
            failed |= 'error' in result
            if folder is not None and 'error' not in result:
                shown = {
                    key: result[key]
                    for key in ('path', 'seconds', 'predictions', 'windows')
                    if key in result
                }
                result = shown | {'timeline': str(folder.write(result)[0])}
            waiting.clear()
            print(json.dumps(result, ensure_ascii=False) if as_json else _table(result), flush=True)
            waiting.done()
    if explain is not None and not failed:
        with Waiting() as waiting:
            draw_explanation(model, paths[0], explain, top_k, window, overlap, waiting.show)
    return 1 if failed else 0


def _only_one(paths: Iterator[str], explain: str) -> list[str]:
    first = list(itertools.islice(paths, 2))
    if len(first) > 1:
        raise ExplainError(
            f'--explain={explain} draws one recording, and there are more, {first[0]} and'
            f' {first[1]} among them: name one'
        )
    return first


def _print_reduction(model: Predictor, workdir: str, budget_tokens: int) -> None:
    """Says on standard error how the budget is kept, and what that was found to be worth."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter('always')
        budgets = model.budgets()
    chosen, metric = budgets.best(budget_tokens), METRICS.get(budgets.metric, budgets.metric)
    worth = format_metric(budgets.metric, chosen.heldout_score)
    clips = (
        'on clips that the choice did not see'
        if chosen.unseen
        else 'on the clips that it was chosen on'
    )
    changed = f' (with {", ".join(budgets.overrides)})' if budgets.overrides else ''
    said = (
        f'{workdir}: at most {chosen.reduction.tokens} tokens,'
        f' {chosen.reduction.describe(model.config.frontend)}: in evaluation{changed} {metric}'
        f' {worth}'
        f' {clips}, {chosen.latency_ms:.3g} ms a clip'
    )
    for line in (said, *(f'warning: {warning.message}' for warning in told)):
        print(printable(line), file=sys.stderr)


def _table(result: dict[str, Any]) -> str:
    if 'error' in result:
        return f'{printable(result["path"])}\n  error: {printable(result["error"])}'
    windows = f', {result["windows"]} windows' if 'windows' in result else ''
    lines = [f'{printable(result["path"])}  ({in_seconds(result["seconds"])}{windows})']
    lines += [
        f'  {100 * entry["probability"]:6.2f} %  {printable(entry["label"])}'
        for entry in result['predictions']
    ]
    if 'timeline' in result:
        lines.append(f'  timeline: {printable(result["timeline"])}')
    return '\n'.join(lines)


def draw_explanation(
    model: Predictor,
    path: str | os.PathLike,
    file: str | os.PathLike,
    top_k: int = 5,
    window: float | None = None,
    overlap: float | None = None,
    progress: Progress | None = None,
) -> None:
    """Draws what a model listened to in a recording.

    Args:
        model: The model.
        path: The recording.
        file: Where to draw; its suffix says the format.
        top_k: Number of classes shown.
        window, overlap: See `Predictor.predict`.
        progress: Called from time to time.

    Raises:
        ExplanationError: See `check` and `check_model`; or the recording cannot be used.
        WriteError: The file cannot be written.
    """
    check_file(file)
    check_model(model)
    heard = explain(model, path, top_k, window, overlap, progress)
    averages = model.config.model.pool == 'mean'
    figure = plots.plot_explanation(
        heard, fbank.centres(model.config.frontend), os.fspath(path), model.description, averages
    )
    plotting.save(figure, file)
