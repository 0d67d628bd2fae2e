"""Methods that the tables of Lottery Jackpots and Sanity-Checking Pruning quote from elsewhere: Deep R (Bellec et al.,
2018), sparse momentum (SNFS; Dettmers and Zettlemoyer, 2019), dynamic sparse reparameterization (DSR; Mostafa and Wang,
2019), and Optimal Brain Damage (OBD; LeCun et al., 1990).

  python -m experiments.cifar10 --pruner=deep_r --model=vgg19 --sparsity=0.95
  python -m experiments.cifar10 --pruner=dsr --model=wide_resnet28_2 --sparsity=0.9
  python -m experiments.imagenet --pruner=snfs --model=resnet50 --sparsity=0.8
  python -m experiments.cifar100 --pruner=obd --model=resnet32 --sparsity=0.9

Expected (Lottery Jackpots, Tables 1 to 3, at 0.9 / 0.95; on ImageNet top-1 at 0.8 / 0.9):
  CIFAR-10, VGG-19: OBD 93.74 / 93.58, Deep R 90.81 / 89.59; ResNet-32: OBD 94.17 / 93.29, Deep R 91.62 / 89.84
  CIFAR-100, VGG-19: OBD 73.83 / 71.98, Deep R 66.83 / 63.46; ResNet-32: OBD 71.96 / 68.73, Deep R 66.78 / 63.90
  ImageNet, ResNet-50: Deep R 71.70 / 70.20, SNFS 73.80 / 72.30, DSR 73.30 / 71.60
and OBD at 0.98 (Sanity-Checking Pruning, Table 4): 93.49 and 90.31 on CIFAR-10, 67.79 and 60.65 on CIFAR-100.

The search is the whole training, as in those tables: 160 epochs, on ImageNet 100, and no finetuning but for OBD. No
paper says how Deep R and OBD were trained for the tables of CIFAR: the training is that of the dense network there, the
options are those of DSR's code (Deep R) and of EigenDamage's (OBD). Milestones follow from the length, and SGD has no
Nesterov momentum, which DSR's code has.
"""

from experiments.presets import rare_gems_baselines, sanity_checking, stabilizing
from experiments.presets.rows import OURS, Row, Table, join, row

__all__ = ["OPTIONS", "TABLES"]

_DSR, _DSR_CODE = "Mostafa and Wang, DSR", "code of Mostafa and Wang, DSR"
_SNFS_CODE = "code of Dettmers and Zettlemoyer, SNFS"
_EIGEN_CODE = "code of EigenDamage"
_AS_DENSE = "as the dense network of Sanity-Checking Pruning"
_ROUNDED = "(T' from 1e-5 to 1e-15 in four steps there)"

OPTIONS: dict[str, Row] = {
    "deep_r": join(
        row(f"{_DSR_CODE} {_ROUNDED}", deep_r__l1=1e-5, deep_r__temperature=1e-8, deep_r__cooling=4.0),
        row(_DSR_CODE, deep_r__scope="layer", deep_r__ratios="uniform", deep_r__stop=0.95),
    ),
    "snfs": join(
        row(f"{_SNFS_CODE}: its default", snfs__drop_fraction=0.5),
        row(_SNFS_CODE, snfs__smoothing=0.9, snfs__ratios="uniform", snfs__stop=1.0),
    ),
    "dsr": join(
        row(_DSR_CODE, dsr__threshold=1e-3, dsr__tolerance=0.1, dsr__every=100, dsr__ratios="uniform", dsr__stop=0.95),
        row(f"{_DSR_CODE} (after 25, 80 and 140 of 200 epochs there)", dsr__doublings=3),
        row(OURS, dsr__moved=0.1),
    ),
    "obd": join(
        row(f"{_EIGEN_CODE} (labels drawn from the network)", obd__curvature="gauss_newton"),
        row(f"{_EIGEN_CODE} (one pass)", obd__rounds=1),
        row(OURS, obd__batches=100),
    ),
}


def _moved(number: int, prunable: int, sparsity: float) -> Row:
    """DSR's number of weights that move at a change, as a fraction of those kept."""
    fraction = round(number / (prunable * (1 - sparsity)), 4)
    return row(f"{_DSR_CODE}: {number:,} weights", dsr__moved=fraction)


def _cifar(model: str, dataset: str) -> Table:
    dense = sanity_checking.TABLES["dense", model, dataset][0.9]
    whole = row(
        f"Lottery Jackpots, Table 1 (160 epochs), {_AS_DENSE}", epochs=160, learning_rate=0.1, finetune_epochs=0
    )
    rows = {name: join(dense, whole, OPTIONS[name]) for name in ("deep_r", "snfs", "dsr")}
    rows["deep_r"] = join(rows["deep_r"], row(f"{_DSR_CODE}: the drift is the only decay", weight_decay=0.0))
    rows["obd"] = join(
        dense,
        row(f"Sanity-Checking Pruning, {_AS_DENSE}", epochs=160, learning_rate=0.1),
        row(_EIGEN_CODE, finetune_epochs=150, finetune_learning_rate=1e-3),
        OPTIONS["obd"],
    )
    return {(name, model, dataset): {0.9: values} for name, values in rows.items()}


def _network(table: Table, model: str, dataset: str) -> Row:
    values, sources = next(iter(table["dense", model, dataset].values()))
    ours = [name for name in values if name.startswith("network.") or name in ("init", "image_size")]
    return {name: values[name] for name in ours}, {name: sources[name] for name in ours}


def _own(network: Row, epochs: int, batch_size: int, decay: float) -> dict[str, Row]:
    """The three that train sparsely, as DSR's code trains them."""
    training = join(
        network,
        row(_DSR, epochs=epochs, batch_size=batch_size, learning_rate=0.1, momentum=0.9, weight_decay=decay),
        row(f"{_DSR}: the search is the whole training", finetune_epochs=0),
        row(OURS, seed=42, finetune_learning_rate=0.01),
    )
    rows = {name: join(training, OPTIONS[name]) for name in ("deep_r", "snfs", "dsr")}
    rows["deep_r"] = join(rows["deep_r"], row(f"{_DSR_CODE}: the drift is the only decay", weight_decay=0.0))
    return rows


def _imagenet() -> Table:
    rows = _own(_network(stabilizing.TABLES, "resnet50", "imagenet"), 100, 256, 1e-4)
    rows["dsr"] = join(rows["dsr"], row(_DSR_CODE, dsr__every=1000, dsr__doublings=3))
    table: Table = {(name, "resnet50", "imagenet"): {0.9: rows[name]} for name in ("deep_r", "snfs")}
    by_sparsity = {s: join(rows["dsr"], _moved(400_000, 25_502_912, s)) for s in (0.8, 0.9)}
    return table | {("dsr", "resnet50", "imagenet"): by_sparsity}


def _wide_resnet() -> Table:
    rows = _own(_network(rare_gems_baselines.TABLES, "wide_resnet28_2", "cifar10"), 200, 100, 5e-4)
    table: Table = {(name, "wide_resnet28_2", "cifar10"): {0.9: rows[name]} for name in ("deep_r", "snfs")}
    by_sparsity = {s: join(rows["dsr"], _moved(20_000, 1_463_984, s)) for s in (0.5, 0.6, 0.7, 0.8, 0.9)}
    return table | {("dsr", "wide_resnet28_2", "cifar10"): by_sparsity}


TABLES: Table = {
    **_cifar("vgg19", "cifar10"), **_cifar("resnet32", "cifar10"),
    **_cifar("vgg19", "cifar100"), **_cifar("resnet32", "cifar100"),
    **_imagenet(), **_wide_resnet(),
}  # fmt: skip
