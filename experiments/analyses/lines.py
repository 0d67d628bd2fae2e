"""Linear mode connectivity of trained networks: loss and accuracy on the line between two, and the barrier there."""

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from experiments.analyses.arrays import like
from experiments.analyses.image_batches import image_batches
from experiments.analyses.measures import Row, check_trained, common_mask
from experiments.analyses.networks import Network
from experiments.analyses.stability import check_one_mask, labels, order_pairs
from experiments.config.data_flags import with_data_dir
from experiments.problem.data import load_data
from experiments.problem.found_ticket import rewound_to
from experiments.problem.network import network_for
from experiments.terminal.errors import UsageError
from rare_gems import masks
from rare_gems.analysis import connectivity
from rare_gems.data.streamed_dataset import Streamed
from rare_gems.models.model import shapes_of

__all__ = ["barriers", "line_pairs", "lines"]


def line_pairs(networks: Sequence[Network], *, intersect: bool = False) -> list[tuple[Network, Network]]:
    """The pairs to look at: runs that differ in their order of batches alone; where there are none, all.

    Raises:
      UsageError: for fewer than two networks, and for two masks that differ.
    """
    check_trained("connectivity", networks)
    if len(networks) < 2:
        raise UsageError(f"connectivity: expected two networks or more, got {len(networks)}")
    pairs = order_pairs(networks) or list(itertools.combinations(networks, 2))
    for a, b in pairs:
        check_one_mask("connectivity", a, b, intersect)
    return pairs


def lines(
    pairs: Sequence[tuple[Network, Network]],
    *,
    points: int = 11,
    examples: int = 2000,
    statistics: int = 1000,
    data_dir: Path | None = None,
) -> list[Row]:
    """Loss and accuracy on the test set at points between two networks, BatchNorm's statistics computed anew at each.

    Args:
      pairs: of one mask, or of two, of which what both keep is taken. points: from one to the other, both among them.
      examples: test images, balanced by class, at most. statistics: training images for BatchNorm, at most, not
        augmented. data_dir: where the data are, if not where the first run found them.
    Returns:
      rows of `first`, `second`, `ticket` and `rewound_to` of the first, `over` (the mask at every point, the ends too),
      `alpha`, `loss`, `accuracy`.
    """
    config = pairs[0][0].config
    data = load_data(with_data_dir(config, data_dir)).data
    shape = (data.image_size,) * 2 + (3,) if isinstance(data, Streamed) else data.train.images.shape[1:]
    model = network_for(config, shape, data.num_classes)
    params, state = shapes_of(model)
    along = connectivity.make_along(model.apply)
    moving = [images for images, _ in image_batches(data, "train", statistics, config.batch_size)]
    tested = list(image_batches(data, "test", examples, None))
    rows, names = [], labels([a for a, _ in pairs])
    for a, b in pairs:
        mask, over = common_mask(a, b)
        ends = [like(params, masks.apply(network.params, mask)) for network in (a, b)]
        line = along(*ends, like(state, a.state), alphas=np.linspace(0, 1, points), batches=moving, examples=tested)
        shared: Row = {"first": a.name, "second": b.name, "over": over, "ticket": names[a.folder, a.round]}
        shared |= {"rewound_to": rewound_to(a.config)}
        rows += [shared | {"alpha": float(alpha), "loss": float(loss), "accuracy": float(accuracy)}
                 for alpha, loss, accuracy in zip(line.alphas, line.loss, line.accuracy, strict=True)]  # fmt: skip
    return rows


def barriers(rows: Sequence[Row]) -> list[Row]:
    """The height of the barrier of each pair: of the error rate (fraction) and of the loss, above the mean of the ends.

    Source: Frankle et al., Linear Mode Connectivity and the Lottery Ticket Hypothesis, 2020.
    """
    pairs: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        pairs.setdefault((row["first"], row["second"]), []).append(row)
    found = []
    for some in pairs.values():
        alphas, loss, accuracy = (np.array([row[name] for row in some]) for name in ("alpha", "loss", "accuracy"))
        kept = {name: some[0][name] for name in ("first", "second", "over", "ticket", "rewound_to")}
        ends = {"accuracy_first": some[0]["accuracy"], "accuracy_second": some[-1]["accuracy"]}
        worst = {"accuracy_lowest": float(accuracy.min())}
        heights = {"error_barrier": connectivity.barrier(1 - accuracy, alphas),
                   "loss_barrier": connectivity.barrier(loss, alphas)}  # fmt: skip
        found.append(kept | ends | worst | heights)
    return found
