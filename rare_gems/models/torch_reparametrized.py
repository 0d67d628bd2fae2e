"""Weights that a state dict of PyTorch has in parts: pruned, weight-normed, spectral-normed; made whole again."""

import math
import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from rare_gems.models.torch_tensors import FLOATS, READABLE, Stored

__all__ = ["Whole", "whole_weights"]


class Whole(NamedTuple):
    """tensors: by name, whole. masks: those of `torch.nn.utils.prune`, by the name of what they mask. kinds: for each
    name that was made of parts, what kept it in parts. parts: the names that it was made of."""

    tensors: dict[str, Stored]
    masks: dict[str, Stored]
    kinds: dict[str, str]
    parts: dict[str, tuple[str, ...]]


class _Rule(NamedTuple):
    """kind: what it is called. first, others: the names of the parts. fits: whether their shapes can be. make: of the
    parts, as float64, the whole."""

    kind: str
    first: str
    others: tuple[str, ...]
    fits: Callable[..., bool]
    make: Callable[..., np.ndarray]


def _normed(size: np.ndarray, direction: np.ndarray) -> np.ndarray:
    """g v / |v|, where |v| runs over the axes on which g has one number."""
    axes = tuple(i for i in range(direction.ndim) if size.ndim == 0 or size.shape[i] == 1)
    return size * direction / np.sqrt(np.square(direction).sum(axes, keepdims=True))


def _spectral(weight: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """W / (u^T W v), as in evaluation, where u and v stay."""
    return weight / (u @ weight.reshape(len(weight), -1) @ v)


def _broadcasts(size: tuple, direction: tuple) -> bool:
    return size == () or (
        len(size) == len(direction) and all(n in (1, m) for n, m in zip(size, direction, strict=True))
    )


def _singular(weight: tuple, u: tuple, v: tuple) -> bool:
    return len(weight) > 1 and u == weight[:1] and v == (math.prod(weight[1:]),)


_AT, _PARAMETRIZED = r"((?:.*\.)?)", r"\1parametrizations.\2."
_RULES = (
    _Rule("mask", _AT + r"(\w+)_orig", (r"\1\2_mask",), lambda w, m: w == m, lambda w, m: w * m),
    _Rule("spectral norm", _AT + r"(\w+)_orig", (r"\1\2_u", r"\1\2_v"), _singular, _spectral),
    _Rule("weight norm", _AT + r"(\w+)_g", (r"\1\2_v",), _broadcasts, _normed),
    _Rule(
        "spectral norm", _AT + r"parametrizations\.(\w+)\.original", (_PARAMETRIZED + "0._u", _PARAMETRIZED + "0._v"),
        _singular, _spectral,
    ),
    _Rule(
        "weight norm", _AT + r"parametrizations\.(\w+)\.original0", (_PARAMETRIZED + "original1",), _broadcasts, _normed
    ),
)  # fmt: skip


def whole_weights(tensors: Mapping[str, Stored]) -> Whole:
    """The weights that a network computes with, where its state dict has them in parts.

    Args:
      tensors: by name. `X_orig * X_mask` (torch.nn.utils.prune) becomes X; `X_g * X_v / |X_v|` (weight_norm) and
        `X_orig / (X_u^T X_orig X_v)` (spectral_norm) too, and both as parametrizations (`parametrizations.X.original0`,
        ...). Weights that are both normed and pruned are unfolded in turn.

    Returns:
      The tensors, whole ones in place of their parts, and what was done.

    Example:
      >>> def stored(*numbers):
      ...     return Stored("float32", (len(numbers),), lambda: np.asarray(numbers, np.float32))
      >>> whole = whole_weights({"fc.weight_orig": stored(1, 2, 3), "fc.weight_mask": stored(1, 0, 1)})
      >>> whole.tensors["fc.weight"].read().tolist(), list(whole.masks), whole.kinds
      ([1.0, 0.0, 3.0], ['fc.weight'], {'fc.weight': 'mask'})
    """
    tensors, masks, kinds, parts = dict(tensors), {}, {}, {}
    before = None
    while before != len(tensors):  # each whole is fewer tensors than its parts
        before = len(tensors)
        for name in list(tensors):
            found = _rule_for(name, tensors)
            if found is None:
                continue
            rule, names, to = found
            pieces = [tensors.pop(part) for part in names]
            tensors[to], kinds[to] = _made(rule, names, pieces), rule.kind
            parts[to] = tuple(piece for part in names for piece in parts.pop(part, (part,)))
            kinds = {key: kind for key, kind in kinds.items() if key == to or key not in names}
            # Where a direction is zero the weight is.
            inner = [masks.pop(part) for part in names if part in masks]
            if rule.kind == "mask" or inner:
                masks[to] = pieces[1] if rule.kind == "mask" else inner[-1]
    return Whole(tensors=tensors, masks=masks, kinds=kinds, parts=parts)


def _rule_for(name: str, tensors: Mapping[str, Stored]) -> tuple[_Rule, tuple[str, ...], str] | None:
    """A rule whose parts are all there, this name the first; their names; the name of the whole."""
    for rule in _RULES:
        match = re.fullmatch(rule.first, name)
        if match is None or name not in tensors:
            continue
        names, to = (name, *map(match.expand, rule.others)), match.expand(r"\1\2")
        there = to not in tensors and all(part in tensors for part in names)
        if there and rule.fits(*(tensors[part].shape for part in names)):
            return rule, names, to
    return None


def _made(rule: _Rule, names: tuple[str, ...], pieces: list[Stored]) -> Stored:
    shape = max((piece.shape for piece in pieces), key=math.prod)
    others = READABLE if rule.kind == "mask" else FLOATS  # a mask may be of bools
    for piece, known in zip(pieces, (FLOATS, others, others), strict=False):
        if piece.dtype not in known:
            return Stored(piece.dtype, shape, None)

    def read() -> np.ndarray:
        parts = [piece.read().astype(np.float64) for piece in pieces if piece.read]
        if rule.kind == "mask" and not np.isfinite(parts[1]).all():
            raise ValueError(f"expected finite numbers, got NaN or infinity in {names[1]}")
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            return rule.make(*parts)

    return Stored("float64", shape, read)
