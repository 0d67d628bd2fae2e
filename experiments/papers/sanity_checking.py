"""Sanity-Checking Pruning Methods: Random Tickets can Win the Jackpot (Su et al., 2020): its tables and figures."""

from collections.abc import Mapping, Sequence

from experiments.papers.item import Cells, Claim, Column, Figure, Item, Number, Part, Small, cells, merged

__all__ = ["ITEMS"]

_PAPER = "Sanity-Checking"
_AT = ("0.9", "0.95", "0.98")
_TITLES = {"vgg19": "VGG-19", "resnet32": "ResNet-32"}
_SETS = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100", "tiny_imagenet": "TinyImageNet"}
_WHOLE = {
    ("vgg19", "cifar10"): 93.70, ("resnet32", "cifar10"): 94.62, ("vgg19", "cifar100"): 72.60,
    ("resnet32", "cifar100"): 74.57, ("vgg19", "tiny_imagenet"): 61.57, ("resnet32", "tiny_imagenet"): 62.92,
}  # fmt: skip
_SMALL = Small(
    says="digits, ResNet-20 (in place of ResNet-32) and Conv-4 (in place of VGG-19), 20 + 20 epochs of 45 steps",
    flags="--batch-size=32 --epochs=20 --finetune-epochs=20 --lrr.round-epochs=20 --snip.batches=4 --grasp.batches=4",
    dataset="digits",
    sparsities=("0.95", "0.98"),
    num_seeds=2,
)
LT, SNIP, GRASP = Column("LT", "lottery_ticket"), Column("SNIP", "snip"), Column("GraSP", "grasp")
LRR, OBD = Column("LRR", "lrr", small="--lrr.rounds=1"), Column("OBD", "obd", small="--obd.batches=10")
RANDOM, HYBRID = Column("Random Tickets", "smart_ratio"), Column("Hybrid Tickets", "hybrid")


def _small(model: str) -> Small:
    conv = ""
    if model == "vgg19":  # half of Conv-4's weights are linear: they follow the rule too
        conv = " --smart-ratio.family=vgg --smart-ratio.linear=None --hybrid.family=vgg --hybrid.linear=None"
    return _SMALL._replace(model="conv4" if conv else "resnet20", flags=_SMALL.flags + conv)


def _descending(model: str) -> Small:
    """Steeper rules leave Conv-4 a layer without weights: ResNet-20 for both networks, each by its own rule."""
    family = "vgg" if model == "vgg19" else "resnet"
    says = _SMALL.says.replace("ResNet-20 (in place of ResNet-32) and Conv-4 (in place of VGG-19)", "ResNet-20")
    flags = f"{_SMALL.flags} --smart-ratio.family={family}"
    return _SMALL._replace(model="resnet20", says=says, flags=flags, sparsities=("0.9", "0.95"))


_Numbers = Mapping[tuple[str, str], Mapping[str, Sequence[Number]]]

_TABLE_1: _Numbers = {
    ("vgg19", "cifar10"): {
        "LT": ((93.66, 0.08), (93.39, 0.13), (10.00, 0.00)), "SNIP": ((93.65, 0.14), (93.39, 0.08), (81.37, 18.17)),
        "GraSP": ((93.01, 0.16), (92.82, 0.20), (91.90, 0.23)),
        "Random Tickets": ((93.77, 0.10), (93.42, 0.22), (92.45, 0.22)),
    },
    ("resnet32", "cifar10"): {
        "LT": ((92.61, 0.19), (91.37, 0.28), (88.92, 0.49)), "SNIP": ((92.81, 0.17), (91.20, 0.19), (87.94, 0.40)),
        "GraSP": ((92.79, 0.24), (91.80, 0.11), (89.21, 0.26)),
        "Random Tickets": ((92.97, 0.05), (91.60, 0.26), (89.10, 0.33)),
    },
    ("vgg19", "cifar100"): {
        "LT": ((72.58, 0.27), (70.47, 0.19), (1.00, 0.00)), "SNIP": ((72.83, 0.16), (71.81, 0.11), (10.83, 6.74)),
        "GraSP": ((71.07, 0.31), (70.14, 0.21), (68.34, 0.20)),
        "Random Tickets": ((72.55, 0.14), (71.37, 0.09), (68.98, 0.34)),
    },
    ("resnet32", "cifar100"): {
        "LT": ((69.63, 0.26), (66.48, 0.13), (60.22, 0.60)), "SNIP": ((69.97, 0.17), (64.81, 0.44), (47.97, 0.82)),
        "GraSP": ((70.12, 0.15), (67.05, 0.39), (59.25, 0.33)),
        "Random Tickets": ((69.70, 0.48), (66.82, 0.12), (60.11, 0.16)),
    },
}  # fmt: skip
_TABLE_2: _Numbers = {
    ("vgg19", "tiny_imagenet"): {
        "SNIP": ((61.65, 0.17), (58.72, 0.20), (9.37, 13.67)), "GraSP": ((60.71, 0.25), (59.11, 0.03), (57.08, 0.16)),
        "Random Tickets": ((60.94, 0.38), (59.48, 0.43), (55.87, 0.16)),
    },
    ("resnet32", "tiny_imagenet"): {
        "SNIP": ((54.53, 0.34), (47.68, 0.20), (32.09, 1.87)), "GraSP": ((56.23, 0.09), (51.36, 0.37), (39.43, 1.52)),
        "Random Tickets": ((55.26, 0.22), (51.41, 0.38), (43.93, 0.18)),
    },
}  # fmt: skip
# What Table 3 calls "Shuffle Weights" and "Half Dataset" are checks of its learning-rate rewinding.
_TABLE_3: _Numbers = {
    ("vgg19", "cifar10"): {
        "shuffle_weights": ((93.54, 0.04), (93.33, 0.10), (10.00, 0.00)),
        "half_data": ((93.79, 0.14), (93.53, 0.13), (10.00, 0.00)),
        "LRR": ((94.14, 0.17), (93.99, 0.15), (10.00, 0.00)),
    },
    ("resnet32", "cifar10"): {
        "shuffle_weights": ((92.38, 0.36), (91.29, 0.28), (88.52, 0.47)),
        "half_data": ((93.01, 0.18), (92.03, 0.21), (89.95, 0.08)),
        "LRR": ((94.14, 0.10), (93.02, 0.28), (90.83, 0.22)),
    },
}
_TABLE_4: _Numbers = {
    ("vgg19", "cifar10"): {
        "OBD": (93.74, 93.58, 93.49), "LRR": ((94.14, 0.17), (93.99, 0.15), (10.00, 0.00)),
        "Hybrid Tickets": ((94.00, 0.12), (93.83, 0.10), (93.52, 0.28)),
    },
    ("resnet32", "cifar10"): {
        "OBD": (94.17, 93.29, 90.31), "LRR": ((94.14, 0.10), (93.02, 0.28), (90.83, 0.22)),
        "Hybrid Tickets": ((93.98, 0.15), (92.96, 0.13), (90.85, 0.06)),
    },
    ("vgg19", "cifar100"): {
        "OBD": (73.83, 71.98, 67.79), "LRR": ((73.73, 0.18), (72.39, 0.40), (1.00, 0.00)),
        "Hybrid Tickets": ((73.53, 0.20), (73.10, 0.11), (71.61, 0.46)),
    },
    ("resnet32", "cifar100"): {
        "OBD": (71.96, 68.73, 60.65), "LRR": ((72.41, 0.49), (67.22, 3.42), (59.22, 1.15)),
        "Hybrid Tickets": ((71.47, 0.26), (69.28, 0.40), (63.44, 0.34)),
    },
}  # fmt: skip


def _printed(pair: tuple[str, str], numbers: Mapping[str, Sequence[Number]]) -> Cells:
    return merged({("dense", "0.0"): {"after": _WHOLE[pair]}}, cells("after", _AT, numbers))


def _table(numbers: _Numbers, columns: Sequence[Column], claims: Sequence[Claim] = ()) -> tuple[Part, ...]:
    """A part for each network and data set."""
    return tuple(
        Part(
            dataset=dataset, model=model, columns=tuple(columns), sparsities=_AT, small=_small(model),
            printed=_printed((model, dataset), numbers[model, dataset]), claims=tuple(claims),
            name=f"{_TITLES[model]} on {_SETS[dataset]}",
        )
        for model, dataset in numbers
    )  # fmt: skip


def _partially_trained(model: str) -> tuple[Part, Part]:
    """Learning-rate rewinding with its checks, and the lottery ticket, which has none in the table."""
    pair, title = (model, "cifar10"), _TITLES[model]
    numbers = _TABLE_3[pair]
    checks = {name: cells(name, _AT, {"LRR": numbers[name]}) for name in ("shuffle_weights", "half_data")}
    rewound = Part(
        dataset="cifar10", model=model, columns=(LRR,), sparsities=_AT, small=_small(model),
        printed=merged(_printed(pair, {"LRR": numbers["LRR"]}), *checks.values()), sanity=tuple(checks),
        claims=(
            Claim("shuffled weights cost accuracy", "LRR", "LRR", sparsity="0.95", over_value="shuffle_weights"),
            Claim("half of the data costs accuracy", "LRR", "LRR", sparsity="0.95", over_value="half_data"),
        ),
        name=f"{title}, learning-rate rewinding",
    )  # fmt: skip
    lottery = Part(
        dataset="cifar10", model=model, columns=(LT,), sparsities=_AT, small=_small(model), dense=False,
        printed=cells("after", _AT, {"LT": _TABLE_1[pair]["LT"]}), name=f"{title}, lottery ticket",
    )  # fmt: skip
    return rewound, lottery


_INITIAL = (LT, SNIP, GRASP)


def _figure_3(model: str) -> Part:
    how = {"random_data": "found on corrupted data", "shuffle": "rearranged in each layer"}
    claims = [
        Claim(f"{each.name} {text} is as good (within a point)", each.name, each.name, value=check, at_least=-1.0,
              over_value="after")
        for each in _INITIAL
        for check, text in how.items()
    ]  # fmt: skip
    return Part(
        dataset="cifar10", model=model, columns=_INITIAL, sparsities=_AT, small=_small(model)._replace(num_seeds=1),
        printed=_printed((model, "cifar10"), {each.name: _TABLE_1[model, "cifar10"][each.name] for each in _INITIAL}),
        sanity=("random_data", "shuffle"), claims=tuple(claims), name=_TITLES[model],
    )  # fmt: skip


_ZOO = Part(
    dataset="cifar10", model="resnet32", columns=(*_INITIAL, RANDOM, LRR, HYBRID), sparsities=("0.95",),
    small=_small("resnet32")._replace(sparsities=("0.95",)),
    claims=(
        Claim("random tickets are as good as LT (within a point)", "Random Tickets", "LT", at_least=-1.0),
        Claim("random tickets are as good as SNIP (within a point)", "Random Tickets", "SNIP", at_least=-1.0),
        Claim("partially trained tickets beat initial ones", "LRR", "LT"),
        Claim("hybrid tickets are as good as partially trained ones (within half a point)", "Hybrid Tickets", "LRR",
              at_least=-0.5),
    ),
    name="ResNet-32 on CIFAR-10",
)  # fmt: skip
_PIPELINE = Part(
    dataset="cifar10", model="resnet32", columns=(SNIP, LRR), sparsities=("0.95",),
    small=_small("resnet32")._replace(sparsities=("0.95",)),
    sanity=("random_data", "shuffle", "shuffle_weights", "half_data"),
    claims=(
        Claim("the data of an initial ticket's search do not matter (within a point)", "SNIP", "SNIP",
              value="random_data", at_least=-1.0, over_value="after"),
        Claim("nor does its structure within layers (within a point)", "SNIP", "SNIP", value="shuffle", at_least=-1.0,
              over_value="after"),
        Claim("a partially trained ticket loses by shuffled weights", "LRR", "LRR", over_value="shuffle_weights"),
    ),
    name="ResNet-32 on CIFAR-10",
)  # fmt: skip
_DECAYS = ("cubic", "linear", "uniform", "ascending")
_ABLATION = tuple(
    Part(
        dataset="cifar10", model=model, sparsities=_AT, small=_descending(model), dense=False,
        columns=(RANDOM, *(Column(decay, f"smart_ratio --smart-ratio.decay={decay}") for decay in _DECAYS)),
        claims=(
            Claim("ratios that descend beat ratios that ascend", "Random Tickets", "ascending"),
            Claim("ratios that descend beat equal ones", "Random Tickets", "uniform"),
        ),
        name=f"{title} on CIFAR-10",
    )
    for model, title in _TITLES.items()
)  # fmt: skip
_CODE = "Hyper-parameters are those of the paper's code: its appendix is not in the text."

ITEMS = (
    Item(
        id="sanity-checking-figure-1", paper=_PAPER, number="Figure 1",
        shows="the pipeline, and what the checks take from it (a concept)", parts=(_PIPELINE,),
        notes=("A concept: shown by an initial ticket that stays as good without its data and structure, and a "
               "partially trained one that does not.",),
    ),
    Item(
        id="sanity-checking-figure-2", paper=_PAPER, number="Figure 2", shows="the zoo of tickets (a concept)",
        parts=(_ZOO,), figures=(Figure("accuracy_over_columns"),),
        notes=("A concept: shown by one ticket of each kind.",),
    ),
    Item(
        id="sanity-checking-figure-3", paper=_PAPER, number="Figure 3",
        shows="initial tickets found on corrupted data, and rearranged within layers",
        parts=tuple(_figure_3(model) for model in _TITLES), figures=(Figure("sanity_over_sparsity"),),
        notes=("Curves: the text prints no numbers but those of Table 1.", _CODE),
    ),
    Item(
        id="sanity-checking-table-1", paper=_PAPER, number="Table 1",
        shows="initial tickets and random tickets on CIFAR-10 and CIFAR-100",
        parts=_table(_TABLE_1, (*_INITIAL, RANDOM)), figures=(Figure("accuracy_over_sparsity"),), notes=(_CODE,),
    ),
    Item(
        id="sanity-checking-table-2", paper=_PAPER, number="Table 2",
        shows="initial and random tickets on TinyImageNet",
        parts=_table(_TABLE_2, (SNIP, GRASP, RANDOM)), figures=(Figure("accuracy_over_sparsity"),),
        notes=(_CODE, "The rate falls at 150 and 250 of 300 epochs here, at 150 and 225 in the paper's code."),
    ),
    Item(
        id="sanity-checking-table-3", paper=_PAPER, number="Table 3",
        shows="sanity checks of partially trained tickets",
        parts=tuple(part for model in _TITLES for part in _partially_trained(model)),
        figures=(Figure("sanity_over_sparsity"),), notes=(_CODE,),
    ),
    Item(
        id="sanity-checking-table-4", paper=_PAPER, number="Table 4",
        shows="partially trained and hybrid tickets, and Optimal Brain Damage",
        parts=_table(_TABLE_4, (OBD, LRR, HYBRID)), figures=(Figure("accuracy_over_sparsity"),),
        notes=(_CODE, "OBD's numbers are quoted from elsewhere, without errors and without a recipe."),
    ),
    Item(
        id="sanity-checking-ablation", paper=_PAPER, number="section 4.2",
        shows="keep-ratios that ascend with depth, and other rates of decay", parts=_ABLATION,
        figures=(Figure("accuracy_over_sparsity"),),
        notes=("The numbers are in an appendix that the text leaves out; the rates of decay are chosen here.", _CODE),
    ),
)  # fmt: skip
