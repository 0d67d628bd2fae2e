"""Where the batch of a step comes from, data on the device or a stream that the host makes, and the loop over it."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from rare_gems import leaves
from rare_gems.phase import Batch, Key
from rare_gems.training import sharding

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
    feed: Feed | Stream,
    scan: bool,
    axes: tuple[Any, Any] | None = None,
    mesh: Mesh | None = None,
) -> Callable:
    """A function that trains from one step of a phase to another of the same epoch.

    Args:
      descend, edit: the two halves of a step, see `trainer.step_parts`.
      feed: where batches come from.
      scan: compile the steps into one call; a stream's are dispatched one by one nevertheless.
      axes: for many runs at once, what `jax.vmap` maps of a carry and of a context.
      mesh: the devices over which runs, or the rows of a batch, are spread (see `sharding`).
    Returns:
      `advance(carry, done, target, poll) -> (carry, done, interrupted)`, which donates the carry; `done` and `target`
      count the phase's steps, `poll(done)` is called after each step (scan: at the end) and stops it.
    Raises:
      ValueError: for many runs of a stream, whose batches are made for one.
    """
    every_edit = sharding.over_runs(edit, mesh, axes, axes[0]) if edit and axes else edit
    jit_edit = jax.jit(every_edit, donate_argnums=0) if every_edit else lambda carry, context: carry
    if not isinstance(feed, Stream):
        return _from_device(descend, edit, jit_edit, feed, scan, axes, mesh)
    if axes is not None:
        raise ValueError("feed: expected data on the device for many runs at once, got a stream")
    return _from_stream(descend, jit_edit, feed, mesh)


def _order_key(key: Key, epoch: jax.Array | int) -> Key:
    return jax.random.fold_in(jax.random.fold_in(key, 2**31 - 1), epoch)


def _prepare(carry: Any, num_batches: int) -> tuple[Any, jax.Array, Key]:
    """The carry with the totals of a new epoch at zero, the step's place in the epoch, the batch's randomness."""
    row = carry.step % num_batches
    key = jax.random.fold_in(jax.random.fold_in(carry.key, 2**31 - 2), carry.step)
    totals = jax.tree.map(lambda t: jnp.where(row == 0, jnp.zeros_like(t), t), carry.totals)
    return carry._replace(totals=totals._replace(first_bad=carry.totals.first_bad)), row, key


def _loop(
    descend: Callable,
    edit: Callable,
    carry: Any,
    done: int,
    target: int,
    poll: Callable[[int], bool],
    batches: Iterator,
) -> tuple[Any, int, bool]:
    """Dispatches steps one by one."""
    while done < target:
        carry, done = edit(*descend(carry, next(batches))), done + 1
        if poll(done):
            return carry, done, True
    return carry, done, False


def _from_stream(descend: Callable, jit_edit: Callable, feed: Stream, mesh: Mesh | None) -> Callable:
    def step(carry: Any, batch: Any) -> tuple:
        carry, _, key = _prepare(carry, feed.num_batches)
        return descend(carry, sharding.split_batch(feed.batch(batch, key), mesh))

    jit_seed = jax.jit(lambda key, epoch: jax.random.bits(_order_key(key, epoch), dtype=jnp.uint32))
    jit_step = jax.jit(step, donate_argnums=0)

    def advance(carry: Any, done: int, target: int, poll: Callable[[int], bool]) -> tuple:
        epoch, first = divmod(done, feed.num_batches)
        batches = map(_checked, feed.open(int(jit_seed(carry.key, epoch)), first))
        return _loop(jit_step, jit_edit, carry, done, target, poll, batches)

    return advance


def _checked(batch: Any) -> Any:
    leaves.check_arrays("batch of the stream", batch)
    return batch


def _from_device(
    descend: Callable,
    edit: Callable | None,
    jit_edit: Callable,
    feed: Feed,
    scan: bool,
    axes: tuple[Any, Any] | None,
    mesh: Mesh | None,
) -> Callable:
    def step(carry: Any, order: jax.Array, data: Any) -> tuple:
        carry, row, key = _prepare(carry, feed.num_batches)
        return descend(carry, sharding.split_batch(feed.batch(data, order[row], key), mesh))

    def order_of(key: Key, epoch: jax.Array) -> jax.Array:
        return feed.order(_order_key(key, epoch))

    def scan_steps(carry: Any, data: Any, num_steps: int) -> Any:
        order = order_of(carry.key, carry.step // feed.num_batches)

        def one(carry: Any, _: None) -> tuple[Any, None]:
            carry, context = step(carry, order, data)
            return (edit(carry, context) if edit else carry), None

        return jax.lax.scan(one, carry, length=num_steps)[0]

    every_step, every_scan, every_order = step, scan_steps, order_of
    if axes is not None:
        every_step = sharding.over_runs(step, mesh, (axes[0], 0, None), axes)
        every_order = sharding.over_runs(order_of, mesh, (0, None), 0)

        def every_scan(carry: Any, data: Any, num_steps: int) -> Any:
            one = lambda carry, data: scan_steps(carry, data, num_steps)  # noqa: E731
            return sharding.over_runs(one, mesh, (axes[0], None), axes[0])(carry, data)

    jit_order = jax.jit(every_order)
    jit_scan = jax.jit(every_scan, donate_argnums=0, static_argnums=2)
    jit_step = jax.jit(every_step, donate_argnums=0)

    def advance(carry: Any, done: int, target: int, poll: Callable[[int], bool]) -> tuple:
        if scan:
            return jit_scan(carry, feed.data, target - done), target, poll(target)
        order = jit_order(carry.key, done // feed.num_batches)
        one = lambda carry, _: jit_step(carry, order, feed.data)  # noqa: E731
        return _loop(one, jit_edit, carry, done, target, poll, iter(int, 1))

    return advance
