"""Sanity checks: edits between search and finetuning that a ticket worth its search should not survive.

Each is a `Transform` for `transforms.edit`, between the last search phase and the finetuning. What permutes weights
only moves them: outside of `jit`, NumPy's stay NumPy's, in their dtype.

Example:
  >>> from rare_gems import transforms
  >>> kernel = jnp.arange(8.0)
  >>> ticket = Ticket(params=[kernel], scores=[kernel], mask=[kernel > 4])
  >>> shuffled = transforms.edit(shuffle())  # a phase; in a recipe it comes between search and finetuning
  >>> shuffled.name, shuffled.num_steps
  ('edit', 0)
  >>> edited, _ = shuffle().update(ticket, (), Context(step=0, key=jax.random.key(0), batch=None, grads=None))
  >>> masks.num_kept(edited.mask) == masks.num_kept(ticket.mask) == 3
  True
"""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from rare_gems import masks
from rare_gems.phase import Context, Key, Mask, Params, State, Ticket, Transform
from rare_gems.structures import check_shape

__all__ = ["random_ticket", "reinit", "shuffle", "shuffle_weights"]


def shuffle(scope: Literal["global", "layer"] = "layer") -> Transform:
    """Puts the mask at random positions: within each layer (its ratio stays), or anywhere (a random ticket).

    Source: Rare Gems, section 4 (random shuffling); Sanity-Checking Pruning, section 3 (layerwise rearrange).
    """
    return _edit(lambda t, key: t._replace(mask=masks.shuffle(key, t.mask, scope)))


def random_ticket() -> Transform:
    """A random mask of the same number of weights in each layer, that owes nothing to the ticket's positions.

    The same law as `shuffle("layer")` (a uniformly random subset of each layer), but another draw of the same
    key, so that both can be compared in one run. Weights and scores stay.

    Source: Sanity-Checking Pruning, section 4 (random tickets); there the ratios are chosen by hand (`keep_ratios`).
    """
    return _edit(lambda t, key: t._replace(mask=_permuted(jax.random.fold_in(key, 1), t.mask, t.mask, False)))


def reinit(draw: Callable[[Key, Params, Mask], Params]) -> Transform:
    """Draws the prunable weights again, kept and removed; mask, scores and other params stay.

    Args:
      draw: (key, params, mask) -> params, such as `init.signed_constant` or `init.kaiming_normal`.
    Example:
      >>> from rare_gems import init
      >>> ticket = Ticket([jnp.zeros((2, 3)), jnp.ones(3)], [jnp.ones((2, 3)), None], [jnp.ones((2, 3), bool), None])
      >>> context = Context(0, jax.random.key(0), None, None)
      >>> new = reinit(init.signed_constant).update(ticket, (), context)[0]
      >>> jnp.abs(new.params[0]).tolist(), new.params[1].tolist()
      ([[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]], [1.0, 1.0, 1.0])

    Source: Rare Gems, section 4 ("from the original distribution"). Deviation: its code draws kaiming normal weights
    where the search had signed constants; here that is the caller's choice.
    """
    # Of its own key: a mask that was drawn from the key itself would keep what is large in the same bits.
    return _edit(lambda t, key: t._replace(params=draw(jax.random.fold_in(key, 2), t.params, t.mask)))


def shuffle_weights(within: Literal["kept", "all"] = "kept") -> Transform:
    """Permutes the weights of each layer at random; mask and scores stay.

    Args:
      within: "kept" permutes the kept weights among the kept positions, and leaves the others alone; "all" permutes
        the dense layer, so that the mask then keeps other weights of it.
    Raises:
      ValueError: `within` is something else; in an update, a mask of another shape than its parameter.
    Example:
      >>> ticket = Ticket([jnp.array([1.0, 2.0, 3.0])], [None], [jnp.array([True, False, True])])
      >>> context = Context(0, jax.random.key(0), None, None)
      >>> weights = shuffle_weights("kept").update(ticket, (), context)[0].params[0]
      >>> float(weights[1]), sorted(weights[jnp.array([0, 2])].tolist())
      (2.0, [1.0, 3.0])

    Source: Sanity-Checking Pruning, section 3 (layerwise weight shuffling), "kept"; the IMP code of Rare Gems, "all".
    Note: "all" needs the dense layer. After a search that trains the weights the removed ones are zero, and would
    come to kept positions: rewind first, or choose "kept".
    """
    if within not in ("kept", "all"):
        raise ValueError(f"within: expected 'kept' or 'all', got {within!r}")
    return _edit(lambda t, key: t._replace(params=_permuted(key, t.params, t.mask, within == "kept")))


def _edit(fn: Callable[[Ticket, Key], Ticket]) -> Transform:
    def update(ticket: Ticket, state: State, context: Context) -> tuple[Ticket, State]:
        return fn(ticket, context.key), state

    return Transform(lambda ticket: (), update)


def _permuted(key: Key, params: Params, mask: Mask, only_kept: bool) -> Params:
    """A uniform permutation within each group of positions: a layer's kept ones, or all of the layer.

    One permutation of all positions, sorted stably by group, is an independent one of each group, and compiles once
    for all layers. Weights are only gathered, so every bit of them stays, in any dtype.
    """
    leaves, treedef = jax.tree.flatten(mask)
    if not leaves:
        return params
    ends = np.cumsum([leaf.size for leaf in leaves])
    layer = np.repeat(np.arange(len(leaves), dtype=np.int32), [leaf.size for leaf in leaves])
    kept = jnp.concatenate([masks.flattened(leaf) for leaf in leaves])
    group = 2 * jnp.asarray(layer) + (kept.astype(jnp.int32) if only_kept else 0)
    position = jnp.arange(ends[-1], dtype=jnp.int32)
    drawn = jax.random.permutation(key, position)
    from_ = drawn[jnp.argsort(group[drawn], stable=True)]
    to = jnp.argsort(group, stable=True) if only_kept else position  # layers already lie together
    source = jnp.zeros_like(position).at[to].set(from_, unique_indices=True)
    source = jnp.where(kept, source, position) if only_kept else source
    pieces = [
        (piece - start).reshape(leaf.shape)
        for piece, start, leaf in zip(jnp.split(source, ends[:-1]), [0, *ends[:-1].tolist()], leaves, strict=True)
    ]

    def one(path: tuple, m: Any, index: Any, w: Any) -> Any:
        if m is None:
            return w
        check_shape("mask", path, m, w)
        if isinstance(w, np.ndarray) and not isinstance(index, jax.core.Tracer):
            return w.reshape(-1)[index]  # NumPy's stay NumPy's
        return masks.laid_like(masks.flattened(w)[index], w)

    taken = treedef.unflatten(pieces)
    return jax.tree_util.tree_map_with_path(one, mask, taken, params, is_leaf=lambda leaf: leaf is None)
