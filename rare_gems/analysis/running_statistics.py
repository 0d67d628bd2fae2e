"""Running statistics of BatchNorm, computed anew for given weights."""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rare_gems.leaf_names import path_name
from rare_gems.models.model import Apply, with_key
from rare_gems.phase import ModelState, Params

__all__ = ["fresh_statistics", "make_fresh_statistics"]


def fresh_statistics(apply: Apply, params: Params, state: ModelState, batches: Iterable[Any]) -> ModelState:
    """The running statistics that belong to some weights: the mean over batches of each batch's own.

    A step in training mode moves a statistic s to m s + (1 - m) s_batch. From two steps on one batch, at s = 0 and at
    a larger s, follows m; from one step at s = 0 on each batch follows s_batch. So this serves any network whose
    running statistics are such averages, whatever their momentum.

    Args:
      apply: as in `models.model.Model`; dropout is on, with one key. params: of the network. state: its model state;
        what its running statistics hold does not matter. batches: images [batch, ...]; each weighs the same, so they
        should be equally large.
    Returns:
      a state: float leaves that move in training mode are means over batches; the others stay (counters, keys; all of
      them if there are no batches).
    Raises:
      ValueError: if a float leaf moves in another way, by name.
    Example:
      >>> def apply(params, state, x, train):
      ...     moved = {"mean": 0.9 * state["mean"] + 0.1 * x.mean(0)}
      ...     return x, moved if train else state
      >>> batches = [jnp.array([[1.0], [3.0]]), jnp.array([[5.0], [7.0]])]
      >>> fresh_statistics(apply, {}, {"mean": jnp.full(1, 9.0)}, batches)["mean"].round(4).tolist()
      [4.0]

    Source: as in stochastic weight averaging (Izmailov et al., 2018, section 3.2). The variance is the mean of the
    batches' variances, not that of all examples together.
    """
    return make_fresh_statistics(apply)(params, state, batches)


def make_fresh_statistics(apply: Apply) -> Callable[[Params, ModelState, Iterable[Any]], ModelState]:
    """`fresh_statistics` of one network, as a function of the rest that compiles once for all weights.

    Example:
      >>> def apply(params, state, x, train):
      ...     return x, {"mean": 0.9 * state["mean"] + 0.1 * x.mean(0)}
      >>> refresh = make_fresh_statistics(apply)
      >>> [refresh({}, {"mean": jnp.zeros(1)}, [jnp.full((2, 1), x)])["mean"].round(4).item() for x in (1.0, 2.0)]
      [1.0, 2.0]
    """

    @jax.jit
    def step(params: Params, state: ModelState, images: Any) -> ModelState:
        return with_key(apply)(params, state, images, True)[1]

    def refresh(params: Params, state: ModelState, batches: Iterable[Any]) -> ModelState:
        paths, treedef = jax.tree_util.tree_flatten_with_path(state)
        leaves = [leaf for _, leaf in paths]

        def after(others: dict[int, Any], images: Any) -> list[Any]:
            given = [others.get(i, leaf) for i, leaf in enumerate(leaves)]
            return jax.tree.leaves(step(params, treedef.unflatten(given), images))

        def moving(images: Any) -> list[int]:
            """The float leaves that a step moves, from what they are or, where that is this batch's own, from more."""
            floats = [i for i, x in enumerate(leaves) if _is_float(x)]
            moved = after({}, images)
            still = {i: 2 * jnp.asarray(leaves[i]) + 1 for i in floats if not _differ(leaves[i], moved[i])}
            moved_then = after(still, images) if still else moved
            return [i for i in floats if i not in still or _differ(still[i], moved_then[i])]

        zeros, momenta, own = {}, {}, {}
        for images in batches if any(map(_is_float, leaves)) else ():
            if not momenta:
                zeros = {i: jnp.zeros_like(leaves[i]) for i in moving(images)}
                momenta = _momenta(zeros, [path_name(at) for at, _ in paths], lambda given, x=images: after(given, x))
                own = {i: [] for i in zeros}
            from_zero = after(zeros, images)
            for i, m in momenta.items():
                own[i].append(np.asarray(from_zero[i], np.float64) / (1 - m))
        means = {i: jnp.asarray(np.mean(values, 0), leaves[i].dtype) for i, values in own.items()}
        return treedef.unflatten([means.get(i, leaf) for i, leaf in enumerate(leaves)])

    return refresh


def _momenta(zeros: dict[int, Any], names: list[str], after: Callable[[dict[int, Any]], list[Any]]) -> dict[int, float]:
    """The momentum m of each statistic, from what a step makes of it at 0 and at a larger value."""
    low = {i: np.asarray(after(zeros)[i], np.float64) for i in zeros}
    # Above the statistics, so that the difference has all digits; powers of two, which add no rounding.
    probes = {i: 2.0 ** np.ceil(np.log2(8 * max(float(np.abs(x).max(initial=0)), 1))) for i, x in low.items()}
    high = after({i: jnp.full_like(zeros[i], probe) for i, probe in probes.items()})
    momenta = {}
    for i, probe in probes.items():
        each = (np.asarray(high[i], np.float64) - low[i]) / probe
        momenta[i] = float(np.median(each))
        if not (0 <= momenta[i] < 1 - 1e-6 and np.abs(each - momenta[i]).max() < 1e-4):
            raise ValueError(
                f"state of {names[i]}: expected a running average, m s + (1 - m) s_batch with one m from 0 to 1, got a "
                f"leaf that moves with m from {each.min():.4g} to {each.max():.4g}; averages that are corrected for "
                "their start, as Haiku's, are none"
            )
    return momenta


def _differ(x: Any, y: Any) -> bool:
    return not np.array_equal(np.asarray(x), np.asarray(y))


def _is_float(leaf: Any) -> bool:
    return jax.dtypes.issubdtype(
        jax.dtypes.result_type(leaf) if not hasattr(leaf, "dtype") else leaf.dtype, np.floating
    )
