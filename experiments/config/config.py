"""What an experiment is asked to do: one frozen dataclass."""

import dataclasses
from pathlib import Path
from typing import Any, Literal

from experiments.catalog.datasets import DATASETS, DatasetRow, Source
from experiments.catalog.networks import NetworkOptions
from experiments.catalog.pruners.pruner import Pruner
from experiments.catalog.pruners.table import PRUNERS
from experiments.catalog.training import TrainingOptions

__all__ = ["Config"]


@dataclasses.dataclass(frozen=True)
class Config:
    """Finds a lottery ticket, finetunes it, and leaves a run folder with the numbers, plots and ticket.

    --sweep.FIELD=A,B,... tries a list of values of a field (sparsity, learning-rate, l2, ...), of several fields all
    combinations, each with a run folder of its own, and prints a combined table.
    """

    dataset: str
    """the data set, a name of the catalogue"""
    pruner: str = "gem_miner"
    """how the ticket is found (if not typed: the method whose options are typed, or gem_miner where its paper has
    settings for the network and the data set, or gem_miner_auto, which needs none)"""
    model: str = "resnet20"
    """the network, or module:function of your own: function(image_shape, num_classes) returns something with
    init(key) -> (params, state) and apply(params, state, x, train) -> (logits, state), or with a key for dropout"""
    variant: str | None = None
    """of the preset, where a paper trains a network in several ways: stabilizing-standard, -low or -warmup of resnet20
    and vgg19 on cifar10"""
    sparsity: float = 0.9856
    """fraction of the prunable weights that is removed, in [0, 1)"""
    prunable: str | None = None
    """regular expression: only the weights count as prunable in whose name, as --dry-run shows it, it is found
    (re.search); sparsity is then of these (default: kernels, never biases, norms or positions)"""
    dense: str | None = None
    """regular expression: of the prunable weights those stay whole in whose name it is found, such as the first or
    last layer; sparsity is then of the others"""
    epochs: int = 150
    """epochs of the search (0 where the pruner does not train, or has rounds with a length of their own)"""
    finetune_epochs: int = 150
    """epochs of training under the mask (0 stops at the ticket)"""
    batch_size: int = 128
    """images per step"""
    learning_rate: float = 0.1
    """of the search"""
    finetune_learning_rate: float = 0.01
    """of the finetuning, before the first milestone"""
    momentum: float = 0.9
    """of SGD and RMSprop, in search and finetuning"""
    weight_decay: float = 1e-4
    """of weights, wherever they train"""
    precision: Literal["float32", "bfloat16"] = "float32"
    """of activations and products; weights, scores, statistics, the loss and the selection stay float32"""
    init: Literal["signed_constant", "kaiming_normal", "uniform", "model"] = "signed_constant"
    """how the weights are drawn; model: as the network's own init draws them"""
    scale_fan: bool = False
    """draw them for the inputs that a unit will keep, fan_in x (1 - sparsity)"""
    seed: int = 42
    """of weights, scores, batches and augmentation"""
    data_seed: int | None = None
    """of the order of batches and of augmentation alone, which every training of the run then begins anew, so that
    networks and their subnetworks see the same batches (default: drawn from --seed, another order in each phase)"""
    num_seeds: int = 1
    """runs with seed, seed + 1, ..., each in a folder of its own, and a table of mean and standard deviation"""
    at_once: int | None = None
    """how many runs of seeds and sweeps train at once, in one compiled program (default: on an accelerator as many as
    its memory holds, on a CPU one)"""
    devices: int | None = None
    """how many devices share the work: runs at once first, then the images of a step (default: all, where these can
    be divided among them)"""
    batch_norm: Literal["global", "per-device"] = "global"
    """statistics of the whole batch, or of the part of it that each device has"""
    shard_params: bool = False
    """spread large weights, their scores, masks and optimizer state over the devices, for networks that fill one"""
    train_examples: int | None = None
    """train on a class-balanced subset of that size"""
    validation_examples: int = 0
    """hold that many out of the training set; the test set is then read once, at the end"""
    pretrained: Path | None = None
    """start from the weights of a trained dense network: its run folder or ticket.safetensors, or a PyTorch state
    dict (.safetensors, .pt, .pth)"""
    replace_classifier: bool = False
    """leave the last layer of PyTorch weights out, and draw it anew"""
    allow_missing: str | None = None
    """regular expression for names of tensors that PyTorch weights may lack; they are drawn"""
    allow_unexpected: str | None = None
    """regular expression for names of tensors that PyTorch weights may have too many; they are left out"""
    data_dir: Path | None = None
    """where the data sets are (default: TFDS_DATA_DIR, or ~/tensorflow_datasets); for folder: the folder itself"""
    image_size: int | None = None
    """resize and crop images to this many pixels a side (folder, imagenet), or average blocks of pixels (the others)"""
    normalize: bool = True
    """of each channel, subtract the mean of the pixel values and divide by their deviation; else they stay in [0, 1]"""
    skip_broken_images: bool = False
    """leave out images that cannot be read, and say which"""
    stream: bool = False
    """read images while training instead of keeping them in memory (folder; imagenet always does)"""
    run_dir: Path | None = None
    """the run folder (default: runs/ and a name made from the configuration)"""
    keep: Literal["ticket", "rounds"] = "ticket"
    """rounds: also keep, in rounds/ of the run folder, the network that each round of the search trained"""
    checkpoint_every: int = 5
    """epochs from one checkpoint to the next"""
    on_collapse: Literal["warn", "error"] = "warn"
    """when a layer loses its last weight, or begins without one: say so, or end the run with status 3"""
    sanity: str = ""
    """sanity checks of the ticket, separated by commas, or "all"; see python -m experiments.sanity --help"""
    compare: bool = False
    """the checks shuffle (within each layer) and shuffle_global (a random mask)"""
    profile: bool = False
    """write a trace of one epoch into the run folder, for Perfetto or TensorBoard"""
    dry_run: bool = False
    """print the configuration with its sources, the schedule and the cost, and stop"""
    for_: str | None = None
    """with --dry-run: whether the run fits on devices that are not there, such as h200, h200:8 or v5e:2x2, for which
    it is compiled (pip install -e '.[compile-gpu]' or '.[compile-tpu]')"""
    network: NetworkOptions = NetworkOptions()  # noqa: RUF009
    """variants of the network"""
    training: TrainingOptions = TrainingOptions()  # noqa: RUF009
    """how weights train, in the search and in the finetuning"""
    finetune: TrainingOptions = TrainingOptions()  # noqa: RUF009
    """how weights train in the finetuning, where it differs from --training"""
    options: Any = None
    """of the pruner alone: what its row in the catalogue makes of keyword arguments"""

    def __post_init__(self) -> None:
        """Fills in the pruner's own options where none are given."""
        if self.options is None and self.pruner in PRUNERS:
            object.__setattr__(self, "options", self.method.options())

    @property
    def method(self) -> Pruner:
        """The row of the pruner."""
        return PRUNERS[self.pruner]

    @property
    def data(self) -> DatasetRow:
        """The row of the data set."""
        return DATASETS[self.dataset]

    @property
    def source(self) -> Source:
        """What the reader of the data set is told."""
        return Source(self.data_dir, self.image_size, self.skip_broken_images, self.stream)

    @property
    def takes_epochs(self) -> bool:
        """Whether the search trains for --epochs."""
        return self.method.takes_epochs(self.options)
