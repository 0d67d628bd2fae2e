"""Weights of PyTorch networks for ours: read from a file, renamed, transposed and checked."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors

from rare_gems.init import kaiming_normal
from rare_gems.masks import is_prunable, path_name
from rare_gems.models.model import Model
from rare_gems.models.torch_names import our_paths, torch_name, torch_shape
from rare_gems.phase import Key, Params, PyTree

__all__ = ["from_torch"]

_FLOATS = {
    "F64": np.dtype("float64"), "F32": np.dtype("float32"), "F16": np.dtype("float16"), "BF16": np.dtype(jnp.bfloat16),
}  # fmt: skip
_WRAPPERS = ("state_dict", "model_state_dict", "model", "net")
_PREFIXES = ("module.", "_orig_mod.", "model.", "net.")
_SHOWN = 5  # names of each kind in an error
Tensors = dict[str, np.ndarray | None]  # None where a tensor is not of floating point
Shapes = dict[str, tuple[int, ...]]


def from_torch(
    path: str | os.PathLike[str], model: Model, *, replace_classifier: bool = False, key: Key | None = None
) -> tuple[Params, PyTree]:
    """Reads the weights of a PyTorch network for the same network of ours.

    Args:
      path: a `.safetensors` file, or else a state dict written by `torch.save` (.pt, .pth, .bin, .tar, ...), which
        needs torch installed. It may lie within a checkpoint under "state_dict", "model_state_dict", "model" or "net",
        and all names may begin with "module." (DataParallel), "_orig_mod." (torch.compile), "model." or "net.". Tensors
        in float16, bfloat16 or float64 become float32. The counters `num_batches_tracked` and Inception's auxiliary
        classifier (`AuxLogits.*`) are left out.
      model: with the widths, classes, biases and BatchNorm (`affine=True`, `use_bias=True` for most) of the file's.
      replace_classifier: give the last prunable layer a fresh kernel, N(0, 2 / fan_in), and a bias of zero, whatever
        the file holds for it: for other classes than those it was trained for.
      key: draws that kernel; `jax.random.key(0)` by default.

    Returns:
      (params, state) as from `Model.init`, float32. Convolutions OIHW become HWIO; dense kernels (outputs, inputs)
      become (inputs, outputs), also where torch has 1x1 convolutions; the inputs of a dense layer after a flattened
      map of channels come in the order of our [height, width, channels]. weight, bias, running_mean, running_var of a
      BatchNorm are our scale, bias, mean, var.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: in one line that begins with the path: torch is needed and not installed; the file is damaged or no
        state dict; tensors are missing, unexpected or misshapen.

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
    path = Path(path)
    tensors = _cleaned(_read_safetensors(path) if path.suffix.lower() == ".safetensors" else _read_torch(path))
    key = jax.random.key(0) if key is None else key
    like = jax.eval_shape(model.init, key)
    ours: Shapes = {path_name(p[1:]): leaf.shape for p, leaf in jax.tree_util.tree_leaves_with_path(like)}
    kernels = [path_name(p) for p, leaf in jax.tree_util.tree_leaves_with_path(like[0]) if is_prunable(p, leaf)]
    paths = our_paths({name: tensor.shape for name, tensor in tensors.items() if tensor is not None}, ours)
    fresh = _fresh_layer(key, kernels[-1], ours) if replace_classifier else {}

    loaded: dict[str, Any] = dict(fresh)
    names, unexpected = {}, []
    for name, tensor in tensors.items():
        to = paths.get(name)
        if to is not None and f"{_layer(to)}/kernel" in fresh:
            continue
        if tensor is None or to is None or to not in ours or to in loaded:
            unexpected.append(name)
        else:
            names[to], loaded[to] = name, _to_ours(tensor, to, ours, kernels)
    missing = [to for to in ours if to not in loaded]
    misshapen = [to for to, tensor in loaded.items() if tensor.shape != ours[to]]
    if missing or unexpected or misshapen:
        shapes = [
            f"{names[to]}: expected {torch_shape(ours[to])}, got {_shape(tensors[names[to]])}" for to in misshapen
        ]
        lists = {"missing": [torch_name(to) for to in missing], "unexpected": unexpected, "misshapen": shapes}
        told = "; ".join(f"{len(found)} {kind} ({_cut(found)})" for kind, found in lists.items() if found)
        hints = _hints(missing, [paths[name] for name in unexpected if name in paths], misshapen, ours, kernels[-1])
        raise ValueError(f"{path}: its tensors are not those of the model: {told}{hints}")
    with np.errstate(over="ignore"):  # what float32 does not hold becomes infinite, as torch has it
        leaves = {to: jnp.asarray(tensor, jnp.float32) for to, tensor in loaded.items()}
    return jax.tree_util.tree_map_with_path(lambda p, _: leaves[path_name(p[1:])], like)


def _read_safetensors(path: Path) -> Tensors:
    data = path.read_bytes()
    try:
        entries = safetensors.deserialize(data)
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path}: cut off, or not a safetensors file ({_first_line(error)})") from None
    return {
        name: np.frombuffer(entry["data"], _FLOATS[entry["dtype"]]).reshape(entry["shape"])
        if entry["dtype"] in _FLOATS
        else None
        for name, entry in entries
    }


def _read_torch(path: Path) -> Tensors:
    with path.open("rb") as file:
        try:
            import torch  # type: ignore
        except ImportError:
            told = "to read it torch must be installed (pip install torch); a .safetensors file needs none"
            raise ValueError(f"{path}: {told}") from None
        try:
            content = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # of many types: torch's, pickle's, zipfile's
            told = f"damaged, or not a state dict ({_first_line(error)})"
            raise ValueError(f"{path}: {told}; expected torch.save(network.state_dict(), ...)") from None
    while isinstance(content, Mapping) and (inner := [content[w] for w in _WRAPPERS if w in content]):
        content = inner[0]
    got = content if not isinstance(content, Mapping) else next(
        (value for value in content.values() if not isinstance(value, torch.Tensor)), None
    )  # fmt: skip
    if got is not None:
        raise ValueError(f"{path}: expected a state dict of tensors, got a {type(got).__name__}")
    return {
        str(name): tensor.detach().float().numpy() if tensor.is_floating_point() else None
        for name, tensor in content.items()
    }


def _cleaned(tensors: Tensors) -> Tensors:
    while prefix := next((p for p in _PREFIXES if all(name.startswith(p) for name in tensors)), "") if tensors else "":
        tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    left_out = re.compile(r"AuxLogits\..*|(.*\.)?num_batches_tracked")
    return {name: tensors[name] for name in sorted(tensors) if not left_out.fullmatch(name)}


def _to_ours(tensor: np.ndarray, to: str, ours: Shapes, kernels: list[str]) -> np.ndarray:
    """In our layout, or in a shape that is not ours."""
    shape = ours[to]
    if tensor.ndim == 4:
        tensor = tensor.transpose(2, 3, 1, 0)
        if len(shape) == 2 and tensor.shape[:2] == (1, 1):
            tensor = tensor[0, 0]
    elif tensor.ndim == 2:
        tensor = tensor.T
    convolutions = [name for name in kernels if len(ours[name]) == 4]
    if to in ("linear/0/kernel", "linear1/kernel") and convolutions and tensor.shape == shape:
        # Its inputs are flattened maps: [channels, height * width] in torch, the other way round here.
        channels = ours[convolutions[-1]][-1]
        tensor = tensor.reshape(channels, -1, shape[-1]).swapaxes(0, 1).reshape(shape)
    return tensor


def _fresh_layer(key: Key, kernel: str, ours: Shapes) -> dict[str, jax.Array]:
    bias = kernel.removesuffix("kernel") + "bias"
    layer = {name: jnp.zeros(ours[name], jnp.float32) for name in (kernel, bias) if name in ours}
    return kaiming_normal(key, layer, {name: jnp.ones(ours[name], bool) if name == kernel else None for name in layer})


def _hints(missing: list[str], extra: list[str], misshapen: list[str], ours: Shapes, last: str) -> str:
    absent = [path for path in missing if not {f"{_layer(path)}/mean", f"{_layer(path)}/kernel"} & set(missing)]
    hints = []
    for option, main in (("affine", "mean"), ("use_bias", "kernel")):
        for there, paths in ((True, [path for path in extra if path not in ours]), (False, absent)):
            if any(f"{_layer(path)}/{main}" in ours and path.endswith(("/scale", "/bias")) for path in paths):
                hints.append(f"{option}={there}")
    if misshapen and not missing and {_layer(path) for path in misshapen} == {_layer(last)}:
        hints.append("replace_classifier=True")
    return f"; try {', '.join(hints)}" if hints else ""


def _layer(path: str) -> str:
    return path.rpartition("/")[0]


def _cut(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


def _shape(tensor: Any) -> tuple[int, ...]:
    return tuple(tensor.shape)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
