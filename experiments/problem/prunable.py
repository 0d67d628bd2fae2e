"""Which leaves of the network count as prunable: the rule of `masks.report`, as --prunable and --dense change it."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from experiments.config.config import Config
from experiments.terminal.errors import UsageError
from rare_gems import masks
from rare_gems.leaf_names import pattern_of
from rare_gems.masks import LeafReport
from rare_gems.phase import Context, Mask, Params, State, Ticket, Transform

__all__ = ["is_kernel", "kernels_of", "leaves_for", "mask_for", "of_kernels"]

_SHOWN = 60  # names in an error
_UNUSUAL = ", though usually not: "


def leaves_for(config: Config, params: Params) -> list[LeafReport]:
    """Whether each leaf counts in a run and why, in leaf order.

    Args:
      params: arrays or `ShapeDtypeStruct`s.
    Raises:
      UsageError: for an expression that cannot be read or matches nothing, if nothing is left to prune, and for
        --scale-fan where no kernel counts.
    """
    leaves = masks.report(params)
    if config.prunable is not None:
        values = [leaf for _, leaf in jax.tree_util.tree_leaves_with_path(params)]
        floating = [jnp.issubdtype(getattr(value, "dtype", bool), jnp.floating) for value in values]
        found = _found("prunable", config.prunable, [leaf for leaf, one in zip(leaves, floating, strict=True) if one])
        leaves = [_asked(leaf, leaf.name in found) for leaf in leaves]
    if config.dense is not None:
        found = _found("dense", config.dense, [leaf for leaf in leaves if leaf.prunable])
        leaves = [
            leaf._replace(prunable=False, reason="matches --dense") if leaf.name in found else leaf for leaf in leaves
        ]
        if not any(leaf.prunable for leaf in leaves):
            raise UsageError(f"--dense: {config.dense!r} matches every prunable leaf; expected to leave one to prune")
    if not any(leaf.prunable for leaf in leaves):
        told = f"of {_listed(leaves)}" if leaves else "and there are none at all"
        raise UsageError(f"--prunable: {config.model} has no leaf that counts as prunable by itself, {told}; "
                         "expected an expression that matches those that do")  # fmt: skip
    if config.scale_fan and not any(leaf.prunable and is_kernel(leaf) for leaf in leaves):
        raise UsageError("--scale-fan: of what counts as prunable nothing is a kernel, whose inputs it is about; "
                         "expected no such flag")  # fmt: skip
    return leaves


def mask_for(config: Config, params: Params) -> Mask:
    """The dense mask of a run: True everywhere, and None where a leaf does not count.

    Raises:
      UsageError: as `leaves_for`.
    """
    return _mask(params, leaves_for(config, params))


def kernels_of(params: Params) -> Mask:
    """The dense mask of the leaves that count without any flag; None everywhere, if there are none."""
    return _mask(params, masks.report(params))


def of_kernels(edit: Transform) -> Transform:
    """An edit that sees the kernels only: what --prunable adds to them, such as biases, has no law to be drawn by."""

    def update(ticket: Ticket, state: State, context: Context) -> tuple[Ticket, State]:
        mask = jax.tree.map(
            lambda m, kernel: None if kernel is None else m, ticket.mask, kernels_of(ticket.params), is_leaf=_none
        )
        edited, state = edit.update(ticket._replace(mask=mask), state, context)
        return edited._replace(mask=ticket.mask), state

    return Transform(init=edit.init, update=update)


def _none(leaf: object) -> bool:
    return leaf is None


def _mask(params: Params, leaves: Sequence[LeafReport]) -> Mask:
    names = {leaf.name for leaf in leaves if leaf.prunable}
    if not names:
        return jax.tree.map(lambda leaf: None, params)
    return masks.ones(params, lambda path, leaf: masks.path_name(path) in names)


def _asked(leaf: LeafReport, matches: bool) -> LeafReport:
    if not matches:
        return leaf._replace(prunable=False, reason="does not match --prunable")
    usual = "" if leaf.prunable else f"{_UNUSUAL}{leaf.reason}"
    return leaf._replace(prunable=True, reason=f"matches --prunable{usual}")


def is_kernel(leaf: LeafReport) -> bool:
    """Whether a leaf that counts would do so without --prunable."""
    return _UNUSUAL not in leaf.reason


def _found(flag: str, text: str, leaves: Sequence[LeafReport]) -> set[str]:
    """The names that a regular expression is found in.

    Raises:
      UsageError: if it cannot be read, or is found in none.
    """
    names = [leaf.name for leaf in leaves]
    try:
        pattern = pattern_of(text)
    except ValueError as error:
        raise UsageError(f"--{flag}: {error}; the names are {_listed(leaves)}") from None
    found = {name for name in names if text and pattern.search(name)}
    if not found:
        told = f"expected a regular expression that is found in a name, got {text!r}; the names are {_listed(leaves)}"
        raise UsageError(f"--{flag}: {told}")
    return found


def _listed(leaves: Sequence[LeafReport]) -> str:
    names = [leaf.name for leaf in leaves]
    more = f" and {len(names) - _SHOWN} more (--dry-run shows all)" if len(names) > _SHOWN else ""
    return (", ".join(names[:_SHOWN]) or "none") + more
