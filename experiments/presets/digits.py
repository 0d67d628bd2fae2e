"""Two-minute runs on scikit-learn's digits; chosen by us, by trial on two CPU cores.

python -m experiments.digits --pruner=gem_miner
"""

from experiments.presets.rare_gems import Row, _row

__all__ = ["TABLES"]

_OURS = "our choice: two minutes on two cores"
_COMMON = {"batch_size": 16, "momentum": 0.9, "weight_decay": 1e-4, "seed": 42}
_GEM_MINER = _row(
    _OURS, init="signed_constant", epochs=60, finetune_epochs=60, learning_rate=0.1, finetune_learning_rate=0.01,
    gem_miner__period=2, gem_miner__l2=1e-4, **_COMMON,
)  # fmt: skip
_TRAIN = _row(_OURS, init="kaiming_normal", epochs=0, finetune_epochs=60, finetune_learning_rate=0.1, **_COMMON)

TABLES: dict[tuple[str, str, str], dict[float, Row]] = {
    ("gem_miner", "*", "digits"): {0.9856: _GEM_MINER},
    ("dense", "*", "digits"): {0.0: _TRAIN},
    ("random", "*", "digits"): {0.9856: _TRAIN},
}
