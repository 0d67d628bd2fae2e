"""GEM-MINER without its knobs: given are the sparsity and the number of steps, and nothing else is to be tuned.

Ours; what it changes is GEM-MINER of Sreenivasan et al., Rare Gems: Finding Lottery Tickets at Initialization, 2022.
"""

import math
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from rare_gems import masks, transforms, views
from rare_gems.phase import Context, Mask, Params, Phase, Recipe, Rounds, State, Ticket, Transform
from rare_gems.pruners.parts import unused_weights
from rare_gems.pruners.parts.counts import check_positive, target_counts

__all__ = ["gem_miner_auto", "numbers_on", "round_up_given", "scaled"]

PATH = 8.0  # the sum of all step sizes; scores are in [0, 1]
SETTLED = 0.7  # of the search: from there on the number of weights that are on stays
NUM_ROUNDS = 60
FLOOR = 10  # a layer keeps this fraction of an equal share of the kept weights
MEMORY = np.float32(0.9)  # of the gradients and of their size


def gem_miner_auto(
    mask: Mask,
    *,
    sparsity: float,
    num_epochs: int,
    steps_per_epoch: int,
    finetune: Phase | None = None,
    unit: Literal["network", "layer", "weight"] = "network",
    freeze: bool = False,
    drop_unused: bool = True,
    invert: bool = False,
) -> Recipe:
    """The search for a mask over untrained weights by steps of a given length, under an exact count of weights.

      r(p) = 1[p >= 1/2],  g = dL/dp at the weights w r(p), straight through,  p ~ U[0, 1) at first
      v <- 0.9 v + 0.1 rms(g),   m <- 0.9 m + 0.1 g / v    (both corrected for their start at 0; rms over the network)
      p <- clip(p - a (1 + cos(pi t / T)) m, 0, 1),   a = 8 / T,   so that all steps together have length 8
      60 times, at t / T = x = 1/60, 2/60, ..., 1:
      p <- 0 where dL/dw was exactly 0 in each step since the last time (unless it was for all weights),
      p <- p + c, where c is such that sum r(p) = k(x),
      k(x) = n/2 (2 k / n)^min(1, x / 0.7): from the half that are on at first down to the k that are asked for

    In place of a penalty lambda sum p whose strength is tuned, c is what such a penalty would have taken from every
    score since the last round, chosen so that its constraint holds exactly. Nothing is frozen before the end: a weight
    that is off may come back. From 0.7 T on the count stays, and weights change places until the steps have shrunk.
    A weight without a gradient did nothing for the images since the last round, mostly because no kept path leads
    through it. Its score would stay: in a deep network with few steps most weights that are on can be such. Where T is
    less than 60 there is a round after each step, and one batch decides.

    Args:
      mask: the prunable structure (arrays or `ShapeDtypeStruct`s). sparsity: s, the fraction removed, in [0, 1).
      num_epochs: of the search. steps_per_epoch: optimizer steps in each; their product is T.
      finetune: the last phase, on the initial weights; None stops at the mask.
      unit: over what the size of gradients is taken: all weights; or, for ablations, a layer, or a weight (Adam)
      freeze: for ablations, never let a weight back that a round has switched off
      drop_unused: at each round, set scores to 0 that had no gradient since the last one; `no-` is for ablations
      invert: keep the lowest scores instead (the inverted-scores sanity check).
    Returns:
      (search,) or (search, finetune). What is kept is r(p), so that the accuracy before finetuning is that of a network
      of exactly `masks.count_for` weights. Each layer keeps at least a tenth of an equal share of them, or one.
    Raises:
      ValueError: for a value outside its range, and where nothing would be kept.
    Example:
      >>> mask = [jax.ShapeDtypeStruct((1000,), bool)]
      >>> (phase,) = gem_miner_auto(mask, sparsity=0.9, num_epochs=20, steps_per_epoch=6)
      >>> phase.num_steps, len(phase.rounds.steps), phase.rounds.given(0)["count"], phase.rounds.given(59)["count"]
      (120, 60, 481, 100)

    Source: ours. What each part gave is in experiments/results/gem_miner_auto.
    """
    check_positive(num_epochs=num_epochs, steps_per_epoch=steps_per_epoch)
    if unit not in ("network", "layer", "weight"):
        raise ValueError(f"unit: expected one of network, layer, weight, got {unit!r}")
    num_kept, num_steps = target_counts(mask, sparsity), num_epochs * steps_per_epoch
    floor = floor_of(mask, num_kept)
    steps = round_steps(num_steps)
    counts = numbers_on(masks.num_prunable(mask), num_kept, [step / num_steps for step in steps])

    def rate(step: ArrayLike) -> jax.Array:
        share = jnp.asarray(step).astype(jnp.float32) * np.float32(math.pi / num_steps)
        return np.float32(PATH / num_steps) * (1 + jnp.cos(share))

    clip = transforms.clip_scores()
    search = Phase(
        view=views.rounded,
        trains="scores",
        optimizer=optax.chain(scaled(unit), optax.scale_by_learning_rate(rate)),
        during=transforms.chain(clip, unused_weights.drop_unused(steps)) if drop_unused else clip,
        after=transforms.keep_top(num_kept, invert=invert, at_least=floor),
        num_steps=num_steps,
        name="search",
        rounds=Rounds(round_up_given(freeze), steps, lambda r: {"count": counts[r], "at_least": floor}),
    )
    return (search,) if finetune is None else (search, finetune)


def round_steps(num_steps: int) -> tuple[int, ...]:
    """After which steps the rounds are: `NUM_ROUNDS`, or one after each of fewer steps, the last at the end."""
    return tuple(sorted({max(1, round(num_steps * r / NUM_ROUNDS)) for r in range(1, NUM_ROUNDS + 1)}))


def floor_of(mask: Mask, num_kept: int) -> int:
    """How many weights each layer keeps at least: a tenth of an equal share, but one; 0 if not each can have one."""
    num_layers = len(jax.tree.leaves(mask))
    return 0 if num_kept < num_layers else max(1, num_kept // (FLOOR * num_layers))


def numbers_on(num_prunable: int, num_kept: int, shares: list[float]) -> list[int]:
    """How many weights are on once these shares of the search are done: round(n/2 (2 k / n)^min(1, x / 0.7)).

    Example:
      >>> numbers_on(1000, 5, [0.35, 0.7, 1.0])
      [50, 5, 5]
    """
    half = num_prunable / 2
    on = [round(half * (num_kept / half) ** min(1.0, share / SETTLED)) for share in shares]
    return [min(num_prunable, count) if share < SETTLED else num_kept for count, share in zip(on, shares, strict=True)]


def round_up_given(freeze: bool = False) -> Transform:
    """scores = scores + c, where c is such that as many of the kept weights have p >= 1/2 as the round is given.

    Of ties at the threshold, and for floors, scores move further: to 1/2 or just below it.

    Args:
      freeze: the mask drops what is below 1/2. A round is given {"count": how many, "at_least": of each layer}.
    Example:
      >>> context = Context(0, jax.random.key(0), None, None, given={"count": 1, "at_least": 0})
      >>> ticket = Ticket([jnp.zeros(3)], [jnp.array([0.75, 0.25, 0.625])], [jnp.array([True, True, True])])
      >>> ticket, _ = round_up_given().update(ticket, (), context)
      >>> (ticket.scores[0] >= 0.5).tolist(), ticket.scores[0].round(3).tolist()
      ([True, False, False], [0.625, 0.125, 0.5])
    """

    def update(ticket: Ticket, state: State, context: Context) -> tuple[Ticket, State]:
        count, floor = context.given["count"], context.given["at_least"]
        top = masks.keep_top(ticket.scores, count, within=ticket.mask, at_least=floor)
        rest = jax.tree.map(lambda q, on: jnp.logical_and(q, jnp.logical_not(on)), ticket.mask, top)
        highest = [jnp.max(jnp.where(off, p, -jnp.inf), initial=-jnp.inf).astype(jnp.float32)
                   for off, p in zip(jax.tree.leaves(rest), jax.tree.leaves(ticket.scores), strict=True)]  # fmt: skip
        below = jnp.max(jnp.stack(highest))
        shift = jnp.where(jnp.isfinite(below), np.float32(0.5) - below, np.float32(0))

        def move(p: jax.Array, q: jax.Array, on: jax.Array) -> jax.Array:
            half, less = (jnp.asarray(0.5 * x, p.dtype) for x in (1, 1 - float(jnp.finfo(p.dtype).epsneg)))
            moved = p + shift.astype(p.dtype)
            moved = jnp.where(on, jnp.maximum(moved, half), jnp.minimum(moved, less))
            return jnp.where(q, moved, p)

        scores = jax.tree.map(move, ticket.scores, ticket.mask, top)
        return ticket._replace(scores=scores, mask=top if freeze else ticket.mask), state

    return Transform(lambda ticket: (), update)


class Scaled(NamedTuple):
    """The state of `scaled`: the steps taken (int32), v (float32 [1], or [layers]), m."""

    count: jax.Array
    sizes: jax.Array
    mean: Params


def scaled(unit: Literal["network", "layer", "weight"] = "network") -> optax.GradientTransformation:
    """m <- 0.9 m + 0.1 g / v with v <- 0.9 v + 0.1 rms(g), both corrected for their start: gradients without a scale.

    Args:
      unit: over what the root mean square is taken; "weight" is Adam, whose v^2 is a mean of g^2 with 0.999.
    Example:
      >>> optimizer = scaled()
      >>> tiny = [jnp.array([3e-30, 0.0]), jnp.array([-4e-30, 0.0])]  # rms 2.5e-30
      >>> updates, _ = optimizer.update(tiny, optimizer.init(tiny))
      >>> [[round(x, 3) for x in leaf.tolist()] for leaf in updates]
      [[1.2, 0.0], [-1.6, 0.0]]
    """
    if unit == "weight":
        return optax.scale_by_adam(b1=float(MEMORY), b2=0.999, eps=1e-30)

    def groups(tree: Params) -> list[list[jax.Array]]:
        leaves = jax.tree.leaves(tree)
        return [leaves] if unit == "network" else [[leaf] for leaf in leaves]

    def init(params: Params) -> Scaled:
        sizes = jnp.zeros(len(groups(params)), jnp.float32)
        return Scaled(jnp.int32(0), sizes, jax.tree.map(jnp.zeros_like, params))

    def update(grads: Params, state: Scaled, params: Params | None = None) -> tuple[Params, Scaled]:
        del params
        count = state.count + 1
        fresh = 1 - MEMORY ** count.astype(jnp.float32)
        sizes = MEMORY * state.sizes + (1 - MEMORY) * jnp.stack([_rms(group) for group in groups(grads)])
        leaves, treedef = jax.tree.flatten(grads)
        each = treedef.unflatten([sizes[0 if unit == "network" else i] for i in range(len(leaves))])

        def average(old: jax.Array, g: jax.Array, size: jax.Array) -> jax.Array:
            unscaled = jnp.where(size > 0, g.astype(jnp.float32) / (size / fresh), np.float32(0))
            return (MEMORY * old.astype(jnp.float32) + (1 - MEMORY) * unscaled).astype(old.dtype)

        mean = jax.tree.map(average, state.mean, grads, each)
        return jax.tree.map(lambda m: (m.astype(jnp.float32) / fresh).astype(m.dtype), mean), Scaled(count, sizes, mean)

    return optax.GradientTransformation(init, update)  # type: ignore


def _rms(leaves: list[jax.Array]) -> jax.Array:
    """The root mean square of all numbers, float32; of them divided by the largest, since tiny squares would vanish."""
    leaves = [leaf.astype(jnp.float32) for leaf in leaves]
    largest = jnp.max(jnp.stack([jnp.max(jnp.abs(leaf), initial=0.0) for leaf in leaves]))
    unit = jnp.where(largest > 0, largest, np.float32(1))
    squares = sum((jnp.sum(jnp.square(leaf / unit)) for leaf in leaves), jnp.float32(0))
    return largest * jnp.sqrt(squares / np.float32(sum(leaf.size for leaf in leaves)))
