"""Arrays of a ticket file in the structure that a network gives its own."""

import jax
import jax.numpy as jnp

from rare_gems.masks import path_name
from rare_gems.phase import PyTree

__all__ = ["like"]


def like(tree: PyTree, nested: PyTree) -> PyTree:
    """The leaves of `nested` by their names, in the structure of `tree`, which may have other leaves (None then)."""
    named = {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(nested)}

    def one(path: tuple, leaf: object) -> object:
        del leaf
        found = named.get(path_name(path))
        return None if found is None else jnp.asarray(found)

    return jax.tree_util.tree_map_with_path(one, tree)
