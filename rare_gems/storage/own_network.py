"""Tickets for a network of the user's own: leaves are found by name and shape, and what does not fit is told."""

import difflib
import itertools
import os
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from rare_gems.leaves import is_key
from rare_gems.masks import path_name
from rare_gems.phase import Params, PyTree, Ticket
from rare_gems.storage.ticket_contents import tensor_name
from rare_gems.storage.ticket_file import TicketFile, read
from rare_gems.storage.ticket_trees import as_keys, as_leaf, spelled

__all__ = ["load_into"]

Named = dict[str, Any]
_SHOWN = 6  # names of each kind in a message


def load_into(
    path: str | os.PathLike[str],
    params: Params,
    state: PyTree = None,
    *,
    rename: Callable[[str], str] | Mapping[str, str] | None = None,
) -> TicketFile:
    """Loads a ticket in the structure of a network's own params.

    Args:
      path: a file that `ticket_file.save` wrote, or the folder of a run, whose ticket is taken.
      params: of any framework, arrays or `jax.ShapeDtypeStruct`s. A leaf takes the tensor that has its name, which is
        its key path joined by "/" (the `.value` of NNX variables left out), its shape and its dtype.
      state: the model state (BatchNorm statistics), likewise; None does not read it.
      rename: translates a name of the network into that of the file, where they differ, for params and state: a
        function, or a dict of names, or of the first parts of names (of several that fit, the longest is taken). Names
        that are not in the dict stay; "" is the whole tree.

    Returns:
      As `ticket_file.load`: JAX arrays, or NumPy's where the params are; typed PRNG keys as such. The mask has None
      where the file has none; scores and initial weights are None where they were not saved.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: in one line that begins with the path: it is damaged, or no ticket; or names are missing in it or in
        the network (with the nearest name there), or shapes or dtypes differ; or `rename` is no such thing, or has
        names that the network has not.

    Example:
      >>> import tempfile
      >>> import jax.numpy as jnp
      >>> from rare_gems.storage import ticket_file
      >>> ticket = Ticket({"dense": {"w": jnp.ones(2)}}, None, {"dense": {"w": jnp.array([True, False])}})
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     ticket_file.save(f"{folder}/a", ticket, metadata={})
      ...     found = load_into(f"{folder}/a", {"net/dense/w": jnp.zeros(2)}, rename=lambda name: name[4:])
      ...     again = load_into(f"{folder}/a", {"fc": {"w": jnp.zeros(2)}}, rename={"fc": "dense"})
      >>> found.ticket.mask["net/dense/w"].tolist(), again.ticket.mask["fc"]["w"].tolist()
      ([True, False], [True, False])
    """
    groups, header = read(path)
    wanted = {"params": params} | ({} if state is None else {"state": state})
    keys = header.get("prng_keys", {})
    files = {
        group: {_plain(name): as_keys(array, keys.get(tensor_name(group, name))) for name, array in named.items()}
        for group, named in groups.items()
    }
    try:
        own = {group: _own_names(tree) for group, tree in wanted.items()}
        translate = _translation(rename, sorted(itertools.chain(*own.values())))
        names = {group: _names(group, old, translate) for group, old in own.items()}
        _check({group: (names[group], tree) for group, tree in wanted.items()}, files)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None

    def tree_of(group: str, like: str = "params") -> PyTree:
        if group not in files or like not in names:
            return None
        leaves, structure = jax.tree.flatten(wanted[like])
        found = [files[group].get(name) for name in names[like]]
        return structure.unflatten([_as(group, leaf, array) for leaf, array in zip(leaves, found, strict=True)])

    ticket = Ticket(tree_of("params"), tree_of("scores"), tree_of("mask"))
    return TicketFile(ticket, tree_of("initial"), tree_of("state", "state"), header)


def _plain(name: str) -> str:
    return name.removesuffix("/value")


def _own_names(tree: PyTree) -> list[str]:
    return [_plain(path_name(path)) for path, _ in jax.tree_util.tree_leaves_with_path(tree)]


def _translation(rename: Callable[[str], str] | Mapping[str, str] | None, own: list[str]) -> Callable[[str], str]:
    """The function that `rename` is or stands for; `own` are the network's names."""
    if not isinstance(rename, Mapping):
        if rename is not None and not callable(rename):
            raise ValueError(f"rename: expected a function or a dict of names, got {type(rename).__name__}")
        return rename or str
    for old in rename:
        if not isinstance(old, str) or not any(_begins(name, old) for name in own):
            near = difflib.get_close_matches(str(old), own, 1)
            hint = f" (nearest: {near[0]})" if near else ""
            raise ValueError(f"rename: expected names of the network, or first parts of them, got {old!r}{hint}")

    def translate(name: str) -> str:
        old = max((old for old in rename if _begins(name, old)), key=len, default=None)
        if old is None or not isinstance(rename[old], str):
            return name if old is None else rename[old]
        return "/".join(part for part in (rename[old], name[len(old) :].removeprefix("/")) if part)

    return translate


def _begins(name: str, first: str) -> bool:
    return first == "" or f"{name}/".startswith(f"{first}/")


def _names(group: str, own: list[str], translate: Callable[[str], str]) -> list[str]:
    """The name in the file of each leaf."""
    names = [translate(name) for name in own]
    for old, new in zip(own, names, strict=True):
        if not isinstance(new, str):
            raise ValueError(f"rename: expected a name for {old!r}, got {new!r}")
    twice = next((name for i, name in enumerate(names) if name in names[:i]), None)
    if twice is not None:
        raise ValueError(f"two leaves of the network's {group} have the name {twice!r}")
    return names


def _check(wanted: Mapping[str, tuple[list[str], PyTree]], files: Mapping[str, Named]) -> None:
    missing, unexpected, wrong = [], [], []
    for group, (names, tree) in wanted.items():
        specs, found = dict(zip(names, jax.tree.leaves(tree), strict=True)), files.get(group, {})
        over = {name: array for name, array in found.items() if name not in specs}
        absent = {name: leaf for name, leaf in specs.items() if name not in found}
        missing += [f"{group}/{name}{_nearest(name, leaf, over)}" for name, leaf in absent.items()]
        unexpected += [f"{group}/{name}{_nearest(name, array, absent)}" for name, array in over.items()]
        for name, leaf in specs.items():
            array = found.get(name)
            expected, got = spelled(leaf), spelled(array)
            if array is not None and expected != got:
                wrong.append(f"{group}/{name} (expected {expected}, got {got})")
    kinds = {"missing in the file": missing, "not in the network": unexpected, "of another shape or dtype": wrong}
    told = [f"{len(some)} {kind}: {_cut(some)}" for kind, some in kinds.items() if some]
    if told:
        hint = "; rename= can translate names" if missing and unexpected else ""
        raise ValueError(f"its tensors are not those of the network: {'; '.join(told)}{hint}")


def _nearest(name: str, leaf: Any, others: Mapping[str, Any]) -> str:
    """The nearest of the others' names, at best one of equal shape."""
    alike = [other for other, there in others.items() if np.shape(there) == np.shape(leaf)]
    near = difflib.get_close_matches(name, alike, 1, 0.3) or difflib.get_close_matches(name, list(others), 1, 0.6)
    return f" (nearest: {near[0]})" if near else ""


def _cut(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


def _as(group: str, like: Any, array: Any) -> Any:
    return array if array is None or is_key(array) else as_leaf(group, like, array, {})
