"""Weights, statistics and masks as the bytes of other frameworks' files."""

import io
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy

from experiments.catalog.networks import NETWORKS
from experiments.terminal.errors import UsageError
from rare_gems.masks import path_name
from rare_gems.models.torch_export import to_torch
from rare_gems.models.torch_spelling import counterpart_of
from rare_gems.phase import Mask, Params, PyTree
from rare_gems.storage.ticket_contents import on_host

__all__ = ["FORMATS", "Exported", "Format"]


class Exported(NamedTuple):
    """What is written. model: the network's name. prune: masks beside the weights, for PyTorch. fill: also the scales
    and biases that only the counterpart has."""

    model: str
    params: Params
    state: PyTree
    mask: Mask
    prune: bool
    fill: bool


class Format(NamedTuple):
    """suffix: of the file. write: its bytes, and a line that says whose names and layout it has. load: how to load
    it, with FILE for its name."""

    suffix: str
    write: Callable[[Exported], tuple[bytes, str]]
    load: str


def _torch(what: Exported) -> tuple[bytes, str]:
    try:
        shapes = {path_name(path): leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(what.params)}
        whose = counterpart_of(what.model, shapes).whose
        add = _leaves_with_everything(what.model) if what.fill else ()
        tensors = to_torch(what.model, what.params, what.state, what.mask, prune=what.prune, add=add)
    except ValueError as error:
        raise UsageError(f"--to=torch: {error}; --to=numpy and --to=flax take any network") from None
    told = [f"names of {whose}, layout of PyTorch"]
    lacks = [] if what.fill else _lacking(what)
    if lacks:
        told.append(f"without the {' and '.join(lacks)} that PyTorch's usually have (--fill adds ones and zeros)")
    if what.prune:
        told.append('torch.nn.utils.prune.identity(layer, "weight") for each layer with a mask comes before loading')
    return safetensors.numpy.save(tensors, {"format": "pt"}), "; ".join(told)


def _leaves_with_everything(model: str) -> list[str]:
    """The paths of the network's params, had it all the scales and biases that it can have."""
    row = NETWORKS[model]
    flags = {"affine": True} if "affine" in row.options else {}
    params, _ = jax.eval_shape(row.make(use_bias=True, **flags).init, jax.random.key(0))
    return [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]


def _lacking(what: Exported) -> list[str]:
    paths = {path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path((what.params, what.state))}
    there = {path.partition("/")[2] for path in paths}
    wanted = set(_leaves_with_everything(what.model)) - there
    kinds = {
        "scales and biases of BatchNorm": [p for p in wanted if f"{p.rpartition('/')[0]}/mean" in there],
        "biases of layers": [p for p in wanted if f"{p.rpartition('/')[0]}/kernel" in there],
    }
    return [kind for kind, some in kinds.items() if some]


def _numpy(what: Exported) -> tuple[bytes, str]:
    trees = {"params": what.params, "state": what.state, "mask": what.mask}
    arrays = {
        path_name((jax.tree_util.DictKey(group), *path)): _of_numpy(leaf)
        for group, tree in trees.items()
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }
    data = io.BytesIO()
    np.savez(data, **arrays)  # type: ignore
    return data.getvalue(), "names params/..., state/..., mask/... with our key paths; layout of JAX and Keras"


def _of_numpy(leaf: Any) -> np.ndarray:
    array = on_host(leaf)
    return array.astype(np.float32) if array.dtype == jnp.bfloat16 else array  # which NumPy alone cannot read back


def _flax(what: Exported) -> tuple[bytes, str]:
    trees = {"params": what.params, "state": what.state or {}, "mask": what.mask}
    state = flax.serialization.to_state_dict(jax.tree.map(on_host, trees))
    return flax.serialization.msgpack_serialize(state), "a dict of params, state and mask (None where not prunable)"


FORMATS = {
    "torch": Format(
        ".safetensors", _torch, 'network.load_state_dict(safetensors.torch.load_file("FILE")), then network.eval()'
    ),
    "numpy": Format(".npz", _numpy, 'numpy.load("FILE")["params/..."]'),
    "flax": Format(".msgpack", _flax, 'flax.serialization.msgpack_restore(pathlib.Path("FILE").read_bytes())'),
}
