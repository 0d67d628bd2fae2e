"""Deep R: connections with fixed signs take a random walk; those that would change sign make room for new ones.

Source: Bellec et al., Deep Rewiring: Training Very Sparse Deep Networks, 2018.
"""

import math
from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp

from rare_gems import masks, transforms
from rare_gems.phase import Context, Mask, Params, Phase, Recipe, Scores, Ticket, Transform
from rare_gems.pruners.parts import descent as descents
from rare_gems.pruners.parts.counts import counts_at, stop_step
from rare_gems.pruners.parts.descent import Descent
from rare_gems.pruners.parts.finetune import finetune as train
from rare_gems.pruners.parts.moving_mask import held, random_start, regrow
from rare_gems.pruners.parts.random_scores import random_scores
from rare_gems.training import hyperparams

__all__ = ["deep_r", "signs"]


def deep_r(
    mask: Mask,
    *,
    sparsity: float,
    num_epochs: int,
    steps_per_epoch: int,
    finetune: Phase | None = None,
    counts: Any = None,
    l1: float = 1e-5,
    temperature: float = 1e-8,
    cooling: float = 4.0,
    stop: float = 0.95,
    scope: Literal["global", "layer"] = "layer",
    ratios: Literal["uniform", "erk"] = "erk",
    learning_rate: float = 0.1,
    milestones: Sequence[int] | None = None,
    descent: Descent = Descent(),  # noqa: B008 - a constant
    **training: Any,
) -> Recipe:
    """Starts from a random mask; after every step the weights whose sign would change go, and as many come at random.

      w = s theta with a fixed sign s;  theta = theta - eta dL/dtheta - eta alpha + sqrt(2 eta T) nu,  nu ~ N(0, 1);
      theta < 0: dormant;  then dormant ones, drawn uniformly, start at theta = 0, until as many are kept as before

    The signs are those of the initial weights, 1 where these are zero; `ticket.scores` holds them. The first term is a
    step of SGD, with momentum and decay if asked for, or of another descent; eta is its rate at that step.

    Args:
      mask: the prunable structure (arrays or `ShapeDtypeStruct`s). sparsity: the fraction removed, in [0, 1).
      num_epochs, steps_per_epoch: the length of the search, which is a whole training.
      finetune: a last phase under the final mask, on the weights as they are then; None stops after the search.
      counts: how many weights each layer keeps at first, integers in the structure of `mask` that sum to the target,
        instead of `ratios`.
      l1: strength of the drift towards zero (alpha)
      temperature: of the noise (T)
      cooling: the temperature falls with this power of the learning rate: T (eta / eta_0)^cooling
      stop: fraction of the search after which the mask stays, without drift and noise
      scope: what is kept exact: the number of weights of each layer, or of the network, whose layers then exchange them
      ratios: layer ratios at first: equal, or Erdos-Renyi-kernel
      learning_rate, milestones, descent, training: momentum, weight_decay, loss_fn, as in `pruners.parts.finetune`.
    Returns:
      (edit, search) or (edit, search, finetune).
    Raises:
      ValueError: for a value outside its range, counts that do not sum to the target, and where a layer would be
        left without a weight.
    Example:
      >>> mask = [jax.ShapeDtypeStruct((30, 10), bool)]
      >>> _, search = deep_r(mask, sparsity=0.9, num_epochs=10, steps_per_epoch=40)
      >>> search.num_steps, search.trains
      (400, 'params')

    Source: its Algorithm 1; its code has both scopes. Numbers as in the code of Mostafa and Wang, DSR, whose noise (of
    variance 2 * 0.01 T' in the gradient, T' from 1e-5 down to 1e-15) is ours with T = 0.01 eta T'. Deviations: signs
    follow the initial weights, and are not drawn apart. The drift is a step of its own, outside of the momentum. What
    was just dropped may be drawn again, and starts at zero as all others. With the global scope a layer may lose its
    last weight, and get others by chance.
    """
    length = {"num_epochs": num_epochs, "steps_per_epoch": steps_per_epoch}
    how = descents.with_milestones(descent, milestones)
    phase = train(**length, learning_rate=learning_rate, descent=how, **training)
    for name, value in (("l1", l1), ("temperature", temperature), ("cooling", cooling)):
        if not 0 <= value < math.inf:
            raise ValueError(f"{name}: expected a finite number of 0 or more, got {value}")
    if not 0 < stop <= 1:
        raise ValueError(f"stop: expected a fraction in (0, 1], got {stop}")
    if scope not in ("global", "layer"):
        raise ValueError(f"scope: expected 'global' or 'layer', got {scope!r}")
    counts = counts_at(mask, sparsity, ratios) if counts is None else counts
    first_mask = random_start(mask, sparsity, counts, lambda ticket, context: signs(ticket))

    def walk(rates: jax.Array, l1: jax.Array, temperature: jax.Array, cooling: jax.Array) -> Transform:
        rate_at = descents.rate_at(how, rates, **length)

        def update(ticket: Ticket, state: tuple, context: Context) -> tuple[Ticket, tuple]:
            rate = rate_at(context.step)
            drift, noise = rate * l1, jnp.sqrt(2 * rate * temperature * (rate / rates[0]) ** cooling)
            key_noise, key_growth = jax.random.split(context.key)
            moved = ticket._replace(params=_walked(key_noise, ticket, drift, noise))
            return _rewired(moved, context._replace(key=key_growth), scope), state

        return Transform(lambda ticket: (), update)

    during = transforms.when(
        lambda step: step + 1 < math.ceil(stop_step(stop, phase.num_steps)),
        hyperparams.transform(
            walk, rates=descents.rates_of(how, learning_rate, num_epochs), l1=float(l1),
            temperature=float(temperature), cooling=float(cooling),
        ),
    )  # fmt: skip
    recipe = (first_mask, phase._replace(during=during, name="search"))
    return recipe if finetune is None else (*recipe, finetune)


def signs(ticket: Ticket) -> Scores:
    """1 where a prunable weight is 0 or more, else -1.

    Example:
      >>> signs(Ticket([jnp.array([-2.0, 0.0])], [jnp.zeros(2)], [jnp.array([True, True])]))
      [Array([-1.,  1.], dtype=float32)]
    """
    return masks.map_kept(lambda w: jnp.where(w >= 0, 1, -1).astype(w.dtype), ticket.params, ticket.mask)


def _walked(key: jax.Array, ticket: Ticket, drift: jax.Array, noise: jax.Array) -> Params:
    """The params after a step of drift and noise of those that are kept."""
    structure = jax.tree.structure(ticket.mask)
    keys = structure.unflatten(list(jax.random.split(key, structure.num_leaves)))

    def one(mask: Any, weight: Any, sign: Any, key: Any) -> Any:
        if mask is None:
            return weight
        step = noise.astype(weight.dtype) * jax.random.normal(key, weight.shape, weight.dtype)
        return jnp.where(mask, weight + sign.astype(weight.dtype) * (step - drift.astype(weight.dtype)), weight)

    return jax.tree.map(one, ticket.mask, ticket.params, ticket.scores, keys, is_leaf=lambda leaf: leaf is None)


def _rewired(ticket: Ticket, context: Context, scope: Literal["global", "layer"]) -> Ticket:
    """The ticket without the weights against their sign, and with as many others at zero."""
    weights = masks.map_kept(lambda w: w, ticket.params, ticket.mask)
    stay = jax.tree.map(lambda m, s, w: m & (s.astype(w.dtype) * w >= 0), ticket.mask, ticket.scores, weights)
    ticket = ticket._replace(params=masks.apply(ticket.params, stay))
    draw, kept, left = random_scores(ticket, context), held(ticket.mask), held(stay)
    gone = jax.tree.map(jnp.subtract, kept, left)
    if scope == "layer":
        return regrow(ticket, stay, gone, draw)
    new = masks.keep_top(draw, sum(jax.tree.leaves(gone), jnp.int32(0)), within=jax.tree.map(jnp.logical_not, stay))
    return ticket._replace(mask=jax.tree.map(jnp.logical_or, stay, new))
