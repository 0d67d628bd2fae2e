"""Hidden Networks (Ramanujan et al., What's Hidden in a Randomly Weighted Neural Network?, 2020): edge-popup, from the
configs of its code.

  python -m experiments.cifar10 --pruner=edge_popup --model=conv4 --sparsity=0.5
  python -m experiments.imagenet --pruner=edge_popup --model=resnet50 --sparsity=0.7

Expected: ResNet-50 on ImageNet with 30 % of its weights, signed constants, 68.6 %, and 61.7 with
--init=kaiming_normal (README of its code); the Conv networks are curves only. The weights are never trained; for the
finetuning of Rare Gems add --finetune-epochs. --scale-fan draws the weights for the inputs that are kept (the code
scales by the fraction removed, which is the same at one half).

ResNet-18 on CIFAR-10 stays with Rare Gems (`rare_gems_baselines`); this paper's is --epochs=100 --batch-size=256
--finetune-epochs=0. The dense ResNet-50 is that of `stabilizing`.
"""

from experiments.presets.rows import OURS, Row, Table, join, row, untrained

__all__ = ["TABLES"]

_CODE = "code of Hidden Networks"


def _edge_popup(batch_size: int, rate: tuple[str, float], momentum: float, decay: float, *more: Row) -> Row:
    return join(
        row(_CODE, init="signed_constant", epochs=100, batch_size=batch_size, momentum=momentum),
        row(rate[0], learning_rate=rate[1]),
        row(_CODE, edge_popup__weight_decay=decay, edge_popup__scope="layer", edge_popup__gradual=False),
        row(_CODE, edge_popup__l2=0.0),
        row("Hidden Networks: the weights stay as they were drawn", finetune_epochs=0),
        row(OURS, finetune_learning_rate=0.1, weight_decay=1e-4, seed=42),
        *more,
    )


_CONV = _edge_popup(128, (_CODE, 0.1), 0.9, 1e-4, row(_CODE, network__bias=False))
_IMAGENET = _edge_popup(
    256, (f"{_CODE} (5 epochs of warm-up, and labels smoothed by 0.1, there)", 0.256), 0.875, 2**-15,
    row(_CODE, network__affine=False, network__bias=False, network__stem="imagenet"),
)  # fmt: skip
_DENSE = join(
    row(_CODE, finetune_epochs=100, batch_size=128, momentum=0.9, weight_decay=1e-4, init="kaiming_normal"),
    row(_CODE, finetune_learning_rate=0.01, training__schedule="cosine"),
    row(_CODE, network__bias=False),
    row(OURS, epochs=0, seed=42),
)


def _conv(model: str) -> Table:
    table: Table = {
        ("edge_popup", model, "cifar10"): {0.5: _CONV},
        ("dense", model, "cifar10"): {0.0: _DENSE},
    }
    return table | untrained(model, "cifar10", _DENSE, "Hidden Networks")


TABLES: Table = {
    **_conv("conv2"), **_conv("conv4"), **_conv("conv6"),
    ("edge_popup", "resnet50", "imagenet"): {0.7: _IMAGENET},
}  # fmt: skip
