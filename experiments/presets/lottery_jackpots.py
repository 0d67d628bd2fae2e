"""Lottery Jackpots (Zhang et al., 2021): VGG-19, and ResNet-32 of doubled width, on CIFAR-10 and CIFAR-100, and
ResNet-50 on ImageNet. The mask of a trained network is searched, its weights stay:

  python -m experiments.cifar10 --pruner=dense --model=resnet32 --network.shortcut=A --run-dir=runs/dense
  python -m experiments.cifar10 --pruner=jackpot --model=resnet32 --sparsity=0.9 --pretrained=runs/dense
  python -m experiments.imagenet --pruner=jackpot --model=resnet50 --sparsity=0.8 --pretrained=resnet50.pth

Expected at 0.9 / 0.95 (Tables 1 and 2), after 30 epochs, and with --epochs=160:
  CIFAR-10, VGG-19 (dense 94.23 %): 93.87 / 93.52, 93.96 / 93.82; ResNet-32 (94.62): 93.71 / 92.92, 94.41 / 93.42
  CIFAR-100, VGG-19 (74.16): 72.61 / 71.74, 74.63 / 72.95; ResNet-32 (74.64): 72.20 / 69.35, 73.37 / 70.33
On ImageNet (Table 3, dense 76.15): 74.53 at 0.8 after 30 epochs, 75.26 after 60; 72.17 at 0.9 after 30, 72.46 after 60.

The defaults are those of its code. The search of its section 3.2 (Figure 2) draws scores and keeps one share of each
layer: --jackpot.start=uniform --jackpot.budgets=layer. That of 4.1 has --jackpot.dropped=0.95.

The paper does not say how its dense networks were trained; `sanity_checking` and `stabilizing` have them, with the
same biases and BatchNorm, so that a dense run serves a jackpot. ResNet-32 alone differs: its shortcuts are of option A
here and B there, hence the flag above.
"""

from experiments.presets.rows import OURS, Row, Table, join, row

__all__ = ["JACKPOT", "TABLES"]

_PAPER, _CODE = "Lottery Jackpots, section 4, and its code", "code of Lottery Jackpots"
_TRAINED = row(f"{_CODE}: as the trained network has it", network__affine=True)
_FROM_DENSE = f"{OURS}; as our dense network (only the classifier has one in the code of Lottery Jackpots)"

JACKPOT = join(
    row(_PAPER, batch_size=256, momentum=0.9, epochs=30, learning_rate=0.1, jackpot__weight_decay=5e-4),
    row(f"{_PAPER} (0.95 in the text, 0.99 in the code)", jackpot__dropped=0.99),
    row("Lottery Jackpots: the trained weights stay as they are", finetune_epochs=0),
    row(f"{_CODE} (30s10t)", finetune_learning_rate=0.01),
    row("Lottery Jackpots, section 4.1", finetune__schedule="cosine"),
    row(OURS, seed=42, init="kaiming_normal", weight_decay=0.0),
)
_VGG_19 = join(_TRAINED, row(_FROM_DENSE, network__bias=True))
_RESNET_32 = join(
    _TRAINED,
    row(_CODE, network__bias=True, network__shortcut="A"),
    row("Lottery Jackpots, section 4.1", network__width=2.0),
)
_RESNET_50 = join(_TRAINED, row(_CODE, network__bias=True, network__stem="imagenet"))


def _imagenet(epochs: int) -> Row:
    decay = row(_PAPER, jackpot__weight_decay=1e-4)
    return join(JACKPOT, _RESNET_50, decay, row("Lottery Jackpots, Table 3", epochs=epochs))


TABLES: Table = {
    ("jackpot", "vgg19", "cifar10"): {0.9: join(JACKPOT, _VGG_19)},
    ("jackpot", "vgg19", "cifar100"): {0.9: join(JACKPOT, _VGG_19)},
    ("jackpot", "resnet32", "cifar10"): {0.9: join(JACKPOT, _RESNET_32)},
    ("jackpot", "resnet32", "cifar100"): {0.9: join(JACKPOT, _RESNET_32)},
    ("jackpot", "resnet50", "imagenet"): {0.8: _imagenet(30), 0.9: _imagenet(60)},
}
