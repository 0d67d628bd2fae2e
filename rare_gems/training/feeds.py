"""Where the batch of a step comes from, data on the device or a stream that the host makes, and the loop over it."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from rare_gems import leaves
from rare_gems.phase import Batch, Key, Phase
from rare_gems.training import control_flow, sharding
from rare_gems.training.epoch_orders import begin_step, order_fn, order_keys
from rare_gems.training.step import seen
from rare_gems.training.stretches import Stretches

__all__ = ["Feed", "Stream", "advance_fn"]


class Feed(NamedTuple):
    """Batches from data on the device, all of it traced into the step.

    `order(key) -> int32 [num_batches, batch_size]` is drawn once an epoch; `batch(data, indices, key) -> Batch`
    reads one row of it from `data`, a pytree that lies on the device (NumPy arrays of 64 bits are refused).
    """

    data: Any
    num_batches: int
    order: Callable[[Key], jax.Array]
    batch: Callable[[Any, jax.Array, Key], Batch]


class Stream(NamedTuple):
    """Batches that the host makes, for data that do not fit on the device.

    `open(seed, first)` gives the batches of an epoch from the `first` on (0 at its start), as trees of arrays on the
    device; equal seeds (integers in 0..2^32 - 1) give equal batches, wherever one begins. `batch(made, key) -> Batch`
    is traced into the step.
    """

    num_batches: int
    open: Callable[[int, int], Iterator[Any]]
    batch: Callable[[Any, Key], Batch]


def advance_fn(
    descend: Callable,
    edit: Callable | None,
    phase: Phase,
    feed: Feed | Stream,
    scan: bool,
    axes: tuple[Any, Any] | None = None,
    mesh: Mesh | None = None,
) -> Callable:
    """A function that trains from one step of a phase to another of the same epoch.

    Args:
      descend, edit: the two halves of a step of `phase`, see `trainer.step_parts`. Dispatched one by one they are one
        program, unless `edit` has control flow.
      feed: where batches come from.
      scan: compile the steps into one call; a stream's are dispatched one by one nevertheless.
      axes: for many runs at once, what `jax.vmap` maps of a carry and of a context.
      mesh: the devices over which runs, or the rows of a batch, are spread (see `sharding`).
    Returns:
      `advance(carry, done, target, poll, stretches) -> (carry, done, interrupted)`, which donates the carry; `done` and
      `target` count the phase's steps, `poll(done)` is called after each step (scan: each piece) and stops it, and
      what `stretches` has between steps is done before.
    Raises:
      ValueError: for many runs of a stream, whose batches are made for one.
    """
    apart = (lambda carry, context: edit(carry, context._replace(step=carry.step - 1))) if edit else None
    every_edit = sharding.over_runs(apart, mesh, (axes[0], 0), axes[0]) if apart and axes else apart
    jit_edit = jax.jit(every_edit, donate_argnums=0) if every_edit else None
    if not isinstance(feed, Stream):
        return _from_device(descend, edit, jit_edit, phase, feed, scan, axes, mesh)
    if axes is not None:
        raise ValueError("feed: expected data on the device for many runs at once, got a stream")
    return _from_stream(descend, edit, jit_edit, phase.first_step, feed, mesh)


def _joined(edit: Callable | None, carry: Any, context: Any) -> tuple[Any, Any]:
    """The carry after `edit`, and None; if `edit` has control flow, the carry as it is, and what `edit` still needs."""
    if edit is None:
        return carry, None
    if control_flow.names(edit, carry, context):
        return carry, context._replace(step=None)  # the carry has it
    return edit(carry, context), None


def _loop(
    step: Callable,
    edit: Callable | None,
    carry: Any,
    done: int,
    target: int,
    poll: Callable[[int], bool],
    stretches: Stretches | None,
    batches: Iterator,
) -> tuple[Any, int, bool]:
    """Dispatches steps one by one."""
    stops = set() if stretches is None else {stop for stop in stretches.stops if done < stop <= target}
    while done < target:
        (carry, context), done = step(carry, next(batches)), done + 1
        if context is not None:
            assert edit is not None
            carry = edit(carry, context)
        if done in stops:
            assert stretches is not None
            carry = stretches.take(carry, done)
        if poll(done):
            return carry, done, True
    return carry, done, False


def _scanned(
    scan: Callable[[Any, int], Any],
    carry: Any,
    done: int,
    target: int,
    poll: Callable[[int], bool],
    stretches: Stretches | None,
) -> tuple[Any, int, bool]:
    """Scans steps piece by piece."""
    stops = set() if stretches is None else {stop for stop in stretches.stops if done < stop <= target}
    while done < target:
        length = target - done if stretches is None else stretches.piece(done, target)
        carry, done = scan(carry, length), done + length
        if done in stops:
            assert stretches is not None
            carry = stretches.take(carry, done)
        if poll(done):
            return carry, done, True
    return carry, done, False


def _from_stream(
    descend: Callable,
    edit: Callable | None,
    jit_edit: Callable | None,
    first_step: int,
    feed: Stream,
    mesh: Mesh | None,
) -> Callable:
    def step(carry: Any, batch: Any) -> tuple:
        carry, _, key = begin_step(carry, feed.num_batches, first_step)
        return _joined(edit, *descend(carry, sharding.split_batch(feed.batch(batch, key), mesh)))

    @jax.jit
    def jit_seeds(keys: tuple[Key, Key | None], epoch: jax.Array) -> list[jax.Array]:
        orders = order_keys(keys, epoch, first_step, feed.num_batches)
        return [jax.random.bits(key, dtype=jnp.uint32) for key in orders]

    def opened(seeds: list[int], place: int) -> Iterator[Any]:
        for i, seed in enumerate(seeds):
            if place < (i + 1) * feed.num_batches:
                first, num = max(0, place - i * feed.num_batches), 0
                for batch in feed.open(seed, first):
                    yield batch
                    num += 1
                if first + num < feed.num_batches:
                    expected = f"expected {feed.num_batches - first} batches from open({seed}, {first})"
                    raise ValueError(f"stream: {expected}, got {num}")

    jit_step = jax.jit(step, donate_argnums=0)

    def advance(
        carry: Any, done: int, target: int, poll: Callable[[int], bool], stretches: Stretches | None = None
    ) -> tuple:
        epoch, place = divmod(done, feed.num_batches)
        place += 0 if carry.data_key is None else first_step % feed.num_batches
        seeds = [int(seed) for seed in jit_seeds((carry.key, carry.data_key), epoch)]
        batches = map(_checked, opened(seeds, place))
        return _loop(jit_step, jit_edit, carry, done, target, poll, stretches, batches)

    return advance


def _checked(batch: Any) -> Any:
    leaves.check_arrays("batch of the stream", batch)
    return batch


def _from_device(
    descend: Callable,
    edit: Callable | None,
    jit_edit: Callable | None,
    phase: Phase,
    feed: Feed,
    scan: bool,
    axes: tuple[Any, Any] | None,
    mesh: Mesh | None,
) -> Callable:
    first_step = phase.first_step

    def begun(carry: Any, order: jax.Array, data: Any, *known: Any) -> tuple:
        carry, row, key = begin_step(carry, feed.num_batches, first_step)
        return descend(carry, sharding.split_batch(feed.batch(data, order[row], key), mesh), *known)

    def step(carry: Any, order: jax.Array, data: Any) -> tuple:
        return _joined(edit, *begun(carry, order, data))

    def scan_steps(carry: Any, order: jax.Array, data: Any, num_steps: int) -> Any:
        def one(both: tuple[Any, Any], _: None) -> tuple[Any, None]:
            carry, context = begun(both[0], order, data, both[1])
            carry = edit(carry, context) if edit else carry
            return (carry, seen(phase, carry)), None

        return jax.lax.scan(one, (carry, seen(phase, carry)), length=num_steps)[0][0]

    every_step, every_scan = step, scan_steps
    if axes is not None:
        every_step = sharding.over_runs(step, mesh, (axes[0], 0, None), (axes[0], 0))

        def every_scan(carry: Any, order: jax.Array, data: Any, num_steps: int) -> Any:
            one = lambda carry, order, data: scan_steps(carry, order, data, num_steps)  # noqa: E731
            return sharding.over_runs(one, mesh, (axes[0], 0, None), axes[0])(carry, order, data)

    jit_order = order_fn(feed.order, feed.num_batches, first_step, axes is not None, mesh)
    jit_scan = jax.jit(every_scan, donate_argnums=0, static_argnums=3)
    jit_step = jax.jit(every_step, donate_argnums=0)

    def advance(
        carry: Any, done: int, target: int, poll: Callable[[int], bool], stretches: Stretches | None = None
    ) -> tuple:
        order = jit_order((carry.key, carry.data_key), done // feed.num_batches)
        if scan:
            piece = lambda carry, length: jit_scan(carry, order, feed.data, length)  # noqa: E731
            return _scanned(piece, carry, done, target, poll, stretches)
        one = lambda carry, _: jit_step(carry, order, feed.data)  # noqa: E731
        return _loop(one, jit_edit, carry, done, target, poll, stretches, iter(int, 1))

    return advance
