"""Where arrays lie when there are several devices: one mesh for runs, rows of a batch, and large weights.

A mesh has the axes "runs", "data" and "model". Many runs lie along the first, which needs no communication; the rows
of a batch along all the others; with a model axis, so do the large leaves of params, scores, mask and optimizer state,
each gathered where the network reads it. All the rest is replicated. XLA partitions the programs (`AxisType.Auto`).
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from rare_gems import leaves
from rare_gems.phase import Batch, Key, LossFn, ModelState, Params, PyTree

__all__ = ["LARGE", "gathered", "make_mesh", "num_sharing", "over_runs", "per_device", "pin", "place", "row_sharding",
           "shapes", "spec_of", "split_batch", "whole"]  # fmt: skip

LARGE = 2**16  # elements: a smaller leaf is not worth a gather, and is replicated
_ROWS = ("data", "model")


def make_mesh(devices: Sequence[jax.Device], *, runs: int = 1, model: int = 1) -> Mesh:
    """A mesh ("runs", "data", "model") of all the devices.

    Args:
      devices: of one kind; in a run of several processes, all of `jax.devices()`.
      runs: how many of its parts train runs of their own. model: how many devices share the large leaves of a run.
    Raises:
      ValueError: if `runs` times `model` does not divide their number.
    Example:
      >>> dict(make_mesh(jax.devices()[:1]).shape)
      {'runs': 1, 'data': 1, 'model': 1}
    """
    if runs < 1 or model < 1 or len(devices) % (runs * model):
        raise ValueError(f"devices: expected a multiple of {runs} runs x {model} model parts, got {len(devices)}")
    shape = (runs, len(devices) // (runs * model), model)
    return Mesh(np.array(devices).reshape(shape), ("runs", *_ROWS), axis_types=(AxisType.Auto,) * 3)


def spec_of(shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
    """How a leaf lies: along "model" if it is large, on the last axis that can be divided; else replicated.

    The rule knows shapes only, so that a weight, its score, its mask and its momentum lie alike.

    Example:
      >>> tuple(spec_of((3, 3, 512, 512), make_mesh(jax.devices()[:1])))
      ()
    """
    size = mesh.shape["model"]
    if size > 1 and np.prod(shape, dtype=np.int64) >= LARGE:
        for axis in reversed(range(len(shape))):
            if shape[axis] % size == 0:
                return PartitionSpec(*[None] * axis, "model")
    return PartitionSpec()


def pin(tree: PyTree, mesh: Mesh | None) -> PyTree:
    """Inside `jit`: every leaf where `spec_of` puts it. Where no run has several devices, the tree as it is."""
    if mesh is None or num_sharing(mesh) == 1:
        return tree
    return jax.tree.map(lambda x: _constrain(x, spec_of(x.shape, mesh), mesh), tree)


def whole(tree: PyTree, mesh: Mesh | None) -> PyTree:
    """Inside `jit`: every leaf whole on every device: what the network reads, or a file is made from."""
    if mesh is None or mesh.shape["model"] == 1:
        return tree
    return jax.tree.map(lambda x: _constrain(x, PartitionSpec(), mesh), tree)


def split_batch(batch: Batch, mesh: Mesh | None) -> Batch:
    """Inside `jit`: the leading axis of every leaf over the data and model axes.

    Raises:
      ValueError: if an axis cannot be divided.
    """
    if mesh is None or (parts := num_sharing(mesh)) == 1:
        return batch

    def split(x: jax.Array) -> jax.Array:
        if x.shape[0] % parts:
            raise ValueError(f"batch: expected a multiple of the {parts} devices that share it, got {x.shape[0]}")
        return _constrain(x, PartitionSpec(_ROWS), mesh)

    return jax.tree.map(split, batch)


def place(tree: PyTree, mesh: Mesh | None, *, many: bool = False) -> PyTree:
    """Outside `jit`: the tree on the mesh, every leaf where `spec_of` puts it; of many runs, along "runs".

    In a run of several processes each passes the same values and keeps its part of them.

    Raises:
      ValueError: for an array of NumPy that JAX would cut to 32 bits.
    """
    leaves.check_arrays("tree", tree)
    if mesh is None:
        return tree

    def put(x: Any) -> jax.Array:
        x = jnp.asarray(x) if not isinstance(x, jax.Array) else x
        own = spec_of(x.shape[1:] if many else x.shape, mesh)
        sharding = NamedSharding(mesh, PartitionSpec("runs", *own) if many else own)
        if not x.is_fully_addressable or jax.process_count() == 1:
            return jax.device_put(x, sharding)
        if leaves.is_key(x):
            return jax.random.wrap_key_data(_from_all(jax.random.key_data(x), sharding), impl=jax.random.key_impl(x))
        return _from_all(x, sharding)

    return jax.tree.map(put, tree)


def shapes(tree: PyTree, mesh: Mesh | None) -> PyTree:
    """ShapeDtypeStructs of a tree of one run that lies where `place` puts it: what a checkpoint is restored to."""

    def of(x: Any) -> jax.ShapeDtypeStruct:
        sharding = None if mesh is None else NamedSharding(mesh, spec_of(x.shape, mesh))
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)

    return jax.tree.map(of, tree)


def gathered(tree: PyTree, mesh: Mesh | None) -> PyTree:
    """Outside `jit`: the tree as every process can read it. Where one has all the devices, that is as it is."""
    if mesh is None or mesh.shape["model"] == 1 or jax.process_count() == 1:
        return tree
    return jax.jit(lambda tree: whole(tree, mesh))(tree)


def row_sharding(mesh: Mesh) -> NamedSharding:
    """Where the rows of a batch lie."""
    return NamedSharding(mesh, PartitionSpec(_ROWS))


def _from_all(x: jax.Array, sharding: NamedSharding) -> jax.Array:
    host = np.asarray(x)  # device_put would first compare the values of all processes, leaf by leaf
    return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])


def per_device(loss_fn: LossFn, mesh: Mesh | None) -> LossFn:
    """The loss with the BatchNorm statistics of each device's own rows, as in torch's DistributedDataParallel.

      L = mean over devices d of L(w; rows of d), each normalised by its own mean and variance.

    Each device draws its own randomness (dropout). Deviation: running statistics are means over the devices (torch
    keeps those of the first).

    Args:
      loss_fn: as in `trainer.make_step`. mesh: whose data and model axes share the rows; None: the loss as it is.
    Returns:
      a loss of the same signature, over a batch that `split_batch` has divided.
    """
    if mesh is None or num_sharing(mesh) == 1:
        return loss_fn

    def local(params: Params, state: ModelState, batch: Batch, key: Key) -> Any:
        # Varying copies: their gradients are summed where the copies were made, after the backward pass.
        params, state = jax.tree.map(_varying, (params, state))
        key = jax.random.fold_in(key, jax.lax.axis_index(_ROWS))
        loss, (state, accuracy) = loss_fn(params, state, batch, key)
        return jax.tree.map(_mean_over_devices, (loss, (state, accuracy)))

    def over_rows(*args: Any) -> Any:
        alike, rows = PartitionSpec(), PartitionSpec(_ROWS)
        specs = {"in_specs": (alike, alike, rows, alike), "out_specs": alike}
        return jax.shard_map(local, mesh=_present(mesh), axis_names=set(_ROWS), **specs)(*args)

    return over_rows


def num_sharing(mesh: Mesh | None) -> int:
    """How many devices share a run, and the rows of its batches."""
    return 1 if mesh is None else mesh.shape["data"] * mesh.shape["model"]


def _varying(x: jax.Array) -> jax.Array:
    return _on_data(lambda x: jax.lax.pcast(x, _ROWS, to="varying"), x)


def _on_data(fn: Callable, x: jax.Array) -> jax.Array:
    """`fn(x)`, of typed keys of their data."""
    if not leaves.is_key(x):
        return fn(x)
    return jax.random.wrap_key_data(fn(jax.random.key_data(x)), impl=leaves.key_impl(x))


def _mean_over_devices(x: jax.Array) -> jax.Array:
    if jnp.issubdtype(x.dtype, jnp.floating):
        return jax.lax.pmean(x, _ROWS)
    return _on_data(lambda x: jax.lax.pmax(x, _ROWS), x)  # counters and keys, which are equal


def over_runs(fn: Callable, mesh: Mesh | None, in_axes: Any, out_axes: Any) -> Callable:
    """`fn` for many runs: `jax.vmap`, and each part of the mesh's "runs" axis maps its own runs, without communication.

    Args:
      fn: of one run. in_axes, out_axes: prefixes of its arguments and results, 0 (a leading axis of runs) or None.
    """
    parts = 1 if mesh is None else mesh.shape["runs"]
    if parts == 1:
        return jax.vmap(fn, in_axes, out_axes)
    specs = [jax.tree.map(lambda axis: PartitionSpec() if axis is None else PartitionSpec("runs"), axes,
                          is_leaf=_is_none) for axes in (in_axes, out_axes)]  # fmt: skip

    def local(*args: Any) -> Any:
        if _only_one(in_axes, args):  # not under vmap, which makes grouped convolutions, hard to partition
            return _each_mapped(lambda x: x[None], out_axes, fn(*_each_mapped(lambda x: x[0], in_axes, args)))
        return jax.vmap(fn, in_axes, out_axes)(*args)

    return jax.shard_map(local, mesh=mesh, in_specs=specs[0], out_specs=specs[1], axis_names={"runs"}, check_vma=False)


def _only_one(axes: Any, tree: PyTree) -> bool:
    sizes: list[int] = []
    _each_mapped(lambda x: sizes.append(x.shape[0]), axes, tree)
    return sizes[0] == 1


def _each_mapped(fn: Callable, axes: Any, tree: PyTree) -> PyTree:
    """`fn` of every leaf that the prefix `axes` maps."""
    return jax.tree.map(
        lambda axis, part: part if axis is None else jax.tree.map(fn, part), axes, tree, is_leaf=_is_none
    )


def _is_none(node: Any) -> bool:
    return node is None


def _constrain(x: jax.Array, spec: PartitionSpec, mesh: Mesh) -> jax.Array:
    return jax.lax.with_sharding_constraint(x, NamedSharding(_present(mesh), spec))


def _present(mesh: Mesh) -> Any:
    """The mesh as it is seen from here: inside of `over_runs` its runs axis is manual."""
    inside = jax.sharding.get_abstract_mesh()
    return mesh if inside.empty else inside
