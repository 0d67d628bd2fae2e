"""Weights, statistics and masks as the bytes of other frameworks' files."""

import io
from collections.abc import Callable, Collection
from functools import partial
from typing import Any, NamedTuple

import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy

from experiments.catalog.networks import NETWORKS
from experiments.terminal.errors import UsageError
from rare_gems.masks import path_name
from rare_gems.models.keras_names import to_keras_names
from rare_gems.models.torch_export import to_torch
from rare_gems.models.torch_save import torch_file
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
    """arrays: what is written, and a line that says whose names and layout it has. files: for each suffix that the
    file may have, the default first, its bytes, and how to load it, with FILE for its name."""

    arrays: Callable[[Exported], tuple[Any, str]]
    files: dict[str, tuple[Callable[[Any], bytes], str]]


def _torch(what: Exported) -> tuple[dict[str, np.ndarray], str]:
    try:
        shapes = {path_name(path): leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(what.params)}
        whose = counterpart_of(what.model, shapes).whose
        add = _leaves_with_everything(what.model, shapes) if what.fill else ()
        tensors = to_torch(what.model, what.params, what.state, what.mask, prune=what.prune, add=add)
    except ValueError as error:
        raise UsageError(f"--to=torch: {error}; --to=numpy, --to=flax and --to=keras-names take any network") from None
    told = [f"names of {whose}, layout of PyTorch"]
    lacks = [] if what.fill else _lacking(what)
    if lacks:
        told.append(f"without the {' and '.join(lacks)} that PyTorch's usually have (--fill adds ones and zeros)")
    if what.prune:
        told.append('torch.nn.utils.prune.identity(layer, "weight") for each layer with a mask comes before loading')
    return tensors, "; ".join(told)


def _leaves_with_everything(model: str, there: Collection[str]) -> list[str]:
    """The paths of the network's params, had it all the scales and biases that it can have beside those that are
    there."""
    row = NETWORKS[model]
    flags: dict[str, Any] = {"affine": True} if "affine" in row.options else {}
    if "shortcut" in row.options and any("/downsample/" in path for path in there):
        flags["shortcut"] = "B"
    params, _ = jax.eval_shape(row.make(use_bias=True, **flags).init, jax.random.key(0))
    return [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]


def _lacking(what: Exported) -> list[str]:
    paths = {path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path((what.params, what.state))}
    there = {path.partition("/")[2] for path in paths}
    wanted = set(_leaves_with_everything(what.model, there)) - there
    kinds = {
        "scales and biases of BatchNorm": [p for p in wanted if f"{p.rpartition('/')[0]}/mean" in there],
        "biases of layers": [p for p in wanted if f"{p.rpartition('/')[0]}/kernel" in there],
    }
    return [kind for kind, some in kinds.items() if some]


def _keras_names(what: Exported) -> tuple[dict[str, np.ndarray], str]:
    try:
        arrays = to_keras_names(what.params, what.state, what.mask)
    except ValueError as error:
        raise UsageError(f"--to=keras-names: {error}") from None
    named = {name: _of_numpy(array) for name, array in arrays.items()}
    if what.model not in NETWORKS:
        told = "names of your own network, paths joined by _; kernel, scale, bias, mean, var are called as in Keras 3"
        return named, f"{told}, other leaves keep their names and layout; masks as NAME_mask"
    epsilon = "1e-3" if what.model == "inception_v3" else "1e-5"
    told = "names LAYER/kernel, bias, gamma, beta, moving_mean, moving_variance of Keras 3; "
    return named, f"{told}BatchNorm's epsilon is {epsilon}; masks as LAYER/kernel_mask"


def _numpy(what: Exported) -> tuple[dict[str, np.ndarray], str]:
    trees = {"params": what.params, "state": what.state, "mask": what.mask}
    arrays = {
        path_name((jax.tree_util.DictKey(group), *path)): _of_numpy(leaf)
        for group, tree in trees.items()
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }
    named = "names params/..., state/..., mask/... with our key paths; layout of "
    return arrays, named + ("JAX and Keras" if what.model in NETWORKS else "your own network")


def _of_numpy(leaf: Any) -> np.ndarray:
    array = on_host(leaf)
    return array.astype(np.float32) if array.dtype == jnp.bfloat16 else array  # which NumPy alone cannot read back


def _flax(what: Exported) -> tuple[PyTree, str]:
    trees = {"params": what.params, "state": what.state or {}, "mask": what.mask}
    state = flax.serialization.to_state_dict(jax.tree.map(on_host, trees))
    return state, "a dict of params, state and mask (None where not prunable)"


def _npz(arrays: dict[str, np.ndarray]) -> bytes:
    data = io.BytesIO()
    np.savez(data, **arrays)  # type: ignore
    return data.getvalue()


_ASSIGN = "for v in model.variables: v.assign(arrays[v.path])"
_LOAD_TORCH = 'network.load_state_dict(torch.load("FILE", weights_only=True)), then network.eval()'
FORMATS = {
    "torch": Format(
        _torch,
        {
            ".safetensors": (
                partial(safetensors.numpy.save, metadata={"format": "pt"}),
                'network.load_state_dict(safetensors.torch.load_file("FILE")), then network.eval()',
            ),
            ".pt": (torch_file, _LOAD_TORCH),
            ".pth": (torch_file, _LOAD_TORCH),
        },
    ),
    "numpy": Format(_numpy, {".npz": (_npz, 'numpy.load("FILE")["params/..."]')}),
    "flax": Format(
        _flax,
        {
            ".msgpack": (
                flax.serialization.msgpack_serialize,
                'flax.serialization.msgpack_restore(pathlib.Path("FILE").read_bytes())',
            )
        },
    ),
    "keras-names": Format(
        _keras_names,
        {
            ".npz": (_npz, f'arrays = numpy.load("FILE"); {_ASSIGN}'),
            ".safetensors": (safetensors.numpy.save, f'arrays = safetensors.numpy.load_file("FILE"); {_ASSIGN}'),
        },
    ),
}
