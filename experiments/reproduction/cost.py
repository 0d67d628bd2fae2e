"""What the runs of an item cost: steps, floating-point operations, and hours as a few steps on this device tell."""

import functools
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from experiments.catalog.networks import input_shape
from experiments.catalog.sanity_checks import CHECKS
from experiments.comparison.expand import Combination
from experiments.config.config import Config
from experiments.problem.data import facts_of
from experiments.problem.network import forward_flop, network_for
from experiments.problem.problem import make_loss
from experiments.problem.recipe import Planned
from rare_gems.data.device_batches import Batch
from rare_gems.phase import Phase
from rare_gems.storage.atomic import write_whole

__all__ = ["Cost", "cost_of", "known_hours", "measure", "remember", "remembered"]


class Cost(NamedTuple):
    """runs: trainings with a folder, checks included. steps: of batches. flop: floating-point operations in all.
    evaluated: images. passes: forward and backward passes of a batch, by (network, batch), which a device is timed
    at."""

    runs: int
    steps: int
    flop: float
    passes: dict[str, float]
    of: dict[str, Config]


def cost_of(planned: Sequence[tuple[Combination, Planned]], num_seeds: int) -> Cost:
    """The cost of the runs of all seeds, where those of the first are planned; a run that comes twice costs once."""
    runs, steps, flop = 0, 0, 0.0
    passes: dict[str, float] = {}
    configs: dict[str, Config] = {}
    seen = set()
    for each, plan in planned:
        if each.folder in seen:
            continue
        seen.add(each.folder)
        facts, config = facts_of(each.config), each.config
        shape = input_shape(config.model, facts.image_shape)
        forward = forward_flop(network_for(config, shape, facts.num_classes), shape)
        key = f"{config.model} {config.network} {shape} {config.batch_size} {config.precision}"
        held = facts.num_validation or facts.num_test
        for phases in _trainings(each, plan):
            runs += num_seeds
            for share, phase in phases:
                number = share * phase.num_steps
                steps += round(num_seeds * number)
                batch = config.batch_size if phase.uses_data else 1
                evaluated = number // plan.steps_per_epoch * held if phase.uses_data else 0
                work = number * phase.passes + evaluated / (3 * batch)  # a forward pass is a third of both
                flop += num_seeds * 3 * forward * batch * work
                passes[key] = passes.get(key, 0.0) + num_seeds * work * (batch / config.batch_size)
        configs.setdefault(key, config)
    return Cost(runs, steps, flop, passes, configs)


def _trainings(each: Combination, plan: Planned) -> list[list[tuple[float, Phase]]]:
    """The phases of the ticket's training and of those of its checks, each with the share of the data that it sees."""
    whole = [phase for phase in plan.recipe if phase.num_steps]
    tuning = [(1.0, phase) for phase in whole if phase.name == "finetune"]
    search = [phase for phase in whole if phase.name != "finetune"]
    again = lambda share: [(share, phase) for phase in search] + tuning  # noqa: E731
    return [again(1.0), *(tuning if CHECKS[name].edit else again(CHECKS[name].share) for name in each.checks)]


def known_hours(cost: Cost) -> float | None:
    """Hours on this device, if all its networks have been timed here."""
    times = _read()
    if not all(_device_key(key) in times for key in cost.passes):
        return None
    return sum(times[_device_key(key)] * number for key, number in cost.passes.items()) / 3600


def measure(cost: Cost) -> float:
    """Times a few training steps of each network that is not known yet, keeps the times in the cache, and returns the
    hours in all."""
    for key, config in cost.of.items():
        if _device_key(key) not in _read():
            _write(key, _seconds(config))
    hours = known_hours(cost)
    assert hours is not None
    return hours


def remembered(item: str, scale: str) -> float | None:
    """The hours of an item on this device, if they have been measured."""
    return _read().get(_device_key(f"hours of {item}, {scale}"))


def remember(item: str, scale: str, hours: float) -> None:
    """Keeps the hours of an item on this device in the cache."""
    _write(f"hours of {item}, {scale}", hours)


def _write(key: str, value: float) -> None:
    _cache().parent.mkdir(parents=True, exist_ok=True)
    write_whole(_cache(), json.dumps(_read() | {_device_key(key): value}, indent=1).encode())


def _seconds(config: Config, repeats: int = 3) -> float:
    """Seconds of a forward and backward pass of a batch of random images."""
    facts = facts_of(config)
    shape = input_shape(config.model, facts.image_shape)
    model = network_for(config, shape, facts.num_classes)
    params, state = jax.jit(model.init)(jax.random.key(0))
    images = jax.random.uniform(jax.random.key(1), (config.batch_size, *shape), jnp.float32)
    labels = jnp.zeros(config.batch_size, jnp.int32)
    batch = Batch(images, labels, jnp.ones(config.batch_size, jnp.float32))
    step = jax.jit(jax.value_and_grad(make_loss(model), has_aux=True))
    times = []
    for _ in range(repeats + 1):
        begun = time.perf_counter()
        jax.block_until_ready(step(params, state, batch, jax.random.key(2)))
        times.append(time.perf_counter() - begun)
    return min(times[1:])


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rare_gems" / "seconds_of_steps.json"


def _read() -> dict[str, float]:
    try:
        found: Any = json.loads(_cache().read_text())
        return {str(key): float(value) for key, value in found.items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}


@functools.cache
def _device() -> str:
    first = jax.devices()[0]
    return f"{len(jax.devices())} x {first.device_kind}, {os.cpu_count()} cores"


def _device_key(key: str) -> str:
    return f"{_device()}: {key}"
