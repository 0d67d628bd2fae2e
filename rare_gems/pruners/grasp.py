"""GraSP: keeps the weights whose removal would most reduce the gradient's norm.

Source: Wang et al., Picking Winning Tickets Before Training by Preserving Gradient Flow, 2020.
"""

import jax
import jax.numpy as jnp

from rare_gems import leaves, masks
from rare_gems.phase import LossFn, Mask, Phase, Recipe
from rare_gems.pruners.parts import saliency

__all__ = ["grasp", "half_squared_gradient"]


def half_squared_gradient(loss_fn: LossFn, mask: Mask) -> LossFn:
    """1/2 ||g||^2 with g = dL/dw over the prunable weights, as a loss: its gradient is H g.

    The derivative is taken in reverse over reverse, so the network needs no forward mode. The model state comes
    back as it was given.

    Args:
      loss_fn: L. mask: the prunable structure (`ShapeDtypeStruct`s will do).
    """

    def loss(params, state, batch, key):  # type: ignore
        (_, (_, aux)), grads = leaves.value_and_grad(loss_fn)(params, state, batch, key)
        squares = masks.map_kept(lambda g: jnp.sum(jnp.square(g.astype(jnp.float32))), grads, mask)
        return 0.5 * sum(jax.tree.leaves(squares), jnp.float32(0)), (state, aux)

    return loss


def grasp(
    mask: Mask,
    *,
    sparsity: float,
    loss_fn: LossFn,
    finetune: Phase | None = None,
    batches: int = 1,
    at_least: int = 0,
    invert: bool = False,
) -> Recipe:
    """Gradient flow: keeps the largest (signed)

      s = w * (H g),  g = dL/dw and H its Hessian, over the prunable weights

    To first order, removing w changes 1/2 ||g||^2 by -w * (H g). The paper's S(-w) = -w * (H g) is that change, and
    it removes the largest.

    Args:
      mask: the prunable structure (arrays or `ShapeDtypeStruct`s). sparsity: the fraction removed, in [0, 1).
      loss_fn: the cross-entropy of logits / T: the caller tempers (the paper and its code: T = 200). BatchNorm as it
        trains; the model state it returns is dropped.
      finetune: the last phase; None stops at the mask.
      batches: training batches whose scores are summed, each with its own H and g. For H and g of more
        examples, give larger batches (the paper: ten examples of each class in all)
      at_least: weights that each layer keeps at least; all where it has fewer
      invert: keep the lowest scores instead (the inverted-scores sanity check).
    Returns:
      (search, finetune).
    Raises:
      ValueError: if nothing is kept, for floors beyond the count, and for fewer than one batch.
    Example:
      >>> loss_fn = lambda params, state, batch, key: ((params[0] ** 2 * batch).sum(), (state, 0.0))
      >>> (phase,) = grasp([jax.ShapeDtypeStruct((10,), bool)], sparsity=0.8, loss_fn=loss_fn)
      >>> params, batch = [jnp.array([1.0, 2.0])], jnp.array([3.0, 0.5])  # g = 2 w b, H g = 4 w b^2
      >>> jax.grad(phase.loss_fn, has_aux=True)(params, None, batch, jax.random.key(0))[0]
      [Array([36.,  2.], dtype=float32)]

    Source: GraSP, Eq. 8 and Algorithm 2. Deviations: g of a batch meets H of that batch only (the code adds up g
    over all batches first); scores are not divided by their sum; the kept count is exact.
    """
    search = saliency.one_shot(
        half_squared_gradient(loss_fn, mask), mask=mask, sparsity=sparsity, num_batches=batches,
        score=lambda s: s, at_least=at_least, invert=invert, passes=3,
    )  # fmt: skip
    return (search,) if finetune is None else (search, finetune)
