"""What a smaller network saves: parameters, operations, and time on this machine."""

import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import jax
import numpy as np

from experiments.catalog.networks import input_shape
from experiments.commands.export_formats import Exported
from experiments.problem.data import facts_of
from experiments.problem.network import forward_flop
from experiments.run_folder import folder as run_folders
from experiments.run_folder import paths
from experiments.terminal.errors import UsageError
from rare_gems import masks
from rare_gems.models.compact import compact
from rare_gems.models.compact_file import save_compact
from rare_gems.models.layer_graph import model_of
from rare_gems.models.model import Model
from rare_gems.models.network_graphs import graph_of
from rare_gems.phase import ModelState, Params, Ticket

__all__ = ["image_shape", "write_compact"]

_BATCH, _TIMES = 64, 20


def image_shape(folder: Path) -> tuple[int, ...]:
    """The shape of the images that the network of a run takes.

    Raises:
      UsageError: if the folder is not that of a run.
    """
    if not (folder / paths.CONFIG).is_file():
        raise UsageError(f"--to=compact: expected a run folder, got {folder} without {paths.CONFIG}")
    config, _ = run_folders.read_config(folder)
    return input_shape(config.model, facts_of(config).image_shape)


def write_compact(output: Path, what: Exported, shape: tuple[int, ...]) -> list[str]:
    """Writes the smaller network, and says what it saves.

    Raises:
      UsageError: for a network whose channels are not followed.
    """
    state, network = what.state or {}, what.model
    try:
        small = compact(Ticket(what.params, None, what.mask), state, network)
    except ValueError as error:
        raise UsageError(f"--to=compact: {error}") from None
    params = masks.apply(what.params, what.mask)
    whole = model_of(graph_of(network, params), params, state)
    save_compact(output, small)
    nets = (whole, params, state), (small.model, small.params, small.state)
    sizes = [sum(leaf.size for leaf in jax.tree.leaves(weights)) for _, weights, _ in nets]
    flop = [forward_flop(model, shape) for model, *_ in nets]
    times = _milliseconds(nets, shape)
    was, now = (sum(pair[i] for pair in small.channels.values()) for i in (0, 1))
    images = "x".join(map(str, shape))
    return [
        f"channels {was:,} -> {now:,}, parameters {sizes[0]:,} -> {sizes[1]:,}, "
        f"operations for an image of {images} {flop[0]:,.0f} -> {flop[1]:,.0f}",
        f"time for {_BATCH} images on {jax.devices()[0].device_kind} {times[0]:.2f} -> {times[1]:.2f} ms "
        f"(the fastest of {_TIMES})",
    ]


def _milliseconds(nets: Sequence[tuple[Model, Params, ModelState]], shape: tuple[int, ...]) -> list[float]:
    """The fastest pass of each network over a batch; they take turns, so that other work on the machine hits both."""
    images = jax.device_put(np.random.default_rng(0).standard_normal((_BATCH, *shape), np.float32))
    passes = [
        partial(jax.jit(lambda p, s, x, model=model: model.apply(p, s, x, False)[0]), *jax.device_put(trees), images)
        for model, *trees in nets
    ]
    seconds: list[list[float]] = [[] for _ in nets]
    for _ in range(_TIMES + 1):  # the first compiles
        for i, one in enumerate(passes):
            begin = time.perf_counter()
            jax.block_until_ready(one())
            seconds[i].append(time.perf_counter() - begin)
    return [1000 * min(some[1:]) for some in seconds]
