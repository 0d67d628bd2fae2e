"""Weights of PyTorch networks for ours: read from a file, renamed, transposed and checked."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rare_gems.init import kaiming_normal
from rare_gems.leaf_names import pattern_of
from rare_gems.masks import ones, path_name, report
from rare_gems.models.model import Model
from rare_gems.models.torch_files import read_tensors
from rare_gems.models.torch_fit import fit
from rare_gems.models.torch_layout import to_ours
from rare_gems.models.torch_state_dict import find_state_dict
from rare_gems.models.torch_tensors import Stored, numbers
from rare_gems.phase import Key, Mask, Params, PyTree
from rare_gems.printable import printable

__all__ = ["TorchWeights", "from_torch", "read_torch"]


class TorchWeights(NamedTuple):
    """What a file of PyTorch has for a network. params, state: as from `Model.init`. mask: of `torch.nn.utils.prune`,
    None where there is none. notes: lines on what was taken, worked in and left out."""

    params: Params
    state: PyTree
    mask: Mask | None
    notes: tuple[str, ...]


def from_torch(
    path: str | os.PathLike[str],
    model: Model,
    *,
    replace_classifier: bool | str = False,
    allow_missing: str | None = None,
    allow_unexpected: str | None = None,
    key: Key | None = None,
) -> tuple[Params, PyTree]:
    """Reads the weights of a PyTorch network for the same network of ours. torch is not needed.

    Args:
      path: a `.safetensors` file, or a state dict written by `torch.save` (.pt, .pth, .bin, .tar, ...): it is read
        without running anything in it. It may lie anywhere in a checkpoint, and its names may begin with anything
        ("state_dict", "model.", "backbone."): what fits the model best is taken, averaged weights ("ema") only where
        there are no others. Wrapping modules ("module.", "_orig_mod.") may stand anywhere. Floats of 8 to 64 bits
        become float32. What `torch.nn.utils` has split into parts is made whole: prune (removed weights are zero),
        weight_norm, spectral_norm. Left out are `num_batches_tracked`, `n_averaged`, Inception's auxiliary classifier
        (`AuxLogits.*`), buffers of profilers (`total_ops`, `total_params`) and of a loss (`criterion.*`, `loss.*`).
      model: with the widths, classes, biases and BatchNorm (`affine=True`, `use_bias=True` for most) of the file's.
      replace_classifier: give the last prunable layer a fresh kernel, N(0, 2 / fan_in), and a bias of zero, whatever
        the file holds for it: for other classes than those it was trained for. True takes the last in leaf order, which
        it is in our networks; a string names its kernel.
      allow_missing: a regular expression: tensors in whose names it is found (as an error tells them) may be missing,
        and keep the values that `Model.init` draws.
      allow_unexpected: the same for tensors that the model does not have; they are left out. Of two networks in a file
        it can leave out one.
      key: draws what is fresh; `jax.random.key(0)` by default.

    Returns:
      (params, state) as from `Model.init`, float32. Convolutions OIHW become HWIO; dense kernels (outputs, inputs)
      become (inputs, outputs), also where torch has 1x1 convolutions; the inputs of a dense layer after a flattened
      map of channels come in the order of our [height, width, channels]. weight, bias, running_mean, running_var of a
      BatchNorm are our scale, bias, mean, var. `read_torch` also returns the mask, and says what was left out.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: in one line that begins with the path: the file is damaged, something else, or no state dict; it holds
        two networks; tensors are missing, unexpected, misshapen, of a dtype that is not read, or hold numbers that are
        infinite as float32. Or a regular expression that is none.

    Example:
      >>> import tempfile
      >>> from safetensors.numpy import save_file
      >>> from rare_gems.models.lenet import lenet_300_100
      >>> sizes, tensors = (4, 300, 100, 2), {}
      >>> for i in (1, 2, 3):
      ...     tensors[f"fc{i}.weight"] = np.full((sizes[i], sizes[i - 1]), 1 / sizes[i - 1], np.float32)
      ...     tensors[f"fc{i}.bias"] = np.full(sizes[i], 0.5, np.float32)
      >>> model = lenet_300_100(2, input_size=4)
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     save_file(tensors, f"{folder}/lenet.safetensors")
      ...     params, state = from_torch(f"{folder}/lenet.safetensors", model)
      >>> logits, _ = model.apply(params, state, jnp.ones((1, 4)), False)
      >>> logits.round(3).tolist(), params["linear1"]["kernel"].shape
      ([[2.5, 2.5]], (4, 300))

    Source: the names are those of torchvision (ResNet, VGG with BatchNorm, SqueezeNet, Inception v3) and of the usual
    CIFAR repositories (ResNet-20 and 32, ResNet-18, Wide ResNet, MobileNetV2, VGG); our own names, with dots, are taken
    as well (`torch_names`).
    Deviations: torchvision's MobileNetV2 and VGG without BatchNorm are other networks than ours, and are refused; of
    VGG with three dense layers the convolutions can be had, with `replace_classifier`. Images must be prepared as for
    the file's network; torchvision's Inception (`transform_input`) wants them in [-1, 1], the others normalized.
    """
    loaded = read_torch(
        path, model, replace_classifier=replace_classifier, allow_missing=allow_missing,
        allow_unexpected=allow_unexpected, key=key,
    )  # fmt: skip
    return loaded.params, loaded.state


def read_torch(
    path: str | os.PathLike[str],
    model: Model,
    *,
    replace_classifier: bool | str = False,
    allow_missing: str | None = None,
    allow_unexpected: str | None = None,
    key: Key | None = None,
) -> TorchWeights:
    """Reads what `from_torch` does, with the mask of a pruned network, and notes on what was taken and left out.

    Args:
      path, model, replace_classifier, allow_missing, allow_unexpected, key: as of `from_torch`.

    Returns:
      The weights, and a mask like that of `masks.ones(params)`: all of a layer that the file has no mask of is kept.

    Raises:
      FileNotFoundError, ValueError: as `from_torch`.

    Example:
      >>> import tempfile
      >>> from safetensors.numpy import save_file
      >>> from rare_gems.models.lenet import lenet_300_100
      >>> sizes, tensors = (4, 300, 100, 2), {}
      >>> for i in (1, 2, 3):
      ...     tensors[f"net.fc{i}.weight"] = np.ones((sizes[i], sizes[i - 1]), np.float32)
      >>> model = lenet_300_100(2, input_size=4, use_bias=False)
      >>> tensors["net.fc3.weight_orig"] = tensors.pop("net.fc3.weight")
      >>> tensors["net.fc3.weight_mask"] = np.eye(2, 100, dtype=np.float32)
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     save_file(tensors, f"{folder}/lenet.safetensors")
      ...     weights = read_torch(f"{folder}/lenet.safetensors", model)
      >>> weights.notes
      ('the mask of torch.nn.utils.prune keeps 31,202 of 31,400 prunable weights (sparsity 0.006305732484)',)
    """
    may_miss, may_be = _pattern("allow_missing", allow_missing), _pattern("allow_unexpected", allow_unexpected)
    path, key = Path(path), jax.random.key(0) if key is None else key
    like = jax.eval_shape(model.init, key)
    ours = {path_name(p[1:]): leaf.shape for p, leaf in jax.tree_util.tree_leaves_with_path(like)}
    kernels = [leaf.name for leaf in report(like[0]) if leaf.prunable]
    last = replace_classifier if isinstance(replace_classifier, str) else kernels[-1]
    if last not in kernels:
        raise ValueError(f"replace_classifier: expected a kernel, one of {', '.join(kernels)}, got {last!r}")
    leaves = _fresh_layer(key, last, ours) if replace_classifier else {}
    try:
        found = find_state_dict(read_tensors(path), ours, may_be)
        fitted = fit(found, ours, last, replaced=leaves, allow_missing=may_miss, allow_unexpected=may_be)
        arrays = {
            to: to_ours(_numbers(found.tensors[name], name, to), to, ours, kernels) for to, name in fitted.names.items()
        }
        kept = {
            to: to_ours(_numbers(found.masks[name], name, to) != 0, to, ours, kernels)
            for to, name in fitted.names.items()
            if name in found.masks and to in kernels
        }
    except ValueError as error:
        raise ValueError(printable(f"{path}: {error}")) from None
    if fitted.drawn:
        drawn = {path_name(p[1:]): leaf for p, leaf in jax.tree_util.tree_leaves_with_path(jax.jit(model.init)(key))}
        leaves |= {to: drawn[to] for to in fitted.drawn}
    leaves |= jax.device_put(arrays)  # jnp.asarray would compile a program for each shape
    params, state = jax.tree_util.tree_map_with_path(lambda p, _: leaves[path_name(p[1:])], like)
    mask, told = _mask(kept, params) if kept else (None, [])
    return TorchWeights(params=params, state=state, mask=mask, notes=tuple(map(printable, [*fitted.notes, *told])))


def _numbers(tensor: Stored, name: str, to: str) -> np.ndarray:
    try:
        return numbers(tensor)
    except ValueError as error:
        raise ValueError(f"{error} (at {name}, which becomes {to})") from None


def _mask(kept: Mapping[str, np.ndarray], params: Params) -> tuple[Mask, list[str]]:
    """The mask that keeps everything of layers without one, and what is told of it."""
    every = lambda path, leaf: kept.get(path_name(path), np.ones(leaf.shape, bool))  # noqa: E731
    mask = jax.tree_util.tree_map_with_path(every, jax.eval_shape(ones, params))
    num, size = (sum(int(count(leaf)) for leaf in jax.tree.leaves(mask)) for count in (np.count_nonzero, np.size))
    share = f"{num:,} of {size:,} prunable weights (sparsity {(size - num) / size:.10g})"
    return jax.device_put(mask), [f"the mask of torch.nn.utils.prune keeps {share}"]


def _pattern(name: str, text: str | None) -> re.Pattern[str] | None:
    try:
        return None if text is None else pattern_of(text)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def _fresh_layer(key: Key, kernel: str, ours: Mapping[str, tuple[int, ...]]) -> dict[str, jax.Array]:
    bias = kernel.removesuffix("kernel") + "bias"
    layer = {name: jnp.zeros(ours[name], jnp.float32) for name in (kernel, bias) if name in ours}
    return kaiming_normal(key, layer, {name: jnp.ones(ours[name], bool) if name == kernel else None for name in layer})
