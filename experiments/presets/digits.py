"""Two-minute runs on scikit-learn's digits; chosen by us, by trial on two CPU cores.

python -m experiments.digits --pruner=gem_miner
"""

from experiments.presets.rows import WITHOUT_SEARCH, Row, Table, join, row

__all__ = ["TABLES"]

_OURS = "our choice: two minutes on two cores"
_COMMON = row(_OURS, batch_size=32, momentum=0.9, weight_decay=1e-4, finetune_epochs=30, seed=42)
# The paper's lambda of 1e-4 suits 58,650 steps of search; here are 2,700. At 4e-4 the regulariser outruns the freezing
# bound, and q alone, which has more weights than q and r(p), is at chance before finetuning.
_GEM_MINER = join(
    _COMMON,
    row(_OURS, init="signed_constant", epochs=60, learning_rate=0.1, finetune_learning_rate=0.01),
    row(_OURS, gem_miner__period=2, gem_miner__l2=2e-4),
)
_TRAIN = join(_COMMON, row(_OURS, init="kaiming_normal", epochs=0, finetune_learning_rate=0.1))

# Searches that train weights: a rate of 0.1, then the same finetuning.
_WEIGHTS = join(_TRAIN, row(_OURS, epochs=30, learning_rate=0.1))
_SCORES = join(_GEM_MINER, row(_OURS, epochs=40, finetune_learning_rate=0.1))
_SHORT_ROUNDS = join(_WEIGHTS, row(_OURS, epochs=0))


def _own(*rows: Row) -> dict[float, Row]:
    """One row for all sparsities, without GEM-MINER's options."""
    values, sources = join(*rows)
    kept = {name: value for name, value in values.items() if not name.startswith("gem_miner.")}
    return {0.9856: (kept, {name: sources[name] for name in kept})}


TABLES: Table = {
    ("gem_miner", "*", "digits"): {0.9856: _GEM_MINER},
    ("gem_miner_auto", "*", "digits"): _own(
        _COMMON, row(_OURS, init="signed_constant", epochs=20, finetune_learning_rate=0.01)
    ),
    ("dense", "*", "digits"): {0.0: _TRAIN},
    **{(name, "*", "digits"): {0.9856: _TRAIN} for name in WITHOUT_SEARCH},
    ("smart_ratio", "*", "digits"): _own(_TRAIN, row(_OURS, learning_rate=0.1)),
    ("edge_popup", "*", "digits"): _own(_SCORES, row(_OURS, edge_popup__period=2)),
    ("imp", "*", "digits"): _own(_SHORT_ROUNDS, row(_OURS, imp__round_epochs=3, imp__rewind_step=20, imp__decay=False)),
    ("lrr", "*", "digits"): _own(_SHORT_ROUNDS, row(_OURS, lrr__round_epochs=3, lrr__decay=False)),
    ("lottery_ticket", "*", "digits"): _own(_WEIGHTS),
    ("hybrid", "*", "digits"): _own(_WEIGHTS),
    ("jackpot", "*", "digits"): _own(_WEIGHTS, row("Lottery Jackpots: the trained weights stay", finetune_epochs=0)),
    ("gmp", "*", "digits"): _own(_WEIGHTS, row(_OURS, gmp__every=20)),
    ("rigl", "*", "digits"): _own(_WEIGHTS, row(_OURS, rigl__every=20)),
    ("set", "*", "digits"): _own(_WEIGHTS, row(_OURS, set__every=20)),
    ("snfs", "*", "digits"): _own(_WEIGHTS),
    ("dsr", "*", "digits"): _own(_WEIGHTS, row(_OURS, dsr__every=20, dsr__threshold=0.01)),
    ("deep_r", "*", "digits"): _own(_WEIGHTS, row(_OURS, weight_decay=0.0)),
    ("obd", "*", "digits"): _own(_WEIGHTS, row(_OURS, obd__batches=40)),
    ("continuous_sparsification", "*", "digits"): _own(_SCORES),
    ("supermask", "*", "digits"): _own(_SCORES, row(_OURS, learning_rate=100.0)),
}
