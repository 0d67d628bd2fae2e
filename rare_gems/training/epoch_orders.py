"""The order in which an epoch reads its examples, and the randomness of each batch, from the keys of a run."""

import functools
import types
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from rare_gems.phase import Key
from rare_gems.training import sharding

__all__ = ["begin_step", "order_fn", "order_keys"]


def _order_key(key: Key, epoch: jax.Array | int) -> Key:
    return jax.random.fold_in(jax.random.fold_in(key, 2**31 - 1), epoch)


def order_keys(keys: tuple[Key, Key | None], epoch: jax.Array | int, first_step: int, num_batches: int) -> list[Key]:
    """The keys of the orders that an epoch of the phase reads: its own; or of the data's those in which it lies, two
    where the phase begins within one."""
    key, data_key = keys
    if data_key is None:
        return [_order_key(key, epoch)]
    whole, row = divmod(first_step, num_batches)
    return [_order_key(data_key, epoch + whole + i) for i in range(2 if row else 1)]


def order_fn(
    order: Callable[[Key], jax.Array], num_batches: int, first_step: int, many: bool, mesh: Mesh | None
) -> Callable:
    """The orders that an epoch reads, compiled: ((key, data key), epoch) -> int32 [1 or 2 x num_batches, batch].

    Phases and runs that read one feed draw their orders by one program.

    Args:
      order: of a `Feed`. first_step: of the phase. many: whether the keys have an axis of runs.
    """
    make = _order_fn if isinstance(order, types.FunctionType) else _order_fn.__wrapped__  # others may have no hash
    return make(order, num_batches, first_step, many, mesh)


@functools.lru_cache(maxsize=8)
def _order_fn(
    order: Callable[[Key], jax.Array], num_batches: int, first_step: int, many: bool, mesh: Mesh | None
) -> Callable:
    def order_of(keys: tuple[Key, Key | None], epoch: jax.Array) -> jax.Array:
        orders = [order(key) for key in order_keys(keys, epoch, first_step, num_batches)]
        if np.shape(orders[0])[:1] != (num_batches,):
            raise ValueError(f"order: expected {num_batches} rows, one for each batch, got {np.shape(orders[0])}")
        return orders[0] if len(orders) == 1 else jnp.concatenate(orders)

    return jax.jit(sharding.over_runs(order_of, mesh, (0, None), 0) if many else order_of)


def begin_step(carry: Any, num_batches: int, first_step: int) -> tuple[Any, jax.Array, Key]:
    """The carry with the totals of a new epoch at zero, the step's place in its orders, the batch's randomness."""
    row, key, step, place = carry.step % num_batches, carry.key, carry.step, carry.step % num_batches
    if carry.data_key is not None:
        key, step, place = carry.data_key, carry.step + first_step, row + first_step % num_batches
    key = jax.random.fold_in(jax.random.fold_in(key, 2**31 - 2), step)
    totals = jax.tree.map(lambda t: jnp.where(row == 0, jnp.zeros_like(t), t), carry.totals)
    return carry._replace(totals=totals._replace(first_bad=carry.totals.first_bad)), place, key
