"""Sanity-Checking Pruning (Su et al., 2020): VGG-19, and ResNet-32 of doubled width, on CIFAR-10, CIFAR-100 and
TinyImageNet; hyper-parameters from its code (the paper's are in an appendix).

  python -m experiments.cifar100 --pruner=smart_ratio --model=vgg19 --sparsity=0.95
  python -m experiments.cifar10 --pruner=hybrid --model=resnet32 --sparsity=0.98

Expected at 0.9 / 0.95 / 0.98 (Tables 1, 2 and 4):
  CIFAR-10, VGG-19 (dense 93.70 %): random tickets 93.77 / 93.42 / 92.45, lottery tickets 93.66 / 93.39 / 10.00, SNIP
    93.65 / 93.39 / 81.37, GraSP 93.01 / 92.82 / 91.90, LRR 94.14 / 93.99 / 10.00, hybrid 94.00 / 93.83 / 93.52
  CIFAR-10, ResNet-32 (94.62): random 92.97 / 91.60 / 89.10, lottery 92.61 / 91.37 / 88.92, SNIP 92.81 / 91.20 / 87.94,
    GraSP 92.79 / 91.80 / 89.21, LRR 94.14 / 93.02 / 90.83, hybrid 93.98 / 92.96 / 90.85
  CIFAR-100, VGG-19 (72.60): random 72.55 / 71.37 / 68.98, lottery 72.58 / 70.47 / 1.00, hybrid 73.53 / 73.10 / 71.61
  CIFAR-100, ResNet-32 (74.57): random 69.70 / 66.82 / 60.11, lottery 69.63 / 66.48 / 60.22, hybrid 71.47 / 69.28 /
    63.44
  TinyImageNet: random VGG-19 (61.57) 60.94 / 59.48 / 55.87, ResNet-32 (62.92) 55.26 / 51.41 / 43.93
Its "random tickets" are --pruner=smart_ratio. Learning-rate rewinding has one round. Milestones follow from the length:
150 and 250 of 300 epochs, where its code has 150 and 225.

Its tables go before those of other papers: the dense networks of these pairs are the ones here (Lottery Jackpots and
Stabilizing have them too), and on CIFAR-100 those of ResNet-32 (Rare Gems has it with option A and plain BatchNorm).
"""

from experiments.presets.rows import OURS, Row, Table, join, row, untrained

__all__ = ["TABLES", "TWICE"]

_CODE = "code of Sanity-Checking Pruning"
_INITIAL = f"{_CODE} (fan_out for ResNet-32, and N(0, 0.01) for the classifier, there)"
_TINY = f"{_CODE} (milestones 150 and 225 there, 150 and 250 here)"
_NORM = row(_CODE, network__affine=True, network__bias=True)
_NETWORKS = {
    "vgg19": _NORM,
    "resnet32": join(_NORM, row(f"{_CODE}, as GraSP's", network__width=2.0, network__shortcut="B")),
}
# Images that SNIP and GraSP score: ten of each class, in batches of 64 here.
_SCORED = {"cifar10": 100, "cifar100": 1000, "tiny_imagenet": 2000}


def _training(dataset: str) -> tuple[str, int]:
    return (_TINY, 300) if dataset == "tiny_imagenet" else (_CODE, 160)


def _trained(dataset: str) -> Row:
    """Weights trained from the start, without a search."""
    source, epochs = _training(dataset)
    return join(
        row(_INITIAL, init="kaiming_normal"),
        row(_CODE, batch_size=64, momentum=0.9, weight_decay=1e-4, finetune_learning_rate=0.1),
        row(source, finetune_epochs=epochs),
        row(OURS, epochs=0, seed=42),
    )


def _twice(dataset: str) -> Row:
    """The dense network is trained, pruned, and trained again just as long."""
    source, epochs = _training(dataset)
    return join(_trained(dataset), row(source, epochs=epochs), row(_CODE, learning_rate=0.1))


TWICE = _twice("cifar10")  # the default of pruners that train twice, for other networks


def _of(model: str, dataset: str) -> Table:
    network, family = _NETWORKS[model], "vgg" if model == "vgg19" else "resnet"
    source, epochs = _training(dataset)
    batches = -(-_SCORED[dataset] // 64)
    scored = f"{_CODE}: ten images of each class"
    trained, twice = join(_trained(dataset), network), join(_twice(dataset), network)
    rows = {
        "dense": trained,
        "smart_ratio": join(
            trained, row(_CODE, smart_ratio__version="v1", smart_ratio__family=family, smart_ratio__linear=0.3),
            row(OURS, learning_rate=0.1),
        ),
        "snip": join(trained, row(scored, snip__batches=batches)),
        "grasp": join(trained, row(scored, grasp__batches=batches), row(_CODE, grasp__temperature=200.0)),
        "lottery_ticket": join(twice, row(_CODE, lottery_ticket__rewind_step=0)),
        "hybrid": join(twice, row(_CODE, hybrid__family=family, hybrid__linear=0.3)),
        "lrr": join(
            trained, row(_CODE, learning_rate=0.1, lrr__rounds=1), row(source, lrr__round_epochs=epochs),
        ),
    }  # fmt: skip
    # On CIFAR-100, ResNet-32 belongs to Rare Gems for these two: copied ratios need the network of the ticket.
    theirs = ("random", "copied_ratios") if (model, dataset) == ("resnet32", "cifar100") else ()
    table: Table = {(pruner, model, dataset): {0.9: values} for pruner, values in rows.items()}
    return table | untrained(model, dataset, trained, "Sanity-Checking Pruning", but=("snip", "grasp", *theirs))


TABLES: Table = {key: rows for model in _NETWORKS for dataset in _SCORED for key, rows in _of(model, dataset).items()}
