"""Check a config: each value, and values that have to go together."""

import dataclasses
import difflib
from collections.abc import Sequence
from typing import Any

from elastic_ast_jax.config import divisions, limits
from elastic_ast_jax.config.model_sizes import SIZES
from elastic_ast_jax.config.schema import (
    RENAMED_VALUES,
    Augment,
    Config,
    Data,
    Mesh,
    Model,
    Optimizer,
    Packing,
    Train,
)

# Sources that consist of files: what data.train and data.eval name, and how to write it.
_FILES = {
    'manifest': ('a manifest', 'FILE.jsonl or .csv'),
    'json': ('a JSON file of recordings and labels', 'FILE.json'),
    'folders': ('a folder of class folders', 'FOLDER'),
}


def problems(config: Config) -> list[str]:
    """Return the problems of values and of their combinations, one sentence each."""
    if absurd := limits.problems(config.flat()):
        return absurd  # the other checks compute with the values
    return [
        *config.frontend.problems(),
        *_data_problems(config.data),
        *divisions.problems(config.data),
        *augment_problems(config.augment),
        *_packing_problems(config.packing),
        *_model_problems(config.model),
        *_mesh_problems(config.mesh),
        *_train_problems(config.train),
        *_optimizer_problems(config.optimizer),
        *_clip_problems(config),
        *_combination_problems(config),
        *(_ast_problems(config) if config.model.kind == 'ast' else _elastic_ast_problems(config)),
    ]


def missing(config: Config) -> list[str]:
    """Return what training lacks: data, and weights where a key is about them."""
    quirks = [
        'init.published_quirks=True is about weights that training starts from: give them with'
        ' --config.init.from=PATH'
    ]
    return missing_data(config) + (
        quirks if config.init.published_quirks and not config.init.from_ else []
    )


def missing_data(config: Config) -> list[str]:
    """Return what the source of the data lacks."""
    data = config.data
    texts = [
        f'data.{key} is empty: give {_FILES[data.source][0]} with'
        f' --config.data.{key}={_FILES[data.source][1]}'
        for key in ('train', 'eval')
        if data.source in _FILES
        and not getattr(data, key)
        and not (key == 'eval' and data.folds)  # whose clips are not used
    ]
    if data.source == 'json' and not data.label_csv:
        texts.append(
            'data.label_csv is empty: give the CSV of the classes with'
            ' --config.data.label_csv=FILE.csv'
        )
    if data.source == 'tfds' and not data.tfds_name:
        texts.append('data.tfds_name is empty: give the data set with --config.data.tfds_name=NAME')
    return texts


def augment_problems(augment: Augment) -> list[str]:
    """Return the problems of the augmentation's own values, one sentence each."""
    checks = _Checks('augment', augment)
    checks.at_least(
        0,
        'prefix_frames',
        'cut_seconds',
        'crop_seconds',
        'freq_mask',
        'freq_masks',
        'time_masks',
        'mel_shift',
    )
    checks.below_one('token_dropout', 'random_token_dropout', 'time_mask', 'time_warp')
    checks.need(
        not (augment.token_dropout and augment.random_token_dropout),
        f'augment.random_token_dropout={augment.random_token_dropout} replaces'
        f' augment.token_dropout={augment.token_dropout}: set one of them to 0',
    )
    for name in ('mixup', 'roll', 'noise'):
        checks.within(name, 0, 1)
    checks.positive('mixup_beta')
    checks.one_of('mask_fill', ('zero', 'mean'))
    checks.need(
        bool(augment.ratios) and min(augment.ratios, default=0) > 0,
        f'augment.ratios={augment.ratios} must be positive',
    )
    return checks.problems


class _Checks:
    """Checks of a section's values, which collect problems.

    Attributes:
        problems: One sentence each.
    """

    def __init__(self, section: str, values: Any):
        self.problems: list[str] = []
        self._section, self._values = section, values

    def need(self, condition: object, problem: str) -> None:
        """Require a condition."""
        if not condition:
            self.problems.append(problem)

    def one_of(self, name: str, choices: Sequence[str]) -> None:
        """Require one of these values."""
        key, value = f'{self._section}.{name}', getattr(self._values, name)
        if value in choices:
            return
        near = difflib.get_close_matches(value, choices, 1)
        hint = f'; did you mean {near[0]!r}?' if near else ''
        if new := RENAMED_VALUES.get(key, {}).get(value):
            hint = f'; {value!r} is {new!r} now'
        self.problems.append(
            f'{key}={value!r} must be one of {", ".join(map(repr, choices))}{hint}'
        )

    def at_least(self, low: int, *names: str) -> None:
        """Require values from a number on."""
        for name in names:
            value = getattr(self._values, name)
            self.need(value >= low, f'{self._section}.{name}={value} must be at least {low}')

    def within(self, name: str, low: int, high: int) -> None:
        """Require a value between two numbers, or one of them."""
        value = getattr(self._values, name)
        self.need(
            low <= value <= high, f'{self._section}.{name}={value} must be from {low} to {high}'
        )

    def below_one(self, *names: str) -> None:
        """Require values from 0 to below 1."""
        for name in names:
            value = getattr(self._values, name)
            self.need(0 <= value < 1, f'{self._section}.{name}={value} must be from 0 to below 1')

    def positive(self, *names: str) -> None:
        """Require values above 0."""
        for name in names:
            value = getattr(self._values, name)
            self.need(value > 0, f'{self._section}.{name}={value} must be positive')

    def share(self, *names: str) -> None:
        """Require values above 0 and at most 1."""
        for name in names:
            value = getattr(self._values, name)
            self.need(
                0 < value <= 1, f'{self._section}.{name}={value} must be above 0 and at most 1'
            )


def _data_problems(data: Data) -> list[str]:
    checks = _Checks('data', data)
    checks.one_of('source', (*_FILES, 'tfds', 'fsdd', 'synthetic', 'presets'))
    checks.one_of('too_long', ('error', 'crop', 'window'))
    checks.one_of('on_bad_audio', ('error', 'skip'))
    for name in ('train', 'eval', 'root', 'label_csv'):
        path = getattr(data, name)
        checks.need(
            '://' not in path,
            f'data.{name}={path!r} is no local path: copy the data here, or mount the bucket'
            ' (gcsfuse) and give its folder',
        )
    checks.at_least(1, 'synthetic_train', 'synthetic_eval', 'synthetic_presets')
    checks.at_least(0, 'num_workers', 'tfds_rate')
    checks.below_one('overlap', 'validation_share')
    checks.need(
        data.label_separator,
        "data.label_separator='' must not be empty: it is ';' or ',' as a rule",
    )
    checks.need(
        0 < data.eval_share < 1, f'data.eval_share={data.eval_share} must be above 0 and below 1'
    )
    return checks.problems


def _packing_problems(packing: Packing) -> list[str]:
    checks = _Checks('packing', packing)
    checks.at_least(1, 'rows', 'slots', 'tokens')
    return checks.problems


def _model_problems(model: Model) -> list[str]:
    checks = _Checks('model', model)
    checks.one_of('kind', ('elastic_ast', 'ast'))
    checks.one_of('size', tuple(SIZES))
    checks.at_least(0, 'width', 'depth', 'heads')
    if model.size in SIZES and min(model.width, model.depth, model.heads) >= 0:
        size = model.resolved_size()
        checks.need(
            size.width % size.heads == 0,
            f'model.width={size.width} does not divide over {size.heads} heads: set model.heads or'
            ' another width',
        )
    checks.one_of('pool', ('attention', 'mean'))
    checks.below_one('drop_path')
    checks.positive('eps')
    checks.one_of(
        'attention', ('auto', 'reference', 'blocked', 'splash', 'pallas', 'tokamax', 'cudnn')
    )
    checks.one_of('dtype', ('auto', 'float32', 'bfloat16'))
    return checks.problems


def _mesh_problems(mesh: Mesh) -> list[str]:
    checks, axes = _Checks('mesh', mesh), dataclasses.asdict(mesh)
    for axis, size in axes.items():
        checks.need(
            size == -1 or size > 0,
            f'mesh.{axis}={size} must be a positive number of devices, or -1 for the remaining'
            ' ones',
        )
    open_axes = [f'mesh.{axis}=-1' for axis, size in axes.items() if size == -1]
    checks.need(
        len(open_axes) <= 1, f'{", ".join(open_axes)}: only one axis can take the remaining devices'
    )
    return checks.problems


def _train_problems(train: Train) -> list[str]:
    checks = _Checks('train', train)
    checks.within('seed', 0, 2**32 - 1)  # the seeds that JAX accepts
    checks.at_least(
        1, 'epochs', 'log_every', 'max_checkpoints', 'eval_every', 'grad_accumulation_steps'
    )
    checks.at_least(0, 'save_every', 'profile_steps', 'patience', 'freeze_epochs')
    checks.need(
        not train.freeze_epochs or bool(train.freeze),
        f'train.freeze_epochs={train.freeze_epochs} is the time that parameters stay constant: name'
        ' them with train.freeze, or set it to 0',
    )
    checks.below_one('label_smoothing', 'ema')
    checks.one_of('loss', ('cross_entropy', 'bce'))
    checks.one_of('class_weights', ('none', 'balanced'))
    checks.one_of('metric', ('auto', 'accuracy', 'mean_average_precision'))
    checks.need(
        not (train.loss == 'bce' and train.label_smoothing),
        "train.label_smoothing goes with train.loss='cross_entropy' only: set it to 0",
    )
    return checks.problems


def _optimizer_problems(optimizer: Optimizer) -> list[str]:
    checks = _Checks('optimizer', optimizer)
    checks.one_of('kind', ('adamw', 'adam_l2'))
    checks.one_of('schedule', ('cosine', 'constant', 'published'))
    checks.positive('learning_rate', 'eps')
    checks.below_one('warmup_start')
    checks.need(
        not optimizer.warmup_start or optimizer.schedule == 'constant',
        f'optimizer.warmup_start={optimizer.warmup_start} goes with'
        " optimizer.schedule='constant': set it to 0",
    )
    checks.need(
        not optimizer.decay_all or optimizer.kind == 'adamw',
        "optimizer.decay_all=True goes with optimizer.kind='adamw': adam_l2 decays every"
        ' parameter anyway',
    )
    checks.at_least(0, 'weight_decay', 'clip_norm', 'warmup_epochs')
    checks.at_least(1, 'decay_from')
    checks.below_one('b1', 'b2')
    checks.share('layer_decay', 'decay_factor')
    return checks.problems


def _clip_problems(config: Config) -> list[str]:
    """Return the problems of the frontend with augmentation and rows."""
    augment, front, packing = config.augment, config.frontend, config.packing
    checks = _Checks('augment', augment)
    checks.need(
        augment.freq_mask <= front.mel_bins,
        f'augment.freq_mask={augment.freq_mask} is more than frontend.mel_bins={front.mel_bins}',
    )
    checks.need(
        augment.mel_shift <= front.mel_bins / 2,
        f'augment.mel_shift={augment.mel_shift} is more than half of'
        f' frontend.mel_bins={front.mel_bins}',
    )
    if front.problems():
        return checks.problems
    checks.need(
        min((front.shift(ratio) for ratio in augment.ratios if ratio > 0), default=1) > 0,
        f'augment.ratios={augment.ratios}: the smallest gives a frame shift of no samples',
    )
    longest = front.mel_patches * front.max_time_patches
    checks.need(
        longest <= packing.tokens,
        f'frontend.max_frames={front.max_frames} needs'
        f' {front.mel_patches}*{front.max_time_patches}={longest} tokens, but'
        f' packing.tokens={packing.tokens}: raise packing.tokens, or lower frontend.max_frames'
        f' to {packing.tokens // front.mel_patches * front.patch_frames}',
    )
    checks.need(
        augment.prefix_frames <= front.max_frames,
        f'augment.prefix_frames={augment.prefix_frames} is more than'
        f' frontend.max_frames={front.max_frames}',
    )
    return checks.problems


def _combination_problems(config: Config) -> list[str]:
    """Return the problems of other values that have to go together."""
    augment, rows, parts = (
        config.augment,
        config.packing.rows,
        config.train.grad_accumulation_steps,
    )
    texts = []
    if augment.mixup and config.train.loss != 'bce':
        texts.append(
            f"augment.mixup={augment.mixup} makes fractions of labels: set train.loss='bce', or"
            ' augment.mixup=0'
        )
    if config.train.class_weights == 'balanced' and config.data.balanced:
        texts.append(
            "train.class_weights='balanced' and data.balanced=True both favor rare classes: set one"
            " of them to 'none' or False"
        )
    if config.train.patience > 0 and config.data.validation_share == 0:
        texts.append(
            f'train.patience={config.train.patience} needs clips that are neither trained on nor'
            ' evaluated in the end: hold out a part of the training clips with'
            ' data.validation_share=0.2, or set train.patience=0'
        )
    if augment.cut_seconds and augment.prefix_frames:
        texts.append(
            'augment.cut_seconds and augment.prefix_frames both crop clips to a random length: set'
            ' one of them to 0'
        )
    if rows > 0 and parts > 0 and rows % parts:
        texts.append(
            f'packing.rows={rows} does not divide into train.grad_accumulation_steps={parts} parts'
        )
    return texts


def _elastic_ast_problems(config: Config) -> list[str]:
    """Return keys of the fixed-length baseline, and quirks of another network."""
    model = config.model
    texts = [
        f"model.{key}={value!r} goes with model.kind='ast': leave it out"
        for key, value in (
            ('stride', model.stride),
            ('frames', model.frames),
            ('prefix_tokens', model.prefix_tokens),
        )
        if value != getattr(Model, key)
    ]
    if model.statistics and config.frontend.partial != 'pad':
        texts.append(
            f'model.statistics=True counts frames, and frontend.partial={config.frontend.partial!r}'
            " fills a clip's last patch with frames that are not 0: set frontend.partial='pad'"
        )
    if config.init.published_quirks and model.scaled:
        texts.append(
            'init.published_quirks=True goes with unscaled attention, as the published code has it:'
            ' set model.scaled=False'
        )
    return texts


def _ast_problems(config: Config) -> list[str]:
    """Return the problems of the fixed-length baseline.

    Its clips have one length, keep all tokens, and have fixed places in a row.
    """
    model, front, packing = config.model, config.frontend, config.packing
    texts = []
    if model.pool != Model.pool:
        texts.append(f"model.pool={model.pool!r} goes with model.kind='elastic_ast': leave it out")
    if model.statistics:
        texts.append("model.statistics=True goes with model.kind='elastic_ast': leave it out")
    if config.init.published_quirks:
        texts.append(
            "init.published_quirks=True goes with model.kind='elastic_ast': the published AST has"
            ' none of them'
        )
    if front.min_frames != front.max_frames:
        texts.append(
            f'frontend.min_frames={front.min_frames} must be frontend.max_frames={front.max_frames}'
            " with model.kind='ast', so that all clips are padded to its one length"
        )
    for key in ('token_dropout', 'random_token_dropout'):
        if value := getattr(config.augment, key):
            texts.append(
                f"augment.{key}={value} does not go with model.kind='ast', whose patches have fixed"
                ' places: set it to 0'
            )
    if model.prefix_tokens not in (1, 2):
        texts.append(f'model.prefix_tokens={model.prefix_tokens} must be 1 or 2')
    if front.problems():
        return texts
    patch = front.patch_mels, front.patch_frames
    if len(model.stride) != 2 or not all(
        1 <= stride <= size for stride, size in zip(model.stride, patch, strict=True)
    ):
        texts.append(
            f'model.stride={model.stride} must be two numbers, for mel bins and frames, each from 1'
            f' to the patch size {patch}'
        )
    shortest = front.max_frames - front.patch_frames + 1
    if model.frames and not shortest <= model.frames <= front.max_frames:
        texts.append(
            f'model.frames={model.frames} must be 0, or from {shortest} to'
            f' frontend.max_frames={front.max_frames}'
        )
    tokens = front.mel_patches * front.max_time_patches
    if packing.slots > 0 and packing.tokens < packing.slots * tokens:
        texts.append(
            f'packing.tokens={packing.tokens} must hold packing.slots={packing.slots} clips of'
            f" {tokens} tokens with model.kind='ast': set packing.tokens={packing.slots * tokens},"
            f' or packing.slots={max(1, packing.tokens // tokens)}'
        )
    return texts
