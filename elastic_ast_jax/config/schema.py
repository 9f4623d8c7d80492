"""The configuration: every key with its default and meaning."""

import dataclasses
import json
from typing import Any

from elastic_ast_jax.audio.frontend import FrontendSpec
from elastic_ast_jax.config.model_sizes import SIZES, Size


@dataclasses.dataclass(frozen=True)
class Data:
    """Where the clips come from."""

    source: str = (
        'manifest'  # 'manifest', 'json' (AudioSet-style), 'folders', 'tfds', 'fsdd' or 'synthetic'
    )
    # manifest: training manifest, .jsonl or .csv; json: training file; folders: a folder of class
    # folders
    train: str = ''
    # the same for evaluation; may be the same manifest if it has a column `split`, or the same
    # folder
    eval: str = ''
    train_split: str = (
        'train'  # manifest with a column `split`, and tfds: the split for training ...
    )
    eval_split: str = 'test'  # ... and for evaluation
    eval_share: float = (
        0.2  # folders, where train and eval are the same: share of the clips that is held out
    )
    label_csv: str = (
        ''  # json: the CSV of the classes, with the columns index, mid and display_name
    )
    # fsdd: folder of the recordings; if empty, the data set `spoken_digit` of TensorFlow Datasets
    root: str = ''
    held_out: tuple[
        str, ...
        # fsdd: speakers that evaluation hears and training does not; none: the data set's own split
    ] = ()
    tfds_name: str = ''  # tfds: name of the data set, with its config and version if need be
    tfds_dir: str = (
        ''  # tfds and fsdd: folder of the prepared data sets; if empty, TensorFlow Datasets' own
    )
    tfds_audio: str = 'audio'  # tfds: features that hold the samples, ...
    tfds_label: str = 'label'  # ... the label or labels, ...
    # ... and a clip's name; if empty, what the data set says, or a hash of the clip's samples
    tfds_key: str = ''
    tfds_rate: int = 0  # tfds: sample rate in Hz where the data set does not tell it
    synthetic_train: int = 6000  # synthetic: number of training clips ...
    synthetic_eval: int = 400  # ... and of evaluation clips
    # clips beyond frontend.max_frames: 'error', 'crop' (training: at random, evaluation: the
    # start),
    too_long: str = 'error'
    # or 'window' (training: at random, evaluation: windows, their logits averaged)
    overlap: float = (
        0.5  # evaluation and prediction of windows: share of a window that the next one repeats
    )
    # a recording that cannot be used: 'error', or 'skip' (left out, counted and listed)
    on_bad_audio: str = 'error'
    balanced: bool = (
        False  # training draws clips with replacement, those with rare labels more often
    )
    workers: int = 0  # rows read at a time; 0: one per processor


@dataclasses.dataclass(frozen=True)
class Augment:
    """What changes a training clip; see `data.sampling.DrawSpec`."""

    ratios: tuple[float, ...] = (1.0,)  # frame-shift ratios, one drawn per clip
    prefix_frames: int = 0  # cut to a prefix of random length from this many frames on; 0: never
    cut_seconds: float = (
        0.0  # cut longer clips to a random length from this on, at a random place; 0: never
    )
    token_dropout: float = 0.1  # share of tokens left out
    freq_mask: int = 48  # SpecAugment: narrower than this many mel bins; 0: none
    time_mask: float = 0.1875  # SpecAugment: narrower than this share of the clip's frames; 0: none
    freq_masks: int = 1  # number of frequency masks ...
    time_masks: int = 1  # ... and of time masks
    # SpecAugment: a point in time moves by less than this share of the clip's frames; 0: none
    time_warp: float = 0.0
    mask_fill: str = 'zero'  # masks hold log-mel 0 ('zero') or the clip's mean log-mel ('mean')
    mixup: float = 0.0  # share of clips that are mixed with another; needs train.loss='bce'
    mixup_beta: float = (
        10.0  # the weight of a mixed clip is drawn from Beta(mixup_beta, mixup_beta)
    )


@dataclasses.dataclass(frozen=True)
class Packing:
    """The static shape of a batch."""

    rows: int = 8  # rows of a global batch
    tokens: int = 2048  # tokens of a row
    slots: int = 32  # clips of a row at most


@dataclasses.dataclass(frozen=True)
class Model:
    """The network; see `models.elastic_ast.ElasticAST` and `models.ast.AST`."""

    # 'elastic_ast', or 'ast': the fixed-length baseline, clips padded or cut to its length
    kind: str = 'elastic_ast'
    size: str = 'Ti'  # Mi (128 wide, 4 blocks, 4 heads), Ti, S, B or L
    width: int = 0  # instead of the size's; 0: the size's
    depth: int = 0
    heads: int = 0
    pool: str = 'attention'  # 'attention' or 'mean'
    stride: tuple[int, ...] = (
        16,
        16,
    )  # ast: distance of patches in mel bins and frames; published ones have 10, or 16
    frames: int = (
        0  # ast: its one length, where that is no whole number of patches; 0: frontend.max_frames
    )
    epsilon: float = 1e-6  # of every LayerNorm
    scaled: bool = True  # attention logits times 1/sqrt(head width); False: as the published code
    # 'reference', 'blocked', TPU 'splash', GPU 'pallas', 'tokamax', 'cudnn'; 'auto': the fastest
    attention: str = 'auto'
    scan: bool = False  # loop over the blocks: compiles faster, runs slower on accelerators
    remat: bool = False  # compute activations again in the backward pass: less memory, more time
    dtype: str = 'auto'  # 'float32' or 'bfloat16'; 'auto': bfloat16 on accelerators

    def resolved(self) -> Size:
        """The named size with what is set instead."""
        named = SIZES[self.size]
        return Size(self.width or named.width, self.depth or named.depth, self.heads or named.heads)


@dataclasses.dataclass(frozen=True)
class Init:
    """What training starts from; see `starting`."""

    # weights: a workdir, a directory of Hugging Face's, .pth, .safetensors or .npz; empty: random
    # numbers
    from_: str = ''
    published_quirks: bool = (
        False  # as the published ElasticAST starts: unscaled attention, smaller pooling projections
    )


@dataclasses.dataclass(frozen=True)
class Train:
    """The run."""

    seed: int = 0
    epochs: int = 40
    loss: str = 'cross_entropy'  # one label per clip; 'bce': any number of labels
    # what the best is best in: 'accuracy', 'mean_average_precision'; 'auto': by the loss, mAP with
    # 'bce'
    metric: str = 'auto'
    label_smoothing: float = 0.0
    accumulate: int = (
        1  # parts of a batch that are computed one after another: less memory, the same gradient
    )
    # decay of the moving average of the parameters, which evaluation and prediction use; 0: none
    ema: float = 0.0
    freeze: tuple[
        str, ...
    ] = ()  # parameters that stay as they are: beginnings of names, such as encoder
    log_every: int = 10  # steps between lines in metrics.jsonl
    save_every: int = 0  # steps between checkpoints; 0: at the end of each epoch only
    keep: int = 3  # newest checkpoints kept, besides the best
    eval_every: int = 1  # epochs between evaluations; the last epoch is always evaluated
    wandb: str = ''  # project of Weights & Biases that metrics go to as well; empty: none
    profile_steps: int = 0  # steps that are profiled, soon after the start, for TensorBoard to show

    def scored_by(self) -> str:
        """The name of the metric that checkpoints are scored and runs are compared by."""
        if self.metric != 'auto':
            return self.metric
        return 'mean_average_precision' if self.loss == 'bce' else 'accuracy'


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
class Mesh:
    """How the devices of all processes are arranged;

    see `sharding`. A run may go on with another arrangement.
    """

    # groups of devices that each hold the whole model, and divide the rows of a batch; -1: as many
    # as there are
    data: int = -1
    fsdp: int = 1  # devices that divide the parameters, and the rows, among them
    tensor: int = 1  # devices that divide the heads and hidden units of each block, and share rows


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything a run is a function of, besides the data themselves."""

    data: Data = Data()
    frontend: FrontendSpec = FrontendSpec()
    augment: Augment = Augment()
    packing: Packing = Packing()
    model: Model = Model()
    init: Init = Init()
    train: Train = Train()
    optimizer: Optimizer = Optimizer()
    mesh: Mesh = Mesh()

    def flat(self) -> dict[str, Any]:
        """Every value under its dotted key."""
        sections = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {
            f'{name}.{written(field.name)}': getattr(section, field.name)
            for name, section in sections.items()
            for field in dataclasses.fields(section)
        }

    def to_json(self) -> str:
        nested: dict[str, dict[str, Any]] = {}
        for key, value in self.flat().items():
            section, name = key.split('.')
            nested.setdefault(section, {})[name] = value
        return json.dumps(nested, indent=2) + '\n'


def written(field: str) -> str:
    """The key of a field: `from` is no name in Python, so that field is called `from_`."""
    return field.removesuffix('_')
