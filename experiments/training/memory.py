"""How many runs fit on a device at once, estimated before anything is compiled.

A program's need is found by walking through its operations in order: what was made and is still to be read is alive.
XLA needs more or less than that, since it fuses, lays out and reorders operations: `_FACTOR` covers what was measured
(against `memory_analysis` on CPU, jax 0.10, GEM-MINER's step, networks from LeNet-300-100 to VGG-16 and MobileNetV2 in
batches of 4 to 500, one run and four: estimate / XLA from 0.9 to 2.1; ResNet-20 at batch 128: 1.0).
"""

import functools
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core

from experiments.problem.evaluation import batch_of, batch_size
from experiments.problem.problem import Problem
from experiments.terminal import progress
from experiments.training.run import Run
from rare_gems.data.streamed_dataset import Examples
from rare_gems.models.model import with_key
from rare_gems.training import trainer
from rare_gems.training.feeds import Feed

__all__ = ["bytes_per_run", "evaluation_bytes", "fitting", "free_bytes", "held_bytes", "most_runs", "peak_bytes",
           "spell", "tree_bytes"]  # fmt: skip

_FACTOR = 1.5  # what XLA takes for temporary arrays, of what is alive at once


def bytes_per_run(run: Run, problem: Problem) -> int:
    """What training takes of a device, for one of several runs at once: the most of all phases.

      held + max over phases (carry + batch + 1.5 temporary),

    where `held` is that of `held_bytes`.

    Raises:
      ValueError: for a stream, which trains one run at a time.
    """
    ticket, state = run.ticket, run.model_state
    held = held_bytes(ticket, state)
    most, seen = 0, set()
    for phase, feed in zip(run.recipe, run.feeds, strict=True):
        kind = phase.name, phase.trains, phase.loss_fn, id(feed)  # rounds, which differ in numbers only, take the same
        if kind in seen:
            continue
        seen.add(kind)
        if not isinstance(feed, Feed):
            raise ValueError("feed: expected data on the device for several runs at once, got a stream")
        carry = jax.eval_shape(functools.partial(trainer.begin, phase), ticket, state, run.key, run.data_key)
        batch = jax.eval_shape(
            lambda data, key, feed=feed: feed.batch(data, feed.order(key)[0], key), feed.data, run.key
        )
        step = peak_bytes(trainer.make_step(problem.loss_fn, phase), carry, batch)
        most = max(most, step, 2 * tree_bytes(carry))  # a phase begins while the carry of the last is there
    return held + most


def held_bytes(ticket: Any, model_state: Any) -> int:
    """What outlives a step beside its carry: the start of the run, alone and stacked with the others', the ticket
    found, the best weights, and the weights and mask that are evaluated."""
    return 3 * tree_bytes((ticket, model_state)) + 2 * tree_bytes(ticket.params) + tree_bytes(ticket.mask)


def evaluation_bytes(run: Run, problem: Problem) -> int:
    """What a batch of the evaluation takes beside the weights; several runs share it."""
    most = 0
    for name, split in problem.splits.items():
        if name == "train" or isinstance(split, Examples):
            continue
        size = batch_size(split.labels.shape[0], split.images.shape[1])

        def logits(params: Any, state: Any, split: Any, size: int = size) -> jax.Array:
            batch = batch_of(problem.data, split, 0, size)
            return with_key(problem.model.apply)(params, state, batch.images, False)[0]

        given = run.ticket.params, run.model_state, split
        most = max(most, peak_bytes(logits, *given) - tree_bytes(given))
    return most


def peak_bytes(fn: Callable, *args: Any) -> int:
    """The memory of a compiled `fn(*args)`: its arguments, which may be overwritten, and 1.5 times what else it needs.

    Args:
      fn: traced, not run. args: trees of arrays or ShapeDtypeStructs.
    """
    jaxpr = jax.make_jaxpr(fn)(*args).jaxpr
    given = sum(_bytes(var.aval) for var in jaxpr.invars)
    return given + round(_FACTOR * max(0, _alive(jaxpr, given, frozenset(jaxpr.constvars)) - given))


def tree_bytes(tree: Any) -> int:
    """The bytes of all leaves together."""
    return sum(_bytes(leaf) for leaf in jax.tree.leaves(tree))


def _bytes(leaf: Any) -> int:
    shape, dtype = getattr(leaf, "shape", ()), getattr(leaf, "dtype", None)
    if dtype is None:
        return 0
    # XLA's CPU compiler computes in float32 what is asked for in bfloat16.
    widened = dtype == jnp.bfloat16 and jax.default_backend() == "cpu"
    return math.prod(shape) * (4 if widened else dtype.itemsize)


def _alive(jaxpr: core.Jaxpr, given: int, stays: frozenset[core.Var]) -> int:
    """The most bytes alive at once, `given` at the start; `stays`: variables that are never freed."""
    last = {var: i for i, eqn in enumerate(jaxpr.eqns) for var in eqn.invars if isinstance(var, core.Var)}
    last |= {var: len(jaxpr.eqns) for var in jaxpr.outvars if isinstance(var, core.Var)}
    most = alive = given
    for i, eqn in enumerate(jaxpr.eqns):
        made = sum(_bytes(var.aval) for var in eqn.outvars if var in last)
        inner = max((_alive(sub, 0, frozenset([*sub.invars, *sub.constvars])) for sub in _inside(eqn)), default=0)
        most = max(most, alive + max(made, inner))
        read = {var for var in eqn.invars if isinstance(var, core.Var)}
        alive += made - sum(_bytes(var.aval) for var in read if last[var] == i and var not in stays)
    return most


def _inside(eqn: core.JaxprEqn) -> Iterator[core.Jaxpr]:
    """The programs that an operation calls: branches, bodies of loops, functions."""
    for value in eqn.params.values():
        for one in value if isinstance(value, tuple | list) else (value,):
            if isinstance(one, core.ClosedJaxpr):
                yield one.jaxpr
            elif isinstance(one, core.Jaxpr):
                yield one


def free_bytes() -> int | None:
    """The bytes free on the fullest local device; on CPU, of the machine or container; None where that is not known."""
    if jax.default_backend() != "cpu":
        told = [device.memory_stats() or {} for device in jax.local_devices()]
        if all("bytes_limit" in stats for stats in told):
            return min(stats["bytes_limit"] - stats.get("bytes_in_use", 0) for stats in told)
        return None
    known = [value for value in (_available(), _left_in_container()) if value is not None]
    return min(known, default=None)


def _available(path: Path = Path("/proc/meminfo")) -> int | None:
    try:
        lines = dict(line.split(":", 1) for line in path.read_text().splitlines() if ":" in line)
        return int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return None


def _left_in_container(folder: Path = Path("/sys/fs/cgroup")) -> int | None:
    try:
        return max(0, int((folder / "memory.max").read_text()) - int((folder / "memory.current").read_text()))
    except (OSError, ValueError):  # no such file, or "max"
        return None


def most_runs(per_run: int, shared: int, free: int | None, headroom: float = 0.9, num_devices: int = 1) -> int | None:
    """How many runs fit at once, at least one on each device; None: as many as one likes, where `free` is not known.

    Args:
      per_run, shared, free: bytes of a run, of what all runs share, and of each device.
      headroom: the part of `free` that may be used. num_devices: over which the runs are spread.
    Example:
      >>> most_runs(per_run=100, shared=50, free=400), most_runs(per_run=100, shared=0, free=50)
      (3, 1)
    """
    if free is None:
        return None
    return num_devices * max(1, int(headroom * free - shared) // max(1, per_run))


def fitting(run: Run, problem: Problem, num_runs: int, num_devices: int = 1) -> int:
    """How many of `num_runs` runs like `run` fit in memory at once; says so where it is not all of them."""
    per_run, shared, free = bytes_per_run(run, problem), evaluation_bytes(run, problem), free_bytes()
    most = most_runs(per_run, shared, free, num_devices=num_devices)
    if most is None or free is None or most >= num_runs:
        return num_runs
    alone = ", less than one needs" if per_run + shared > free else ""
    progress.note(
        f"memory: {most} of {num_runs} runs train at once: each takes about {spell(per_run)}, {spell(free)} are "
        f"free{alone}"
    )
    return most


def spell(num: int) -> str:
    """A number of bytes in MiB, or in GiB."""
    return f"{num / 2**30:.2f} GiB" if num >= 2**30 else f"{num / 2**20:.1f} MiB"
