"""ProsPr: prunes by the meta-gradient of the loss after a few steps of training, not of the loss now.

Source: Alizadeh et al., Prospect Pruning: Finding Trainable Weights at Initialization using Meta-Gradients, 2022.
"""

import math

import jax

from rare_gems import leaves
from rare_gems.phase import Batch, LossFn, Mask, Phase, Recipe
from rare_gems.pruners.parts import saliency

__all__ = ["loss_after_steps", "prospr"]


def loss_after_steps(
    loss_fn: LossFn,
    *,
    inner_steps: int,
    inner_learning_rate: float,
    momentum: float = 0.0,
    first_order: bool = False,
    split_batch: bool = False,
) -> LossFn:
    """The loss after K steps of SGD from the given params, as a function of these params:

      g_k = dL/dw at w_k;  v_k = momentum * v_(k-1) + g_k;  w_(k+1) = w_k - lr * v_k;  value L(w_K)

    All params train, prunable or not. The model state moves with the inner steps, carries no gradient, and comes
    back as it was given.

    Args: as in `prospr`.
    Raises:
      ValueError: when traced with `split_batch`, if the batch does not divide into K + 1 equal parts.
    Example:
      >>> loss_fn = lambda params, state, batch, key: (0.5 * params**2, (state, 0.0))
      >>> after = loss_after_steps(loss_fn, inner_steps=2, inner_learning_rate=0.5)  # L = 0.5 (w / 4)^2
      >>> float(jax.grad(after, has_aux=True)(4.0, None, None, jax.random.key(0))[0])  # w / 16
      0.25
    """

    def loss(params, state, batch, key):  # type: ignore
        step_loss = jax.jit(lambda weights, *inputs: loss_fn(leaves.join(weights, rest), *inputs))  # traced once
        batches = _split(batch, inner_steps + 1) if split_batch else [batch] * (inner_steps + 1)
        (weights, rest), moved, velocity = leaves.split(params), state, None
        for k in range(inner_steps):
            grad_fn = jax.grad(step_loss, has_aux=True)
            grads, (moved, _) = grad_fn(weights, moved, batches[k], jax.random.fold_in(key, k))
            grads = jax.lax.stop_gradient(grads) if first_order else grads
            moved = jax.lax.stop_gradient(moved)
            velocity = grads if velocity is None else jax.tree.map(lambda v, g: momentum * v + g, velocity, grads)
            weights = jax.tree.map(lambda w, v: w - inner_learning_rate * v, weights, velocity)
        value, (_, aux) = step_loss(weights, moved, batches[-1], jax.random.fold_in(key, inner_steps))
        return value, (state, aux)

    return loss


def prospr(
    mask: Mask,
    *,
    sparsity: float,
    loss_fn: LossFn,
    finetune: Phase | None = None,
    inner_steps: int = 3,
    inner_learning_rate: float = 0.1,
    momentum: float = 0.0,
    first_order: bool = False,
    split_batch: bool = False,
    batches: int = 1,
    invert: bool = False,
) -> Recipe:
    """Prospect pruning: keeps the largest

      s = |sum over batches of w_0 * dL(w_K)/dw_0|,  w_K being w_0 = w after K steps of SGD

    Args:
      mask: the prunable structure (arrays or `ShapeDtypeStruct`s). sparsity: the fraction removed, in [0, 1).
      loss_fn: the loss, with BatchNorm as it trains; the model state of the inner steps is dropped.
      finetune: the last phase; None stops at the mask.
      inner_steps: steps of SGD that the meta-gradient goes through (K)
      inner_learning_rate: of these steps (w = w - lr * v)
      momentum: of these steps (v = momentum * v + g)
      first_order: take the updates as constants, so that dL(w_K)/dw_0 = dL/dw at w_K; a third of the cost
      split_batch: divide the batch among the steps and the final loss (K + 1 equal parts along the first axis), rather
        than using it whole for each
      batches: how many, each with an inner training of its own from w_0, that the gradient is summed over.
      invert: keep the lowest scores instead (the inverted-scores sanity check).
    Returns:
      (search, finetune).
    Raises:
      ValueError: for a value out of range and if nothing is kept; when traced, if a batch cannot be split.
    Example:
      >>> loss_fn = lambda params, state, batch, key: ((params[0] * batch).sum(), (state, 0.0))
      >>> (phase,) = prospr([jax.ShapeDtypeStruct((10,), bool)], sparsity=0.8, loss_fn=loss_fn)
      >>> phase.num_steps, phase.passes
      (1, 10)

    Source: ProsPr, Algorithm 1; defaults of its command line. Deviations: the velocity carries gradients from the
    first step on (in the code the first momentum buffer is detached, so with momentum that step adds nothing of
    second order); the count is exact and not rounded up; a layer may lose its last weight (the code stops there).
    The mask enters at w_0 only, as in the code: inner steps are not masked.
    """
    saliency.check_positive(inner_steps=inner_steps)
    if not (inner_learning_rate > 0 and math.isfinite(inner_learning_rate)):
        raise ValueError(f"inner_learning_rate: expected a positive number, got {inner_learning_rate}")
    if not 0 <= momentum < 1:
        raise ValueError(f"momentum: expected a number in [0, 1), got {momentum}")
    objective = loss_after_steps(
        loss_fn, inner_steps=inner_steps, inner_learning_rate=inner_learning_rate, momentum=momentum,
        first_order=first_order, split_batch=split_batch,
    )  # fmt: skip
    # A gradient costs one pass, the gradient of a gradient two more.
    passes = inner_steps + 1 + (0 if first_order else 2 * inner_steps)
    passes = math.ceil(passes / (inner_steps + 1)) if split_batch else passes
    search = saliency.one_shot(
        objective, mask=mask, sparsity=sparsity, num_batches=batches, invert=invert, passes=passes
    )
    return (search,) if finetune is None else (search, finetune)


def _split(batch: Batch, parts: int) -> list[Batch]:
    for leaf in jax.tree.leaves(batch):
        if leaf.ndim < 1 or leaf.shape[0] % parts:
            raise ValueError(
                f"split_batch: expected a batch size divisible by {parts} (inner_steps + 1), got shape {leaf.shape}"
            )
    size = lambda leaf: leaf.shape[0] // parts  # noqa: E731
    return [jax.tree.map(lambda leaf, k=k: leaf[k * size(leaf) : (k + 1) * size(leaf)], batch) for k in range(parts)]
