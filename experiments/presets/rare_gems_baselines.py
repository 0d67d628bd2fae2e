"""The baselines of Rare Gems on its other networks and data sets, from its code's configs: dense training, IMP,
learning-rate rewinding (Renda et al.), edge-popup and smart ratios; and our choice for pruners without a search.

  python -m experiments.tiny_imagenet --pruner=imp --model=resnet18 --sparsity=0.986
  python -m experiments.caltech101 --pruner=imp --model=resnet50 --sparsity=0.95 --pretrained=resnet50.pth

Expected: curves only (v1, Figures 3, 4 and 8); ResNet-18 on TinyImageNet reaches 49.59 % dense (a note in the code).
A round of IMP takes as long as the dense training, so 1.4 % takes 19 times that (v1, Table 1).

ResNet-32 of doubled width on CIFAR-100 has IMP, edge-popup, random and copied ratios here; its dense network, smart
ratios and learning-rate rewinding are those of `sanity_checking`, which reports numbers for them.
"""

from experiments.presets.rare_gems import CODE, TABLE_15
from experiments.presets.rare_gems_networks import CALTECH, DOUBLED, IMAGENET_STEM, TRANSFER
from experiments.presets.rows import OURS, WITHOUT_SEARCH, Row, Table, join, relabelled, row, untrained

__all__ = ["TABLES"]

_Pair = tuple[str, str]
_MOBILENET, _VGG, _WIDE = ("mobilenet_v2", "cifar10"), ("vgg16", "cifar10"), ("wide_resnet28_2", "cifar10")
_CIFAR_18, _DOUBLED = ("resnet18", "cifar10"), ("resnet32", "cifar100")
_TINY_18, _TINY_50 = ("resnet18", "tiny_imagenet"), ("resnet50", "tiny_imagenet")
_TINY_MOBILE, _CALTECH = ("mobilenet_v2", "tiny_imagenet"), ("resnet50", "caltech101")

_BY_IMP = f"{CODE} (round 0 of its IMP)"
_NESTEROV, _COSINE = row(CODE, training__optimizer="nesterov"), row(CODE, training__schedule="cosine")
_LOWER, _ADAM = "; a rate of 0.01 in another config", row(CODE, training__optimizer="adam")
_AS_DENSE = f"{OURS}; as its dense network"


def _weights(source: str, epochs: int, batch_size: int, rate: float, decay: float, *network: Row) -> Row:
    """Weights trained from the start, without a search."""
    return join(
        row(source, init="kaiming_normal", epochs=0, finetune_epochs=epochs, batch_size=batch_size),
        row(source, finetune_learning_rate=rate, momentum=0.9, weight_decay=decay),
        row(OURS, seed=42),
        *network,
    )


_DENSE: dict[_Pair, Row] = {
    _MOBILENET: _weights(_BY_IMP + _LOWER, 300, 128, 0.1, 4e-5),
    _VGG: _weights(_BY_IMP, 200, 128, 0.1, 1e-4),
    _WIDE: _weights(_BY_IMP, 150, 128, 0.1, 1e-4),
    _CIFAR_18: _weights(CODE, 200, 128, 0.1, 5e-4, _COSINE),
    _TINY_18: _weights(_BY_IMP, 200, 256, 0.2, 1e-4, IMAGENET_STEM),
    _TINY_50: _weights(_BY_IMP, 150, 256, 0.1, 5e-4, IMAGENET_STEM, _NESTEROV),
    _TINY_MOBILE: _weights(CODE, 300, 128, 0.1, 4e-5),
    _CALTECH: _weights(CODE, 50, 16, 1e-4, 0.0, *CALTECH, _ADAM),
    _DOUBLED: _weights(CODE, 150, 64, 0.1, 1e-4, DOUBLED),
}


# The dense network alone has another recipe there than a round of IMP.
_DENSE_ALONE: dict[_Pair, Row] = {_TINY_18: row(CODE, training__optimizer="adam", finetune_learning_rate=0.001)}

_BY_ROUND = {_MOBILENET: CODE + _LOWER, _CIFAR_18: _AS_DENSE}


def _rounds(pair: _Pair, **options: float | bool) -> Row:
    """What IMP and learning-rate rewinding share: every round is a training of the dense network."""
    values, source = _DENSE[pair][0], _BY_ROUND.get(pair, CODE)
    epochs, rate = values["finetune_epochs"], values["finetune_learning_rate"]
    return join(
        relabelled(source, _DENSE[pair]),
        _network(pair),
        row(source, learning_rate=rate, **options),
        row(f"{source}: the ticket is trained as in a round", finetune_epochs=epochs, finetune_learning_rate=rate),
        row(OURS, seed=42),
    )


def _network(pair: _Pair) -> Row:
    values, sources = _DENSE[pair]
    ours = [name for name in values if name.startswith("network.") or name == "replace_classifier"]
    return {name: values[name] for name in ours}, {name: sources[name] for name in ours}


def _imp(pair: _Pair) -> Row:
    return _rounds(
        pair, imp__round_epochs=_DENSE[pair][0]["finetune_epochs"], imp__rate=0.2, imp__rewind_batch_norm=False,
        imp__rewind_step=2000 if pair in (_VGG, _WIDE) else 1000,
    )  # fmt: skip


def _lrr(pair: _Pair) -> Row:
    return _rounds(pair, lrr__round_epochs=_DENSE[pair][0]["finetune_epochs"], lrr__rate=0.2)


def _edge_popup(
    source: str, epochs: int, batch_size: int, finetune_rate: float, decay: float = 5e-4, *, tuned: float = 1e-4,
    cosine: bool = False,
) -> Row:  # fmt: skip
    """`decay` of the scores, `tuned` of the weights in finetuning, whose rate may fall along a cosine."""
    return join(
        row(source, init="signed_constant", batch_size=batch_size, momentum=0.9, weight_decay=tuned),
        row(source, epochs=epochs, learning_rate=0.1, edge_popup__weight_decay=decay, finetune_epochs=epochs),
        row(source, finetune_learning_rate=finetune_rate, **{"finetune.schedule": "cosine"} if cosine else {}),
        row("Rare Gems v2, Table 3", edge_popup__scope="layer", edge_popup__gradual=False, edge_popup__l2=0.0),
        row(OURS, seed=42),
    )


_EDGE_POPUP: dict[_Pair, Row] = {
    _MOBILENET: _edge_popup(f"{CODE}; another config has 200 epochs in batches of 256", 300, 128, 0.01),
    _VGG: _edge_popup(CODE, 200, 256, 0.1, cosine=True),
    _WIDE: _edge_popup(CODE, 150, 128, 0.01, 0.0),
    _CIFAR_18: _edge_popup(CODE, 200, 128, 0.01),
    _TINY_18: _edge_popup(CODE, 200, 256, 0.01),
    _TINY_50: _edge_popup(f"{OURS}; as ResNet-18 on TinyImageNet", 150, 256, 0.01),
    _TINY_MOBILE: _edge_popup(CODE, 300, 128, 0.1, tuned=4e-5),
    _CALTECH: join(
        _edge_popup(f"{OURS}; as on the other data sets", 50, 16, 1e-4),
        row(TABLE_15, batch_size=16, finetune_epochs=50, finetune_learning_rate=1e-4),
        TRANSFER,
    ),
    _DOUBLED: _edge_popup(f"{OURS}; as ResNet-20 on CIFAR-10", 150, 256, 0.1, cosine=True),
}


def _smart_ratio(pair: _Pair, source: str = CODE, *more: Row, family: str = "resnet", **own: float) -> Row:
    """Smart ratios train as the dense network does, but for `own`."""
    return join(
        relabelled(source, _DENSE[pair]),
        _network(pair),
        row(source, smart_ratio__family=family, **own),
        row(OURS, seed=42, learning_rate=0.1),
        *more,
    )


_SMART: dict[_Pair, Row] = {
    _MOBILENET: _smart_ratio(_MOBILENET, finetune_learning_rate=0.01, weight_decay=1e-4),
    _VGG: _smart_ratio(_VGG, family="vgg"),
    _WIDE: _smart_ratio(_WIDE),
    _CIFAR_18: _smart_ratio(_CIFAR_18, _AS_DENSE, _ADAM, _COSINE, row(CODE, finetune_learning_rate=0.001)),
    _TINY_18: _smart_ratio(_TINY_18),
    _TINY_50: _smart_ratio(_TINY_50),
    _TINY_MOBILE: _smart_ratio(_TINY_MOBILE),
    _CALTECH: _smart_ratio(_CALTECH, _AS_DENSE),
}


def _of(pair: _Pair) -> Table:
    rows = {"edge_popup": join(_EDGE_POPUP[pair], _network(pair)), "imp": _imp(pair)}
    dense = join(_DENSE[pair], _DENSE_ALONE.get(pair, ({}, {})))
    others = tuple(name for name in WITHOUT_SEARCH if name not in ("random", "copied_ratios"))
    if pair != _DOUBLED:
        rows |= {"dense": dense, "lrr": _lrr(pair), "smart_ratio": _SMART[pair]}
        others = ()
    table: Table = {(pruner, *pair): {0.9: values} for pruner, values in rows.items()}
    return table | untrained(*pair, dense, "Rare Gems", but=others)


TABLES: Table = {key: rows for pair in _DENSE for key, rows in _of(pair).items()}
