"""GEM-MINER: learns which weights of a random network to keep, before any weight is trained.

Source: Sreenivasan et al., Rare Gems: Finding Lottery Tickets at Initialization, 2022, Algorithm 1.
"""

import math
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

from rare_gems import masks, schedules, transforms, views
from rare_gems.phase import Mask, Phase, Recipe, Rounds
from rare_gems.pruners.parts import descent as descents
from rare_gems.pruners.parts.counts import check_floors, check_positive, freezing_counts
from rare_gems.pruners.parts.finetune import sgd
from rare_gems.training import hyperparams

__all__ = ["freezing_epochs", "gem_miner", "search"]


def gem_miner(mask: Mask, *, finetune: Phase | None = None, **options: Any) -> Recipe:
    """The search, then `finetune` on the initial weights under the mask that it found.

      minimise over p in [0, 1]^d:  L(w * 1[p >= 0.5] * q) + lambda * sum p^2,
      where every T epochs q drops the lowest p, down to round(n (1 - s)^(r / R)) weights at round r of R.

    Args:
      mask: the prunable structure (arrays or `ShapeDtypeStruct`s).
      finetune: the last phase (see `pruners.parts.finetune`); None stops at the mask.
      options: as in `search`.
    Returns:
      (search,) or (search, finetune).
    Raises:
      ValueError: as `search`.
    Example:
      >>> mask = [jax.ShapeDtypeStruct((1000,), bool)]
      >>> (phase,) = gem_miner(mask, sparsity=0.9, num_epochs=11, steps_per_epoch=4, period=2)
      >>> phase.num_steps, phase.trains
      (44, 'scores')

    Deviations: freezing rounds are those of the authors' code, one epoch later than in Algorithm 1, and one fewer where
    T divides E (`freeze_at="paper"` has those of the paper, whose last round may be the end of the search). It matters
    little: on digits LeNet-300-100 at 98.56 % (60 + 30 epochs, T = 2, three seeds) reaches 41.4 +- 2.0 % before and
    76.4 +- 4.2 % after finetuning as in the code, 38.5 +- 3.1 % and 78.3 +- 2.9 % as in the paper. What is finetuned
    is q, as in the authors' configurations; Algorithm 1 hands on r(p) and q (`finetune_mask="rounded"`). The
    mask keeps p >= 0.5 as in the paper (its code: p > 0.5). Rounds are exact and end exactly on target (its code
    removes ceil(share) plus all ties, and drifts). The scores of frozen weights stay where they are (in its code they
    drift on under momentum and the regulariser, without effect). All convolutions are frozen and counted (its code
    forgets the shortcuts of ResNet-18 and -50).
    """
    phase = search(mask, **options)
    return (phase,) if finetune is None else (phase, finetune)


def search(
    mask: Mask,
    *,
    sparsity: float,
    num_epochs: int,
    steps_per_epoch: int,
    period: int = 5,
    learning_rate: float = 0.1,
    l2: float = 1e-4,
    norm: Literal["l2", "l1"] = "l2",
    scope: Literal["global", "layer"] = "global",
    at_least: int = 0,
    freeze: bool = True,
    freeze_at: Literal["code", "paper"] = "code",
    rounding: Literal["deterministic", "stochastic"] = "deterministic",
    finetune_mask: Literal["frozen", "rounded"] = "frozen",
    optimizer: Literal["sgd", "adam"] = "sgd",
    momentum: float = 0.9,
    invert: bool = False,
) -> Phase:
    """The search phase: scores train, weights stay.

    Args:
      mask: the prunable structure. sparsity: s, the fraction removed, in [0, 1).
      num_epochs: E. steps_per_epoch: optimizer steps in each.
      period: epochs from one freezing round to the next (T)
      learning_rate: of the scores, cosine over the epochs, with `momentum` (SGD) or Adam.
      l2: strength of the regulariser (lambda); 0 is GEM-MINER(0)
      norm: what the regulariser sums: p^2 or |p|
      scope: rank scores over the whole network, or within each layer at equal ratios
      at_least: weights of each layer that are never frozen, in the global scope; all where it has fewer
      freeze: freeze the lowest scores every period; without it the regulariser alone decides the sparsity
      freeze_at: after which epochs q shrinks: code: T + 1, 2 T + 1, ..., floor((E - 1) / T) times, so that scores train
        on; paper: T, 2 T, ..., floor(E / T) times, so that E may be the last
      rounding: the mask of the search: 1[p >= 0.5], or drawn from Bernoulli(p)
      invert: freeze the highest scores instead, rounding unchanged (the inverted-scores sanity check).
      finetune_mask: finetune what was not frozen (q, of exact sparsity; what the authors ran), or q and 1[p >= 0.5]
      optimizer: optimizer of the scores
    Returns:
      one `Phase`.
    Raises:
      ValueError: for any value outside its range, where nothing would be kept, and for floors beyond the count.
    Source: Rare Gems, section 3; hyper-parameters in its v1, Appendix A.
    """
    choices = {
        "norm": (norm, ("l2", "l1")),
        "scope": (scope, ("global", "layer")),
        "freeze_at": (freeze_at, ("code", "paper")),
        "rounding": (rounding, ("deterministic", "stochastic")),
        "finetune_mask": (finetune_mask, ("frozen", "rounded")),
        "optimizer": (optimizer, ("sgd", "adam")),
    }
    for name, (value, known) in choices.items():
        if value not in known:
            raise ValueError(f"{name}: expected one of {', '.join(known)}, got {value!r}")
    masks.count_for(masks.num_prunable(mask), sparsity)  # raises for a sparsity outside [0, 1)
    check_positive(num_epochs=num_epochs, steps_per_epoch=steps_per_epoch, period=period)
    descents.check_numbers(learning_rate=learning_rate, momentum=momentum)
    if not 0 <= l2 < math.inf:
        raise ValueError(f"l2: expected a finite number of 0 or more, got {l2}")
    if not freeze and finetune_mask == "frozen":
        raise ValueError(
            "finetune_mask: without freezing expected 'rounded', got 'frozen', which would keep everything"
        )
    for name, value, idle in (("scope", scope, "global"), ("at_least", at_least, 0), ("invert", invert, False)):
        if not freeze and value != idle:
            raise ValueError(f"{name}: nothing is frozen without freezing; expected {idle!r}, got {value!r}")
    rounds = None
    if freeze:
        steps = tuple(epochs * steps_per_epoch for epochs in freezing_epochs(num_epochs, period, freeze_at))
        counts = freezing_counts(mask, sparsity, len(steps), scope)
        floor = check_floors(mask, at_least, counts[-1], scope)
        keep = transforms.keep_given(scope, invert=invert, at_least=floor)
        rounds = Rounds(keep, steps, given=lambda r: counts[r])

    def descent(learning_rate: jax.Array, l2: jax.Array) -> optax.GradientTransformation:
        schedule = schedules.cosine(learning_rate, num_epochs, steps_per_epoch)
        regulariser = optax.add_decayed_weights(2 * l2) if norm == "l2" else _add_signs(l2)
        return optax.chain(regulariser, sgd(schedule, momentum) if optimizer == "sgd" else optax.adam(schedule))

    return Phase(
        view=views.rounded if rounding == "deterministic" else views.sampled,
        trains="scores",
        optimizer=hyperparams.optimizer(descent, learning_rate=learning_rate, l2=l2),
        during=transforms.clip_scores(),
        after=transforms.identity() if finetune_mask == "frozen" else transforms.keep_rounded(),
        num_steps=num_epochs * steps_per_epoch,
        name="search",
        rounds=rounds,
    )


def freezing_epochs(num_epochs: int, period: int, freeze_at: Literal["code", "paper"] = "code") -> tuple[int, ...]:
    """How many epochs are done at each freezing round.

    Raises:
      ValueError: if no round fits.
    Example:
      >>> freezing_epochs(20, 5), freezing_epochs(20, 5, "paper")
      ((6, 11, 16), (5, 10, 15, 20))
    """
    if freeze_at == "code":
        return tuple(period * (r + 1) + 1 for r in range(schedules.num_rounds(num_epochs, period)))
    if period > num_epochs:
        raise ValueError(f"period: expected at most {num_epochs} for a search of {num_epochs} epochs, got {period}")
    return tuple(range(period, num_epochs + 1, period))


def _add_signs(strength: jax.Array) -> optax.GradientTransformation:
    """Adds the gradient of strength * sum |p|."""
    return optax.stateless(
        lambda updates, params: jax.tree.map(lambda u, p: u + strength * jnp.sign(p), updates, params)
    )
