"""The order in which a network uses its layers, read off the program that it traces to: nothing is computed.

The leaves of a dict come sorted by name, so `Dense_10` before `Dense_2` and `block1` before `stem`. What the program
does with each leaf tells the truth.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
from jax.extend import core

from rare_gems import masks
from rare_gems.models.model import Apply, with_key
from rare_gems.models.platforms import plain_operations
from rare_gems.phase import Mask, ModelState, Params

__all__ = ["Layers", "layer_order", "read_layers"]

_Read = tuple[bool, int]  # whether by a single number only, and which leaf

# Operations on several arrays of which each result comes from its own operand alone.
_SIDE_BY_SIDE = ("optimization_barrier", "device_put", "pvary", "pcast", "psum", "psum_invariant", "pmax", "pmin")


class Layers(NamedTuple):
    """Names of prunable leaves: those that are read, in the order of their first reading, and the others."""

    read: tuple[str, ...]
    unread: tuple[str, ...]


class _Origin(NamedTuple):
    """What a value is made of: whether of the images, and of which leaves that the images have not met yet.

    faint: of those, the ones that it knows by a single number, such as a norm of all kernels, which tells no depth.
    pieces: of a concatenation, its axis, and where each part ends along it.
    """

    images: bool = False
    leaves: tuple[int, ...] = ()
    faint: tuple[int, ...] = ()
    pieces: tuple[int, tuple[tuple[int, "_Origin"], ...]] | None = None


def layer_order(
    apply: Apply, params: Params, state: ModelState, images: Any, mask: Mask | None = None
) -> tuple[str, ...]:
    """The names of the prunable leaves from the first layer to the last; leaves that are never read come last.

    Args:
      apply, params, state, images, mask: as in `read_layers`, which tells the unread ones apart.
    Returns:
      names as from `masks.path_name`, for the argument `order` of methods that know depth.
    Example:
      >>> params = {"head": jax.numpy.ones((3, 2)), "stem": jax.numpy.ones((4, 3))}
      >>> apply = lambda params, state, x, train: (x @ params["stem"] @ params["head"], state)
      >>> layer_order(apply, params, {}, jax.ShapeDtypeStruct((1, 4), "float32"))
      ('stem', 'head')
    """
    layers = read_layers(apply, params, state, images, mask)
    return layers.read + layers.unread


def read_layers(apply: Apply, params: Params, state: ModelState, images: Any, mask: Mask | None = None) -> Layers:
    """The prunable leaves in the order in which the network first joins each with what depends on the images.

    `apply` is traced once, in training mode. What happens to a kernel alone (a cast, a transpose, a mask, a norm of
    it) is no reading yet; a convolution, a product, a sum, a look-up is. Calls, branches and loops are followed.

    Args:
      apply: (params, state, images, train) -> (logits, state), as in `model.Model`. params, state, images: arrays
        or `ShapeDtypeStruct`s. mask: which leaves are prunable; None: those of `masks.ones`.
    Returns:
      the names. A leaf that is used several times counts where it comes first; layers stacked in one leaf are one.
      Leaves that are joined before (a sum or stack of kernels) come in the order in which they were joined, unless
      they are taken apart again (`ravel_pytree`). A number made of a leaf, such as its norm, is not yet the leaf, if
      that is read later.
    Raises:
      ValueError: if two leaves have one name.
    Example:
      >>> params = {"a": jax.numpy.ones((3, 2)), "b": jax.numpy.ones((4, 3)), "c": jax.numpy.ones((2, 2))}
      >>> apply = lambda params, state, x, train: (x @ params["b"] @ params["a"], state)
      >>> read_layers(apply, params, {}, jax.ShapeDtypeStruct((1, 4), "float32"))
      Layers(read=('b', 'a'), unread=('c',))
    """
    mask = jax.eval_shape(masks.ones, params) if mask is None else mask
    prunable = {path: masks.path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(mask)}
    names = list(prunable.values())
    if len(set(names)) < len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(f"params: expected a name for each prunable leaf, got {', '.join(twice)} twice")
    with plain_operations():  # which are quicker to trace
        program = jax.make_jaxpr(lambda *inputs: with_key(apply)(*inputs, True)[0])(params, state, images)
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    num_state = len(jax.tree.leaves(state))
    given = [_Origin(leaves=(i,) if path in prunable else ()) for i, path in enumerate(paths)]
    given += [_Origin()] * num_state
    given += [_Origin(images=True)] * (len(program.jaxpr.invars) - len(given))
    read: dict[_Read, None] = {}
    for logits in _follow(program.jaxpr, given, read):
        _add(logits, read)
    found = dict.fromkeys(leaf for is_faint, leaf in read if not is_faint or (False, leaf) not in read)
    in_order = tuple(prunable[paths[i]] for i in found)
    return Layers(in_order, tuple(name for name in names if name not in set(in_order)))


def _follow(jaxpr: core.Jaxpr, given: Sequence[_Origin], read: dict[_Read, None]) -> list[_Origin]:
    """The origins of the results of a program; the leaves that it reads are added to `read`."""
    known: dict[Any, _Origin] = dict(zip(jaxpr.invars, given, strict=True))

    def look(atom: Any) -> _Origin:
        return _Origin() if isinstance(atom, core.Literal) else known.get(atom, _Origin())

    for eqn in jaxpr.eqns:
        origins = [look(atom) for atom in eqn.invars]
        known |= dict(zip(eqn.outvars, _results(eqn, origins, read), strict=True))
        if eqn.primitive.name in ("swap", "addupdate"):  # these write into their first operand
            known[eqn.invars[0]] = _either(origins[:2])
    return [look(atom) for atom in jaxpr.outvars]


def _results(eqn: core.JaxprEqn, origins: list[_Origin], read: dict[_Read, None]) -> list[_Origin]:
    name, inside, num_out = eqn.primitive.name, list(_programs(eqn)), len(eqn.outvars)
    if name == "scan":
        # By shapes, since versions of JAX have other parameters: what is sliced or stacked has an axis more outside.
        is_same = lambda out, within: len(out.aval.shape) == len(within.aval.shape)  # noqa: E731
        last = sum(map(is_same, eqn.invars, inside[0].invars))
        first = last - sum(map(is_same, eqn.outvars, inside[0].outvars))
        return _loop(inside[0], origins, slice(first, last), read)
    if name == "while":
        split = eqn.params["cond_nconsts"], eqn.params["cond_nconsts"] + eqn.params["body_nconsts"]
        carry = origins[split[1] :]
        body, condition = eqn.params["body_jaxpr"].jaxpr, eqn.params["cond_jaxpr"].jaxpr
        _follow(condition, origins[: split[0]] + carry, read)
        carry = _loop(body, origins[split[0] :], slice(split[1] - split[0], None), read)
        stops = _follow(condition, origins[: split[0]] + carry, read)
        return [_either([origin, *stops]) for origin in carry]
    if name == "cond":
        ways = [_follow(branch, origins[1:], read) for branch in inside]
        return [_either([origins[0], *ends]) for ends in zip(*ways, strict=True)]
    if len(inside) == 1 and len(inside[0].invars) == len(origins) and len(inside[0].outvars) == num_out:
        return _follow(inside[0], origins, read)
    if name in _SIDE_BY_SIDE and len(origins) == num_out:
        return origins
    if name == "concatenate":
        return [_concatenated(eqn, origins, read)]
    if name in ("split", "slice") and origins[0].pieces:
        return [_part(origins[0], *ends) for ends in _ends(eqn, origins[0].pieces[0])]
    whole = _joined(origins, read)
    has_many = any(math.prod(_shape(atom)) > 1 for atom in eqn.invars)
    return [_fainter(whole) if has_many and math.prod(_shape(out)) == 1 else whole for out in eqn.outvars]


def _loop(body: core.Jaxpr, origins: list[_Origin], carried: slice, read: dict[_Read, None]) -> list[_Origin]:
    """As `_follow` of a body whose first results are its carried operands, once they are what later rounds see."""
    origins = list(origins)
    num = len(origins[carried])
    while True:
        after = _follow(body, origins, {})[:num]
        carry = [_either(pair) for pair in zip(origins[carried], after, strict=True)]
        if carry == origins[carried]:
            return _follow(body, origins, read)
        origins[carried] = carry


def _either(origins: Sequence[_Origin]) -> _Origin:
    """One of several values, which is not known."""
    leaves, faint = (
        dict.fromkeys(leaf for origin in origins for leaf in getattr(origin, name)) for name in ("leaves", "faint")
    )
    return _Origin(any(origin.images for origin in origins), tuple(leaves), tuple(faint))


def _fainter(origin: _Origin) -> _Origin:
    return _Origin(origin.images, (), tuple(dict.fromkeys(origin.leaves + origin.faint)))


def _add(origin: _Origin, read: dict[_Read, None]) -> None:
    read.update(dict.fromkeys((False, leaf) for leaf in origin.leaves))
    read.update(dict.fromkeys((True, leaf) for leaf in origin.faint))


def _concatenated(eqn: core.JaxprEqn, origins: list[_Origin], read: dict[_Read, None]) -> _Origin:
    """As `_joined`, and what each part is made of, since parts may be cut out again."""
    whole, axis = _joined(origins, read), eqn.params["dimension"]
    ends = itertools.accumulate(_shape(atom)[axis] for atom in eqn.invars)
    return whole if whole.images else whole._replace(pieces=(axis, tuple(zip(ends, origins, strict=True))))


def _ends(eqn: core.JaxprEqn, axis: int) -> list[tuple[int, int]]:
    """Where each result of a split or slice begins and ends along the axis."""
    if eqn.primitive.name == "slice":
        return [(eqn.params["start_indices"][axis], eqn.params["limit_indices"][axis])]
    if eqn.params["axis"] != axis:
        return [(0, _shape(eqn.invars[0])[axis])] * len(eqn.outvars)
    return list(itertools.pairwise((0, *itertools.accumulate(eqn.params["sizes"]))))


def _part(whole: _Origin, start: int, stop: int) -> _Origin:
    """What lies between two places of a concatenation."""
    (_, pieces), begin, inside = whole.pieces or (0, ()), 0, []
    for end, origin in pieces:
        if begin < stop and start < end:
            inside.append(origin)
        begin = end
    return _either(inside)


def _joined(origins: Sequence[_Origin], read: dict[_Read, None]) -> _Origin:
    """What an operation makes of several values: with the images among them, it reads the leaves of the others."""
    whole = _either(origins)
    if not whole.images:
        return whole
    _add(whole, read)
    return _Origin(images=True)


def _shape(atom: Any) -> tuple[int, ...]:
    return getattr(atom.aval, "shape", ())  # tokens have none


def _programs(eqn: core.JaxprEqn) -> Iterator[core.Jaxpr]:
    for value in eqn.params.values():
        for one in value if isinstance(value, tuple | list) else (value,):
            if isinstance(one, core.ClosedJaxpr):
                yield one.jaxpr
            elif isinstance(one, core.Jaxpr):
                yield one
