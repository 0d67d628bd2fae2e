"""The kept weights of trained networks that can matter: those on a kept path from the images to the logits."""

from collections.abc import Sequence

from experiments.analyses.arrays import like
from experiments.analyses.measures import ALL, Row
from experiments.analyses.networks import Network
from experiments.problem.network import network_of
from experiments.terminal.errors import UsageError
from rare_gems import masks
from rare_gems.analysis import effective
from rare_gems.models.model import shapes_of

__all__ = ["dead_weights"]


def dead_weights(networks: Sequence[Network]) -> list[Row]:
    """Sparsity and effective sparsity of each network, of all layers, then of each.

    Returns:
      rows of `network`, `layer`, `num_kept`, `num_effective`, `sparsity`, `effective_sparsity` (fractions), `cut` (the
      layers through which nothing passes, in the row of all; "cut" in that of a layer that is).
    Raises:
      UsageError: for a network that cannot be followed.
    """
    rows: list[Row] = []
    model, shape = network_of(networks[0].config)  # that of all
    params, state = shapes_of(model)
    for network in networks:
        mask = like(params, network.mask)
        try:
            alive = effective.mask(model.apply, like(params, network.params), like(state, network.state), mask, shape)
        except ValueError as error:
            raise UsageError(f"effective: {network.folder}: {error}") from None
        cut = effective.cut_layers(mask, alive)
        kept, left = masks.layer_counts(mask), masks.layer_counts(alive)
        rows.append(_row(network.name, ALL, masks.num_kept(mask), masks.num_kept(alive), masks.num_prunable(mask))
                    | {"cut": ", ".join(cut)})  # fmt: skip
        for name in network.layers:
            row = _row(network.name, name, kept[name][0], left[name][0], kept[name][1])
            rows.append(row | {"cut": "cut" if name in cut else ""})
    return rows


def _row(network: str, layer: str, kept: int, left: int, size: int) -> Row:
    counts = {"network": network, "layer": layer, "num_kept": kept, "num_effective": left}
    return counts | {"sparsity": 1 - kept / size, "effective_sparsity": 1 - left / size}
