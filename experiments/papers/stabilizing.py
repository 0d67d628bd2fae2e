"""Stabilizing the Lottery Ticket Hypothesis (Frankle et al., 2019): its figures on MNIST and CIFAR-10.

A random subnetwork has the layer ratios of IMP's ticket and its initial weights; where IMP is rewound it is the
shuffled mask over the weights that it is rewound to.
"""

from collections.abc import Mapping

from experiments.papers.item import Claim, Column, Figure, Item, Number, Part
from experiments.papers.stabilizing_networks import (
    ERRORS,
    OPEN,
    PAPER,
    PIXELS,
    RATES,
    RECIPES,
    SWAPPED,
    at_two_levels,
    levels,
    order_columns,
    over_rewinding,
    part_of,
    small_of,
    stability,
)

__all__ = ["ITEMS"]

_ORDERS = 4  # 6 pairs of them with each of 3 seeds: 18 samples


# Figure 1
def _figure_1(network: str) -> Part:
    return part_of(network, (Column("IMP", "imp"),), levels(network), sanity=("reinit",), small=at_two_levels(network))


# Figures 2, 3 and 10
_DENSE: Mapping[str, Number] = {
    "LeNet": (98.0, 0.2), "ResNet-18 (standard)": (90.5, 0.0), "ResNet-18 (low)": (89.1, 0.1),
    "ResNet-18 (warm-up)": (89.6, 0.1), "VGG-19 (standard)": (91.5, 0.2), "VGG-19 (low)": (92.0, 0.1),
    "VGG-19 (warm-up)": (92.3, 0.1),
}  # fmt: skip
_ACCURACY: Mapping[str, tuple[Number, Number]] = {
    "LeNet": ((98.3, 0.1), (97.5, 0.3)), "ResNet-18 (standard)": ((87.7, 0.4), (87.7, 0.5)),
    "ResNet-18 (low)": ((89.1, 0.4), (86.1, 0.6)), "ResNet-18 (warm-up)": ((90.3, 0.4), (86.8, 0.5)),
    "VGG-19 (standard)": ((90.0, 0.3), (90.2, 0.5)), "VGG-19 (low)": ((91.0, 0.3), (88.0, 0.3)),
    "VGG-19 (warm-up)": ((92.4, 0.2), (90.3, 0.3)),
}  # fmt: skip
# IMP and random: between orders of the data, then between pruned and whole.
_DISTANCE: Mapping[str, tuple[Number, Number, Number, Number]] = {
    "LeNet": ((20.7, 0.6), (58.6, 4.0), (48.1, 0.6), (75.7, 0.5)),
    "ResNet-18 (standard)": ((66.4, 0.7), (66.7, 1.1), (54.4, 0.2), (53.4, 0.4)),
    "ResNet-18 (low)": ((7.1, 1.2), (28.9, 3.2), (19.8, 1.4), (26.6, 0.1)),
    "ResNet-18 (warm-up)": ((9.5, 0.1), (37.4, 1.9), (24.8, 0.9), (34.6, 0.2)),
    "VGG-19 (standard)": ((285.0, 3.0), (245.0, 34.0), (216.0, 1.0), (212.0, 1.0)),
    "VGG-19 (low)": ((36.8, 2.6), (90.3, 0.7), (44.0, 0.3), (66.1, 0.4)),
    "VGG-19 (warm-up)": ((97.0, 0.6), (267.0, 2.0), (138.0, 1.0), (201.0, 1.0)),
}
_ANGLE: Mapping[str, tuple[Number, Number, Number, Number]] = {
    "LeNet": ((22.7, 0.5), (49.2, 3.0), (53.1, 0.8), (83.6, 1.1)),
    "ResNet-18 (standard)": ((87.7, 1.2), (88.0, 1.4), (87.7, 1.2), (88.0, 1.4)),
    "ResNet-18 (low)": ((16.1, 2.7), (75.8, 1.2), (50.4, 4.8), (77.1, 0.4)),
    "ResNet-18 (warm-up)": ((17.0, 0.2), (69.0, 3.8), (49.9, 2.3), (79.0, 0.5)),
    "VGG-19 (standard)": ((88.5, 0.4), (88.3, 0.5), (87.8, 0.2), (88.1, 0.2)),
    "VGG-19 (low)": ((39.9, 2.1), (84.9, 0.6), (54.0, 0.4), (79.0, 0.2)),
    "VGG-19 (warm-up)": ((39.9, 2.1), (84.6, 0.4), (71.7, 0.3), (84.8, 0.2)),
}
_IMP_AND_RANDOM = (
    *order_columns("IMP", "imp --keep=rounds", _ORDERS),
    *order_columns("random", "copied_ratios --copied-ratios.ticket=@IMP", _ORDERS),
)


def _stable(network: str, unit: str, numbers: Mapping[str, tuple[Number, Number, Number, Number]]) -> Part:
    order_imp, order_random, pruning_imp, pruning_random = numbers[network]
    usual = (RECIPES[network][3],)
    printed = {
        ("IMP", usual[0]): {
            "after": _ACCURACY[network][0], f"stability.order_{unit}": order_imp,
            f"stability.pruning_{unit}": pruning_imp,
        },
        ("random", usual[0]): {
            "after": _ACCURACY[network][1], f"stability.order_{unit}": order_random,
            f"stability.pruning_{unit}": pruning_random,
        },
    }  # fmt: skip
    return part_of(
        network, _IMP_AND_RANDOM, usual, printed, analyses=(stability("IMP", _ORDERS), stability("random", _ORDERS))
    )


# Figures 4, 5, 9 and 11
_REWOUND = {
    "LeNet": (0, 25, 100, 500, 2000, 10000), "ResNet": (0, 100, 500, 2000, 5000), "VGG": (0, 100, 500, 2000, 10000),
}  # fmt: skip
_ENOUGH = {"ResNet": 500, "VGG": 100}


def _family(network: str) -> str:
    return network.partition("-")[0]


def _rewinding(network: str) -> Part:
    """IMP rewound to several iterations, each trained under two orders; the random subnetwork is its shuffled mask."""
    steps, family = _REWOUND[_family(network)], _family(network)
    columns = [
        column._replace(small=f"--imp.rewind-step={step // 50}" if column.flags.startswith("imp") else "")
        for step in steps
        for column in order_columns(f"k={step}", f"imp --imp.rewind-step={step} --keep=rounds", 2, x=float(step))
    ]
    claims = ()
    if family in _ENOUGH and "standard" in network:
        enough = f"k={_ENOUGH[family]}"
        claims = (
            Claim(f"rewound to iteration {_ENOUGH[family]} it exceeds the whole network", enough, "dense"),
            Claim(
                "reset to iteration 0 it does not win over its shuffled mask (by half a point)",
                "k=0",
                "k=0",
                value="shuffle",
                at_least=-0.5,
                over_value="after",
            ),
            Claim("rewound it does", enough, enough, over_value="shuffle"),
        )
    shown = [f"k={step}" for step in (0, 100, 500)]
    names = tuple(name for k in shown for name in (k, f"{k}, order 2"))
    small = small_of(network)._replace(columns=names, num_seeds=1)
    small = small._replace(says=f"{small.says}, rewound to a fiftieth of the iterations named")
    analyses = tuple(stability(f"k={step}", 2, check) for step in steps for check in ("", "shuffle"))
    return part_of(network, columns, sanity=("shuffle",), claims=claims, analyses=analyses, small=small)


def _figure_5(network: str) -> Part:
    step = _ENOUGH[_family(network)]
    columns = (
        Column("reset to 0", "imp"),
        Column(f"rewound to {step}", f"imp --imp.rewind-step={step}", small=f"--imp.rewind-step={step // 25}"),
    )
    at = levels(network)[2]
    claims = (
        Claim("rewound beats reset", columns[1].name, columns[0].name, sparsity=at),
        Claim("rewound exceeds the whole network", columns[1].name, "dense", sparsity=levels(network)[0]),
    )
    small = at_two_levels(network)
    small = small._replace(says=f"{small.says}, rewound to a 25th of the iteration named")
    return part_of(network, columns, levels(network), claims=claims, small=small)


def _figure_9(network: str) -> Part:
    at = levels(network)[2]
    columns = (Column("IMP", "imp"), Column("SNIP", "snip", small="--snip.batches=4"))
    claims = (
        Claim("winning tickets beat re-initialized ones", "IMP", "IMP", sparsity=at, over_value="reinit"),
        Claim("winning tickets beat SNIP", "IMP", "SNIP", sparsity=at),
    )
    return part_of(network, columns, levels(network), sanity=("reinit",), claims=claims, small=at_two_levels(network))


_CIFAR = tuple(name for name in RECIPES if name != "LeNet")
_WARM = ("VGG-19 (warm-up)", "ResNet-18 (warm-up)")
_STANDARDS = ("ResNet-18 (standard)", "VGG-19 (standard)")
_SUSPECT = (
    "Figure 10's pruning angles of ResNet-18 (standard) repeat its data-order angles, and the data-order angle of IMP "
    "on VGG-19 (warm-up) repeats that of VGG-19 (low), as the ratio 4.7x of ResNet-18 (warm-up), where 69.0 / 17.0 is "
    "4.1, repeats that of ResNet-18 (low): suspect prints."
)

ITEMS = (
    Item(
        id="stabilizing-figure-1", paper=PAPER, number="Figure 1", num_seeds=3,
        shows="IMP reset to iteration 0 and its re-initialized tickets, with standard, low and warmed-up rates",
        parts=tuple(_figure_1(name) for name in _CIFAR),
        figures=(Figure("sanity_over_sparsity"),),
        notes=(SWAPPED, RATES, OPEN, "Curves: the text prints no numbers."),
    ),
    Item(
        id="stabilizing-figure-2", paper=PAPER, number="Figure 2", num_seeds=3,
        shows="the networks, their training and their accuracies whole",
        parts=tuple(part_of(name, (), ("0.0",), {("dense", "0.0"): {"after": _DENSE[name]}}) for name in RECIPES),
        figures=(Figure("accuracy_over_columns"),),
        notes=(SWAPPED, RATES, OPEN, PIXELS),
    ),
    Item(
        id="stabilizing-figure-3", paper=PAPER, number="Figure 3", num_seeds=3,
        shows="stability to data order and to pruning (L2) and accuracy of IMP's tickets and random subnetworks",
        parts=tuple(_stable(name, "l2", _DISTANCE) for name in RECIPES),
        figures=(Figure("accuracy_over_columns", columns=("IMP", "random")),),
        notes=(SWAPPED, RATES, OPEN, PIXELS, ERRORS),
    ),
    Item(
        id="stabilizing-figure-4", paper=PAPER, number="Figure 4", num_seeds=3,
        shows="stability (L2) and accuracy against the iteration rewound to",
        parts=tuple(_rewinding(name) for name in RECIPES),
        figures=over_rewinding("Rewinding iteration", "order_l2", "pruning_l2"),
        notes=(SWAPPED, RATES, OPEN, PIXELS, "The iterations are chosen here: the text names 0, 100 and 500 only."),
    ),
    Item(
        id="stabilizing-figure-5", paper=PAPER, number="Figure 5", num_seeds=3,
        shows="IMP rewound early in training against IMP reset to iteration 0, at all sparsities",
        parts=tuple(_figure_5(name) for name in _STANDARDS),
        figures=(Figure("accuracy_over_sparsity"),),
        notes=(SWAPPED, RATES, OPEN),
    ),
    Item(
        id="stabilizing-figure-9", paper=PAPER, number="Figure 9", num_seeds=3,
        shows="IMP, its re-initialized tickets and SNIP, with warm-up",
        parts=tuple(_figure_9(name) for name in _WARM),
        figures=(Figure("accuracy_over_sparsity"), Figure("sanity_over_sparsity")),
        notes=(SWAPPED, RATES, OPEN),
    ),
    Item(
        id="stabilizing-figure-10", paper=PAPER, number="Figure 10", num_seeds=3,
        shows="Figure 3 with angles in place of L2 distances",
        parts=tuple(_stable(name, "angle", _ANGLE) for name in RECIPES),
        figures=(Figure("accuracy_over_columns", columns=("IMP", "random")),),
        notes=(_SUSPECT, SWAPPED, RATES, OPEN, PIXELS, ERRORS),
    ),
    Item(
        id="stabilizing-figure-11", paper=PAPER, number="Figure 11", num_seeds=3,
        shows="Figure 4 with angles in place of L2 distances",
        parts=tuple(_rewinding(name) for name in RECIPES),
        figures=over_rewinding("Rewinding iteration", "order_angle", "pruning_angle"),
        notes=(SWAPPED, RATES, OPEN, PIXELS),
    ),
)  # fmt: skip
