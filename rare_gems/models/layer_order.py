"""The order in which a network uses its layers, read off the program that it traces to: nothing is computed.

The leaves of a dict come sorted by name, so `Dense_10` before `Dense_2` and `block1` before `stem`. What the program
does with each leaf tells the truth.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
from jax.extend import core

from rare_gems import masks
from rare_gems.models.model import Apply, with_key
from rare_gems.phase import Mask, ModelState, Params

__all__ = ["Layers", "layer_order", "read_layers"]

# Operations on several arrays of which each result comes from its own operand alone.
_SIDE_BY_SIDE = ("optimization_barrier", "device_put", "pvary", "pcast", "psum", "psum_invariant", "pmax", "pmin")


class Layers(NamedTuple):
    """Names of prunable leaves: those that are read, in the order of their first reading, and the others."""

    read: tuple[str, ...]
    unread: tuple[str, ...]


class _Origin(NamedTuple):
    """What a value is made of: whether of the images, and of which leaves that the images have not met yet."""

    images: bool = False
    leaves: tuple[int, ...] = ()


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
      Leaves that are joined before (a sum or stack of kernels) come in the order in which they were joined.
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
    program = jax.make_jaxpr(lambda params, state, x: with_key(apply)(params, state, x, True)[0])(params, state, images)
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    num_state = len(jax.tree.leaves(state))
    given = [_Origin(leaves=(i,) if path in prunable else ()) for i, path in enumerate(paths)]
    given += [_Origin()] * num_state
    given += [_Origin(images=True)] * (len(program.jaxpr.invars) - len(given))
    read: dict[int, None] = {}
    for logits in _follow(program.jaxpr, given, read):
        read.update(dict.fromkeys(logits.leaves))
    in_order = tuple(prunable[paths[i]] for i in read)
    return Layers(in_order, tuple(name for name in names if name not in set(in_order)))


def _follow(jaxpr: core.Jaxpr, given: Sequence[_Origin], read: dict[int, None]) -> list[_Origin]:
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


def _results(eqn: core.JaxprEqn, origins: list[_Origin], read: dict[int, None]) -> list[_Origin]:
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
    return [_joined(origins, read)] * num_out


def _loop(body: core.Jaxpr, origins: list[_Origin], carried: slice, read: dict[int, None]) -> list[_Origin]:
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
    leaves = dict.fromkeys(leaf for origin in origins for leaf in origin.leaves)
    return _Origin(any(origin.images for origin in origins), tuple(leaves))


def _joined(origins: Sequence[_Origin], read: dict[int, None]) -> _Origin:
    """What an operation makes of several values: with the images among them, it reads the leaves of the others."""
    whole = _either(origins)
    if not whole.images:
        return whole
    read.update(dict.fromkeys(whole.leaves))
    return _Origin(images=True)


def _programs(eqn: core.JaxprEqn) -> Iterator[core.Jaxpr]:
    for value in eqn.params.values():
        for one in value if isinstance(value, tuple | list) else (value,):
            if isinstance(one, core.ClosedJaxpr):
                yield one.jaxpr
            elif isinstance(one, core.Jaxpr):
                yield one
