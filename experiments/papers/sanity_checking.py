"""Sanity-Checking Pruning Methods: Random Tickets can Win the Jackpot (Su et al., 2020): its tables and figures."""

from collections.abc import Mapping, Sequence

from experiments.papers.item import Cells, Claim, Column, Figure, Item, Number, Part, Small, cells, merged
from experiments.papers.sanity_checking_numbers import TABLE_1, TABLE_2, TABLE_3, TABLE_4, WHOLE, Numbers

__all__ = ["ITEMS"]

_PAPER = "Sanity-Checking"
_AT = ("0.9", "0.95", "0.98")
_TITLES = {"vgg19": "VGG-19", "resnet32": "ResNet-32"}
_SETS = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100", "tiny_imagenet": "TinyImageNet"}
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


def _printed(pair: tuple[str, str], numbers: Mapping[str, Sequence[Number]]) -> Cells:
    return merged({("dense", "0.0"): {"after": WHOLE[pair]}}, cells("after", _AT, numbers))


def _table(numbers: Numbers, columns: Sequence[Column], claims: Sequence[Claim] = ()) -> tuple[Part, ...]:
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
    numbers = TABLE_3[pair]
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
        printed=cells("after", _AT, {"LT": TABLE_1[pair]["LT"]}), name=f"{title}, lottery ticket",
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
        printed=_printed((model, "cifar10"), {each.name: TABLE_1[model, "cifar10"][each.name] for each in _INITIAL}),
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
        parts=_table(TABLE_1, (*_INITIAL, RANDOM)), figures=(Figure("accuracy_over_sparsity"),), notes=(_CODE,),
    ),
    Item(
        id="sanity-checking-table-2", paper=_PAPER, number="Table 2",
        shows="initial and random tickets on TinyImageNet",
        parts=_table(TABLE_2, (SNIP, GRASP, RANDOM)), figures=(Figure("accuracy_over_sparsity"),),
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
        parts=_table(TABLE_4, (OBD, LRR, HYBRID)), figures=(Figure("accuracy_over_sparsity"),),
        notes=(_CODE, "OBD's numbers are quoted from elsewhere, without errors and without a recipe."),
    ),
    Item(
        id="sanity-checking-ablation", paper=_PAPER, number="section 4.2",
        shows="keep-ratios that ascend with depth, and other rates of decay", parts=_ABLATION,
        figures=(Figure("accuracy_over_sparsity"),),
        notes=("The numbers are in an appendix that the text leaves out; the rates of decay are chosen here.", _CODE),
    ),
)  # fmt: skip
