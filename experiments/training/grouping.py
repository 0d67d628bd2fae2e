"""Which runs train at once: those of one program, as many as fit in memory and as the devices can share."""

from collections.abc import Hashable, Sequence
from typing import Any

import jax

from experiments.config.config import Config
from experiments.problem.problem import Problem
from experiments.terminal import progress
from experiments.training import devices, memory
from experiments.training.run import Run
from rare_gems.training import same_program
from rare_gems.training.feeds import Feed, Stream

__all__ = ["at_once", "groups_of", "trains_alone"]


def at_once(config: Config, num_runs: int) -> int:
    """How many of `num_runs` runs may train at once.

    What `trains_alone` trains one by one. On a CPU, where it gains nothing, only runs for which it is asked train at
    once.
    """
    if config.at_once is not None:
        return min(config.at_once, num_runs)
    return 1 if trains_alone(config) or jax.default_backend() == "cpu" or jax.process_count() > 1 else max(1, num_runs)


def trains_alone(config: Config) -> bool:
    """Whether each run has images of its own, or all devices to itself, so that runs train one by one."""
    own_images = config.train_examples or config.validation_examples or config.stream or config.data.streamed
    return bool(own_images or config.shard_params or config.batch_norm == "per-device")


def groups_of(config: Config, runs: Sequence[Run], problem: Problem) -> list[list[int]]:
    """The runs, by their numbers, that train together, group after group.

    A group is split where it would not fit in the memory of a device; --at-once decides where it is given.
    """
    keys = {_shared(run): _key(run) for run in {_shared(run): run for run in runs}.values()}  # seeds share recipes
    alike: dict[Hashable, list[int]] = {}
    for i, run in enumerate(runs):
        alike.setdefault(keys[_shared(run)], []).append(i)
    groups = []
    for some in alike.values():
        most = at_once(config, len(some))
        if config.at_once is None and most > 1:
            most = memory.fitting(runs[some[0]], problem, most, devices.num_devices(config))
        first = 0
        for size in devices.group_sizes(config, len(some), most):
            groups.append(some[first : first + size])
            first += size
    if len(alike) > 1:
        number = f"{len(runs)} runs of {len(alike)} programs, in {len(groups)} groups"
        progress.note(f"{number}: what they differ in changes more than numbers")
    return groups


def _shared(run: Run) -> tuple[int, bool]:
    return id(run.recipe), run.data_key is None


def _key(run: Run) -> Hashable:
    """A key that is equal for runs whose recipes differ in nothing but what their states hold."""
    if any(isinstance(feed, Stream) for feed in run.feeds):
        return id(run)
    seen: dict[tuple[int, int], str] = {}
    for phase, feed in zip(run.recipe, run.feeds, strict=True):
        if (id(phase), id(feed)) not in seen:
            digest = same_program.program(phase, run.ticket, run.model_state, _batch(feed, run.key))
            seen[id(phase), id(feed)] = digest
    digests = (seen[id(phase), id(feed)] for phase, feed in zip(run.recipe, run.feeds, strict=True))
    return run.data_key is None, *zip(digests, (phase.first_step for phase in run.recipe), strict=True)


def _batch(feed: Any, key: jax.Array) -> Any:
    assert isinstance(feed, Feed)
    return jax.eval_shape(lambda data, key: feed.batch(data, feed.order(key)[0], key), feed.data, key)
