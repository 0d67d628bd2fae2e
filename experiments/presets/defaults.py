"""Hyper-parameters where no table speaks of a network and data set.

Those of the baselines are from the papers and codes that report them; the methods of Rare Gems have those of ResNet-20
on CIFAR-10, and a new method those of its kind.

  python -m experiments.cifar10 --pruner=synflow --sparsity=0.9

What prunes while it trains (GMP, RigL, SET, ...) trains for 160 epochs here, in batches of 128, and on for 40 under the
mask that it found. The tables of Lottery Jackpots quote SET and RigL after 160 epochs on CIFAR and 100 on ImageNet,
without more: --finetune-epochs=0 --batch-size=64, and --finetune-epochs=0 --epochs=100 --batch-size=256.

Expected on the original CIFAR-10: ProsPr 82.67 % with ResNet-20 at 0.95 (Rare Gems v2, Table 2); jackpots of
ResNet-32 of width 2 at 0.9 after 30 epochs 93.71 % (Lottery Jackpots, Table 1); hybrid tickets 93.98 % there
(Sanity-Checking Pruning, Table 4). The learning rate falls at `schedules.milestones_for` the length.
"""

from experiments.presets import rare_gems
from experiments.presets.lottery_jackpots import JACKPOT
from experiments.presets.rows import OURS, WITHOUT_SEARCH, Row, join, relabelled, row
from experiments.presets.sanity_checking import TWICE
from experiments.presets.sparse_training import OPTIONS

__all__ = ["BY_OPTION", "DEFAULT", "default_of"]

_SYNFLOW_CODE, _PROSPR_CODE = "code of SynFlow", "code of ProsPr"

_AT_INITIALIZATION = join(
    row(_SYNFLOW_CODE, init="kaiming_normal", epochs=0, batch_size=128, momentum=0.9, weight_decay=1e-4),
    row(f"{_SYNFLOW_CODE} (milestones 60 and 120 and Nesterov momentum there)", finetune_epochs=160),
    row(_SYNFLOW_CODE, finetune_learning_rate=0.1),
    row(OURS, seed=42),
)
_PROSPR = join(
    row(_PROSPR_CODE, init="kaiming_normal", epochs=0, momentum=0.9, weight_decay=5e-4),
    row(f"{_PROSPR_CODE} (which scores on 128)", batch_size=256),
    row(_PROSPR_CODE, finetune_epochs=200, finetune_learning_rate=0.1, prospr__inner_steps=3),
    row(_PROSPR_CODE, prospr__inner_learning_rate=0.1, prospr__momentum=0.0, prospr__first_order=False),
    row(OURS, seed=42),
)
_WHILE_TRAINING = join(
    row(OURS, init="kaiming_normal", batch_size=128, momentum=0.9, weight_decay=1e-4, epochs=160, learning_rate=0.1),
    row(f"{OURS}: the found mask is trained on (not so in the papers' tables: 0)", finetune_epochs=40),
    row(OURS, finetune_learning_rate=0.01, seed=42),
)
_AUTO = row(
    f"{OURS}; as GEM-MINER with ResNet-20 on CIFAR-10, whose own options it has not",
    init="signed_constant", batch_size=128, momentum=0.9, weight_decay=1e-4, epochs=150, finetune_epochs=150,
    finetune_learning_rate=0.01, seed=42,
)  # fmt: skip
_EVCI = "Evci et al., Rigging the Lottery, section 4"
_MOCANU = "Mocanu et al., Sparse Evolutionary Training (zeta)"
_SUPERMASK = join(
    row(OURS, init="signed_constant", batch_size=128, momentum=0.9, weight_decay=1e-4, epochs=150, learning_rate=0.1),
    row(OURS, finetune_epochs=150, finetune_learning_rate=0.01, seed=42),
)

DEFAULT: dict[str, Row] = {
    "gem_miner_auto": _AUTO,
    "snip": _AT_INITIALIZATION,
    "grasp": join(_AT_INITIALIZATION, row(_SYNFLOW_CODE, grasp__temperature=200.0)),
    "synflow": join(_AT_INITIALIZATION, row(_SYNFLOW_CODE, synflow__rounds=100)),
    "magnitude": _AT_INITIALIZATION,
    "force": join(_AT_INITIALIZATION, row("de Jorge et al., Progressive Skeletonization, section 5", force__rounds=60)),
    "prospr": _PROSPR,
    "lottery_ticket": join(TWICE, row("code of Sanity-Checking Pruning", lottery_ticket__rewind_step=0)),
    "hybrid": TWICE,
    "jackpot": JACKPOT,
    "gmp": join(_WHILE_TRAINING, row(OURS, gmp__every=100, gmp__start=0.0, gmp__stop=0.75)),
    "rigl": join(_WHILE_TRAINING, row(_EVCI, rigl__every=100, rigl__drop_fraction=0.3, rigl__stop=0.75)),
    "set": join(_WHILE_TRAINING, row(_MOCANU, set__drop_fraction=0.3), row(OURS, set__every=100, set__stop=1.0)),
    "snfs": join(_WHILE_TRAINING, OPTIONS["snfs"]),
    "dsr": join(_WHILE_TRAINING, OPTIONS["dsr"]),
    "deep_r": join(_WHILE_TRAINING, OPTIONS["deep_r"], row(f"{OURS}: the drift is the only decay", weight_decay=0.0)),
    "obd": join(TWICE, OPTIONS["obd"]),
    "continuous_sparsification": _SUPERMASK,
    "supermask": join(_SUPERMASK, row(f"{OURS}: logits have to move by whole units", learning_rate=100.0)),
}

# What a variant of a method adds to any row of it: the method, its option that chooses the variant, its value.
_APPENDIX_B = f"{OURS}; Rare Gems v1, Appendix B, says neither how long the ratios are tuned nor at what rate"
BY_OPTION: dict[tuple[str, str, str], Row] = {
    ("smart_ratio", "version", version): row(_APPENDIX_B, epochs=20, learning_rate=0.1) for version in ("v5", "v6")
}

_ELSEWHERE = f"{OURS}; as ResNet-20 on CIFAR-10"


def default_of(pruner: str) -> Row:
    """What a pruner has where no table speaks of it: its own row, or, for a new one, that of its kind."""
    if pruner in DEFAULT:
        return DEFAULT[pruner]
    like = "random" if pruner in WITHOUT_SEARCH else pruner
    rows = rare_gems.TABLES.get((like, "resnet20", "cifar10"))
    if rows is None:
        return _WHILE_TRAINING
    return relabelled(_ELSEWHERE, rows.get(0.9856) or next(iter(rows.values())))
