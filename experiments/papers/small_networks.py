"""GEM-MINER, its parts and the baselines on small networks, where two CPU cores pay for the steps of a search.

No tables of a paper: claims, tried where everybody can try them. Searches have 10,000 steps and freeze 31 times. Beside
them whether tickets of LeNet-300-100 are linearly connected.
"""

from collections.abc import Sequence

from experiments.papers import stabilizing_networks
from experiments.papers.item import Analysis, Claim, Column, Figure, Item, Part, Small

__all__ = ["ITEMS"]

_GLOBAL = "edge_popup --edge-popup.scope=global"
_GRADUAL = f"{_GLOBAL} --edge-popup.gradual --edge-popup.period=1"
_COLUMNS = (
    Column("GEM-MINER", "gem_miner"),
    Column("GM without regularization", "gem_miner --gem-miner.l2=0"),
    Column("GM by layer", "gem_miner --gem-miner.scope=layer"),
    Column("EP", "edge_popup"),
    Column("Global EP", _GLOBAL),
    Column("Global EP, gradual", _GRADUAL),
    Column("Global EP, gradual, regularized", f"{_GRADUAL} --edge-popup.l2=1e-4"),
    Column("Smart ratio", "smart_ratio --smart-ratio.linear=None"),
    Column("SNIP", "snip"),
    Column("SynFlow", "synflow"),
    Column("random", "random"),
    Column("IMP", "imp"),
    Column("Renda et al.", "lrr"),
)
# Without BatchNorm weights that train by SGD at 0.1, as elsewhere, end at chance for some seeds. So all methods are
# finetuned, and searches of weights train, by what Stabilizing trains LeNet by.
_SEARCHED = "--training.optimizer=adam --training.schedule=constant --learning-rate=0.0012"
_FINETUNED = "--finetune.optimizer=adam --finetune.schedule=constant --finetune-learning-rate=0.0012 --weight-decay=0"


def _by_adam(column: Column, already: Sequence[str] = ()) -> Column:
    """already: the methods of which presets say so."""
    if column.flags in already:
        return column
    searched = f" {_SEARCHED}" if column.flags in ("imp", "lrr") else ""
    return column._replace(flags=f"{column.flags}{searched} {_FINETUNED}")


_AT = ("0.9", "0.9856", "0.995")
_CLAIMS = (
    Claim("Figure 6: GEM-MINER is above EP before finetuning", "GEM-MINER", "EP", "before"),
    Claim("Figure 3: GEM-MINER is above EP", "GEM-MINER", "EP"),
    Claim("Figure 3: GEM-MINER is above smart ratio", "GEM-MINER", "Smart ratio"),
    Claim("Figure 3: GEM-MINER is above IMP", "GEM-MINER", "IMP"),
    Claim("Table 3: a global choice is above one by layer", "Global EP", "EP"),
    Claim("Table 3: a gradual choice is above one at once", "Global EP, gradual", "Global EP"),
    Claim("Table 3: GEM-MINER is above all extensions of EP", "GEM-MINER", "Global EP, gradual, regularized"),
    Claim("Table 4: the regularizer helps", "GEM-MINER", "GM without regularization"),
    Claim("Table 4: the regularizer helps before finetuning", "GEM-MINER", "GM without regularization", "before"),
    Claim("Table 4: a global choice is above one by layer", "GEM-MINER", "GM by layer"),
)
_CHECKED = (
    Claim("its mask shuffled loses", "GEM-MINER", "GEM-MINER", over_value="shuffle"),
    Claim("its weights drawn again lose", "GEM-MINER", "GEM-MINER", over_value="reinit"),
    Claim("its scores inverted lose", "GEM-MINER", "GEM-MINER", over_value="invert"),
)
_STEPS = (
    "--batch-size=32 --epochs=32 --finetune-epochs=10 --gem-miner.period=1 --imp.round-epochs=2 --lrr.round-epochs=2 "
    "--imp.rewind-step=300"
)
_SMALL = "2,000 images, so a fifth of the steps; one sparsity"
_FEWER = "--train-examples=2000 --imp.rewind-step=60"
_LENET = Part(
    dataset="mnist", model="lenet_300_100", sparsities=_AT, flags=f"--train-examples=10000 {_STEPS}",
    columns=tuple(_by_adam(one, ("snip", "synflow", "random", "imp")) for one in _COLUMNS),
    claims=_CLAIMS, small=Small(_SMALL, _FEWER, sparsities=("0.9856",)),
)  # fmt: skip
_CONV = _LENET._replace(
    model="conv2",
    columns=tuple(map(_by_adam, _COLUMNS)),
    flags=f"{_LENET.flags} {_FINETUNED}",
    small=_LENET.small._replace(
        says=f"{_SMALL}; images of 14x14 pixels, a quarter of the channels",
        flags=f"{_FEWER} --image-size=14 --network.width=0.25",
    ),
)
_RESNET = _LENET._replace(
    dataset="cifar10", model="resnet20", flags=f"--image-size=16 {_LENET.flags}",
    columns=tuple(Column("Smart ratio", "smart_ratio") if one.name == "Smart ratio" else one for one in _COLUMNS),
    small=_LENET.small._replace(
        says=f"{_SMALL}; images of 8x8 pixels, half of the channels",
        flags=f"{_FEWER} --image-size=8 --network.width=0.5",
    ),
)  # fmt: skip


def _checked(part: Part) -> Part:
    """The sanity checks of GEM-MINER in the setting of a part."""
    return part._replace(
        columns=part.columns[:1], dense=False, sanity=("shuffle", "reinit", "invert"), claims=_CHECKED,
        name=f"{part.model}, sanity checks",
    )  # fmt: skip


# Frankle et al. (2020), which some of these authors wrote next: whether what is stable is connected, too
def _connected(network: str) -> Part:
    """The whole network, IMP's tickets, cold and rewound, and a random subnetwork, each under two data orders."""
    early = stabilizing_networks.order_columns("k=500", "imp --imp.rewind-step=500 --keep=rounds", 2)
    columns = (
        Column("dense, order 2", "dense --data-seed=2"),
        *stabilizing_networks.order_columns("k=0", "imp --imp.rewind-step=0 --keep=rounds", 2),
        early[0]._replace(small="--imp.rewind-step=10"),
        early[1],
        *stabilizing_networks.order_columns("random", "copied_ratios --copied-ratios.ticket=@k=0", 2),
    )
    analyses = [Analysis("connectivity", (name, f"{name}, order 2")) for name in ("dense", "k=0", "k=500", "random")]
    small = stabilizing_networks.small_of(network)
    small = small._replace(says=f"{small.says}, rewound to iteration 10 in place of 500")
    return stabilizing_networks.part_of(network, columns, analyses=analyses, small=small)


ITEMS = (
    Item(
        id="small-networks", paper="Rare Gems v2", number="on small networks",
        shows="GEM-MINER, its parts, the extensions of edge-popup and the baselines", parts=(_LENET, _CONV, _RESNET),
        figures=(Figure("accuracy_over_sparsity", "before"), Figure("accuracy_over_sparsity")),
        notes=(
            "No table of the paper: what its Figures 3 and 6 and Tables 3 and 4 claim, on 10,000 images in batches of "
            "32, with 10,000 steps of search and 31 rounds of freezing.",
            "IMP and learning-rate rewinding train 2 epochs a round: at 90, 98.56 and 99.5 % IMP's rounds come to 11, "
            "21 and 26 epochs, as they go on from step 300 of 626, those of Renda et al. to 20, 38 and 48; the other "
            "searches have 32.",
            "Networks without BatchNorm: all methods are finetuned by Adam at 0.0012 without weight decay, by which "
            "Stabilizing trains LeNet; SGD at 0.1 ends at chance for some seeds.",
        ),
    ),
    Item(
        id="small-networks-sanity", paper="Rare Gems v2", number="on small networks, sanity",
        shows="sanity checks of GEM-MINER's tickets", parts=tuple(map(_checked, (_LENET, _CONV, _RESNET))),
        figures=(Figure("sanity_over_sparsity"),), notes=("No table of the paper: its checks, as in small-networks.",),
    ),
    Item(
        id="small-networks-connectivity", paper=stabilizing_networks.PAPER, number="on small networks, connectivity",
        shows="the error barrier between two trainings of a ticket under two orders of the data",
        parts=(_connected("LeNet"),),
        figures=(Figure("accuracy_over_columns", "connectivity.error_barrier", ("dense", "k=0", "k=500", "random")),),
        notes=(
            "In none of the five papers: Frankle et al. (Linear Mode Connectivity, 2020) found that a barrier near "
            "zero goes with a winning ticket.", stabilizing_networks.OPEN,
            stabilizing_networks.PIXELS,
        ),
    ),
)  # fmt: skip
