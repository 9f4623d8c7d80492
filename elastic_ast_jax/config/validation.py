"""What a configuration must fulfil, within a key and between them."""

import dataclasses
import difflib
import math
from collections.abc import Sequence

from elastic_ast_jax.config.model_sizes import SIZES
from elastic_ast_jax.config.schema import RENAMED_VALUES, Config, Model

# Sources made of files of the user's: what data.train and data.eval are, and what that looks like.
_FILES = {
    'manifest': ('a manifest', 'FILE.jsonl or .csv'),
    'json': ('a JSON file of recordings and labels', 'FILE.json'),
    'folders': ('a folder of class folders', 'FOLDER'),
}


def problems(config: Config) -> list[str]:
    """What is wrong with values or their combination, one sentence each; empty if nothing is."""
    found = config.frontend.problems()

    def need(condition: bool, problem: str) -> None:
        if not condition:
            found.append(problem)

    def one_of(key: str, choices: Sequence[str]) -> None:
        value = config.flat()[key]
        if value not in choices:
            near = difflib.get_close_matches(value, choices, 1)
            hint = f'; did you mean {near[0]!r}?' if near else ''
            if new := RENAMED_VALUES.get(key, {}).get(value):
                hint = f'; {value!r} is {new!r} now'
            found.append(f'{key}={value!r} must be one of {", ".join(map(repr, choices))}{hint}')

    def within(key: str, low: int, high: int | float = math.inf, below: bool = False) -> None:
        value = config.flat()[key]
        if not (low <= value < high if below else low <= value <= high):
            limit = (
                f'at least {low}'
                if high == math.inf
                else f'from {low} {"to below" if below else "to"} {high}'
            )
            found.append(f'{key}={value} must be {limit}')

    data, front, augment, packing = config.data, config.frontend, config.augment, config.packing
    one_of('data.source', tuple(_FILES) + ('tfds', 'fsdd', 'synthetic'))
    one_of('data.too_long', ('error', 'crop', 'window'))
    one_of('data.on_bad_audio', ('error', 'skip'))
    for key in ('train', 'eval', 'root', 'label_csv'):
        place = getattr(data, key)
        need(
            '://' not in place,
            f'data.{key}={place!r} is no local path: copy the data here, or mount the bucket'
            ' (gcsfuse) and give its folder',
        )
    for key in (
        'data.synthetic_train',
        'data.synthetic_eval',
        'packing.rows',
        'packing.slots',
        'packing.tokens',
        'train.epochs',
        'train.log_every',
        'train.max_checkpoints',
        'train.eval_every',
        'train.grad_accumulation_steps',
        'optimizer.decay_from',
    ):
        within(key, 1)
    within('train.seed', 0, 2**32 - 1)  # what JAX makes a key of
    for key in (
        'data.num_workers',
        'train.save_every',
        'augment.prefix_frames',
        'augment.freq_mask',
        'optimizer.weight_decay',
        'optimizer.clip_norm',
        'optimizer.warmup_epochs',
        'model.width',
        'model.depth',
        'model.heads',
        'data.tfds_rate',
        'augment.freq_masks',
        'augment.time_masks',
        'augment.cut_seconds',
        'train.profile_steps',
    ):
        within(key, 0)
    for key in (
        'augment.token_dropout',
        'augment.time_mask',
        'augment.time_warp',
        'train.label_smoothing',
        'train.ema',
        'data.overlap',
        'optimizer.b1',
        'optimizer.b2',
    ):
        within(key, 0, 1, below=True)
    within('augment.mixup', 0, 1)
    need(0 < data.eval_share < 1, f'data.eval_share={data.eval_share} must be above 0 and below 1')
    need(augment.mixup_beta > 0, f'augment.mixup_beta={augment.mixup_beta} must be positive')
    one_of('augment.mask_fill', ('zero', 'mean'))
    need(
        not augment.mixup or config.train.loss == 'bce',
        f"augment.mixup={augment.mixup} makes fractions of labels: set train.loss='bce', or"
        ' augment.mixup=0',
    )
    need(
        not (augment.cut_seconds and augment.prefix_frames),
        'augment.cut_seconds and augment.prefix_frames both cut clips to a random length: set one'
        ' of them to 0',
    )
    if packing.rows > 0 and config.train.grad_accumulation_steps > 0:
        need(
            packing.rows % config.train.grad_accumulation_steps == 0,
            f'packing.rows={packing.rows} does not divide into'
            f' train.grad_accumulation_steps={config.train.grad_accumulation_steps} parts',
        )
    need(
        bool(augment.ratios) and min(augment.ratios, default=0) > 0,
        f'augment.ratios={augment.ratios} must be positive',
    )
    need(
        augment.freq_mask <= front.mel_bins,
        f'augment.freq_mask={augment.freq_mask} is more than frontend.mel_bins={front.mel_bins}',
    )
    if not front.problems():
        need(
            min((front.shift(ratio) for ratio in augment.ratios if ratio > 0), default=1) > 0,
            f'augment.ratios={augment.ratios}: the smallest gives a frame shift of no samples',
        )
        longest = front.mel_patches * front.max_time_patches
        need(
            longest <= packing.tokens,
            f'frontend.max_frames={front.max_frames} needs'
            f' {front.mel_patches}*{front.max_time_patches}={longest} tokens, but'
            f' packing.tokens={packing.tokens}: raise packing.tokens, or lower frontend.max_frames'
            f' to {packing.tokens // front.mel_patches * front.patch_frames}',
        )
        need(
            augment.prefix_frames <= front.max_frames,
            f'augment.prefix_frames={augment.prefix_frames} is more than'
            f' frontend.max_frames={front.max_frames}',
        )
    one_of('model.size', tuple(SIZES))
    if (
        config.model.size in SIZES
        and min(config.model.width, config.model.depth, config.model.heads) >= 0
    ):
        size = config.model.resolved_size()
        need(
            size.width % size.heads == 0,
            f'model.width={size.width} does not divide over {size.heads} heads: set model.heads or'
            ' another width',
        )
    one_of('model.kind', ('elastic_ast', 'ast'))
    one_of('model.pool', ('attention', 'mean'))
    need(
        not config.init.published_quirks or not config.model.scaled or config.model.kind == 'ast',
        'init.published_quirks=True goes with unscaled attention, as the published code has it: set'
        ' model.scaled=False',
    )
    need(config.model.eps > 0, f'model.eps={config.model.eps} must be positive')
    found += (
        _ast_problems(config)
        if config.model.kind == 'ast'
        else [
            f"model.{key}={value!r} goes with model.kind='ast': leave it out"
            for key, value in (('stride', config.model.stride), ('frames', config.model.frames))
            if value != getattr(Model, key)
        ]
    )
    one_of(
        'model.attention', ('auto', 'reference', 'blocked', 'splash', 'pallas', 'tokamax', 'cudnn')
    )
    one_of('model.dtype', ('auto', 'float32', 'bfloat16'))
    axes = dataclasses.asdict(config.mesh)
    for axis, size in axes.items():
        need(
            size == -1 or size > 0,
            f'mesh.{axis}={size} must be a positive number of devices, or -1 for what is left',
        )
    left = [f'mesh.{axis}=-1' for axis, size in axes.items() if size == -1]
    need(len(left) <= 1, f'{", ".join(left)}: one axis at most can take what is left')
    one_of('train.loss', ('cross_entropy', 'bce'))
    one_of('train.metric', ('auto', 'accuracy', 'mean_average_precision'))
    need(
        not (config.train.loss == 'bce' and config.train.label_smoothing),
        "train.label_smoothing goes with train.loss='cross_entropy' only: set it to 0",
    )
    one_of('optimizer.kind', ('adamw', 'adam_l2'))
    one_of('optimizer.schedule', ('cosine', 'constant', 'published'))
    need(
        config.optimizer.learning_rate > 0,
        f'optimizer.learning_rate={config.optimizer.learning_rate} must be positive',
    )
    need(
        0 < config.optimizer.layer_decay <= 1,
        f'optimizer.layer_decay={config.optimizer.layer_decay} must be above 0 and at most 1',
    )
    need(
        0 < config.optimizer.decay_factor <= 1,
        f'optimizer.decay_factor={config.optimizer.decay_factor} must be above 0 and at most 1',
    )
    need(
        config.optimizer.eps > 0,
        f'optimizer.eps={config.optimizer.eps} must be positive',
    )
    return found


def missing(config: Config) -> list[str]:
    """What has no default and training takes: data, and weights where a key is about them."""
    quirks = [
        'init.published_quirks=True is about weights that training starts from: give them with'
        ' --config.init.from=PATH'
    ]
    return missing_data(config) + (
        quirks if config.init.published_quirks and not config.init.from_ else []
    )


def missing_data(config: Config) -> list[str]:
    """What the source of the data takes and is not given."""
    data = config.data
    found = [
        f'data.{key} is empty: give {_FILES[data.source][0]} with'
        f' --config.data.{key}={_FILES[data.source][1]}'
        for key in ('train', 'eval')
        if data.source in _FILES and not getattr(data, key)
    ]
    if data.source == 'json' and not data.label_csv:
        found.append(
            'data.label_csv is empty: give the CSV of the classes with'
            ' --config.data.label_csv=FILE.csv'
        )
    if data.source == 'tfds' and not data.tfds_name:
        found.append('data.tfds_name is empty: give the data set with --config.data.tfds_name=NAME')
    return found


def _ast_problems(config: Config) -> list[str]:
    """What the fixed-length baseline asks for:

    clips of one length, whole, each at its place in a row.
    """
    model, front, packing = config.model, config.frontend, config.packing
    found = []
    if model.pool != Model.pool:
        found.append(f"model.pool={model.pool!r} goes with model.kind='elastic_ast': leave it out")
    if config.init.published_quirks:
        found.append(
            "init.published_quirks=True goes with model.kind='elastic_ast': the published AST has"
            ' none of them'
        )
    if front.min_frames != front.max_frames:
        found.append(
            f'frontend.min_frames={front.min_frames} must be frontend.max_frames={front.max_frames}'
            ' with '
            f"model.kind='ast', so that all clips are padded to its one length"
        )
    if config.augment.token_dropout:
        found.append(
            f'augment.token_dropout={config.augment.token_dropout} does not go with'
            " model.kind='ast', whose patches have fixed places: set it to 0"
        )
    if front.problems():
        return found
    patch = front.patch_mels, front.patch_frames
    if len(model.stride) != 2 or not all(
        1 <= stride <= size for stride, size in zip(model.stride, patch, strict=False)
    ):
        found.append(
            f'model.stride={model.stride} must be two numbers, for mel bins and frames, each from 1'
            f' to the patch size {patch}'
        )
    if not (
        model.frames == 0
        or front.max_frames - front.patch_frames < model.frames <= front.max_frames
    ):
        found.append(
            f'model.frames={model.frames} must be 0, or from'
            f' {front.max_frames - front.patch_frames + 1} to'
            f' frontend.max_frames={front.max_frames}'
        )
    tokens = front.mel_patches * front.max_time_patches
    if packing.slots > 0 and packing.tokens < packing.slots * tokens:
        found.append(
            f'packing.tokens={packing.tokens} must hold packing.slots={packing.slots} clips of'
            f' {tokens} tokens with '
            f"model.kind='ast': set packing.tokens={packing.slots * tokens}, or "
            f'packing.slots={max(1, packing.tokens // tokens)}'
        )
    return found
