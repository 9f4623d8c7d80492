"""The configuration: every key with its default and meaning, and the way from a file and overrides to a checked `Config`.

A config file is Python with `get_config() -> ml_collections.ConfigDict` that sets what differs from the defaults below.
`FILE:ARG` calls `get_config(ARG)`. Overrides are written `--config.section.key=value`. All problems, of whatever kind, are
reported together.
"""

import ast
import dataclasses
import difflib
import importlib.util
import inspect
import json
import math
import os
import typing
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from elastic_ast_jax.errors import UserError
from elastic_ast_jax.lengths import FrontendSpec
from elastic_ast_jax.models.sizes import SIZES, Size


class ConfigError(UserError):
    """A configuration that cannot be used; the message lists every problem."""

    def __init__(self, problems: Sequence[str]):
        count = '1 problem' if len(problems) == 1 else f'{len(problems)} problems'
        super().__init__(f'{count} in the configuration:\n' + '\n'.join(f'  - {problem}' for problem in problems))
        self.problems = tuple(problems)


@dataclasses.dataclass(frozen=True)
class Data:
    """Where the clips come from."""

    source: str = 'manifest'  # 'manifest', 'json' (AudioSet-style), 'folders', 'tfds', 'fsdd' or 'synthetic'
    train: str = ''  # manifest: training manifest, .jsonl or .csv; json: training file; folders: a folder of class folders
    eval: str = ''  # the same for evaluation; may be the same manifest if it has a column `split`, or the same folder
    train_split: str = 'train'  # manifest with a column `split`, and tfds: the split for training ...
    eval_split: str = 'test'  # ... and for evaluation
    eval_share: float = 0.2  # folders, where train and eval are the same: share of the clips that is held out
    label_csv: str = ''  # json: the CSV of the classes, with the columns index, mid and display_name
    root: str = ''  # fsdd: folder of the recordings; if empty, the data set `spoken_digit` of TensorFlow Datasets
    tfds_name: str = ''  # tfds: name of the data set, with its config and version if need be
    tfds_dir: str = ''  # tfds and fsdd: folder of the prepared data sets; if empty, TensorFlow Datasets' own
    tfds_audio: str = 'audio'  # tfds: features that hold the samples, ...
    tfds_label: str = 'label'  # ... the label or labels, ...
    tfds_key: str = ''  # ... and a clip's name; if empty, clips are known by a hash of their samples
    tfds_rate: int = 0  # tfds: sample rate in Hz where the features do not tell it
    synthetic_train: int = 6000  # synthetic: number of training clips ...
    synthetic_eval: int = 400  # ... and of evaluation clips
    too_long: str = 'error'  # clips beyond frontend.max_frames: 'error', 'crop' (training: at random, evaluation: the start),
    # or 'window' (training: at random, evaluation: windows, their logits averaged)
    overlap: float = 0.5  # evaluation and prediction of windows: share of a window that the next one repeats
    on_bad_audio: str = 'error'  # a recording that cannot be used: 'error', or 'skip' (left out, counted and listed)
    balanced: bool = False  # training draws clips with replacement, those with rare labels more often
    workers: int = 0  # rows read at a time; 0: one per processor


@dataclasses.dataclass(frozen=True)
class Augment:
    """What changes a training clip; see `data.draws.DrawSpec`."""

    ratios: tuple[float, ...] = (1.0,)  # frame-shift ratios, one drawn per clip
    prefix_frames: int = 0  # cut to a prefix of random length from this many frames on; 0: never
    cut_seconds: float = 0.0  # cut longer clips to a random length from this on, at a random place; 0: never
    token_dropout: float = 0.1  # share of tokens left out
    freq_mask: int = 48  # SpecAugment: narrower than this many mel bins; 0: none
    time_mask: float = 0.1875  # SpecAugment: narrower than this share of the clip's frames; 0: none
    freq_masks: int = 1  # number of frequency masks ...
    time_masks: int = 1  # ... and of time masks
    time_warp: float = 0.0  # SpecAugment: a point in time moves by less than this share of the clip's frames; 0: none
    mask_fill: str = 'zero'  # masks hold log-mel 0 ('zero') or the clip's mean log-mel ('mean')
    mixup: float = 0.0  # share of clips that are mixed with another; needs train.loss='bce'
    mixup_beta: float = 10.0  # the weight of a mixed clip is drawn from Beta(mixup_beta, mixup_beta)


@dataclasses.dataclass(frozen=True)
class Packing:
    """The static shape of a batch."""

    rows: int = 8  # rows of a global batch
    tokens: int = 2048  # tokens of a row
    slots: int = 32  # clips of a row at most


@dataclasses.dataclass(frozen=True)
class Model:
    """The network; see `models.elastic_ast.ElasticAST`."""

    size: str = 'Ti'  # Mi (128 wide, 4 blocks, 4 heads), Ti, S, B or L
    width: int = 0  # instead of the size's; 0: the size's
    depth: int = 0
    heads: int = 0
    pool: str = 'attention'  # 'attention' or 'mean'
    scaled: bool = True  # attention logits times 1/sqrt(head width); False: as the published code
    attention: str = 'auto'  # 'plain' or 'blocked'; 'auto': the faster one on this platform
    scan: bool = False  # loop over the blocks: compiles faster, runs slower on accelerators
    remat: bool = False  # compute activations again in the backward pass: less memory, more time
    dtype: str = 'auto'  # 'float32' or 'bfloat16'; 'auto': bfloat16 on accelerators

    def resolved(self) -> Size:
        """The named size with what is set instead."""
        named = SIZES[self.size]
        return Size(self.width or named.width, self.depth or named.depth, self.heads or named.heads)


@dataclasses.dataclass(frozen=True)
class Train:
    """The run."""

    seed: int = 0
    epochs: int = 40
    loss: str = 'cross_entropy'  # one label per clip; 'bce': any number of labels
    label_smoothing: float = 0.0
    accumulate: int = 1  # parts of a batch that are computed one after another: less memory, the same gradient
    ema: float = 0.0  # decay of the moving average of the parameters, which evaluation and prediction use; 0: none
    freeze: tuple[str, ...] = ()  # parameters that stay as they are: beginnings of names, such as encoder
    log_every: int = 10  # steps between lines in metrics.jsonl
    save_every: int = 0  # steps between checkpoints; 0: at the end of each epoch only
    keep: int = 3  # newest checkpoints kept, besides the best
    eval_every: int = 1  # epochs between evaluations; the last epoch is always evaluated
    wandb: str = ''  # project of Weights & Biases that metrics go to as well; empty: none
    profile_steps: int = 0  # steps that are profiled, soon after the start, for TensorBoard to show


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """The update; see `optimizer`."""

    kind: str = 'adamw'  # 'adamw', or 'adam_l2': PyTorch's Adam with weight decay
    rate: float = 1e-3
    b1: float = 0.9
    b2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 0.05
    clip_norm: float = 1.0  # largest global norm of a gradient; 0: any
    schedule: str = 'cosine'  # 'cosine', 'constant' or 'published'
    layer_decay: float = 1.0  # rate of a block relative to the next one's; 1: all alike
    warmup_epochs: float = 2.0  # cosine and constant: linear warm-up
    decay_from: int = 10  # published: the rate decays after this epoch and each that follows ...
    decay_factor: float = 0.75  # ... by this factor


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything a run is a function of, besides the data themselves."""

    data: Data = Data()
    frontend: FrontendSpec = FrontendSpec()
    augment: Augment = Augment()
    packing: Packing = Packing()
    model: Model = Model()
    train: Train = Train()
    optimizer: Optimizer = Optimizer()

    def flat(self) -> dict[str, Any]:
        """Every value under its dotted key."""
        sections = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {
            f'{name}.{field.name}': getattr(section, field.name)
            for name, section in sections.items()
            for field in dataclasses.fields(section)
        }

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=2) + '\n'


def load(spec: str, overrides: Iterable[str] = ()) -> Config:
    """Reads a config file and applies overrides.

    Args:
        spec: `FILE`, or `FILE:ARG` for a file whose `get_config` takes a string.
        overrides: `section.key=value` each.

    Raises:
        ConfigError: With every problem of the file's values, the overrides and their combination.
    """
    values = {name: value for name, value in _flatten(_get_config(spec).to_dict())}
    return resolve(values, *override_texts(overrides))


def override_texts(overrides: Iterable[str]) -> tuple[dict[str, str], list[str]]:
    """The texts of overrides, `section.key=value` each, by key; and what is wrong with the form of others."""
    texts, problems = {}, []
    for override in overrides:
        key, equals, text = override.partition('=')
        if equals:
            texts[key] = text
        else:
            problems.append(f'--config.{override} has no value: write --config.{key}=VALUE')
    return texts, problems


def from_dict(values: Mapping[str, Any]) -> Config:
    """A config from nested dictionaries, such as those of `Config.to_json`.

    Raises:
        ConfigError: With every problem.
    """
    return resolve(dict(_flatten(values)), {}, [])


def resolve(values: Mapping[str, Any], texts: Mapping[str, str], problems: list[str]) -> Config:
    """Values under dotted keys, then texts parsed by each key's type, over the defaults, checked."""
    problems = list(problems)
    known = {f'{section.name}.{field.name}': field.type for section in dataclasses.fields(Config)
             for field in dataclasses.fields(section.type)}  # fmt: skip
    resolved = Config().flat()
    for key in list(values) + [key for key in texts if key not in values]:
        if key not in known:
            near = difflib.get_close_matches(key, known, 1, cutoff=0.0)[0]
            problems.append(f'unknown key {key}: the nearest valid one is {near}')
    for key, kind in known.items():
        try:
            if key in values:
                resolved[key] = _convert(values[key], kind)
            if key in texts:
                resolved[key] = _parse(texts[key], kind)
        except ValueError as error:
            problems.append(f'{key}={texts.get(key, values.get(key))!r}: {error}')
    sections: dict[str, dict[str, Any]] = {}
    for key, value in resolved.items():
        section, name = key.split('.')
        sections.setdefault(section, {})[name] = value
    kinds = {field.name: field.type for field in dataclasses.fields(Config)}
    config = Config(**{name: kinds[name](**section) for name, section in sections.items()})
    problems += _problems(config)
    if problems:
        raise ConfigError(problems)
    return config


def _get_config(spec: str):
    """What the file's `get_config` returns."""
    path, _, argument = spec.partition(':')
    if not os.path.isfile(path):
        raise ConfigError([f'--config={spec}: there is no file {path}; recipes are in configs/'])
    module_spec = importlib.util.spec_from_file_location('elastic_ast_config', path)
    if module_spec is None or module_spec.loader is None:
        raise ConfigError([f'--config={spec}: {path} is no Python file'])
    module = importlib.util.module_from_spec(module_spec)
    try:
        module_spec.loader.exec_module(module)
    except (SyntaxError, ImportError) as error:
        raise ConfigError([f'--config={spec}: {path} cannot be loaded ({type(error).__name__}: {error})']) from error
    if not hasattr(module, 'get_config'):
        raise ConfigError([f'--config={spec}: {path} has no function get_config()'])
    takes = len(inspect.signature(module.get_config).parameters)
    if argument and not takes:
        raise ConfigError([f'--config={spec}: get_config() of {path} takes no argument: write --config={path}'])
    values = module.get_config(argument) if argument else module.get_config()
    if not isinstance(values, ConfigDict):
        kind = type(values).__name__
        raise ConfigError([f'--config={spec}: get_config() must return an ml_collections.ConfigDict, not {kind}'])
    return values


def _flatten(values: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
    for section, entries in values.items():
        if isinstance(entries, Mapping) and entries:
            yield from ((f'{section}.{name}', value) for name, value in entries.items())
        else:
            yield section, entries


_NAMES = {int: 'a whole number', float: 'a number', str: 'text', bool: 'true or false'}


def _convert(value: Any, kind: Any) -> Any:
    """A Python value as a field's type; a whole number serves as a float, nothing else changes type."""
    if typing.get_origin(kind) is tuple:
        if not isinstance(value, (tuple, list)):
            raise ValueError(f'must be a sequence, not {type(value).__name__}')
        return tuple(_convert(item, typing.get_args(kind)[0]) for item in value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value) if abs(value) < 2**1000 else math.inf
    if kind is float and isinstance(value, float) and not math.isfinite(value):
        raise ValueError('must be finite')
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise ValueError(f'must be {_NAMES[kind]}, not {type(value).__name__}')
    return value


def _parse(text: str, kind: Any) -> Any:
    """A command-line text as a field's type."""
    if kind is str:
        return text
    if kind is bool:
        if text.lower() not in ('true', 'false'):
            raise ValueError('must be true or false')
        return text.lower() == 'true'
    if typing.get_args(kind)[:1] == (str,):
        parts = tuple(part.strip() for part in text.split(',')) if text.strip() else ()
        if '' in parts:
            raise ValueError('must be texts separated by single commas')
        return parts
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):  # all that a literal can do
        raise ValueError(f'must be {_NAMES.get(kind, "numbers separated by commas")}') from None
    if typing.get_origin(kind) is tuple and not isinstance(value, (tuple, list)):
        value = (value,)
    return _convert(value, kind)


# Sources made of files of the user's: what data.train and data.eval are, and what that looks like.
_FILES = {
    'manifest': ('a manifest', 'FILE.jsonl or .csv'),
    'json': ('a JSON file of recordings and labels', 'FILE.json'),
    'folders': ('a folder of class folders', 'FOLDER'),
}


def _problems(config: Config) -> list[str]:
    """What is wrong with values or their combination, one sentence each."""
    found = config.frontend.problems()

    def need(condition: bool, problem: str) -> None:
        if not condition:
            found.append(problem)

    def one_of(key: str, choices: Sequence[str]) -> None:
        value = config.flat()[key]
        if value not in choices:
            near = difflib.get_close_matches(value, choices, 1)
            hint = f'; did you mean {near[0]!r}?' if near else ''
            found.append(f'{key}={value!r} must be one of {", ".join(map(repr, choices))}{hint}')

    def within(key: str, low: int, high: int | float = math.inf, below: bool = False) -> None:
        value = config.flat()[key]
        if not (low <= value < high if below else low <= value <= high):
            limit = f'at least {low}' if high == math.inf else f'from {low} {"to below" if below else "to"} {high}'
            found.append(f'{key}={value} must be {limit}')

    data, front, augment, packing = config.data, config.frontend, config.augment, config.packing
    one_of('data.source', tuple(_FILES) + ('tfds', 'fsdd', 'synthetic'))
    one_of('data.too_long', ('error', 'crop', 'window'))
    one_of('data.on_bad_audio', ('error', 'skip'))
    for key in ('train', 'eval') if data.source in _FILES else ():
        what, example = _FILES[data.source]
        need(bool(getattr(data, key)), f'data.{key} is empty: give {what} with --config.data.{key}={example}')
    if data.source == 'json':
        need(bool(data.label_csv), 'data.label_csv is empty: give the CSV of the classes with --config.data.label_csv=FILE.csv')
    if data.source == 'tfds':
        need(bool(data.tfds_name), 'data.tfds_name is empty: give the data set with --config.data.tfds_name=NAME')
    for key in ('data.synthetic_train', 'data.synthetic_eval', 'packing.rows', 'packing.slots', 'packing.tokens',
                'train.epochs', 'train.log_every', 'train.keep', 'train.eval_every', 'train.accumulate',
                'optimizer.decay_from'):  # fmt: skip
        within(key, 1)
    within('train.seed', 0, 2**32 - 1)  # what JAX makes a key of
    for key in ('data.workers', 'train.save_every', 'augment.prefix_frames', 'augment.freq_mask',
                'optimizer.weight_decay', 'optimizer.clip_norm', 'optimizer.warmup_epochs', 'model.width', 'model.depth',
                'model.heads', 'data.tfds_rate', 'augment.freq_masks', 'augment.time_masks', 'augment.cut_seconds',
                'train.profile_steps'):  # fmt: skip
        within(key, 0)
    for key in ('augment.token_dropout', 'augment.time_mask', 'augment.time_warp', 'train.label_smoothing', 'train.ema',
                'data.overlap', 'optimizer.b1', 'optimizer.b2'):  # fmt: skip
        within(key, 0, 1, below=True)
    within('augment.mixup', 0, 1)
    need(0 < data.eval_share < 1, f'data.eval_share={data.eval_share} must be above 0 and below 1')
    need(augment.mixup_beta > 0, f'augment.mixup_beta={augment.mixup_beta} must be positive')
    one_of('augment.mask_fill', ('zero', 'mean'))
    need(not augment.mixup or config.train.loss == 'bce',
         f"augment.mixup={augment.mixup} makes fractions of labels: set train.loss='bce', or augment.mixup=0")
    need(not (augment.cut_seconds and augment.prefix_frames),
         'augment.cut_seconds and augment.prefix_frames both cut clips to a random length: set one of them to 0')
    if packing.rows > 0 and config.train.accumulate > 0:
        need(packing.rows % config.train.accumulate == 0,
             f'packing.rows={packing.rows} does not divide into train.accumulate={config.train.accumulate} parts')
    need(bool(augment.ratios) and min(augment.ratios, default=0) > 0, f'augment.ratios={augment.ratios} must be positive')
    need(augment.freq_mask <= front.mel_bins,
         f'augment.freq_mask={augment.freq_mask} is more than frontend.mel_bins={front.mel_bins}')
    if not front.problems():
        need(min((front.shift(ratio) for ratio in augment.ratios if ratio > 0), default=1) > 0,
             f'augment.ratios={augment.ratios}: the smallest gives a frame shift of no samples')
        longest = front.mel_patches * front.max_time_patches
        need(longest <= packing.tokens,
             f'frontend.max_frames={front.max_frames} needs {front.mel_patches}*{front.max_time_patches}={longest} tokens, '
             f'but packing.tokens={packing.tokens}: raise packing.tokens, or lower frontend.max_frames to '
             f'{packing.tokens // front.mel_patches * front.patch_frames}')
        need(augment.prefix_frames <= front.max_frames,
             f'augment.prefix_frames={augment.prefix_frames} is more than frontend.max_frames={front.max_frames}')
    one_of('model.size', tuple(SIZES))
    if config.model.size in SIZES and min(config.model.width, config.model.depth, config.model.heads) >= 0:
        size = config.model.resolved()
        need(size.width % size.heads == 0,
             f'model.width={size.width} does not divide over {size.heads} heads: set model.heads or another width')
    one_of('model.pool', ('attention', 'mean'))
    one_of('model.attention', ('auto', 'plain', 'blocked'))
    one_of('model.dtype', ('auto', 'float32', 'bfloat16'))
    one_of('train.loss', ('cross_entropy', 'bce'))
    need(not (config.train.loss == 'bce' and config.train.label_smoothing),
         "train.label_smoothing goes with train.loss='cross_entropy' only: set it to 0")
    one_of('optimizer.kind', ('adamw', 'adam_l2'))
    one_of('optimizer.schedule', ('cosine', 'constant', 'published'))
    need(config.optimizer.rate > 0, f'optimizer.rate={config.optimizer.rate} must be positive')
    need(0 < config.optimizer.layer_decay <= 1,
         f'optimizer.layer_decay={config.optimizer.layer_decay} must be above 0 and at most 1')
    need(0 < config.optimizer.decay_factor <= 1,
         f'optimizer.decay_factor={config.optimizer.decay_factor} must be above 0 and at most 1')
    need(config.optimizer.epsilon > 0, f'optimizer.epsilon={config.optimizer.epsilon} must be positive')
    return found
