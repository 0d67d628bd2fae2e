"""What an experiment is asked to do: one frozen dataclass, and its forms on disk."""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any, Literal

from experiments import options
from experiments.options import GROUPS, NETWORK

__all__ = ["FREE", "INVERTIBLE", "Config", "ModelName", "Pruner", "UsageError", "as_dict", "digest", "from_dict",
           "of_problem", "run_folder", "takes_epochs", "why_unused", "without_free"]  # fmt: skip

Pruner = Literal[
    "gem_miner", "edge_popup", "imp", "lottery_ticket", "lrr", "snip", "grasp", "synflow", "force", "prospr",
    "magnitude", "random", "uniform", "erk", "copied_ratios", "smart_ratio", "hybrid", "jackpot", "gmp", "rigl", "set",
    "continuous_sparsification", "supermask", "dense",
]  # fmt: skip
ModelName = Literal[
    "resnet20", "resnet32", "resnet18", "resnet50", "vgg16", "vgg19", "mobilenet_v2", "wide_resnet28_2",
    "lenet_300_100", "lenet_5", "conv2", "conv4", "conv6", "squeezenet", "inception_v3",
]  # fmt: skip
# Which pruners train for --epochs; imp and lrr for as many as their rounds take; the others score a batch or none.
_FOR_EPOCHS = ("gem_miner", "edge_popup", "lottery_ticket", "hybrid", "jackpot", "gmp", "rigl", "set",
               "continuous_sparsification", "supermask")  # fmt: skip
_IN_ROUNDS = ("imp", "lrr")
_TRAIN_WEIGHTS = ("imp", "lottery_ticket", "lrr", "hybrid", "gmp", "rigl", "set", "dense")
# Pruners whose search ranks scores that can be turned upside down.
INVERTIBLE = ("gem_miner", "edge_popup", "imp", "lottery_ticket", "lrr", "snip", "grasp", "synflow", "force", "prospr",
              "magnitude", "hybrid", "jackpot", "gmp", "continuous_sparsification", "supermask")  # fmt: skip


class UsageError(ValueError):
    """A mistake on the command line: one line, exit status 2."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Finds a lottery ticket, finetunes it, and leaves a run folder with the numbers, plots and ticket.

    --sweep.FIELD=A,B,... tries a list of values of a field (sparsity, learning-rate, l2, ...), of several fields all
    combinations, each with a run folder of its own, and prints a combined table.
    """

    pruner: Pruner = "gem_miner"
    """how the ticket is found"""
    model: ModelName | str = "resnet20"
    """the network, or module:function of your own: function(image_shape, num_classes) returns something with
    init(key) -> (params, state) and apply(params, state, x, train) -> (logits, state)"""
    sparsity: float = 0.9856
    """fraction of the prunable weights that is removed, in [0, 1)"""
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
    """of SGD, in search and finetuning"""
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
    data_dir: Path | None = None
    """where the data sets are (default: TFDS_DATA_DIR, or ~/tensorflow_datasets); for folder: the folder itself"""
    image_size: int | None = None
    """resize and crop images to this many pixels (folder, imagenet)"""
    skip_broken_images: bool = False
    """leave out images that cannot be read, and say which"""
    stream: bool = False
    """read images while training instead of keeping them in memory (folder; imagenet always does)"""
    run_dir: Path | None = None
    """the run folder (default: runs/ and a name made from the configuration)"""
    checkpoint_every: int = 5
    """epochs from one checkpoint to the next"""
    on_collapse: Literal["warn", "error"] = "warn"
    """what to do when a layer loses its last weight"""
    sanity: str = ""
    """sanity checks of the ticket, separated by commas, or "all"; see python -m experiments.sanity --help"""
    compare: bool = False
    """the checks shuffle (within each layer) and shuffle_global (a random mask)"""
    profile: bool = False
    """write a trace of one epoch into the run folder, for Perfetto or TensorBoard"""
    dry_run: bool = False
    """print the configuration with its sources, the schedule and the cost, and stop"""
    network: options.Network = NETWORK
    gem_miner: options.GemMiner = GROUPS["gem_miner"]
    edge_popup: options.EdgePopup = GROUPS["edge_popup"]
    imp: options.Imp = GROUPS["imp"]
    lottery_ticket: options.LotteryTicket = GROUPS["lottery_ticket"]
    lrr: options.Lrr = GROUPS["lrr"]
    snip: options.Snip = GROUPS["snip"]
    grasp: options.Grasp = GROUPS["grasp"]
    synflow: options.Synflow = GROUPS["synflow"]
    force: options.Force = GROUPS["force"]
    prospr: options.Prospr = GROUPS["prospr"]
    magnitude: options.Magnitude = GROUPS["magnitude"]
    random: options.Random = GROUPS["random"]
    copied_ratios: options.CopiedRatios = GROUPS["copied_ratios"]
    smart_ratio: options.SmartRatio = GROUPS["smart_ratio"]
    hybrid: options.Hybrid = GROUPS["hybrid"]
    jackpot: options.Jackpot = GROUPS["jackpot"]
    gmp: options.Gmp = GROUPS["gmp"]
    rigl: options.Rigl = GROUPS["rigl"]
    set: options.Set = GROUPS["set"]
    continuous_sparsification: options.ContinuousSparsification = GROUPS["continuous_sparsification"]
    supermask: options.Supermask = GROUPS["supermask"]


# Fields that do not change what a run computes, so that they may differ when it is resumed.
FREE = (
    "num_seeds", "at_once", "devices", "shard_params", "data_dir", "run_dir", "checkpoint_every", "on_collapse",
    "sanity", "compare", "profile", "dry_run",
)  # fmt: skip
# Those of them that say how it is computed.
_HOW = ("data_dir", "checkpoint_every", "on_collapse", "profile", "devices", "shard_params")
# What data and network depend on; the seed too, where it chooses the images.
_PROBLEM = (
    "model", "network", "precision", "batch_norm", "batch_size", "image_size", "data_dir", "train_examples",
    "validation_examples", "skip_broken_images", "stream", "pretrained", "devices", "shard_params",
)  # fmt: skip


def as_dict(dataset: str, config: Config) -> dict[str, Any]:
    """All resolved fields, JSON-able, of the chosen pruner's options only its own."""
    fields = {"dataset": dataset} | json.loads(json.dumps(dataclasses.asdict(config), default=str))
    if dataset == "folder" and config.data_dir is not None:
        fields["data_dir"] = str(config.data_dir.expanduser().resolve())
    for name in GROUPS:
        if name != config.pruner:
            del fields[name]
    return fields


def from_dict(fields: dict[str, Any]) -> Config:
    """The inverse of `as_dict`, as read from a config.json.

    Raises:
      UsageError: if it is the configuration of another version.
    """
    values = {name: value for name, value in fields.items() if name not in ("dataset", *GROUPS)}
    try:
        for name in ("data_dir", "run_dir", "pretrained"):
            values[name] = None if values[name] is None else Path(values[name])
        group = fields["pruner"]
        if group in GROUPS:
            own = {k: Path(v) if k == "ticket" and v is not None else v for k, v in fields[group].items()}
            values[group] = dataclasses.replace(GROUPS[group], **own)
        return Config(**values | {"network": options.Network(**fields["network"])})
    except (KeyError, TypeError) as error:
        raise UsageError(f"config.json: expected the fields of this version, got others ({error})") from None


def run_folder(dataset: str, config: Config, one_of_many: bool) -> Path:
    """Where a run lives: as --run-dir says (a folder in it for each of several seeds), or by its hash."""
    if config.run_dir is None:
        return Path("runs") / f"{dataset}-{config.pruner}-{digest(as_dict(dataset, config))}"
    return config.run_dir / f"seed-{config.seed}" if one_of_many else config.run_dir


def digest(fields: dict[str, Any]) -> str:
    """Twelve hex digits of all fields that change what a run computes; for `folder`, where the images are, and for
    statistics per device, how many there are."""
    also = ("data_dir",) if fields.get("dataset") == "folder" else ()
    also += ("devices",) if fields.get("batch_norm") == "per-device" else ()
    decisive = {name: value for name, value in fields.items() if name not in FREE or name in also}
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:12]


def without_free(config: Config) -> Config:
    """The configuration with everything at its default that neither changes what a run computes nor says how."""
    free = [name for name in FREE if name not in _HOW]
    defaults: dict[str, Any] = {field.name: field.default for field in dataclasses.fields(Config) if field.name in free}
    return dataclasses.replace(config, **defaults)


def of_problem(config: Config) -> Config:
    """The configuration with everything at its default but what data and network depend on: equal for runs that may
    train on one copy of them."""
    kept = {name: getattr(config, name) for name in _PROBLEM}
    own = config.train_examples or config.validation_examples or config.stream
    return Config(**kept, seed=config.seed if own else Config.seed)


def takes_epochs(config: Config) -> bool:
    """Whether the search trains for --epochs."""
    tuned = config.pruner == "smart_ratio" and config.smart_ratio.version in ("v5", "v6")
    return tuned or config.pruner in _FOR_EPOCHS


def why_unused(config: Config, name: str) -> str | None:
    """Why a field would be ignored, or None if it is used."""
    group, flag = name.split(".")[0], name.replace("_", "-")
    if group in GROUPS and group != config.pruner:
        return f"--{flag}: an option of {group}; expected none with {config.pruner}"
    if name == "epochs" and config.pruner in _IN_ROUNDS:
        return f"--epochs: {config.pruner} trains for its rounds; see --{config.pruner}.round-epochs"
    searches = takes_epochs(config) or config.pruner in _IN_ROUNDS
    if name in ("epochs", "learning_rate") and not searches:
        return f"--{flag}: of the search, which {config.pruner} has not; see --finetune-{flag}"
    if name == "finetune_learning_rate" and config.finetune_epochs == 0:
        return "--finetune-learning-rate: there is no finetuning with --finetune-epochs=0"
    if name in ("init", "scale_fan") and config.pretrained is not None:
        return f"--{flag}: the weights are those of --pretrained"
    if name == "scale_fan" and config.init == "model":
        return "--scale-fan: the network draws its weights itself with --init=model"
    if name == "replace_classifier" and config.pretrained is None:
        return "--replace-classifier: there are no weights to leave one out of; expected --pretrained with it"
    trains_weights = config.finetune_epochs > 0 or config.pruner in _TRAIN_WEIGHTS
    if name == "weight_decay" and not trains_weights:
        return f"--weight-decay: {config.pruner} trains no weights with --finetune-epochs=0"
    if name == "momentum" and not trains_weights and not searches:
        return f"--momentum: {config.pruner} trains nothing with --finetune-epochs=0"
    return _why_unused_option(config, name)


def _why_unused_option(config: Config, name: str) -> str | None:
    """The same for the pruner's own options, where one makes another idle."""
    flag = f"--{name.replace('_', '-')}"
    if name == "edge_popup.period" and not config.edge_popup.gradual:
        return f"{flag}: of the gradual variant; expected --edge-popup.gradual with it"
    if name in ("imp.rate", "lrr.rate") and getattr(config, config.pruner).rounds is not None:
        return f"{flag}: --{config.pruner}.rounds decides; expected one of the two"
    version, option = config.smart_ratio.version, name.removeprefix("smart_ratio.")
    taken = {
        "candidates": ("v4", "v6"), "radius": ("v4", "v6"), "candidate_steps": ("v4", "v6"),
        "exact": ("v1", "v2", "v3"), "linear": ("v1", "v2", "v3", "v5"), "family": ("v1", "v2", "v3", "v5"),
    }  # fmt: skip
    if option != name and version not in taken.get(option, (version,)):
        return f"{flag}: smart ratio {version} has no such option; expected version {', '.join(taken[option])}"
    return None
