"""Supermasks: learns with which probability to keep each weight of a random network, drawing a mask at each step.

Source: Zhou et al., Deconstructing Lottery Tickets: Zeros, Signs, and the Supermask, 2019, section 5.
"""

import jax

from rare_gems import transforms, views
from rare_gems.phase import Key, Mask, Params, Phase, Recipe, Step, Ticket
from rare_gems.pruners.parts.counts import target_counts
from rare_gems.pruners.parts.learned_scores import initial_scores, score_phase

__all__ = ["supermask", "tossed"]


def supermask(
    mask: Mask,
    *,
    sparsity: float,
    num_epochs: int,
    steps_per_epoch: int,
    finetune: Phase | None = None,
    initial_score: float = 0.0,
    learning_rate: float = 100.0,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
    invert: bool = False,
) -> Recipe:
    """Trains the logits s of a mask drawn anew at every step; the weights are frozen.

      w_eff = w * r,  r ~ Bernoulli(sigmoid(s)),  dL/ds = dL/dw_eff * w * sigmoid'(s)

    Args:
      mask: the prunable structure (arrays or `ShapeDtypeStruct`s). sparsity: the fraction removed, in [0, 1).
      num_epochs, steps_per_epoch: the length of the search.
      finetune: the last phase, on the initial weights; None stops at the mask.
      initial_score: all scores at the start; 0 keeps half of the weights at first
      learning_rate: of the logits, which have to move by whole units; cosine over the epochs, SGD with `momentum`.
      weight_decay: of the logits.
      invert: keep the lowest scores in the end (the inverted-scores sanity check).
    Returns:
      (edit, search) or (edit, search, finetune).
    Raises:
      ValueError: for a value outside its range, and where nothing would be kept.
    Example:
      >>> mask = [jax.ShapeDtypeStruct((30, 10), bool)]
      >>> _, search = supermask(mask, sparsity=0.9, num_epochs=3, steps_per_epoch=4)
      >>> search.trains, search.num_steps
      ('scores', 12)

    Deviations: the mask is the exact top k of s over the network, one for all (the paper draws it at evaluation too,
    averages ten draws, and lets the sparsity be what it becomes). A cosine rate. The signed constant weights come
    from the caller (`init.signed_constant`); no rescaling by the share kept ("dynamic weight rescaling").
    """
    search = score_phase(
        tossed, transforms.keep_top(target_counts(mask, sparsity), invert=invert),
        num_epochs=num_epochs, steps_per_epoch=steps_per_epoch, learning_rate=learning_rate, momentum=momentum,
        weight_decay=weight_decay,
    )  # fmt: skip
    start = initial_scores(initial_score)
    return (start, search) if finetune is None else (start, search, finetune)


def tossed(ticket: Ticket, step: Step, key: Key) -> Params:
    """The view w * q * r with r ~ Bernoulli(sigmoid(s)), straight-through in r: the gradient is that of sigmoid(s)."""
    return views.sampled(ticket._replace(scores=jax.tree.map(jax.nn.sigmoid, ticket.scores)), step, key)
