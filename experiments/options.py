"""What belongs to one method, under its name: `--gem-miner.period`, `--imp.rewind-step`. Frozen, read by tyro."""

import dataclasses
from pathlib import Path
from typing import Any, Literal

__all__ = [
    "GROUPS", "NETWORK", "ContinuousSparsification", "CopiedRatios", "EdgePopup", "Force", "GemMiner", "Gmp", "Grasp",
    "Hybrid", "Imp", "Jackpot", "LotteryTicket", "Lrr", "Magnitude", "Network", "Prospr", "Random", "Rigl", "Set",
    "SmartRatio", "Snip", "Supermask", "Synflow", "as_options",
]  # fmt: skip

Scope = Literal["global", "layer"]
option = dataclasses.dataclass(frozen=True)


@option
class Network:
    """Variants of the network; which of them it takes is said where one is not taken."""

    width: float = 1.0
    """multiplies the channels"""
    affine: bool = False
    """BatchNorm learns a scale and a bias, which are never pruned"""
    bias: bool = False
    """layers have the biases that they had in the original network, which are never pruned"""
    shortcut: Literal["A", "B"] | None = None
    """of ResNet-20 and -32, where the size changes: zero channels (A), or a 1x1 convolution (B)"""
    stem: Literal["cifar", "imagenet"] | None = None
    """of ResNet-18 and -50: a 3x3 convolution (default up to 32 pixels), or 7x7 with stride 2 and a max-pool"""


@option
class GemMiner:
    """Options of GEM-MINER (Rare Gems, Algorithm 1)."""

    period: int = 5
    """epochs from one freezing round to the next (T)"""
    l2: float = 1e-4
    """strength of the regulariser (lambda)"""
    norm: Literal["l2", "l1"] = "l2"
    """what the regulariser sums: p^2 or |p|"""
    scope: Scope = "global"
    """rank scores over the whole network, or within each layer at equal ratios"""
    freeze: bool = True
    """freeze the lowest scores every period; without it the regulariser alone decides the sparsity"""
    rounding: Literal["deterministic", "stochastic"] = "deterministic"
    """the mask of the search: 1[p >= 0.5], or drawn from Bernoulli(p)"""
    finetune_mask: Literal["frozen", "rounded"] = "frozen"
    """finetune what was not frozen (q, of exact sparsity), or q and 1[p >= 0.5]"""
    optimizer: Literal["sgd", "adam"] = "sgd"
    """optimizer of the scores"""


@option
class EdgePopup:
    """Options of edge-popup and its variants (Rare Gems, Table 3)."""

    scope: Scope = "layer"
    """top k of |s| within each layer at equal ratios, or over the whole network"""
    gradual: bool = False
    """k falls exponentially over the search rather than being the target from the start"""
    period: int = 5
    """epochs from one fall of k to the next, if gradual"""
    weight_decay: float = 5e-4
    """of the scores"""
    l2: float = 0.0
    """strength of the regulariser on the scores (lambda)"""


@option
class Imp:
    """Options of iterative magnitude pruning; its search takes rounds x round-epochs."""

    round_epochs: int = 160
    """epochs of training in each round"""
    rate: float = 0.2
    """fraction of the remaining weights that a round removes, about: the last round ends exactly on target"""
    rounds: int | None = None
    """number of rounds (default: as the rate asks)"""
    decay: bool = True
    """lower the learning rate at milestones within a round"""
    rewind_step: int = 0
    """optimizer step whose weights each round starts from; 0: the initial weights (cold)"""
    rewind_batch_norm: bool = False
    """rewind the BatchNorm statistics too"""


@option
class LotteryTicket:
    """Options of the one-shot lottery ticket."""

    rewind_step: int = 0
    """optimizer step whose weights the ticket starts from; 0: the initial weights"""
    rewind_batch_norm: bool = False
    """rewind the BatchNorm statistics too"""


@option
class Lrr:
    """Options of learning-rate rewinding; its search takes rounds x round-epochs."""

    round_epochs: int = 160
    """epochs of training in each round"""
    rate: float = 0.2
    """fraction of the remaining weights that a round removes, about: the last round ends exactly on target"""
    rounds: int | None = None
    """number of rounds (default: as the rate asks); 1 is one-shot"""
    decay: bool = True
    """lower the learning rate at milestones within a round"""


@option
class Snip:
    """Options of SNIP."""

    batches: int = 1
    """training batches whose gradients are summed"""
    scope: Scope = "global"
    """rank over the whole network, or within each layer at equal ratios"""


@option
class Grasp:
    """Options of GraSP."""

    batches: int = 1
    """training batches whose scores are summed"""
    temperature: float = 200.0
    """logits are divided by it"""


@option
class Synflow:
    """Options of SynFlow."""

    rounds: int = 100
    """rounds of scoring and pruning, the kept number falling exponentially"""


@option
class Force:
    """Options of FORCE and iterative SNIP."""

    rounds: int = 60
    """rounds of scoring and pruning, a batch each"""
    revive: bool = True
    """let pruned weights come back (FORCE); without it: iterative SNIP"""


@option
class Prospr:
    """Options of ProsPr."""

    inner_steps: int = 3
    """steps of SGD that the meta-gradient goes through (K)"""
    inner_learning_rate: float = 0.1
    """of these steps"""
    momentum: float = 0.0
    """of these steps"""
    first_order: bool = False
    """take the updates as constants"""
    split_batch: bool = False
    """divide the batch among the steps and the final loss, rather than using it whole for each"""


@option
class Magnitude:
    """Options of magnitude pruning at initialization."""

    scope: Scope = "global"
    """rank over the whole network, or within each layer at equal ratios"""


@option
class Random:
    """Options of random tickets."""

    scope: Scope = "global"
    """draw from all weights at once, or keep the same ratio of each layer"""


@option
class CopiedRatios:
    """Options of random tickets with the layer ratios of another ticket."""

    ticket: Path | None = None
    """a ticket.safetensors, or a run folder"""


@option
class SmartRatio:
    """Options of smart ratios (Sanity-Checking Pruning; Rare Gems v1, Appendix B)."""

    version: Literal["v1", "v2", "v3", "v4", "v5", "v6"] = "v1"
    """v1: Su et al.; v2, v3: other first and last layers; v4: a search near IMP's ratios; v5, v6: SGD on v2, v4"""
    family: Literal["resnet", "vgg"] = "resnet"
    """which of Su et al.'s two rules"""
    linear: float | None = 0.3
    """keep ratio of the linear layers; None: they follow the rule too"""
    exact: bool = True
    """hit the asked sparsity exactly; without it the counts are as in the papers (v2 and v3 keep more)"""
    ticket: Path | None = None
    """v2, v5: a GEM-MINER ticket that gives the first and last ratio; v4, v6: an IMP ticket that gives all"""
    candidates: int = 8
    """v4, v6: how many ratios are tried"""
    radius: float = 0.3
    """v4, v6: standard deviation of the logarithm of a tried ratio around IMP's"""
    candidate_steps: int = 20
    """v4, v6: random masks drawn for each"""


@option
class Hybrid:
    """Options of hybrid tickets (Sanity-Checking Pruning)."""

    family: Literal["resnet", "vgg"] = "resnet"
    """which of Su et al.'s two rules gives the layer ratios"""
    linear: float | None = 0.3
    """keep ratio of the linear layers; None: they follow the rule too"""


@option
class Jackpot:
    """Options of lottery jackpots: mask search in a trained network (see --pretrained)."""

    criterion: Literal["magnitude", "snip", "grasp", "random"] = "magnitude"
    """where the mask starts"""
    dropped: float = 0.99
    """score of the weights that the first mask drops; the others have 1"""
    weight_decay: float = 5e-4
    """of the scores"""


@option
class Gmp:
    """Options of gradual magnitude pruning."""

    every: int = 100
    """steps from one pruning to the next"""
    start: float = 0.0
    """fraction of the search after which pruning begins"""
    stop: float = 0.75
    """fraction of the search after which the target is reached"""
    scope: Scope = "global"
    """rank over the whole network, or within each layer at equal ratios"""


@option
class Rigl:
    """Options of RigL."""

    every: int = 100
    """steps from one change of the mask to the next"""
    drop_fraction: float = 0.3
    """of a layer's kept weights at the first change; falls to 0 along a cosine"""
    stop: float = 0.75
    """fraction of the search after which the mask stays"""
    ratios: Literal["uniform", "erk"] = "erk"
    """layer ratios"""


@option
class Set:
    """Options of sparse evolutionary training."""

    every: int = 100
    """steps from one change of the mask to the next"""
    drop_fraction: float = 0.3
    """of a layer's kept weights at each change"""
    stop: float = 1.0
    """fraction of the search after which the mask stays"""
    ratios: Literal["uniform", "erk"] = "erk"
    """layer ratios"""


@option
class ContinuousSparsification:
    """Options of continuous sparsification."""

    final_temperature: float = 200.0
    """what scores are multiplied by in the sigmoid at the end of the search (1 at its start)"""
    penalty: float = 1e-8
    """strength of the penalty on the relaxed mask (lambda)"""
    initial_score: float = 0.0
    """all scores at the start"""


@option
class Supermask:
    """Options of supermasks (Zhou et al.): masks drawn from Bernoulli(sigmoid(s))."""

    initial_score: float = 0.0
    """all scores at the start"""


NETWORK = Network()
# The group of a method has the method's name.
GROUPS: dict[str, Any] = {
    "gem_miner": GemMiner(), "edge_popup": EdgePopup(), "imp": Imp(), "lottery_ticket": LotteryTicket(), "lrr": Lrr(),
    "snip": Snip(), "grasp": Grasp(), "synflow": Synflow(), "force": Force(), "prospr": Prospr(),
    "magnitude": Magnitude(), "random": Random(), "copied_ratios": CopiedRatios(), "smart_ratio": SmartRatio(),
    "hybrid": Hybrid(), "jackpot": Jackpot(), "gmp": Gmp(), "rigl": Rigl(), "set": Set(),
    "continuous_sparsification": ContinuousSparsification(), "supermask": Supermask(),
}  # fmt: skip


def as_options(group: Any) -> dict[str, Any]:
    """The fields of a group, as keyword arguments; none for a method without options."""
    return {} if group is None else {field.name: getattr(group, field.name) for field in dataclasses.fields(group)}
