"""Rare Gems (Sreenivasan et al., 2022), second version: its tables and figures."""

from experiments.papers.item import Column, Figure, Item, Part, cells, merged
from experiments.papers.small import CIFAR_16

__all__ = ["ITEMS"]

_V2 = "Rare Gems v2"
_AT = ("0.9941",)

_TABLE_3 = Part(
    dataset="cifar10",
    model="resnet20",
    columns=(
        Column("EP", "edge_popup"),
        Column("Global EP", "edge_popup --edge-popup.scope=global"),
        Column("Global EP, gradual", "edge_popup --edge-popup.scope=global --edge-popup.gradual"),
        Column("Global EP, gradual, regularized",
               "edge_popup --edge-popup.scope=global --edge-popup.gradual --edge-popup.l2=1e-4"),
        Column("GEM-MINER", "gem_miner"),
    ),
    sparsities=_AT,
    dense=False,
    printed=merged(
        cells("before", _AT, {"EP": (19.57,), "Global EP": (22.22,), "Global EP, gradual": (31.56,),
                              "Global EP, gradual, regularized": (19.67,), "GEM-MINER": (45.30,)}),
        cells("after", _AT, {"EP": (24.47,), "Global EP": (34.42,), "Global EP, gradual": (63.54,),
                             "Global EP, gradual, regularized": (63.72,), "GEM-MINER": (66.15,)}),
    ),
    small=CIFAR_16,
)  # fmt: skip

ITEMS = (
    Item(
        id="rare-gems-table-3",
        paper=_V2,
        number="Table 3",
        shows="edge-popup with a global, gradual, regularized choice, against GEM-MINER",
        parts=(_TABLE_3,),
        figures=(Figure("accuracy_over_columns", "before"), Figure("accuracy_over_columns", "after")),
        notes=("The strength of the regularization is not stated; 1e-4 is GEM-MINER's.",),
    ),
)
