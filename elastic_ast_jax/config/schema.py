"""Define the configuration: every key with its default and meaning."""

import dataclasses
from typing import Any

from elastic_ast_jax.audio.frontend import FrontendSpec
from elastic_ast_jax.config.model_sizes import SIZES, Size

# Keys of earlier versions, and their names now.
RENAMED_KEYS = {
    'data.workers': 'data.num_workers',
    'model.epsilon': 'model.eps',
    'train.accumulate': 'train.grad_accumulation_steps',
    'train.keep': 'train.max_checkpoints',
    'optimizer.rate': 'optimizer.learning_rate',
    'optimizer.epsilon': 'optimizer.eps',
}
# Values of earlier versions, by their keys, and their names now.
RENAMED_VALUES = {'model.attention': {'plain': 'reference'}}


@dataclasses.dataclass(frozen=True)
class Data:
    """Source of the clips."""

    # One of 'manifest', 'json' (AudioSet-style), 'folders', 'tfds', 'fsdd', 'synthetic',
    # 'presets' (synthesized sounds of all kinds, see `synthesis`).
    source: str = 'manifest'
    # Training data. manifest: a .jsonl or .csv file; json: a JSON file; folders: a folder of
    # class folders.
    train: str = ''
    # Evaluation data, in the same form. May equal `train`: see `eval_share`, and the column `split`
    # of a manifest.
    eval: str = ''
    # Split for training, of tfds, and of a manifest with a column `split`.
    train_split: str = 'train'
    # Split for evaluation, of tfds, and of a manifest with a column `split`.
    eval_split: str = 'test'
    # manifest: what stands between the labels in a cell of a CSV.
    label_separator: str = ';'
    # folders, and a manifest without a column `split`, if `train` equals `eval`: share of the clips
    # that is held out.
    eval_share: float = 0.2
    # Share of the training clips that checkpoints are selected on, instead of the evaluation split.
    # 0: none.
    validation_share: float = 0.0
    # Clips that no split divides. 'column:NAME': those with one value in this column of a manifest;
    # 'pattern:REGEX': those whose path has one text in the group of this regular expression. Empty:
    # the parts of a recording.
    group: str = ''
    # Number of folds that the training clips are divided into. Evaluation uses one, training the
    # others, and the clips of another file or folder in `eval` are not used. 0: none.
    folds: int = 0
    # Fold that is evaluated, from 1 to `folds`.
    fold: int = 0
    # Seed of the division into folds.
    fold_seed: int = 0
    # Clips that are divided into folds. 'train': those of `train`, without the evaluation clips of
    # a column `split` or of fsdd; 'all': with them.
    folds_from: str = 'train'
    # json: the CSV file of the classes, with the columns index, mid and display_name.
    label_csv: str = ''
    # fsdd: folder of the recordings. Empty: the data set `spoken_digit` of TensorFlow Datasets.
    root: str = ''
    # fsdd: speakers for evaluation only. Empty: the data set's own split.
    held_out: tuple[str, ...] = ()
    # tfds: name of the data set, with its config and version if necessary.
    tfds_name: str = ''
    # tfds and fsdd: folder of the prepared data sets. Empty: TensorFlow Datasets' default.
    tfds_dir: str = ''
    # tfds: feature with the samples.
    tfds_audio: str = 'audio'
    # tfds: feature with the label or labels.
    tfds_label: str = 'label'
    # tfds: feature with the name of a clip. Empty: the data set's key, or a hash of the samples.
    tfds_key: str = ''
    # tfds: sample rate in Hz, if the data set does not declare it.
    tfds_rate: int = 0
    # synthetic and presets: number of training clips.
    synthetic_train: int = 6000
    # synthetic and presets: number of evaluation clips.
    synthetic_eval: int = 400
    # presets: number of presets, of which each clip is a take.
    synthetic_presets: int = 2000
    # Clips beyond frontend.max_frames. 'error': refuse; 'crop': training at random, evaluation
    # from the start; 'window': training at random, evaluation averages the logits of windows.
    too_long: str = 'error'
    # Share of a window that the next window repeats, in evaluation and prediction.
    overlap: float = 0.5
    # A recording that cannot be used. 'error': stop; 'skip': skip, count and list it.
    on_bad_audio: str = 'error'
    # Sample training clips with replacement, those with rare labels more often.
    balanced: bool = False
    # Rows that are read concurrently. 0: one per processor.
    num_workers: int = 0


@dataclasses.dataclass(frozen=True)
class Augment:
    """Random changes of training clips; see `data.sampling`."""

    # Frame-shift ratios, one sampled per clip. Paper: 1.0, 1.2, ..., 4.0.
    ratios: tuple[float, ...] = (1.0,)
    # Crop to a prefix of random length from this many frames on, in whole patches. 0: never.
    # Paper: 384.
    prefix_frames: int = 0
    # Crop longer clips to a random length from this on, at a random place. 0: never. Paper, on
    # EPIC-SOUNDS: 2.
    cut_seconds: float = 0.0
    # Random crops of clips beyond frontend.max_frames start so long before the end of the clip.
    # 0: at frontend.max_frames. Published AST, on EPIC-SOUNDS: 10.
    crop_seconds: float = 0.0
    # Share of tokens that is dropped. Paper: 0.1.
    token_dropout: float = 0.1
    # Highest share of tokens that is dropped: each clip's share is uniform from 0 to this.
    # Requires token_dropout=0.
    random_token_dropout: float = 0.0
    # SpecAugment: frequency masks are narrower than this many mel bins. 0: none. Paper: 48.
    freq_mask: int = 48
    # SpecAugment: time masks are narrower than this share of the clip's frames. 0: none. Paper:
    # 192 of 1024.
    time_mask: float = 0.1875
    # Number of frequency masks. Paper: 1, on EPIC-SOUNDS 2.
    freq_masks: int = 1
    # Number of time masks. Paper: 1, on EPIC-SOUNDS 2.
    time_masks: int = 1
    # SpecAugment: a point in time moves by less than this share of the clip's frames. 0: none.
    time_warp: float = 0.0
    # Value of masks. 'zero': log-mel 0; 'mean': the mean log-mel of the clip (paper, on
    # EPIC-SOUNDS).
    mask_fill: str = 'zero'
    # Spectrograms move up or down by less than this many mel bins, as another pitch or a smaller
    # body does. 0: never.
    mel_shift: float = 0.0
    # Share of clips that begin at a random frame, with the frames before it at their end.
    roll: float = 0.0
    # Share of clips that get white noise, 5 to 40 dB below their level.
    noise: float = 0.0
    # Share of clips whose waveform and labels are mixed with those of another clip. Requires
    # train.loss='bce'. Paper, on AudioSet: 0.5.
    mixup: float = 0.0
    # The weight of a mixed clip is sampled from Beta(mixup_beta, mixup_beta). Paper: 10.
    mixup_beta: float = 10.0

    @classmethod
    def only(cls, **values: Any) -> 'Augment':
        """Return an augmentation with these values that changes nothing else."""
        nothing: dict[str, Any] = {'token_dropout': 0.0, 'freq_mask': 0, 'time_mask': 0.0}
        return cls(**nothing | values)


@dataclasses.dataclass(frozen=True)
class Packing:
    """Static shape of a batch."""

    # Rows of a global batch.
    rows: int = 8
    # Tokens of a row.
    tokens: int = 2048
    # Largest number of clips in a row.
    slots: int = 32


@dataclasses.dataclass(frozen=True)
class Model:
    """Network; see `models.elastic_ast.ElasticAST` and `models.ast.AST`."""

    # 'elastic_ast', or 'ast': the fixed-length baseline, which pads or crops clips to its length.
    kind: str = 'elastic_ast'
    # Mi (128 wide, 4 blocks, 4 heads), Ti, S, B or L.
    size: str = 'Ti'
    # Width of the blocks. 0: that of the size.
    width: int = 0
    # Number of blocks. 0: that of the size.
    depth: int = 0
    # Number of attention heads. 0: that of the size.
    heads: int = 0
    # 'attention' or 'mean'.
    pool: str = 'attention'
    # elastic_ast: average the logits with those of logistic regression on statistics of the
    # log-mel, which is fitted to the training clips before the first step.
    statistics: bool = False
    # ast: distance of patches in mel bins and frames. Published ASTs have 10, or 16.
    stride: tuple[int, ...] = (16, 16)
    # ast: its length, if that is no whole number of patches. 0: frontend.max_frames.
    frames: int = 0
    # ast: learned tokens before the patches. 2: class and distillation token (DeiT); 1: class
    # token (ViT).
    prefix_tokens: int = 2
    # Stochastic depth: the share of clips that skip a branch of the last block in training, less
    # in the blocks before. Source: Huang et al. (2016).
    drop_path: float = 0.0
    # Epsilon of every LayerNorm.
    eps: float = 1e-6
    # Divide attention logits by sqrt(head width). False: as in the published code.
    scaled: bool = True
    # 'reference', 'blocked', TPU 'splash', GPU 'pallas', 'tokamax', 'cudnn'; 'auto': the fastest
    # that this machine has.
    attention: str = 'auto'
    # Run the blocks in a loop: compiles faster, runs slower on accelerators.
    scan: bool = False
    # Recompute activations in the backward pass: less memory, more time.
    remat: bool = False
    # 'float32' or 'bfloat16'; 'auto': bfloat16 on accelerators.
    dtype: str = 'auto'

    def resolved_size(self) -> Size:
        """Return the size by its name, with the dimensions that are set instead."""
        default = SIZES[self.size]
        return Size(
            self.width or default.width, self.depth or default.depth, self.heads or default.heads
        )


# The value of `init.from` that names the encoder in the package; './starter' is a file or folder.
STARTER = 'starter'


@dataclasses.dataclass(frozen=True)
class Init:
    """Initial weights; see `pretrained`."""

    # Weights: a workdir, a Hugging Face folder, .pth, .ckpt, .bin, .safetensors or .npz. 'starter':
    # the encoder in the package, trained on synthesized sounds. Empty: random weights.
    from_: str = ''
    # Initialize as the published ElasticAST does, with smaller pooling projections. Requires
    # model.scaled=False.
    published_quirks: bool = False


@dataclasses.dataclass(frozen=True)
class Train:
    """Length, loss and records of a run."""

    # Seed of all random numbers.
    seed: int = 0
    # Number of epochs.
    epochs: int = 40
    # 'cross_entropy': one label per clip; 'bce': any number of labels.
    loss: str = 'cross_entropy'
    # Metric that selects the best checkpoint: 'accuracy' or 'mean_average_precision'. 'auto':
    # accuracy, or mAP with 'bce'.
    metric: str = 'auto'
    # Share of the target that is spread over all classes.
    label_smoothing: float = 0.0
    # Weights of classes in the loss. 'none'; 'balanced': rare classes count as much as others.
    # Excludes data.balanced.
    class_weights: str = 'none'
    # Parts of a batch that are computed one after another: less memory, the same gradient.
    grad_accumulation_steps: int = 1
    # Decay of the moving average of the parameters, used by evaluation and prediction. 0: none.
    ema: float = 0.0
    # Parameters that stay constant: prefixes of names, such as encoder.
    freeze: tuple[str, ...] = ()
    # Epochs after which the parameters of freeze are trained too. 0: never.
    freeze_epochs: float = 0.0
    # Steps between lines in metrics.jsonl.
    log_every: int = 10
    # Steps between checkpoints. 0: at the end of each epoch only.
    save_every: int = 0
    # Number of newest checkpoints that are kept, besides the best.
    max_checkpoints: int = 3
    # Epochs between evaluations. The last epoch is always evaluated.
    eval_every: int = 1
    # Training ends after this many evaluations in a row without a better metric. 0: never. Requires
    # data.validation_share.
    patience: int = 0
    # At the end, fit logistic regression to the same clips, and report whether the model wins.
    compare_baseline: bool = False
    # Project of Weights & Biases that also gets the metrics. Empty: none.
    wandb: str = ''
    # Steps that are profiled, soon after the start, for TensorBoard.
    profile_steps: int = 0

    def selection_metric(self) -> str:
        """Return the name of the metric that selects checkpoints and compares runs."""
        if self.metric != 'auto':
            return self.metric
        return 'mean_average_precision' if self.loss == 'bce' else 'accuracy'


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """Optimizer and learning rate; see `training.optimizer`."""

    # 'adamw', or 'adam_l2': PyTorch's Adam with weight decay.
    kind: str = 'adamw'
    # Peak learning rate.
    learning_rate: float = 1e-3
    # Decay of Adam's first moment.
    b1: float = 0.9
    # Decay of Adam's second moment.
    b2: float = 0.999
    # Epsilon of Adam.
    eps: float = 1e-8
    # Weight decay.
    weight_decay: float = 0.05
    # adamw: biases, norms and tables decay too, as in PyTorch without parameter groups.
    decay_all: bool = False
    # Largest global norm of a gradient. 0: any.
    clip_norm: float = 1.0
    # 'cosine', 'constant' or 'published'.
    schedule: str = 'cosine'
    # Learning rate of a block relative to the next block's. 1: all alike.
    layer_decay: float = 1.0
    # cosine and constant: epochs of linear warm-up.
    warmup_epochs: float = 2.0
    # constant: learning rate at the first step of the warm-up, as a share of the peak.
    warmup_start: float = 0.0
    # published: the learning rate decays after this epoch and after each following one.
    decay_from: int = 10
    # published: factor of each decay.
    decay_factor: float = 0.75


@dataclasses.dataclass(frozen=True)
class Mesh:
    """Arrangement of the devices of all processes; see `distributed`.

    A run may resume with another arrangement.
    """

    # Groups of devices that each hold the whole model and divide the rows of a batch. -1: the
    # remaining devices.
    data: int = -1
    # Devices that divide the parameters and the rows among them.
    fsdp: int = 1
    # Devices that divide the heads and hidden units of each block and share rows.
    tensor: int = 1


@dataclasses.dataclass(frozen=True)
class Config:
    """Configuration of a run: with the data, it determines every number."""

    data: Data = Data()
    frontend: FrontendSpec = dataclasses.field(default_factory=FrontendSpec)
    augment: Augment = Augment()
    packing: Packing = Packing()
    model: Model = Model()
    init: Init = Init()
    train: Train = Train()
    optimizer: Optimizer = Optimizer()
    mesh: Mesh = Mesh()

    def flat(self) -> dict[str, Any]:
        """Return every value by its dotted key."""
        sections = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {
            f'{name}.{key_name(field.name)}': getattr(section, field.name)
            for name, section in sections.items()
            for field in dataclasses.fields(section)
        }


def key_name(field: str) -> str:
    """Return the key of a field.

    `from` is no name in Python, so its field is called `from_`.
    """
    return field.removesuffix('_')
