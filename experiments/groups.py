"""Which runs train at once: those of one program, as many as fit in memory and as the devices can share."""

from collections.abc import Hashable, Sequence
from typing import Any

import jax

from experiments import devices, memory, progress
from experiments.config import Config
from experiments.problem import Problem
from experiments.resuming import Job
from rare_gems import variants
from rare_gems.feeds import Feed, Stream

__all__ = ["at_once", "groups_of"]


def at_once(config: Config, num_runs: int) -> int:
    """How many of so many runs may train at once: those whose training images differ, streams, and runs that are
    spread over all devices, one by one; on a CPU, where it gains nothing, only if it is asked for."""
    if config.at_once is not None:
        return min(config.at_once, num_runs)
    alone = config.train_examples or config.validation_examples or config.stream or config.shard_params
    return 1 if alone or jax.default_backend() == "cpu" or jax.process_count() > 1 else max(1, num_runs)


def groups_of(config: Config, jobs: Sequence[Job], problem: Problem) -> list[list[int]]:
    """The jobs, by their numbers, that train together, group after group.

    A group is split where it would not fit in the memory of a device; --at-once decides where it is given.
    """
    keys = {id(job.recipe): _key(job) for job in {id(job.recipe): job for job in jobs}.values()}  # seeds share recipes
    alike: dict[Hashable, list[int]] = {}
    for i, job in enumerate(jobs):
        alike.setdefault(keys[id(job.recipe)], []).append(i)
    groups = []
    for runs in alike.values():
        most = at_once(config, len(runs))
        if config.at_once is None and most > 1:
            most = memory.fitting(jobs[runs[0]], problem, most, devices.num_devices(config))
        first = 0
        for size in devices.group_sizes(config, len(runs), most):
            groups.append(runs[first : first + size])
            first += size
    if len(alike) > 1:
        number = f"{len(jobs)} runs of {len(alike)} programs, in {len(groups)} groups"
        progress.note(f"{number}: what they differ in changes more than numbers")
    return groups


def _key(job: Job) -> Hashable:
    """Equal for jobs that may train in one program: their recipes differ in nothing but what their states hold."""
    if any(isinstance(feed, Stream) for feed in job.feeds):
        return id(job)
    seen: dict[tuple[int, int], str] = {}
    for phase, feed in zip(job.recipe, job.feeds, strict=True):
        if (id(phase), id(feed)) not in seen:
            digest = variants.program(phase, job.ticket, job.model_state, _batch(feed, job.key))
            seen[id(phase), id(feed)] = digest
    return tuple(seen[id(phase), id(feed)] for phase, feed in zip(job.recipe, job.feeds, strict=True))


def _batch(feed: Any, key: jax.Array) -> Any:
    assert isinstance(feed, Feed)
    return jax.eval_shape(lambda data, key: feed.batch(data, feed.order(key)[0], key), feed.data, key)
