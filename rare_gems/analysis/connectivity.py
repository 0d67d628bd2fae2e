"""Linear mode connectivity: loss and accuracy on the straight line between two networks, and the barrier on it.

Example:
  >>> import jax.numpy as jnp
  >>> apply = lambda params, state, x, train: (jax.nn.relu(x @ params["w"]), state)
  >>> a, b = {"w": jnp.eye(2)}, {"w": -jnp.eye(2)}
  >>> batch = (jnp.array([[1.0, 0.0], [0.0, 1.0]]), jnp.array([0, 1]))
  >>> line = along(apply, a, b, {}, alphas=[0.0, 0.5, 1.0], batches=[], examples=[batch])
  >>> line.accuracy.tolist(), barrier(1 - line.accuracy, line.alphas)
  ([1.0, 0.5, 0.5], 0.25)
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rare_gems import leaves
from rare_gems.analysis.running_statistics import make_fresh_statistics
from rare_gems.leaf_names import path_name
from rare_gems.models.model import Apply, with_key
from rare_gems.phase import ModelState, Params
from rare_gems.structures import check_structure

__all__ = ["Line", "along", "barrier", "make_along", "path"]

Examples = tuple[Any, Any]  # images [batch, ...], int labels [batch]


class Line(NamedTuple):
    """alphas, loss, accuracy: float64 [points]; loss is the mean cross-entropy, accuracy the fraction right."""

    alphas: np.ndarray
    loss: np.ndarray
    accuracy: np.ndarray


def path(a: Params, b: Params, alpha: Any) -> Params:
    """The point (1 - alpha) a + alpha b between two networks.

    Args:
      a, b: params of one structure, shapes and dtypes. alpha: 0 gives a, 1 gives b, exactly; may be traced.
    Returns:
      params, in the dtypes of a. Leaves that are no floats (counters, PRNG keys) are those of a. Where both have zeros,
      as two tickets of one mask have, the point has them too.
    Raises:
      ValueError: if the structures, shapes or dtypes differ, or JAX would cut a leaf.
    Example:
      >>> path({"w": jnp.array([0.0, 2.0])}, {"w": jnp.array([4.0, 2.0])}, 0.25)["w"].tolist()
      [1.0, 2.0]
    """
    check_structure("b", b, a, "a")
    leaves.check_kept("a", a)
    leaves.check_kept("b", b)

    def one(at: tuple, x: Any, y: Any) -> Any:
        x, y = (leaf if hasattr(leaf, "dtype") else jnp.asarray(leaf) for leaf in (x, y))
        if (x.shape, x.dtype) != (y.shape, y.dtype):
            got = f"{y.dtype}{list(y.shape)}"
            raise ValueError(f"b of {path_name(at)}: expected {x.dtype}{list(x.shape)} as in a, got {got}")
        if not _is_float(x):
            return x
        t = jnp.asarray(alpha, x.dtype)
        between = (1 - t) * x + t * y  # not finite at an end, if the other one is not
        return jnp.where(t == 0, x, jnp.where(t == 1, y, between))

    return jax.tree_util.tree_map_with_path(one, a, b)


def barrier(errors: Any, alphas: Any, ends: Literal["mean", "line"] = "mean") -> float:
    """The height of the error barrier on a path.

    sup over alpha of e(alpha) - (e(0) + e(1)) / 2, with the supremum over the points that were measured. "line": sup
    over alpha of e(alpha) - ((1 - alpha) e(0) + alpha e(1)), which differs where the two ends are not equally good.

    Args:
      errors: float [points], errors (1 - accuracy) or losses. alphas: float [points], from 0 to 1, both among them.
      ends: what the points are compared with.
    Returns:
      a float. "line": 0 or more; "mean": 0 or more, since the higher end counts as a point.
    Raises:
      ValueError: if the ends are not among the points, or the lengths differ.
    Example:
      >>> barrier([0.1, 0.5, 0.3], [0.0, 0.5, 1.0]), barrier([0.1, 0.2, 0.3], [0.0, 0.5, 1.0], "line")
      (0.3, 0.0)

    Source: Frankle et al. (2020), Linear Mode Connectivity and the Lottery Ticket Hypothesis, section 2: "mean", of the
    test error, at 30 points; a barrier under 2 points is called stable there. "line": Entezari et al. (2022).
    """
    if ends not in ("mean", "line"):
        raise ValueError(f"ends: expected 'mean' or 'line', got {ends!r}")
    errors, alphas = np.asarray(errors, np.float64), np.asarray(alphas, np.float64)
    if errors.ndim != 1 or errors.shape != alphas.shape:
        raise ValueError(f"errors, alphas: expected two vectors of one length, got {errors.shape} and {alphas.shape}")
    if not ((alphas == 0).any() and (alphas == 1).any() and (alphas >= 0).all() and (alphas <= 1).all()):
        raise ValueError(f"alphas: expected numbers from 0 to 1, both among them, got {alphas.tolist()}")
    first, last = (float(errors[alphas == end][0]) for end in (0, 1))
    base = (first + last) / 2 if ends == "mean" else (1 - alphas) * first + alphas * last
    return float((errors - base).max())


def along(
    apply: Apply,
    a: Params,
    b: Params,
    state: ModelState,
    *,
    alphas: Any,
    batches: Sequence[Any],
    examples: Sequence[Examples],
) -> Line:
    """Loss and accuracy at points between two networks, with statistics computed anew at each point.

    Args:
      apply: as in `models.model.Model`. a, b: params of the two, removed weights zero: tickets of one mask, so that
        the points are too (`overlap.common` tells). state: the model state of one of them; its running statistics are
        replaced at each point.
      alphas: float [points]. batches: images for `running_statistics.fresh_statistics`; with none the state is used as
        it is.
      examples: to evaluate: pairs of images [batch, ...] and int labels [batch]; each size compiles anew.
    Returns:
      the points. At 0 and 1 the statistics are computed anew, too, so that these are not quite the finished runs.
    Example:
      >>> apply = lambda params, state, x, train: (x * params, state)
      >>> one, examples = jnp.float32(1), [(jnp.eye(2), jnp.arange(2))]
      >>> along(apply, one, -one, {}, alphas=[0.0, 1.0], batches=[], examples=examples).accuracy
      array([1., 0.])

    Source: Frankle et al. (2020), section 2.
    """
    return make_along(apply)(a, b, state, alphas=alphas, batches=batches, examples=examples)


def make_along(apply: Apply) -> Callable[..., Line]:
    """`along` of one network, as a function of the rest that compiles once for all pairs.

    Example:
      >>> line, one = make_along(lambda params, state, x, train: (x * params, state)), jnp.float32(1)
      >>> given = {"alphas": [0.5], "batches": [], "examples": [(jnp.eye(2), jnp.arange(2))]}
      >>> line(one, one, {}, **given).accuracy, line(-one, -one, {}, **given).accuracy
      (array([1.]), array([0.]))
    """
    evaluate, refresh, point = _evaluation(apply), make_fresh_statistics(apply), jax.jit(path)

    def line(
        a: Params,
        b: Params,
        state: ModelState,
        *,
        alphas: Any,
        batches: Sequence[Any],
        examples: Sequence[Examples],
    ) -> Line:
        if not examples:
            raise ValueError("examples: expected at least one batch, got none")
        results = []
        for alpha in alphas:
            params = point(a, b, np.float32(alpha))
            results.append(evaluate(params, refresh(params, state, batches), examples))
        loss, accuracy = np.asarray(results, np.float64).reshape(-1, 2).T
        return Line(np.asarray(alphas, np.float64), loss, accuracy)

    return line


def _evaluation(apply: Apply) -> Callable[[Params, ModelState, Sequence[Examples]], tuple[float, float]]:
    """(params, state, examples) -> (loss, accuracy), compiled once."""

    @jax.jit
    def totals(params: Params, state: ModelState, images: Any, labels: Any) -> tuple[jax.Array, jax.Array]:
        logits = with_key(apply)(params, state, images, False)[0]
        loss = optax.softmax_cross_entropy_with_integer_labels(logits.astype(jnp.float32), labels)
        return loss.sum(), (logits.argmax(-1).astype(labels.dtype) == labels).astype(jnp.int32).sum()

    def evaluate(params: Params, state: ModelState, examples: Sequence[Examples]) -> tuple[float, float]:
        # A loop of compiled steps: in a scan, XLA's convolutions take ten times as long on CPU.
        sums = [(*totals(params, state, images, labels), len(labels)) for images, labels in examples]
        loss, right, num = (sum(float(value) for value in values) for values in zip(*sums, strict=True))
        return loss / num, right / num

    return evaluate


def _is_float(leaf: Any) -> bool:
    return jax.dtypes.issubdtype(
        jax.dtypes.result_type(leaf) if not hasattr(leaf, "dtype") else leaf.dtype, np.floating
    )
