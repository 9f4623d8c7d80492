"""`elastic-ast evaluate --sweep=budget`: accuracy against the tokens, the seconds and the time that a clip may cost.

For each budget of tokens, each way of keeping it (a ratio of the frame shift, and what happens to what is still too much; see
`token_budget`) evaluates every clip of the evaluation split once, through the same pipeline and the same compiled step as any
evaluation. A way is tried up to the first budget that holds every clip at its ratio: with a larger one nothing changes.
"""

import dataclasses
import json
import math
import time
from collections.abc import Iterator, Sequence
from pathlib import PurePath
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import Float32

from elastic_ast_jax import budget_plot, device, hosts, plots, tables, token_budget, windows
from elastic_ast_jax.audio.reading import AudioError
from elastic_ast_jax.config import Config
from elastic_ast_jax.data.sources import DataError
from elastic_ast_jax.errors import UserError
from elastic_ast_jax.evaluator import Evaluation, Evaluator, score
from elastic_ast_jax.files import write_text
from elastic_ast_jax.inference.predictor import Predictor
from elastic_ast_jax.lengths import FrontendSpec
from elastic_ast_jax.logs import Progress, counted, without_nan
from elastic_ast_jax.models.encoder import anywhere
from elastic_ast_jax.sweep_axes import METRICS
from elastic_ast_jax.token_budget import IN_WORDS, Budgets, Measured, Saving
from elastic_ast_jax.trained import Trained
from elastic_ast_jax.workdir import Workdir

RATIOS = (1.0, 1.4, 2.0, 2.8, 4.0)
# Budgets that are tried if none are named.
_COUNT = 8
# Clips whose latency is measured; several times each, as long as that takes no longer than so many seconds in all.
_TIMED = 20
_ROUNDS, _PATIENCE = 10, 30
_EXPLANATION = (
    'Each clip has at most as many tokens as the budget: the log-mel is computed at the frame shift, and of a clip that has '
    'more tokens then, the first frames are kept, as many as fill whole columns of patches, or tokens chosen at random. '
    'Shortened: clips that had more. A way is listed up to the first budget at which it shortens no clip. Seconds: what is '
    'listened to of a clip. Latency: of one clip alone, from waveform to logits, median over {clips}, of each the shortest of '
    'several times; reading the file and compilation do not count.')  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Found:
    """A saving, evaluated.

    Attributes:
        saving: What was tried.
        all_fit: It leaves nothing out of any clip.
        evaluation: Over all clips.
        score: The metric of the model's config.
        latency_ms: Of one clip alone; NaN in all processes but the first.
    """

    saving: Saving
    all_fit: bool
    evaluation: Evaluation
    score: float
    latency_ms: float

    def measured(self) -> Measured:
        return Measured(self.saving, self.score, self.latency_ms)


def check(config: Config, values: Sequence[float] | None) -> None:
    """Whether a model can be evaluated with these budgets; told before anything is opened.

    Raises:
        BudgetError: It is a fixed-length AST, or a budget is less than a column of patches.
        UserError: A budget that is no whole number.
    """
    token_budget.check_model(config.model.kind)
    for value in values or ():
        if not float(value).is_integer():
            raise UserError(f'--points={value:g} of --sweep=budget: give whole numbers of tokens')
        token_budget.check_tokens(int(value), config.frontend)


def default_budgets(frontend: FrontendSpec, tokens: int) -> tuple[int, ...]:
    """About eight budgets from one column of patches to `tokens`, of whole columns, each by about the same factor larger."""
    columns = -(-tokens // frontend.mel_patches)
    steps = range(_COUNT)
    return tuple(sorted({round(columns ** (step / (_COUNT - 1))) * frontend.mel_patches for step in steps}))


def ratios(frontend: FrontendSpec) -> tuple[float, ...]:
    """Those of `RATIOS` that are different frame shifts, which are whole milliseconds."""
    shifts = {frontend.shift(ratio): ratio for ratio in reversed(RATIOS)}  # of equals the smallest
    return tuple(sorted(ratio for shift, ratio in shifts.items() if shift >= frontend.shift()))


def savings(evaluator: Evaluator, frontend: FrontendSpec, values: Sequence[float] | None) -> list[tuple[Saving, bool]]:
    """What is tried, and whether all clips fit: `values` as budgets, the default ones if None, with each ratio and way."""
    largest = {ratio: int(evaluator.view(ratio).tokens.max()) for ratio in ratios(frontend)}
    budgets = default_budgets(frontend, largest[1.0]) if values is None else sorted({int(value) for value in values})
    found = []
    for ratio, most in largest.items():
        short = [tokens for tokens in budgets if tokens < most]
        found += [(Saving(tokens, ratio, how), False) for how in IN_WORDS for tokens in short]
        found += [(Saving(tokens, ratio), True) for tokens in budgets[len(short) : len(short) + 1]]
    return found


def run(
    workdir: Workdir, values: Sequence[float] | None, evaluator: Evaluator, model: Trained, overrides: Sequence[str],
    progress: Progress,
) -> tuple[Found, ...]:  # fmt: skip
    """Evaluates every saving, prints the best of each budget, writes `eval/budget.json`, `.md` and `.png`, and stores the best.

    Args:
        workdir: Of the model.
        values: Budgets in tokens; about eight if None.
        evaluator: Of the split.
        model: What is evaluated.
        overrides: What was changed of its config.
        progress: To tell.

    Raises:
        PlanError, WindowError: A clip does not fit.
        WriteError: A file cannot be written.
    """
    frontend = model.config.frontend
    chosen = savings(evaluator, frontend, values)
    evaluations = []
    for number, (saving, _) in enumerate(chosen, 1):
        progress.show(f'{saving.tokens} tokens, {saving.in_words(frontend)}, point {number} of {len(chosen)}')
        evaluations.append(evaluator.evaluate(model.params, evaluator.view(saving=saving)))
    progress.show('latency')
    alone, waveforms = _on_one_device(model), list(_waveforms(evaluator, frontend)) if hosts.first() else []
    times = latencies(alone, waveforms, [saving for saving, _ in chosen])
    found = [
        Found(*tried, evaluation, score(model.config, evaluation.metrics), milliseconds)
        for tried, evaluation, milliseconds in zip(chosen, evaluations, times, strict=True)
    ]  # fmt: skip
    progress.say(f'budget: {counted(len(chosen), "point")}, each with every clip once')
    if hosts.first():
        best = token_budget.best_of_each(one.measured() for one in found)
        metric = model.config.train.scored_by()
        print(table([one for one in found if one.measured() in best], frontend))
        files = write(found, best, model, overrides, workdir, len(waveforms))
        stored = workdir.set_budgets(Budgets(model.description, model.step, metric, best))
        progress.say(f'written: {" ".join(map(str, (*files, stored)))}')
    return tuple(found)


def latencies(
    model: Predictor, waveforms: Sequence[Float32[np.ndarray, '_']], tried: Sequence[Saving]
) -> list[float]:
    """Milliseconds from a waveform to its logits under each saving: alone, in a row of as many tokens as that allows.

    The median over the waveforms, NaN without any. Of several times the shortest counts, and all savings take turns, as others
    may use the machine.
    """
    if not waveforms:
        return [math.nan] * len(tried)
    for saving in tried:
        model.logits_alone(waveforms[0], saving)  # compiles
    shortest, begun = np.full((len(tried), len(waveforms)), math.inf), time.perf_counter()
    for turn in range(_ROUNDS):
        if turn and time.perf_counter() - begun > _PATIENCE:
            break
        for place in np.ndindex(shortest.shape):
            start = time.perf_counter()
            model.logits_alone(waveforms[place[1]], tried[place[0]])
            shortest[place] = min(shortest[place], time.perf_counter() - start)
    return [float(median) for median in 1000 * np.median(shortest, axis=1)]


def _on_one_device(model: Trained) -> Predictor:
    """The model as prediction has it, wherever evaluation has put its parameters; all processes take part."""
    whole = jax.tree.map(
        lambda leaf: leaf if leaf.is_fully_addressable else multihost_utils.process_allgather(leaf, tiled=True), model.params)
    params = jax.device_put(jax.tree.map(np.asarray, whole), jax.local_devices()[0])
    wanted = model.config.model
    attend = device.choose_attention(wanted.attention, wanted.kind, device.compute_dtype(wanted.dtype), required=False)
    return Predictor(dataclasses.replace(model, params=params, network=model.network.clone(attend=attend, place=anywhere)))


def _waveforms(evaluator: Evaluator, frontend: FrontendSpec) -> Iterator[Float32[np.ndarray, '_']]:
    """Clips from all over the split, as far as the model takes one whole; others for those that cannot be read."""
    source, found = evaluator.source, 0
    longest = windows.choose(frontend, 0.0).whole
    count = len(source.keys)
    spread = np.linspace(0, count - 1, min(_TIMED, count)).round().astype(int).tolist()
    for clip in dict.fromkeys([*spread, *range(count)]):
        if found == _TIMED:
            return
        try:
            yield source.read(clip)[:longest]
            found += 1
        except (AudioError, DataError):
            continue  # evaluation tells


def table(found: Sequence[Found], frontend: FrontendSpec) -> str:
    """Savings as a Markdown table, by their budgets."""
    names = ['budget (tokens)', 'frame shift (ms)', 'kept', 'tokens', 'seconds', 'latency (ms)', 'clips', 'shortened',
             *METRICS.values()]  # fmt: skip
    lines = [tables.row(names), tables.row(['---:', '---:', ':---', *['---:'] * (len(names) - 3)])]
    for one in sorted(found, key=lambda one: (one.saving.tokens, one.saving.ratio, one.saving.how)):
        evaluation, saving = one.evaluation, one.saving
        accuracy, *others = (getattr(evaluation.metrics, name) for name in METRICS)
        lines.append(tables.row([
            str(saving.tokens), f'{_shift_ms(saving, frontend):g}', 'all' if one.all_fit else IN_WORDS[saving.how],
            f'{evaluation.tokens:.1f}', f'{evaluation.seconds:.2f}', f'{one.latency_ms:.2f}', str(evaluation.metrics.clips),
            str(evaluation.cut), tables.percent(accuracy), *map(tables.number, others)]))  # fmt: skip
    return '\n'.join(lines)


def write(
    found: Sequence[Found], best: Sequence[Measured], model: Trained, overrides: Sequence[str], workdir: Workdir, timed: int
) -> tuple[PurePath, ...]:
    """Writes `budget.json`, `.md` and `.png` into the folder of evaluations; NaN is null and a dash.

    Args:
        found: What was evaluated.
        best: The best of each budget.
        model: What was evaluated.
        overrides: What was changed of its config.
        workdir: Of the model.
        timed: Clips whose latency was measured.

    Raises:
        WriteError: One of the files cannot be written; it is as it was.
    """
    json_file, table_file, plot_file = (workdir.evaluations / f'budget.{suffix}' for suffix in ('json', 'md', 'png'))
    frontend, metric = model.config.frontend, model.config.train.scored_by()
    skipped = tuple(dict.fromkeys(message for one in found for message in one.evaluation.skipped))
    values = {
        'sweep': 'budget', 'checkpoint': model.description, 'step': model.step, 'overrides': list(overrides), 'metric': metric,
        'latency_clips': timed, 'device': jax.local_devices()[0].device_kind,
        'points': [_values(one, frontend) | {'best': one.measured() in best} for one in found], 'skipped': list(skipped),
    }  # fmt: skip
    write_text(json_file, json.dumps(without_nan(values), indent=2) + '\n')

    chosen = [one for one in found if one.measured() in best]
    lines = [f'Token budgets; {tables.text(model.description)}; latency on {jax.local_devices()[0].device_kind}.', '',
             'The best of each budget:', '', table(chosen, frontend), '', 'All:', '', table(found, frontend), '',
             _EXPLANATION.format(clips=counted(timed, 'clip'))]  # fmt: skip
    if overrides:
        lines += ['', f'With {tables.text(", ".join(overrides))}.']
    if skipped:
        lines += ['', f'Clips that could not be used, and are left out: {len(skipped)}.', '']
        lines += [f'- {tables.text(message)}' for message in skipped]
    write_text(table_file, '\n'.join(lines) + '\n')

    factor, label = (100.0, 'accuracy (%)') if metric == 'accuracy' else (1.0, METRICS[metric])
    points = [
        budget_plot.Point(
            f'{_shift_ms(one.saving, frontend):g} ms', IN_WORDS[one.saving.how], one.all_fit, one.evaluation.tokens,
            one.evaluation.seconds, one.latency_ms, factor * one.score, one.measured() in best)
        for one in found
    ]  # fmt: skip
    plots.save(budget_plot.budgets(points, f'Token budgets; {model.description}', label), plot_file)
    return json_file, table_file, plot_file


def _values(one: Found, frontend: FrontendSpec) -> dict[str, Any]:
    """A point of the JSON file."""
    evaluation, saving = one.evaluation, one.saving
    return {
        'budget': saving.tokens, 'ratio': saving.ratio, 'shift_ms': _shift_ms(saving, frontend),
        'how': 'all' if one.all_fit else saving.how, 'tokens': evaluation.tokens, 'seconds': evaluation.seconds,
        'latency_ms': one.latency_ms, 'clips': evaluation.metrics.clips, 'shortened': evaluation.cut,
        'windowed': evaluation.windowed, **{name: getattr(evaluation.metrics, name) for name in METRICS},
    }  # fmt: skip


def _shift_ms(saving: Saving, frontend: FrontendSpec) -> float:
    return 1000 * frontend.shift(saving.ratio) / frontend.sample_rate
