"""Optimal Brain Damage: removes the trained weights whose removal costs least, by the diagonal of the Hessian.

Source: LeCun et al., Optimal Brain Damage, 1990.
"""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

from rare_gems import leaves, masks, transforms
from rare_gems.phase import Batch, Key, LossFn, Mask, ModelState, Params, Phase, Recipe, Scores
from rare_gems.pruners.parts import saliency
from rare_gems.pruners.parts.counts import falling_counts
from rare_gems.pruners.parts.finetune import finetune as train

__all__ = ["curvature_loss", "obd"]

Curvature = Literal["exact", "hutchinson", "gauss_newton", "fisher"]
Outputs = Callable[[Params, ModelState, Batch, Key], jax.Array]


def obd(
    mask: Mask,
    *,
    sparsity: float,
    num_epochs: int,
    steps_per_epoch: int,
    objective: LossFn,
    outputs: Outputs | None = None,
    finetune: Phase | None = None,
    curvature: Curvature = "fisher",
    batches: int = 100,
    rounds: int = 1,
    round_epochs: int = 150,
    invert: bool = False,
    **training: Any,
) -> Recipe:
    """Trains the dense network, removes the weights of the lowest saliency, and trains on; in one round or in several.

      s_k = h_kk w_k^2 / 2, summed over batches, h_kk = d^2 L / dw_k^2 at the trained weights, or an estimate of it;
      round r of R keeps the round(n (1 - s)^(r / R)) highest s_k of the whole network, among those that are left

    | curvature | h_kk of a batch of B examples | passes |
    |---|---|---|
    | `exact` | the diagonal of its Hessian | 3 for each prunable weight |
    | `hutchinson` | v_k (H v)_k with random signs v: that diagonal on average | 3 |
    | `gauss_newton` | (dL'/dw_k)^2, L' with labels drawn from the softmax of the network | 1 |
    | `fisher` | (dL/dw_k)^2 | 1 |

    On average B times the third is the diagonal of J^T (d^2 L / dz^2) J, z the logits and J = dz/dw: the Fisher
    information. B times the last is near the empirical Fisher information where the gradients of examples cancel.

    Args:
      mask: the prunable structure (arrays or `ShapeDtypeStruct`s). sparsity: the fraction removed, in (0, 1).
      num_epochs, steps_per_epoch: the length of the dense training.
      objective: L, the mean over a batch, with BatchNorm as it trains; the model state that it returns is dropped.
      outputs: (params, model state, batch, key) -> logits float [B, classes]; for `gauss_newton`, whose L' is their
        cross-entropy.
      finetune: the last phase, a new one, from the trained weights; None stops at the mask.
      curvature: second derivatives: the exact diagonal of the Hessian (three passes for each weight), an unbiased
        estimate of it by random signs, the Gauss-Newton diagonal by drawn labels, or squared gradients
      batches: how many the saliency is summed over, in each round
      rounds: how often weights are removed (R)
      round_epochs: epochs of training between two rounds, at the schedule of the first training
      invert: remove the highest saliencies instead (a sanity check).
      training: learning_rate, milestones, momentum, weight_decay, descent, loss_fn, as in `pruners.parts.finetune`.
    Returns:
      (training, scoring), then (training, scoring) for each further round, then finetune; all scorings are one phase.
    Raises:
      ValueError: for an unknown curvature, or `gauss_newton` without outputs; for a sparsity outside (0, 1), fewer than
        one batch or round; and where nothing would be kept or a round would remove nothing.
    Example:
      >>> loss_fn = lambda params, state, batch, key: ((params[0] ** 2 * batch).sum(), (state, 0.0))
      >>> recipe = obd(
      ...     [jax.ShapeDtypeStruct((10,), bool)], sparsity=0.8, num_epochs=2, steps_per_epoch=4, objective=loss_fn,
      ...     curvature="exact", batches=3, learning_rate=0.1,
      ... )
      >>> [(phase.num_steps, phase.passes) for phase in recipe]
      [(8, 1), (3, 30)]

    Source: LeCun et al., section 3, whose own estimate is h_kk by a backward pass of second derivatives; those of
    `gauss_newton` and of `fisher` drop the same term. Negative h_kk ("exact", "hutchinson") are taken as they are: such
    weights go first. The numbers that Sanity-Checking Pruning and Lottery Jackpots quote come from codes with the
    Fisher information (labels drawn, as `gauss_newton`). Deviations: squares are of the gradient of a batch, not of
    each example, which BatchNorm would not have; the count is exact.
    """
    counts = falling_counts(mask, sparsity, rounds)
    scored = curvature_loss(objective, mask, curvature, outputs)
    size = masks.num_prunable(mask)
    scoring = saliency.one_shot(
        scored, mask=mask, sparsity=sparsity, num_batches=batches, score=lambda s: s,
        passes={"exact": 3 * size, "hutchinson": 3}.get(curvature, 1),
    )._replace(after=transforms.keep_next(counts, invert=invert))  # fmt: skip
    first = train(num_epochs=num_epochs, steps_per_epoch=steps_per_epoch, name="search", **training)
    phases = [first, scoring]
    if rounds > 1:
        again = (
            first
            if round_epochs == num_epochs
            else train(num_epochs=round_epochs, steps_per_epoch=steps_per_epoch, name="search", **training)
        )
        phases += [again, scoring] * (rounds - 1)
    return (*phases,) if finetune is None else (*phases, finetune)


def curvature_loss(
    loss_fn: LossFn, mask: Mask, curvature: Curvature = "fisher", outputs: Outputs | None = None
) -> LossFn:
    """A loss with the value of `loss_fn` and the gradient h_kk w_k / 2 at the prunable weights, so that w * dL/dw is
    the saliency.

    Args:
      mask: the prunable structure (`ShapeDtypeStruct`s will do). The others: as in `obd`.
    Example:
      >>> loss_fn = lambda params, state, batch, key: ((params[0] ** 2 * batch).sum(), (state, 0.0))
      >>> loss = curvature_loss(loss_fn, [jax.ShapeDtypeStruct((2,), bool)], "exact")
      >>> params, batch = [jnp.array([1.0, 2.0])], jnp.array([3.0, 0.5])  # h = 2 b
      >>> jax.grad(loss, has_aux=True)(params, None, batch, jax.random.key(0))[0]
      [Array([3., 1.], dtype=float32)]
    """
    known = {"exact": _exact, "hutchinson": _hutchinson, "gauss_newton": _squares, "fisher": _squares}
    if curvature not in known:
        raise ValueError(f"curvature: expected one of {', '.join(known)}, got {curvature!r}")
    if curvature == "gauss_newton" and outputs is None:
        raise ValueError("curvature: gauss_newton draws labels from the network's logits; expected outputs, got None")

    def drawn(params, state, batch, key):  # type: ignore
        key_network, key_labels = jax.random.split(key)
        logits = outputs(params, state, batch, key_network).astype(jnp.float32)  # type: ignore
        labels = jax.random.categorical(key_labels, jax.lax.stop_gradient(logits))
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    def loss(params, state, batch, key):  # type: ignore
        fixed, rest = leaves.split(jax.lax.stop_gradient(params))
        value, (_, aux) = loss_fn(leaves.join(fixed, rest), state, batch, key)
        looked_at = drawn if curvature == "gauss_newton" else lambda *inputs: loss_fn(*inputs)[0]
        grad = jax.grad(lambda trained: looked_at(leaves.join(trained, rest), state, batch, key))
        of_mask = lambda tree: masks.map_kept(lambda leaf: leaf, tree, mask)  # noqa: E731
        second = known[curvature](lambda trained: of_mask(grad(trained)), fixed, of_mask, jax.random.fold_in(key, 1))
        slope = jax.tree.map(lambda h, w: jax.lax.stop_gradient(h * w / 2), second, of_mask(params))
        parts = jax.tree.map(lambda s, w: jnp.sum(s * w).astype(jnp.float32), slope, of_mask(params))
        linear = sum(jax.tree.leaves(parts), jnp.float32(0))
        return jax.lax.stop_gradient(value) + (linear - jax.lax.stop_gradient(linear)), (state, aux)

    return loss


Gradient = Callable[[Params], Scores]  # of the prunable weights


def _squares(grad: Gradient, params: Params, of_mask: Callable[[Params], Scores], key: Key) -> Scores:
    del of_mask, key
    return jax.tree.map(jnp.square, grad(params))


def _hutchinson(grad: Gradient, params: Params, of_mask: Callable[[Params], Scores], key: Key) -> Scores:
    weights = of_mask(params)
    structure = jax.tree.structure(weights)
    keys = structure.unflatten(list(jax.random.split(key, structure.num_leaves)))
    signs = jax.tree.map(lambda k, w: jax.random.rademacher(k, w.shape, w.dtype), keys, weights)

    def along(params: Params) -> jax.Array:
        parts = jax.tree.map(lambda g, v: jnp.sum(g * v), grad(params), signs)
        return sum(jax.tree.leaves(parts), jnp.float32(0))

    return jax.tree.map(jnp.multiply, signs, of_mask(jax.grad(along)(params)))


def _exact(grad: Gradient, params: Params, of_mask: Callable[[Params], Scores], key: Key) -> Scores:
    del key
    weights, structure = jax.tree.flatten(of_mask(params))

    def second(leaf: int, index: jax.Array) -> jax.Array:
        slope = lambda params: jax.tree.leaves(grad(params))[leaf].reshape(-1)[index]  # noqa: E731
        return jax.tree.leaves(of_mask(jax.grad(slope)(params)))[leaf].reshape(-1)[index]

    found = [
        jax.lax.map(lambda index, leaf=leaf: second(leaf, index), jnp.arange(w.size)).reshape(w.shape)
        for leaf, w in enumerate(weights)
    ]
    return structure.unflatten(found)
