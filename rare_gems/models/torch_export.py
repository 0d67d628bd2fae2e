"""Our networks' weights as PyTorch's state dicts: the reverse of `torch_weights`, by the same tables."""

from collections.abc import Collection, Mapping
from typing import Any

import jax
import numpy as np

from rare_gems.masks import is_prunable, path_name
from rare_gems.models.torch_layout import to_ours, torch_shape
from rare_gems.models.torch_spelling import check_names, torch_names
from rare_gems.phase import Mask, Params, PyTree

__all__ = ["to_torch"]

Shapes = Mapping[str, tuple[int, ...]]


def to_torch(
    network: str,
    params: Params,
    state: PyTree,
    mask: Mask | None = None,
    *,
    prune: bool = False,
    add: Collection[str] = (),
) -> dict[str, np.ndarray]:
    """The state dict of a network's counterpart in PyTorch.

    Args:
      network: the network's name, as of `--model`; its counterparts are in `torch_spelling.COUNTERPARTS`.
      params, state: as from `Model.init`.
      mask: removed weights become zero; None keeps all.
      prune: write `weight_orig`, as it is, and `weight_mask` in its dtype, as `torch.nn.utils.prune` does, for each
        layer with a mask.
      add: paths of scales and biases that the network may lack, for counterparts that always have them: scales are
        added as ones, biases as zeros. Paths in layers that the network does not have are passed over.

    Returns:
      Arrays by name, which `from_torch` reads back bit for bit. Convolutions HWIO become OIHW, dense kernels (outputs,
      inputs), their inputs after a flattened map in the order [channels, height, width]. `num_batches_tracked` is not
      written; `load_state_dict` does not ask for it.

    Raises:
      ValueError: for a network without a counterpart, or leaves of another network; `prune` without a mask.

    Example:
      >>> from rare_gems.models.lenet import lenet_300_100
      >>> params, state = lenet_300_100(2, input_size=4).init(jax.random.key(0))
      >>> tensors = to_torch("lenet_300_100", params, state)
      >>> tensors["fc1.weight"].shape, bool((tensors["fc1.weight"].T == params["linear1"]["kernel"]).all())
      ((300, 4), True)

    Source: the names are those that `from_torch` reads; where it reads several, those of torchvision for its networks,
    and of the usual CIFAR repositories for the others.
    """
    if prune and mask is None:
        raise ValueError("prune: expected a mask, got none")
    leaves = _named((params, state))
    kernels = [path for path, leaf in leaves.items() if is_prunable(_key(path), leaf)]
    leaves |= _added(add, leaves)
    shapes = {path: leaf.shape for path, leaf in leaves.items()}
    names = torch_names(network, shapes)
    check_names(names, {name: torch_shape(shapes[path]) for path, name in names.items()}, list(shapes))
    kept, tensors = _named((mask, None)), {}
    for path, name in names.items():
        weights = _to_torch(np.asarray(leaves[path]), path, shapes, kernels)
        if path not in kept:
            tensors[name] = weights
            continue
        bits = _to_torch(np.asarray(kept[path]), path, shapes, kernels)
        if prune:
            tensors |= {f"{name}_orig": weights, f"{name}_mask": bits.astype(weights.dtype)}
        else:
            tensors[name] = np.where(bits, weights, np.zeros((), weights.dtype))
    return tensors


def _named(trees: PyTree) -> dict[str, jax.Array | np.ndarray]:
    """The leaves of (params, state) by their paths, without which of the two."""
    return {path_name(path[1:]): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(trees)}


def _key(path: str) -> tuple[jax.tree_util.DictKey, ...]:
    return tuple(jax.tree_util.DictKey(part) for part in path.split("/"))


def _added(paths: Collection[str], leaves: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The scales and biases at those paths that are not there, in layers that are."""
    added = {}
    for path in paths:
        layer, _, leaf = path.rpartition("/")
        of = next((leaves[name] for name in (f"{layer}/kernel", f"{layer}/mean") if name in leaves), None)
        if path not in leaves and of is not None:
            added[path] = (np.ones if leaf == "scale" else np.zeros)(of.shape[-1:], np.float32)
    return added


def _to_torch(array: np.ndarray, path: str, shapes: Shapes, kernels: list[str]) -> np.ndarray:
    """The array as torch has it: `to_ours` says where each number of torch's comes to lie, and is followed back."""
    shape = torch_shape(array.shape)
    places = to_ours(np.arange(array.size).reshape(shape), path, shapes, kernels)
    tensor = np.empty(array.size, array.dtype)
    tensor[places.reshape(-1)] = array.reshape(-1)
    return tensor.reshape(shape)
