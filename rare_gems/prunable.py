"""Which leaves of a network may be pruned: the kernels, told by name, by what stands beside them, and by class.

The number of axes alone tells little: a bias may have the axes of an image, and `vmap` or `scan` over layers give each
bias and each norm one more. Nothing here knows a framework; needs JAX and NumPy only. The names are in `leaf_names`.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rare_gems import leaf_names
from rare_gems.leaf_names import path_name

__all__ = ["LeafReport", "is_prunable", "report"]

PyTree = Any
Prunable = Callable[[tuple, Any], bool]

_UNKNOWN = "its name tells nothing"


class LeafReport(NamedTuple):
    """What is said of a leaf: its name, its shape, whether it is prunable, and why."""

    name: str
    shape: tuple[int, ...]
    prunable: bool
    reason: str

    @property
    def is_guess(self) -> bool:
        """Whether it counts for want of a reason: nothing tells what the array is."""
        return self.reason == _UNKNOWN


class _Leaf(NamedTuple):
    """A leaf and what tells of it. `owner`: the class of the nearest node that is no mere container, or ""."""

    path: tuple
    value: Any
    owner: str
    parts: tuple[str, ...]


class _Beside(NamedTuple):
    """What stands beside a leaf, itself included: parts of names; shapes of biases by stem, and of running statistics;
    the two leaves of a nameless pair, or none."""

    names: set[tuple[str, ...]]
    biases: dict[tuple[str, ...], list[tuple[int, ...]]]
    statistics: list[tuple[int, ...]]
    pair: tuple[_Leaf, ...]


def is_prunable(path: tuple, leaf: Any) -> bool:
    """The default rule as far as one leaf alone tells: `report` also looks at the leaves beside it, and at classes.

    Args:
      path: the leaf's key path. leaf: anything with `ndim` and `dtype`; other leaves are not prunable.
    Example:
      >>> from jax.tree_util import DictKey
      >>> [is_prunable((DictKey("conv"), DictKey(name)), jnp.ones((3, 3, 1, 8))) for name in ("w", "scale")]
      [True, False]
    """
    (only,) = _parted([(path, leaf, "")])
    return _judge(only, _beside([only])).prunable


def report(params: PyTree, prunable: Prunable | None = None) -> list[LeafReport]:
    """Whether each leaf is prunable and why, in leaf order.

    By default prunable are floating-point arrays of two axes or more, but never what is told to be no kernel:
    - by its last name: biases, scales and offsets (b, gamma, logit_scale, ...), running statistics, masks, positional
      embeddings, class and other tokens. Digits at the end of a name, and list indices, are passed over.
    - by what stands beside it: a weight of the shape of its bias, or of its running mean, is the scale of a norm.
    - by where it stands: in a module of a class such as LayerNorm, or under a name such as bn1, unless it is a kernel.
    - by its shape, where the name tells nothing: at most one axis longer than 1.
    Embedding tables count, as they always did: a look-up is the product of a dense kernel with a one-hot input.
    Positional embeddings and tokens do not, since they are added to activations, or put beside them, as biases are.
    What nothing tells of still counts, and is a guess (`is_guess`).

    Args:
      params: any pytree; arrays or `ShapeDtypeStruct`s. prunable: (key path, leaf) -> bool, in place of that rule.
    Returns:
      a `LeafReport` for each leaf.
    Example:
      >>> params = {"conv": {"w": jnp.ones((3, 3, 1, 8)), "b": jnp.ones((8, 1, 1))}, "x": jnp.ones((8, 2))}
      >>> for leaf in report(params):
      ...     print(leaf.name, leaf.shape, leaf.prunable, leaf.reason)
      conv/b (8, 1, 1) False bias
      conv/w (3, 3, 1, 8) True kernel
      x (8, 2) True its name tells nothing
    """
    leaves = _parted(_walk(params))
    if prunable is not None:
        chosen = [(leaf, bool(prunable(leaf.path, leaf.value))) for leaf in leaves]
        return [LeafReport(path_name(leaf.path), _shape(leaf.value), counts, "as asked") for leaf, counts in chosen]
    together: dict[tuple[str, ...], list[_Leaf]] = {}
    for leaf in leaves:
        together.setdefault(leaf.parts[:-1], []).append(leaf)
    beside = {parents: _beside(some) for parents, some in together.items()}
    return [_judge(leaf, beside[leaf.parts[:-1]]) for leaf in leaves]


def _walk(node: Any, path: tuple = (), owner: str = "") -> Iterator[tuple[tuple, Any, str]]:
    """(path, leaf, class of the owner) in leaf order, one level of the tree at a time so that the nodes are seen."""
    children = jax.tree_util.tree_flatten_with_path(node, is_leaf=lambda inner: inner is not node)[0]
    if len(children) == 1 and children[0][0] == ():
        yield path, node, owner
        return
    kind = type(node)
    boxed = len(children) == 1 and leaf_names.parts_of(children[0][0]) == ("value",)
    if (
        not isinstance(node, Mapping)
        and kind not in (list, tuple)
        and (not boxed or leaf_names.is_state(kind.__name__))
    ):
        owner = kind.__name__  # a variable (a box of one value) says less than the module that holds it
    for key, child in children:
        yield from _walk(child, path + key, owner)


def _parted(leaves: Any) -> list[_Leaf]:
    """The leaves with the parts of their names; an only `value` is that of a variable, and no part."""
    found = [_Leaf(path, value, owner, leaf_names.parts_of(path)) for path, value, owner in leaves]
    numbers: dict[tuple[str, ...], int] = {}
    for leaf in found:
        numbers[leaf.parts[:-1]] = numbers.get(leaf.parts[:-1], 0) + 1
    return [
        leaf._replace(parts=leaf.parts[:-1])
        if leaf.parts[-1:] == ("value",) and leaf.parts[:-1] and numbers[leaf.parts[:-1]] == 1
        else leaf
        for leaf in found
    ]


def _beside(leaves: list[_Leaf]) -> _Beside:
    names = {leaf.parts for leaf in leaves}
    found = _Beside(names, {}, [], tuple(leaves) if len(leaves) == 2 else ())
    for leaf in leaves:
        kind = leaf_names.kind_of(leaf.parts)
        if kind == "bias" and leaf_names.partner_of(leaf.parts) not in names:
            found.biases.setdefault(leaf_names.stem_of(leaf.parts), []).append(_shape(leaf.value))
        elif kind == "running statistics":
            found.statistics.append(_shape(leaf.value))
    return found


def _judge(leaf: _Leaf, beside: _Beside) -> LeafReport:
    value, kind = leaf.value, leaf_names.kind_of(leaf.parts)
    name, shape = path_name(leaf.path), _shape(value)
    if not hasattr(value, "ndim") or not hasattr(value, "dtype"):
        return LeafReport(name, shape, False, "no array")
    if not jnp.issubdtype(value.dtype, jnp.floating):
        return LeafReport(name, shape, False, f"{value.dtype}, not floating-point")
    if kind == "bias" and leaf_names.partner_of(leaf.parts) in beside.names:
        kind = ""  # B of a product of A and B, not a bias
    biases = beside.biases.get(leaf_names.stem_of(leaf.parts), []) + (beside.biases.get((), []) if not kind else [])
    why_not = kind if kind in leaf_names.NEVER else _why_no_kernel(leaf, shape, beside, biases)
    if why_not:
        return LeafReport(name, shape, False, why_not)
    if len(shape) < 2:
        return LeafReport(name, shape, False, "one axis" if shape else "a single number")
    if kind == "kernel" and not biases and any(map(leaf_names.is_table, (leaf.parts[:-1], (leaf.owner,)))):
        kind = "embedding table"
    if not kind and sum(size > 1 for size in shape) < 2:
        return LeafReport(name, shape, False, f"{_UNKNOWN}, and one axis at most is longer than 1")
    return LeafReport(name, shape, True, kind or _UNKNOWN)


def _why_no_kernel(leaf: _Leaf, shape: tuple[int, ...], beside: _Beside, biases: list[tuple[int, ...]]) -> str:
    """Why the leaf is none, by its class and what stands beside it; "" if nothing says so.

    Args:
      biases: the shapes of the biases that may be its own.
    """
    parts, name = leaf.parts, leaf_names.last_of(leaf.parts)
    if leaf_names.is_state(leaf.owner):
        return f"state, in {leaf.owner}"
    if name.startswith("kernel"):
        return ""
    if leaf_names.is_norm_class(leaf.owner):
        return f"scale, in {leaf.owner}"
    of_one_input = name.startswith("w") and not name.startswith("weight") and len(shape) == 2 and shape[0] == 1
    if shape in biases and not of_one_input:  # w (1, n) and b (1, n) are a dense layer
        return "scale: it has the shape of its bias"
    if shape in beside.statistics and not biases:
        return "scale: it has the shape of its running statistics"
    if any(len(bias) < len(shape) for bias in biases):
        return ""
    if leaf_names.is_norm(parts[:-1]):
        return "scale: its parent's name is that of a norm"
    if leaf_names.is_norm_weight(parts):
        return "scale: its name is that of a norm"
    if leaf_names.is_positional(parts[:-1]) or leaf_names.is_positional((leaf.owner,)):
        return "positional embedding"
    return "bias: it has the shape of one beside its kernel" if _is_second_of_pair(leaf, shape, beside) else ""


def _is_second_of_pair(leaf: _Leaf, shape: tuple[int, ...], beside: _Beside) -> bool:
    """Whether it is b in a nameless (w, b), w [..., in, out] and b [..., out] or [..., 1, out]."""
    nameless = [other.parts[-1:] for other in beside.pair] == [("0",), ("1",)] and not leaf_names.kind_of(leaf.parts)
    if not nameless or leaf is not beside.pair[1]:
        return False
    kernel = _shape(beside.pair[0].value)
    rows = [kernel[:-2], (*kernel[:-2], 1), *(kernel[:i] for i in range(1, len(kernel) - 2))]
    return len(kernel) > 1 and shape != kernel and shape[-1:] == kernel[-1:] and shape[:-1] in rows


def _shape(leaf: Any) -> tuple[int, ...]:
    return tuple(getattr(leaf, "shape", ()))
