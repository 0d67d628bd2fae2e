"""SynFlow: conserves the synaptic flow, data-free, in many rounds, so that no layer collapses before the others.

Source: Tanaka et al., Pruning neural networks without any data by iteratively conserving synaptic flow, 2020.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rare_gems import leaves
from rare_gems.models.model import Apply, with_key
from rare_gems.phase import LossFn, Mask, ModelState, Params, Phase, Recipe
from rare_gems.pruners.parts import saliency

__all__ = ["log_flow", "synflow"]


def log_flow(apply: Apply, image_shape: tuple[int, ...]) -> LossFn:
    """log R, as a loss that looks at no data; R is the sum of the logits of one image of ones, with every parameter
    and every model statistic replaced by its absolute value, BatchNorm in evaluation mode.

    R grows by a factor a layer and leaves the range of float32 in deep networks. So value and gradient are taken
    in float64, whatever JAX's settings, and only then cast to float32. If the network casts what it computes
    to float32 itself, its range is float32's: R beyond it comes out as inf, and stops a run as any loss does.

    Args:
      apply: (params, model state, images, train) -> (logits, model state); it should compute in its params' dtype.
      image_shape: of one image, without the batch axis.
    Returns:
      a loss; value log R float32 (-708 for R = 0, the least that float64 has), gradient (dR/dw) / R (zero for R = 0).
    """

    # Autodiff and batching rewrite a traced function outside its 64-bit context, in float32: hence rules of our own.
    flow_and_grads = _batchable(partial(_flow, apply, image_shape))

    @jax.custom_vjp
    def flow(params, state):  # type: ignore
        return flow_and_grads(params, state)[0]

    flow.defvjp(
        flow_and_grads,
        lambda grads, cotangent: (jax.tree.map(lambda g: cotangent.astype(g.dtype) * g, grads), None),
    )

    def loss(params, state, batch, key):  # type: ignore
        del batch, key
        return flow(params, state), (state, jnp.float32(0))

    return loss


def _flow(apply: Apply, image_shape: tuple[int, ...], params: Params, state: ModelState) -> tuple[jax.Array, Params]:
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):  # a network may mix in its own float32
        trained, rest = leaves.split(params)
        wide, image = jax.tree.map(_wide, trained), jnp.ones((1, *image_shape), jnp.float64)
        fixed = _positive(jax.tree.map(_wide, state))

        def flow(wide: Params) -> jax.Array:
            logits, _ = with_key(apply)(leaves.join(_positive(wide), rest), fixed, image, False)
            return jnp.sum(logits.astype(jnp.float64))

        value, grads = jax.value_and_grad(flow)(wide)
        log = jnp.log(jnp.maximum(value, jnp.finfo(jnp.float64).tiny))
        whole = jnp.where(value > 0, value, 1.0)
        return log.astype(jnp.float32), jax.tree.map(lambda g, w: (g / whole).astype(w.dtype), grads, trained)


def _batchable(fn: Callable) -> Any:
    """`fn`, traced anew by each `jax.vmap` around it."""
    wrapped = jax.custom_batching.custom_vmap(fn)

    @wrapped.def_vmap
    def batched(axis_size, in_batched, *inputs):  # type: ignore
        axes = jax.tree.map(lambda is_batched: 0 if is_batched else None, tuple(in_batched))
        out = _batchable(jax.vmap(fn, axes, axis_size=axis_size))(*inputs)
        return out, jax.tree.map(lambda _: True, out)

    return wrapped


def _wide(leaf: Any) -> Any:
    return leaf.astype(jnp.float64) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf


def _positive(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: jnp.abs(leaf) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf, tree)


def synflow(
    mask: Mask,
    *,
    sparsity: float,
    apply: Apply,
    image_shape: tuple[int, ...],
    finetune: Phase | None = None,
    rounds: int = 100,
    invert: bool = False,
) -> Recipe:
    """Synaptic flow: at round r of R keeps the round(n (1 - s)^(r / R)) largest

      s = |w * d log R / dw|,  R = sum of f(ones; |w * mask|), which in a chain of layers sum to 1 in each layer

    Args:
      mask: the prunable structure (arrays or `ShapeDtypeStruct`s). sparsity: the fraction removed, in [0, 1).
      apply: (params, model state, images, train) -> (logits, model state), as `model.Model.apply`; ReLU networks, and
        others that keep non-negative values so. It should compute in the dtype of its params (see `log_flow`).
      image_shape: of one image, without the batch axis, such as (32, 32, 3). No data is used but this shape.
      finetune: the last phase; None stops at the mask.
      rounds: rounds of scoring and pruning, the kept number falling exponentially (R); each costs one example (the
        trainer's batch is drawn and not looked at)
      invert: keep the lowest scores instead (the inverted-scores sanity check).
    Returns:
      (search, finetune).
    Raises:
      ValueError: if nothing is kept, for fewer than one round, and for an image shape that is not of positive integers.
    Example:
      >>> apply = lambda params, state, x, train: (jax.nn.relu(x @ params[0]) @ params[1], state)
      >>> mask = [jax.ShapeDtypeStruct((4, 3), bool), jax.ShapeDtypeStruct((3, 2), bool)]
      >>> synflow(mask, sparsity=0.5, apply=apply, image_shape=(4,))[0].num_steps
      100

    Source: SynFlow, Algorithm 1. Deviations: the score is divided by R, one number for all weights of a round, which
    changes no ranking; in float64 (in the code float32, which overflows in deep networks); the kept count is exact. On
    TPUs float64 has float32's range.
    """
    if not image_shape or not all(isinstance(size, int | np.integer) and size > 0 for size in image_shape):
        raise ValueError(f"image_shape: expected positive integers, got {image_shape}")
    search = saliency.iterative(
        log_flow(apply, tuple(map(int, image_shape))), mask=mask, sparsity=sparsity, num_rounds=rounds, invert=invert
    )._replace(uses_data=False)
    return (search,) if finetune is None else (search, finetune)
