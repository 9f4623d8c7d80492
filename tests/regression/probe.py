"""Read numbers of a trained model from the package itself, in a process of its own; see `drive`.

    python probe.py keys          print the configuration keys that the package knows, as JSON
    python probe.py JOB.json...   run the commands of jobs in their folders, then write the numbers

The table `PLACES` is all that knows where the package keeps things: newest place first.
"""

import contextlib
import importlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

PACKAGE = 'elastic_ast_jax'
PLACES = {
    'Config': ('config.schema:Config', 'config:Config'),
    'Evaluator': ('evaluation.evaluator:Evaluator', 'evaluator:Evaluator'),
    'Workdir': ('checkpointing.workdir:Workdir', 'workdir:Workdir'),
    'evaluation': ('data.splits:make_eval_planner', 'data.splits:evaluation'),
    'explain': (
        'inference.explanation:explain',
        'inference.explanation:listen',
        'inference.explain:listen',
    ),
    'jit_eval_step': (
        'training.compiled_steps:jit_eval_step',
        'distributed.partitioning:jit_eval_step',
        'distributed.mesh:jit_eval_step',
        'distributed.sharding:jit_eval_step',
        'sharding:jit_eval_step',
    ),
    'load': (':load',),
    'loss': ('training.factory:make_loss', 'training.factory:loss', 'build:loss'),
    'main': ('cli.main:main', 'cli:main'),
    'make_eval_step': ('training.step:make_eval_step', 'train_step:make_eval_step'),
    'make_mesh': (
        'distributed.mesh:make_mesh',
        'distributed.sharding:make_mesh',
        'sharding:make_mesh',
    ),
    'open_model': (
        'checkpointing.load_model:load_model',
        'checkpointing.load_model:open_model',
        'trained:open_model',
    ),
    'open_source': ('data.splits:open_source',),
    'planner': ('data.splits:make_train_planner', 'data.splits:planner'),
}
# Fields of the sampled clips of a plan, and names that they have had before.
SAMPLED_CLIPS = {
    'clip': ('index', 'clip'),
    'partner': ('partner',),
    'weight': ('weight',),
    'shift': ('shift',),
    'start': ('start',),
    'samples': ('samples',),
    'frames': ('frames',),
    'time_patches': ('time_patches',),
    'kept': ('tokens', 'kept'),
    'freq_start': ('freq_start',),
    'freq_width': ('freq_width',),
    'time_start': ('time_start',),
    'time_width': ('time_width',),
    'warp_from': ('warp_from',),
    'warp_to': ('warp_to',),
}
# Fields of an explanation, and names that they have had.
EXPLANATION = {
    'log_mel': ('log_mel',),
    'frame_edges': ('frame_edges',),
    'attention': ('attention',),
    'even': ('uniform', 'even'),
    'patch_edges': ('patch_edges',),
}


def find(name: str) -> Any:
    """Return a function or class of the package from the first place of the table that has it."""
    for place in PLACES[name]:
        module, _, attribute = place.partition(':')
        try:
            found_in = importlib.import_module(f'{PACKAGE}.{module}' if module else PACKAGE)
        except ModuleNotFoundError as error:
            if not (error.name or '').startswith(PACKAGE):
                raise
            continue
        if hasattr(found_in, attribute):
            return getattr(found_in, attribute)
    raise LookupError(
        f'{name}: none of {", ".join(PLACES[name])} is in {PACKAGE}; add its place to PLACES'
    )


def main(arguments: list[str]) -> None:
    """Print the keys, or do jobs."""
    if arguments == ['keys']:
        print(json.dumps(list(find('Config')().flat())))
        return
    for path in map(Path, arguments):
        with contextlib.chdir(path.parent):
            do(json.loads(Path(path.name).read_text('utf-8')))


def do(job: dict[str, Any]) -> None:
    """Run the commands of a job, and write the numbers of its workdir."""
    for name, arguments in job['commands'].items():
        with open(f'{name}.txt', 'w', encoding='utf-8') as file, contextlib.redirect_stdout(file):
            code = find('main')(arguments)
        if code:
            sys.exit(f'{" ".join(arguments)}: exit code {code}')
    numbers = plans(job['workdir']) | evaluation_logits(job['workdir']) | use(job)
    np.savez(job['out'], allow_pickle=False, **numbers)


def plans(path: str) -> dict[str, np.ndarray]:
    """Return the plans of the first two epochs of training, and that of evaluation."""
    config = find('Workdir')(path).config()
    planner = find('planner')(config, find('open_source')(config, 'train'))
    _, of_evaluation = find('evaluation')(config, find('open_source')(config, 'eval'))
    numbers = {}
    for name, plan in (
        ('0', planner.epoch(0)),
        ('1', planner.epoch(1)),
        ('evaluation', of_evaluation.epoch(0)),
    ):
        for field, names in SAMPLED_CLIPS.items():
            clips = plan.clips if hasattr(plan, 'clips') else plan.draws
            attribute = next(each for each in names if hasattr(clips, each))
            numbers[f'plan/{name}/{field}'] = np.asarray(getattr(clips, attribute))
        numbers[f'plan/{name}/row_clips'] = np.asarray(plan.rows.clips)
        numbers[f'plan/{name}/row_offsets'] = np.asarray(plan.rows.offsets)
    return numbers


def evaluation_logits(path: str) -> dict[str, np.ndarray]:
    """Return the logits of all clips of the evaluation split."""
    import jax

    config = find('Workdir')(path).config()
    mesh = find('make_mesh')(config.mesh)
    model = find('open_model')(path, mesh=mesh)

    def apply(params, batch):
        return model.network.apply({'params': params}, batch)

    placement = jax.tree.map(lambda leaf: leaf.sharding, model.params)
    step = find('jit_eval_step')(
        find('make_eval_step')(apply, find('loss')(config)), mesh, placement
    )
    evaluator = find('Evaluator')(config, model.labels, step, mesh)
    logits = evaluator.logits if hasattr(evaluator, 'logits') else evaluator.scores
    return {'evaluation/logits': logits(model.params)}


def use(job: dict[str, Any]) -> dict[str, np.ndarray]:
    """Return predictions, timelines and an explanation at full precision."""
    model, numbers = find('load')(job['workdir']), {}
    frontend = model.config.frontend
    log_mels = [
        formula(frontend.mel_bins, frames)
        for frames in (frontend.max_frames, frontend.max_frames // 3)
    ]
    numbers['prediction/logits'] = model.logits(log_mels)
    for number, result in enumerate(model.timeline(job['clips'], overlap=0.25)):
        numbers[f'timeline/{number}'] = np.stack(
            [entry['probabilities'] for entry in result['timeline']]
        )
    if job['explained']:
        explanation = find('explain')(model, job['clips'][-1])
        for field, names in EXPLANATION.items():
            attribute = next(each for each in names if hasattr(explanation, each))
            numbers[f'explanation/{field}'] = np.asarray(getattr(explanation, attribute))
    return numbers


def formula(mels: int, frames: int) -> np.ndarray:
    """Return a log-mel `[mels, frames]` that is computed by a formula."""
    grid = np.arange(mels)[:, None] * 7 + np.arange(frames)[None] * 3
    return ((grid % 23) / 11.0 - 1.0).astype(np.float32)


if __name__ == '__main__':
    main(sys.argv[1:])
