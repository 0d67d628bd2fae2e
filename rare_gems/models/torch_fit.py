"""Whether what a file holds is what a network needs; if not, all that differs in one line."""

import re
from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

from rare_gems.models.torch_layout import our_shape, torch_shape
from rare_gems.models.torch_names import torch_name
from rare_gems.models.torch_state_dict import Found, cut
from rare_gems.models.torch_tensors import FLOATS, Stored

__all__ = ["Fit", "fit"]

Shapes = Mapping[str, tuple[int, ...]]


class Fit(NamedTuple):
    """names: path -> name in the file. drawn: the paths that are missing, and may be. notes: what should be told."""

    names: dict[str, str]
    drawn: list[str]
    notes: list[str]


def fit(
    found: Found,
    ours: Shapes,
    last: str,
    *,
    replaced: Collection[str] = (),
    allow_missing: re.Pattern[str] | None = None,
    allow_unexpected: re.Pattern[str] | None = None,
) -> Fit:
    """The tensor for each place of a network.

    Args:
      found: the tensors. ours: the shapes of all paths. last: the path of the last kernel.
      replaced: the paths of a layer that the file need not have, and of which nothing is read.
      allow_missing: what may be missing, found in `torch_name` of a path. allow_unexpected: what may be left over.

    Raises:
      ValueError: naming what is missing, unexpected, misshapen or of a dtype that is not read.

    Example:
      >>> tensors = {"fc.weight": Stored("int8", (2, 3), None), "odd": Stored("float32", (), None)}
      >>> found = Found(tensors, {"fc.weight": "linear/kernel"}, {}, ["odd"], [])
      >>> fit(found, {"linear/kernel": (3, 2)}, "linear/kernel", allow_unexpected=re.compile("odd"))
      Traceback (most recent call last):
      ValueError: its tensors are not those of the model: 1 of a dtype that is not read (fc.weight: int8)
    """
    names, unread, unexpected = {}, {}, list(found.unexpected)
    for name, to in found.paths.items():
        if f"{_layer(to)}/kernel" in replaced:
            continue
        if to not in ours or to in names or to in unread:
            unexpected.append(name)
        elif found.tensors[name].dtype not in FLOATS:
            unread[to] = name
        else:
            names[to] = name
    missing = [to for to in ours if to not in {*names, *unread, *replaced}]
    missing, drawn = _parted(missing, allow_missing, torch_name)
    unexpected, left_out = _parted(sorted(unexpected), allow_unexpected, str)
    shapes = {to: found.tensors[name].shape for to, name in names.items()}
    misshapen = [to for to, shape in shapes.items() if our_shape(shape, ours[to]) != ours[to]]
    if missing or unexpected or misshapen or unread:
        masks = _misshapen_masks(unexpected, found)
        unexpected = [name for name in unexpected if not any(name in pair for pair in masks)]
        lists = {
            "missing": [torch_name(to) for to in missing],
            "of a dtype that is not read": [f"{name}: {found.tensors[name].dtype}" for name in unread.values()],
            "unexpected": [_spelled(name, found.tensors.get(name)) for name in unexpected],
            "misshapen": [f"{names[to]}: expected {torch_shape(ours[to])}, got {shapes[to]}" for to in misshapen]
            + list(masks.values()),
        }
        told = "; ".join(f"{len(some)} {kind} ({cut(some)})" for kind, some in lists.items() if some)
        extra = [found.paths[name] for name in unexpected if name in found.paths]
        hints = _hints(missing, extra, misshapen, ours, last)
        if any("parametrizations." in name for name in unexpected):
            hints.append("torch.nn.utils.parametrize.remove_parametrizations before saving")
        tried = f"; try {', '.join(hints)}" if hints else ""
        raise ValueError(f"its tensors are not those of the model: {told}{tried}")
    notes = [f"left out: {cut(left_out)} (unexpected)"] if left_out else []
    notes += [f"missing, with fresh values: {cut(map(torch_name, drawn))}"] if drawn else []
    return Fit(names=names, drawn=drawn, notes=[*found.notes, *notes])


def _parted(
    names: list[str], allowed: re.Pattern[str] | None, told: Callable[[str], str]
) -> tuple[list[str], list[str]]:
    """Those that are not allowed, and those that are."""
    those = [name for name in names if allowed and allowed.search(told(name))]
    return [name for name in names if name not in those], those


def _misshapen_masks(unexpected: Collection[str], found: Found) -> dict[tuple[str, str], str]:
    """Pairs of torch.nn.utils.prune that are none, since their shapes differ: (weight, mask) -> what is told."""
    pairs = [(name, f"{name.removesuffix('_orig')}_mask") for name in unexpected if name.endswith("_orig")]
    shapes = {name: found.tensors[name].shape for pair in pairs for name in pair if name in found.tensors}
    return {
        (weight, mask): f"{mask}: expected that of {weight}, {shapes[weight]}, got {shapes[mask]}"
        for weight, mask in pairs
        if mask in unexpected and {weight, mask} <= set(shapes) and shapes[weight] != shapes[mask]
    }


def _spelled(name: str, tensor: Stored | None) -> str:
    return name if tensor is None or tensor.read is not None else f"{name}: {tensor.dtype}"


def _hints(missing: list[str], extra: list[str], misshapen: list[str], ours: Shapes, last: str) -> list[str]:
    absent = [path for path in missing if not {f"{_layer(path)}/mean", f"{_layer(path)}/kernel"} & set(missing)]
    hints = []
    for option, main in (("affine", "mean"), ("use_bias", "kernel")):
        for there, paths in ((True, [path for path in extra if path not in ours]), (False, absent)):
            if any(f"{_layer(path)}/{main}" in ours and path.endswith(("/scale", "/bias")) for path in paths):
                hints.append(f"{option}={there}")
    if misshapen and not missing and {_layer(path) for path in misshapen} == {_layer(last)}:
        hints.append("replace_classifier=True")
    return hints


def _layer(path: str) -> str:
    return path.rpartition("/")[0]
