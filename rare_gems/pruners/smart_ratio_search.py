"""Random tickets whose layer ratios are searched for: v4, v5 and v6 of the smart ratios.

Source: Sreenivasan et al., Rare Gems (v1), Appendix B, "How far can we take random pruning?". The paper gives neither
code nor hyper-parameters for these three: what it leaves open is our choice, and said below.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rare_gems import masks, transforms, views
from rare_gems.phase import Context, Key, Mask, Params, Phase, Recipe, Scores, State, Step, Ticket, Transform
from rare_gems.pruners.parts.depth import by_leaf
from rare_gems.pruners.parts.finetune import sgd
from rare_gems.pruners.parts.random_scores import random_scores
from rare_gems.pruners.parts.ratio_candidates import candidates, fit, layer_sizes
from rare_gems.pruners.parts.shares import whole
from rare_gems.training import hyperparams

__all__ = ["choose", "draw_mask", "smart_ratio_search", "tune"]


def smart_ratio_search(
    mask: Mask,
    *,
    sparsity: float,
    ratios: Sequence[float] | Mapping[str, float],
    version: Literal["v4", "v5", "v6"],
    finetune: Phase | None = None,
    num_steps: int = 0,
    learning_rate: float = 0.1,
    momentum: float = 0.0,
    num_candidates: int = 8,
    radius: float = 0.3,
    candidate_steps: int = 20,
    seed: int = 0,
    order: Sequence[str] | None = None,
) -> Recipe:
    """v4 tries ratios near those given, v5 tunes those given by SGD, v6 does both; then a random mask at the result.

      v5, v6:  minimise over p in (0, 1]^L:  E L(w_l * Bern(p_l)),  with sum p_l m_l = the target    (Eq. 1)

    Args:
      mask: the prunable structure, dense. sparsity: the fraction removed.
      ratios: where to start, one a layer (v4, v6: IMP's; v5: v2's), from first to last or by name.
      finetune: the last phase; None stops at the mask.
      num_steps, learning_rate, momentum: v5 and v6, as in `tune`.
      num_candidates, radius, candidate_steps, seed: v4 and v6, as in `choose`.
      order: as in `smart_ratio_counts`; ratios by name, or all equal, need none.
    Returns:
      v4: (choose, finetune); v5: (edit, tune, finetune); v6: (choose, tune, finetune).
    Raises:
      ValueError: for an unknown version, ratios that do not fit the network, and values out of range.
    Example:
      >>> mask = [jax.ShapeDtypeStruct((50,), bool), jax.ShapeDtypeStruct((50,), bool)]
      >>> recipe = smart_ratio_search(mask, sparsity=0.9, ratios=[0.15, 0.05], version="v6", num_steps=40)
      >>> [(phase.name, phase.num_steps) for phase in recipe]
      [('search', 160), ('search', 40)]
    """
    if version not in ("v4", "v5", "v6"):
        raise ValueError(f"tuned ratio version: expected one of v4, v5, v6, got {version!r}")
    ratios = by_leaf(mask, ratios, order)
    if version == "v5":
        first = transforms.edit(hyperparams.transform(_filled, ratios=candidates(mask, sparsity, ratios, 1)[0]))
    else:
        first = choose(mask, sparsity, ratios, num_candidates, radius, candidate_steps, seed)
    last = draw_mask(mask, sparsity)
    if version == "v4":
        phases = (first._replace(after=last),)
    else:
        phases = (first, tune(mask, sparsity, num_steps, learning_rate, momentum)._replace(after=last))
    return phases if finetune is None else (*phases, finetune)


def tune(mask: Mask, sparsity: float, num_steps: int, learning_rate: float, momentum: float = 0.0) -> Phase:
    """SGD on the layer ratios through random masks: the scores of a layer are all its ratio, and stay equal.

    After each step the ratios are multiplied by one factor, so that the expected number kept is the target.

    Args:
      num_steps, learning_rate, momentum: of SGD; the rate is constant.
    Returns:
      a phase that leaves the ratios in the scores, and the mask as it was.
    Raises:
      ValueError: for fewer than 1 step, a rate that is not positive, or a momentum outside [0, 1).
    Source: Rare Gems (v1), Appendix B, Eq. 1. Our choices: the gradient passes straight through the draw, and that
    of p_l is the MEAN over the layer's weights, not their sum: SGD on a probability for each weight, projected onto
    those that are equal within a layer. (With sums one step moves more weights in the widest layers of ResNet-20
    than they keep.) BatchNorm statistics are put back to what they were.
    """
    if num_steps < 1:
        raise ValueError(f"ratio tuning steps: expected 1 or more, got {num_steps}")
    if not (learning_rate > 0 and math.isfinite(learning_rate)):
        raise ValueError(f"ratio tuning learning rate: expected a positive number, got {learning_rate}")
    if not 0 <= momentum < 1:
        raise ValueError(f"ratio tuning momentum: expected a number in [0, 1), got {momentum}")
    sizes, target = layer_sizes(mask, sparsity)

    def refit(target: jax.Array) -> Transform:
        def update(ticket: Ticket, state: State, context: Context) -> tuple[Ticket, State]:
            return _with_ratios(ticket, fit(_ratios(ticket.scores), sizes, target)), state

        return Transform(lambda ticket: (), update)

    def descent(learning_rate: jax.Array) -> optax.GradientTransformation:
        return optax.chain(equal, sgd(learning_rate, momentum))

    equal = optax.stateless(lambda grads, _: jax.tree.map(lambda g: jnp.full_like(g, jnp.mean(g)), grads))
    during = transforms.chain(transforms.clip_scores(1e-4, 1.0), hyperparams.transform(refit, target=target))
    optimizer = hyperparams.optimizer(descent, learning_rate=learning_rate)
    return Phase(
        view=views.sampled,
        trains="scores",
        optimizer=optimizer,
        during=during,
        after=transforms.identity(),
        num_steps=num_steps,
        hold_dead=False,
        rewind_state=True,
    )


def choose(
    mask: Mask, sparsity: float, ratios: Sequence[float], num_candidates: int = 8, radius: float = 0.3,
    candidate_steps: int = 20, seed: int = 0,
) -> Phase:  # fmt: skip
    """Tries layer ratios near those given, each with random masks on a number of batches, and takes the best.

    Args:
      ratios: one a layer, in leaf order. num_candidates, radius, seed: as in `candidates`.
      candidate_steps: batches a candidate is judged on, each with a new random mask; whole epochs judge all on
        the same examples.
    Returns:
      a phase that leaves the best ratios in the scores, and params and mask as they were.
    Raises:
      ValueError: as `candidates`, and for fewer than 1 step.
    Source: Rare Gems (v1), Appendix B, SR-v4, which "searches a few points around the sparsity pattern of IMP and
    chooses the best option", and does not say what points, or what is best. Our choices: those of `candidates`, and
    the lowest mean training loss of the untrained network. BatchNorm statistics are put back.
    """
    if candidate_steps < 1:
        raise ValueError(f"candidate steps: expected 1 or more, got {candidate_steps}")
    table = np.float32(candidates(mask, sparsity, ratios, num_candidates, radius, seed))

    def view(ticket: Ticket, step: Step, key: Key) -> Params:
        return views.sampled(_with_ratios(ticket, jnp.asarray(table)[step // candidate_steps]), step, key)

    def update(ticket: Ticket, state: State, context: Context) -> tuple[Ticket, State]:
        loss = jnp.asarray(context.loss, jnp.float32)
        state = state.at[context.step // candidate_steps].add(jnp.where(jnp.isnan(loss), jnp.inf, loss))
        judged = jnp.arange(num_candidates) < (context.step + 1) // candidate_steps
        best = jnp.argmin(jnp.where(judged, state, jnp.inf))
        return _with_ratios(ticket, jnp.asarray(table)[best]), state

    during = Transform(lambda ticket: jnp.zeros(num_candidates, jnp.float32), update)
    return Phase(
        view=view,
        trains="scores",
        optimizer=optax.set_to_zero(),
        during=during,
        after=transforms.identity(),
        num_steps=num_candidates * candidate_steps,
        hold_dead=False,
        rewind_state=True,
    )


def draw_mask(mask: Mask, sparsity: float) -> Transform:
    """mask = a random one at the ratios in the scores: exact in all, each layer its share rounded up or down.

    Weights go one by one to the layer furthest below its share (largest remainders first); the scores stay.

    Args:
      mask: the prunable structure. sparsity: the fraction removed.
    Raises:
      ValueError: if the target is less than a weight a layer.
    """
    sizes, target = layer_sizes(mask, sparsity)
    most = np.int32(sizes)

    def draw(target: jax.Array) -> Transform:
        def update(ticket: Ticket, state: State, context: Context) -> tuple[Ticket, State]:
            shares = _ratios(ticket.scores) * jnp.float32(sizes)
            each = jax.tree.structure(ticket.mask).unflatten(list(whole(shares, jnp.asarray(most), target, 1)))
            mask = masks.keep_top(random_scores(ticket, context), each, "layer", ticket.mask)
            return ticket._replace(mask=mask), state

        return Transform(lambda ticket: (), update)

    return hyperparams.transform(draw, target=target)


def _ratios(scores: Scores) -> jax.Array:
    return jnp.stack([jnp.max(leaf).astype(jnp.float32) for leaf in jax.tree.leaves(scores)])


def _filled(ratios: jax.Array) -> Transform:
    """scores = the ratio of their layer."""
    return Transform(lambda ticket: (), lambda ticket, state, context: (_with_ratios(ticket, ratios), state))


def _with_ratios(ticket: Ticket, ratios: jax.Array) -> Ticket:
    leaves, treedef = jax.tree.flatten(ticket.scores)
    return ticket._replace(scores=treedef.unflatten([jnp.full_like(s, p) for s, p in zip(leaves, ratios, strict=True)]))
